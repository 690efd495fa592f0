"""Hallucination score: features of the true image, through the sampler's last step.

Ren et al. 2025, https://arxiv.org/abs/2507.14367: a judge's score of what super-resolution
invents has no gradient, a distance of deep features from the true image has, and follows
it closely; which features is chosen by rank correlation, as `eval.judging` prints it of
rewards beside a judge. Features, weight and steps are unverified. Here a coarse portrait is
sharpened, and what is read of it are its attributes; the pixels' error is watched. At
full size patches of DINOv2 (`feature_fidelity`).
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext and rows with a "target"."""
  config = recipes.of_edits("diffusion_nft", arg, __file__)
  config.rewards = dict(features=dict(fn="attributes", weight=1.0))
  if recipes.size_of(arg) == "full":
    config.rewards.features.update(
      fn="feature_fidelity", weights="facebook/dinov2-base"
    )
  else:
    config.data.kind_weights = (0, 0, 0, 0, 0, 1, 0, 0, 0)
    config.heldout_rewards.psnr = dict(fn="psnr", weight=1.0)
  recipes.follow_gradient(config, arg)
  config.align.update(last_steps=1, updates=1)
  return config
