"""UniPic 2.0's progressive dual-task reinforcement: Flow-GRPO on one task, then the next.

Wei et al. 2025, https://arxiv.org/abs/2509.04548: a policy that draws and edits is aligned
in stages, a task and its reward for each, and the second does not undo the first. Their
rewards, order and lengths are not public. On scenes the detector judges prompts of one
object and of several first, then those of position and attribution; both are scored
throughout. At full size CLIPScore, then PickScore.
"""

from jaxreward import recipes

FIRST = dict(single=1.0, two=1.0, counting=1.0, colours=1.0)
SECOND = dict(position=1.0, attribution=1.0)


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  size = recipes.size_of(arg)
  if size == "full":
    names = dict(draws="clip", edits="pick")
    config.rewards = {
      stage: dict(**recipes.PUBLISHED[name], weight=1.0)
      for stage, name in names.items()
    }
  else:
    config.rewards = dict(
      draws=dict(fn="detector", weight=1.0, kinds=FIRST),
      edits=dict(fn="detector", weight=1.0, kinds=SECOND),
    )
  half = 2 if size == "smoke" else config.align.iterations // 2
  config.composition = dict(name="staged", order=("draws", "edits"), at=(half,))
  return config
