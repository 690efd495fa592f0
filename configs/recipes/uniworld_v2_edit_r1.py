"""UniWorld-V2: groups of little spread, or solved ones, are dropped.

Li et al. 2025 (Edit-R1), https://arxiv.org/abs/2510.16888: DiffusionNFT with KL 1e-4
on groups whose deviation is above .05 and whose mean is below .9. The authors edit
pictures, score them by the digits of a vision-language model (`judge_pointwise` asks
one behind a server), and can ban prompts for good; here the judge that ships says how
probable it is that a scene shows its prompt, and the detector is held out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("diffusion_nft", arg, __file__)
  recipes.judge_with(config, arg, judge=dict(fn="vlm_pointwise"))
  config.advantage = dict(
    name="filtered", least_spread=0.05, most_mean=0.9, std="batch"
  )
  config.regularizers = dict(kl=dict(fn="velocity_distance", weight=1e-4))
  if recipes.size_of(arg) == "full":
    config.rollout.update(group=12, prompts=24, num_steps=6)
    config.align.times = 6
  return config
