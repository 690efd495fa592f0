"""An ensemble of rewards, less the deviation between them.

Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244: mean, median, worst
(`composition.aggregate`) or, here, the mean less one deviation. Members that were
pretrained apart agree by less: at full size CLIP and PickScore, both brought near 1;
on scenes the detector from lenient to strict.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  if recipes.size_of(arg) == "full":
    recipes.reward_with(config, arg, task=3.0, look=1.0)
  else:
    config.rewards = {
      name: dict(fn="detector", strict_weight=share)
      for name, share in (("lenient", 0.0), ("middle", 0.5), ("strict", 1.0))
    }
  config.composition = dict(name="ensemble", aggregate="mean_minus_std")
  return config
