"""Ctrl-U: a control image's consistency, less where two predictions differ in it.

Zhang et al. 2024, https://arxiv.org/abs/2410.11236. Each image is noised at two times
that almost touch; where their predictions score differently the reward counts less, and
the difference is a loss of its own. The reward is how far the control image, a grey
portrait, is found again in an image that is coloured after it, as one number; the authors
weigh each pixel. Weights, window and gap are theirs of depth and edges. `:full` reads a
folder, see `controlnetpp_single_step`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.on_controls(
    arg, __file__, "grey", name="uncertain_reward", margin=1.0
  )
  config.align.gap = 0.001
  return config
