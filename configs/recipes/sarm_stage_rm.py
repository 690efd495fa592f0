"""SARM: a stage, and the progress within it.

https://arxiv.org/abs/2509.25358. The authors read windows of a robot's video; here
the images of a row are moments of one, from corrupted to complete, and the
detector's rating is the progress. Stages are equally long.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.reward_model(
    arg,
    __file__,
    head=dict(name="stages", shares=(0.25, 0.25, 0.25, 0.25), hidden=128),
    loss=dict(name="stage_and_progress", progress_weight=1.0),
  )
