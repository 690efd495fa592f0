"""Judges behind any server that speaks `/v1/chat/completions`.

  config.rewards.judge = dict(
    fn="judge_pointwise", url="http://localhost:8000/v1", model="my-model"
  )

`judge_pointwise` scores one image, `judge_pairwise` compares two of a prompt,
`judge_checklist` asks several questions about one. `Options` lists what they
have in common, the loaders of `rewards` what each takes besides.

A question that stays without an answer has no score: its image is masked and
counted in `failed/NAME`, and never reaches the parameters. Answers are kept by
the hash of what was asked, so a run that is killed asks nothing twice.
"""

from jaxreward.rewards.remote.rewards import (
  judge_checklist,
  judge_pairwise,
  judge_pointwise,
)

__all__ = ["judge_checklist", "judge_pairwise", "judge_pointwise"]
