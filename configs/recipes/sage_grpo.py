"""SAGE-GRPO: noise of the exact variance, gradients of one size at all steps.

Zheng et al. 2026, https://arxiv.org/abs/2603.21872, with a guard where the released
variance is negative. Two ties, 1 to .1: to a copy of the policy that is refreshed every
10 updates, and to the policy that drew. Their weight adapts from 1e-7 up to 1e-5, by the
ties' size against 1e-5; how fast is unverified, the file is not public.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.load("flow_grpo", arg, __file__)
  config.rollout.sampler = dict(name="precise_sde", noise_level=0.5)
  config.advantage = dict(name="equalised", clip=5.0)
  config.regularizers = dict(
    kl=dict(fn="dual_kl", weight=1e-5, adapt=dict(target=1e-5, least=1e-7))
  )
  config.references.reference = dict(rule="every", count=10)
  return config
