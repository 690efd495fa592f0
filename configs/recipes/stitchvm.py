"""StitchVM: a value of noisy latents from a policy's blocks and a reward model's.

Go et al. 2026, https://arxiv.org/abs/2605.19804. The policy's first blocks are frozen, a
layer is fitted by ridge regression to the patches of a reward model of clean images, and
layer and tail learn the clean reward from noisy images: E[r(x_0) | x_t]. Train one with
configs/train_reward_scenes.py and name it in `train_reward.init_from`; without, the tail
is the policy's blocks. The authors' search for the places to stitch is not there.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  config = recipes.reward_model(
    arg,
    __file__,
    head=dict(name="scalar", hidden=256),
    loss=dict(name="regression"),
  )
  sizes = dict(width=128, depth=2, first=2, stem=256)
  if recipes.size_of(arg) == "smoke":
    sizes = dict(width=32, depth=1, first=1, stem=32)
  config.reward_model.backbone = dict(name="stitched", **sizes)
  config.train_reward.label_noise = 0.0
  return config
