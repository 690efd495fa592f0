"""PrefPaint: credit counts less where the reward model has seen little like it.

Liu et al. 2024, https://arxiv.org/abs/2410.21966: the length of the reward model's
features in the metric of those it was trained on bounds its error, and weighs the
clipped loss by exp(.7 - .05 u), at least 1. The authors inpaint. Their u comes from a
saved inverse where its square root was meant; here it is the latter. On scenes a reward
model is trained first; at full size a head "ellipsoid" of your own takes its place, in
`--config.rewards.learned.weights=FILE`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.advantage = dict(name="confident")
  config.regularizers = dict()
  if recipes.size_of(arg) == "full":
    weights = "doubt.safetensors"
    config.rewards = dict(learned=dict(fn="learned", weights=weights))
    config.reward_model = dict(
      backbone=dict(name="clip"), head=dict(name="ellipsoid")
    )
    return config
  config = recipes.train_reward_first(config, arg, __file__)
  hidden = 64 if recipes.size_of(arg) == "smoke" else 256
  config.reward_model.head = dict(name="ellipsoid", hidden=hidden)
  return config
