"""Judges behind any server that speaks `/v1/chat/completions`.

  config.rewards.judge = dict(
    fn="judge_pointwise", url="http://localhost:8000/v1", model="my-model"
  )

`judge_pointwise` scores one image, `judge_pairwise` compares two of a prompt,
`judge_checklist` asks several questions about one. `Options` lists their common
options, the loaders of `rewards` the others.

An unanswered question gives no score: its image is masked, counted in
`failed/NAME`, and never reaches the parameters. Answers are cached by the hash
of the request, so a resumed run asks nothing twice.
"""

from jaxreward.rewards.remote.rewards import (
  judge_checklist,
  judge_pairwise,
  judge_pointwise,
)

__all__ = ["judge_checklist", "judge_pairwise", "judge_pointwise"]
