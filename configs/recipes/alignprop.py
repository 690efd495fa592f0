"""AlignProp: the reward's gradient through the sampler, cut at a random step.

Prabhudesai et al. 2023, https://arxiv.org/abs/2310.03739. How many of the last
steps carry a gradient is drawn in every iteration; the authors draw from a normal
(`align.depth`), of 50 steps. A reward model is trained first and its gradient
followed; the detector is held out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  size = recipes.size_of(arg)
  config.objective = dict(name="align_prop", scale=0.01)
  config.regularizers = dict()
  config.rollout.sampler = dict(name="ode")
  config.align.update(last_steps=2 if size == "smoke" else 7, updates=1)
  config.align.depth = dict(name="uniform")
  if size == "full":
    config.rollout.num_steps = 50
    config.align.last_steps = 49
    config.align.depth = dict(name="normal", mean=8.0, std=5.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-4)
  return recipes.differentiable(config, arg, __file__, "hps")
