"""A value on the policy's own states: what reward noise will come to, undecoded.

Squared error to the clean reward makes it E[r(x_0) | x_t], the target of StitchVM (Go et
al. 2026, https://arxiv.org/abs/2605.19804), whose stitching layer and tail of a pretrained
reward model are not here: a new head reads the frozen first blocks, and the detector's
ratings are the reward. Times are uniform; sizes and rates are chosen here.
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
  small = recipes.size_of(arg) == "smoke"
  width, depth = (32, 1) if small else (128, 2)
  config.reward_model.backbone = dict(
    name="policy", width=width, depth=depth, heads=2, mlp_ratio=3, text_layers=2
  )
  config.reward_model.train = "frozen"
  config.train_reward.label_noise = 0.0
  return config
