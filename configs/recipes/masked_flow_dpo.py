"""Masked Flow-DPO: preferences count where the two images differ.

Flow-DPO (https://arxiv.org/abs/2501.13918) with errors over masked places, as
SimpleTuner has it (https://github.com/bghira/SimpleTuner). Its masks come from files and
its beta adapts; here the places are those where the clean samples of a pair differ by a
quarter of the most they do, and beta is fixed.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  return recipes.preference(
    arg, __file__, name="masked_dpo", beta=100.0, threshold=0.25
  )
