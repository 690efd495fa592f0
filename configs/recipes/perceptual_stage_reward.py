"""Perceptual rewards: what comes nearer to later stages of a demonstration earns more.

Sermanet et al. 2016, https://arxiv.org/abs/1612.06699, of robots: a few videos are cut
into stages of little variance in the features of a frozen network, the features that
tell a stage apart are selected, and their Gaussians score it, later stages more. How
they are weighed is unverified. Here a demonstration is a portrait that turns into the
exact answer of an edit, and features are colours of places. At full size videos of Wan
2.1 that start from a picture follow rows with a "target", or frames of a folder,
`--config.rewards.progress.references=FOLDER`, by DINOv2's features.
"""

from jaxreward import config as config_lib
from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Wan 2.1 from a picture, of 14B."""
  if recipes.size_of(arg) != "full":
    config = recipes.of_edits("flow_grpo", arg, __file__)
    config.rewards = dict(progress=dict(fn="stage_progress", weight=1.0))
    return config
  spec = "../align_public.py:wan_i2v,objective=flow_grpo"
  config = config_lib.load_sibling(spec, __file__)
  config.rewards = dict(
    progress=dict(
      fn="stage_progress", weight=1.0, weights="facebook/dinov2-base"
    )
  )
  return config
