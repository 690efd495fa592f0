"""Ctrl-U: a reward on noised images of a dataset, less where it is in doubt.

Zhang et al. 2024, https://arxiv.org/abs/2410.11236. Each image is noised at two times
that almost touch; where their predictions score differently the reward counts less, and
the difference is a loss of its own. The authors' rewards are detectors of a control
image, pixel by pixel; here a reward scores whole images by their captions. `:full` reads
a folder with metadata.jsonl, `--config.data.dataset=FOLDER`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.on_dataset(
    arg, __file__, name="uncertain_reward", margin=2.0
  )
  config.align.gap = 0.001
  return recipes.differentiable(config, arg, __file__, "clip")
