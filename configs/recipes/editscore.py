"""EditScore: the root of the weakest semantic aspect times the weakest of quality.

Luo et al. 2025, https://arxiv.org/abs/2509.23909, read in the authors' code: Flow-GRPO
of an editor by a judge's scores of four aspects, in several passes that are averaged.
On portraits the aspects are measured exactly, in one pass; at full size EditScore's own
judge (`edit_score`) reads them in one pass, after a reason of at most 512 tokens that is
drawn as the authors draw it, but not from the 20 best tokens alone; `thoughts=4` averages
over four reasons. With a judge behind a server each is a reward of its own, and each pass
another: `config.rewards.follow_1.fn=judge_pointwise` with the aspect's question in
`templates`, `temperature=0.7`, another `seed`, and `config.composition.passes`.
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
        fn="edit_score",
        think=512,
        temperature=0.7,
        top_p=0.9,
        dtype="bfloat16",
        length=1024,
        weight=1.0,
      )
    )
  else:
    config.composition = dict(
      name="viescore", semantic=("follow", "keep"), quality=("look",)
    )
  return config
