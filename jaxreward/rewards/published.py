"""Published judges by name: those of the program, with their authors' scales.

Each is one of the judges with other defaults. Questions are in this library's
words and lead to the answers that the weights were trained to give; scores of
the authors' own prompts may differ.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxreward.models.vlm import small_judge, tiny
from jaxreward.rewards import edit_judges, judges, video_judges
from jaxreward.rewards.contract import declare


def _with_defaults(
  reward: Callable[..., Any], doc: str | None, **defaults: Any
) -> Callable[..., Any]:
  """A judge whose options have other defaults.

  A default adapter is of public weights: this library's own models have none.
  """
  loads = vars(reward)["loads"]

  def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    weights = str(given.get("weights", ""))
    is_own = weights == tiny.NAME or weights.startswith(small_judge.PREFIX)
    adapter = {"adapter": ""} if is_own and "adapter" in defaults else {}
    return {**defaults, **adapter, **given}

  @functools.wraps(loads)
  def load(**options: Any) -> Any:
    return loads(**filled(options))

  signature = inspect.signature(loads)
  changed = [
    p.replace(default=defaults.get(name, p.default), kind=p.KEYWORD_ONLY)
    for name, p in signature.parameters.items()
  ]
  vars(load)["__signature__"] = signature.replace(parameters=changed)
  vars(load)["check"] = lambda given: loads.check(filled(given))

  @functools.wraps(reward)
  def judge(*args: Any, **kwargs: Any) -> Any:
    return reward(*args, **kwargs)

  judge.__doc__, judge.__module__ = doc, __name__
  frames = vars(reward)["takes_frames"]
  return declare(loads=load, takes_frames=frames)(judge)


unified_reward_point = _with_defaults(
  judges.vlm_pointwise,
  """UnifiedReward's score of an image from 1 to 5, mapped to [0, 1].

  Wang et al. 2025, https://arxiv.org/abs/2503.05236: the mean of the whole
  numbers after "Final Score:" under their probabilities.
  """,
  weights="CodeGoat24/UnifiedReward-qwen-7b",
  template="unified_reward_point", answer="score", low=1.0, high=5.0,
  around=("Final Score: ", ""),
)  # fmt: skip
unified_reward_pair = _with_defaults(
  judges.vlm_pairwise,
  """UnifiedReward's comparison of two images.

  Wang et al. 2025, https://arxiv.org/abs/2503.05236: the probabilities of its
  three conclusions.
  """,
  weights="CodeGoat24/UnifiedReward-qwen-7b",
  template="unified_reward_pair",
  words=(
    "Image 1 is better than Image 2.", "Image 2 is better than Image 1.",
    "Both images are equally good.",
  ),
)  # fmt: skip
unified_reward_think = _with_defaults(
  judges.vlm_pairwise,
  """UnifiedReward-Think's comparison of two images, after a thought.

  Wang et al. 2025, https://arxiv.org/abs/2505.03318: the authors take the answer
  that is written; here its probability after the thought.
  """,
  weights="CodeGoat24/UnifiedReward-Think-qwen-7b",
  template="unified_reward_think", think=512, verdict="<answer>",
  words=("Image 1 is better", "Image 2 is better"),
)  # fmt: skip
visual_quality_r1 = _with_defaults(
  judges.vlm_pointwise,
  """VisualQuality-R1's rating from 1 to 5, mapped to [0, 1].

  Wu et al. 2025, https://arxiv.org/abs/2505.14460: the mean of the ratings to a
  tenth under their probabilities, without a thought; `think` allows one.
  """,
  weights="TianheWu/VisualQuality-R1-7B", template="visual_quality_r1",
  answer="score", low=1.0, high=5.0, step=0.1, around=("<answer>", ""),
)  # fmt: skip
edit_score = _with_defaults(
  edit_judges.edit_score, edit_judges.edit_score.__doc__,
  weights="Qwen/Qwen2.5-VL-7B-Instruct", adapter="EditScore/EditScore-7B",
)  # fmt: skip
video_align = _with_defaults(
  video_judges.video_align, video_judges.video_align.__doc__,
  weights="KwaiVGI/VideoReward", length=512,
)  # fmt: skip
