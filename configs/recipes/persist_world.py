"""PersistWorld: continuations of the policy's own images are compared, and contrasted.

Bardhan et al. 2026, https://arxiv.org/abs/2603.25685: a video model rolls on from frames
that it has drawn itself, a group of continuations shares that history, and the faithful
ones are reinforced by DiffusionNFT. Here the history is an image: from the reference up to
two partial chains of the policy follow one another, their number drawn per prompt, and the
group starts from the last. The authors' reward is SSIM, PSNR and LPIPS of several views
(weights unverified), as at full size with a "target" per prompt; on scenes the detector.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective.update(adaptive_weight=False, adv_clip=1.0)
  config.advantage = dict(name="group", std="batch")
  config.regularizers = dict()
  config.rollout.start = dict(name="reference", strength=0.6, rounds=2)
  if recipes.size_of(arg) == "full":
    config.rewards = dict(
      ssim=dict(fn="ssim", weight=1.0), psnr=dict(fn="psnr", weight=1.0)
    )
  elif recipes.size_of(arg) == "smoke":
    config.rollout.num_steps = 4
  return config
