"""MARBLE: rewards kept apart, and the shortest mix of their gradients.

Zhao et al. 2026, https://arxiv.org/abs/2605.06507, read in the authors' code
(aim-uofa/MARBLE 1bf9543). Each reward has an advantage and a gradient of its own;
their min-norm convex combination lowers the loss of all of them. Weights are of
gradients of length 1, smoothed by .7 and computed in every tenth step. The authors
scale the mix of these to the mean length in such a step, and weigh the advantages
between them; here the same weights, which sum to 1, weigh the losses in all steps.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.composition = dict(name="separate")
  config.align.combine = dict(name="marble", every=10)
  if recipes.size_of(arg) == "full":
    config.rewards = {
      name: recipes.PUBLISHED[name] for name in ("pick", "hps", "clip")
    }
    return config
  config.rewards = dict(
    detector=dict(fn="detector", weight=1.0),
    jpeg=dict(fn="jpeg_compressibility", weight=1.0),
  )
  return config
