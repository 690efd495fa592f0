"""CRD: implicit rewards are to differ within a group as the rewards do.

Centered Reward Distillation, https://arxiv.org/abs/2603.14128, its uniform weighting,
read in Flow-Factory, with a policy that draws and follows slowly, and a tie of .1 to where
training began under guidance 4.5. beta is unverified.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  config.objective = dict(name="crd", beta=100.0, old_decay=0.5)
  config.regularizers = dict(
    anchor=dict(fn="group_guided_distance", weight=0.1, guidance=4.5)
  )
  return config
