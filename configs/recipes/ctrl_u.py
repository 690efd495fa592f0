"""Ctrl-U: a control image's consistency, less in pixels where two predictions differ.

Zhang et al. 2024, https://arxiv.org/abs/2410.11236. Each image is noised at two times
that almost touch, and the control image extracted from both predictions. Its squared
error counts less in pixels where the two extractions differ, and their difference is a
loss of its own. Control images are those of `controlnetpp_single_step`, with the same
options. Weights, window and gap are the authors' of depth and edges; their warm-up of the
weight is left out.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext; control=edges, regions."""
  config = recipes.on_controls(arg, __file__, name="uncertain_reward")
  config.align.gap = 0.001
  return config
