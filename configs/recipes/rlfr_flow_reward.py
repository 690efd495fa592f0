"""RLFR: a small flow on features says how far samples lie off reference data.

Zhang et al. 2025, https://arxiv.org/abs/2510.10201, read in the authors' code, of hidden
states of a language model, where velocity deviations shape an outcome; an adaptation to
images, whose patches are the features. The flow learns from scenes drawn anew beside the
policy, or from the "target" of a prompt at full size, and its deviation is subtracted
from the detector's outcome.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for an editing policy with exact answers."""
  size = recipes.size_of(arg)
  config = recipes.beside_answers(arg, __file__)
  cells = 16 if size == "full" else 6
  config.players.flow = dict(fn="patch_flow", weight=0.2, cells=cells, steps=2)
  config.align.hold_policy = 1 if size == "smoke" else 10
  return config
