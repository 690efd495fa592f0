"""SRUM: own samples weigh place by place, beside a reference image.

Jin et al. 2025, https://arxiv.org/abs/2510.12784: a model that understands images scores
boxes and the whole of what it has drawn, and flow matching on that image is weighted by
both; .5 times flow matching on a real image holds it. Here the detector scores boxes of
scenes. At full size CLIPScore is the score of the whole, until a reward of your own gives
`Scores(places=...)`, and prompts bring a "target".
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="region_matching", anchor=0.5)
  config.advantage = dict(name="regional")
  config.regularizers = dict()
  config.rollout.real = 1
  config.optimizer.learning_rate = 2e-5
  if recipes.size_of(arg) == "full":
    config.rewards = dict(clip=dict(recipes.PUBLISHED["clip"]))
  else:
    config.rewards = dict(boxes=dict(fn="boxes", weight=1.0))
  return config
