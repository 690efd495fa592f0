"""SRPO: one step from any noise, its own noise taken off, and words for and against.

Shen et al. 2025, https://arxiv.org/abs/2509.06942, with the authors' gap of .1, margin
.7 of HPSv2, shares of both wordings and the noise that the sample began as. They change
the words with every step; here there is one of each. On scenes a reward model is
trained first, which knows no such words: a prompt is set against another of the batch,
and the margin is one of z-scores.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="srpo", margin=4.0)
  config.regularizers = dict()
  config.align.update(noise="first", gap=0.1)
  if recipes.size_of(arg) == "full":
    config.objective.margin = 0.7
    config.align.controls.update(positive="Detailed", negative="Painting")
    config.optimizer.update(
      learning_rate=5e-6, clip_norm=0.1, weight_decay=1e-4
    )
  return recipes.differentiable(config, arg, __file__, "hps")
