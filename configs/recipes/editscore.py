"""EditScore: the root of the weakest semantic aspect times the weakest of quality.

Luo et al. 2025, https://arxiv.org/abs/2509.23909, read in the authors' code: Flow-GRPO
of an editor by a judge's scores of four aspects, in several passes that are averaged.
On portraits the judge that ships says whether the edit is done, and what it cannot tell,
whether the rest stays and how well it is drawn, is measured exactly. At full size
EditScore's own judge (`edit_score`) reads all in one pass, after a reason of at most 512
tokens that is drawn as the authors draw it, but not from the 20 best tokens alone;
`thoughts=4` averages over four reasons. Behind a server each aspect is a reward of its
own (`judge_pointwise`, `templates`), each pass another (`config.composition.passes`).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.of_edits(
    "flow_grpo", arg, __file__, follow=1.0, keep=1.0, look=1.0
  )
  if recipes.size_of(arg) == "full":
    config.rewards = dict(
      edit=dict(
        fn="edit_score", think=512, temperature=0.7, top_p=0.9,
        dtype="bfloat16", length=1024, weight=1.0,
      )
    )  # fmt: skip
    return config
  config.rewards.follow = dict(
    fn="vlm_checklist", weights="package:portrait_judge", length=64, weight=1.0,
    questions="package:portrait_edit_questions",
  )  # fmt: skip
  config.heldout_rewards.carried_out = dict(fn="carried_out", weight=1.0)
  config.data.kind_weights = (2, 2, 1, 2, 0, 0, 0, 0, 0)  # that it can judge
  config.composition = dict(
    name="viescore", semantic=("follow", "keep"), quality=("look",)
  )
  return config
