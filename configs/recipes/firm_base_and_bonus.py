"""FIRM: what the words ask for is the base, and beauty only a share of it.

Zhao et al. 2026, https://arxiv.org/abs/2603.12247, with the weights for generation,
.4 and .6 (of edits: .6 for the execution and .4 for the consistency), on the loss of
DiffusionNFT as there; its critics are models of 8B, here the run's own rewards.
PickScore may be above 1, where the signal is cut.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  recipes.reward_with(config, arg, task=0.4, look=0.6)
  config.composition = dict(name="base_and_bonus", base="task")
  config.advantage = dict(name="group", std="batch", clip=5.0)
  return config
