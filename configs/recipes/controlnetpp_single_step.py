"""ControlNet++: a reward on slightly noised images of a dataset, in one step.

Li et al. 2024, https://arxiv.org/abs/2404.07987. Beside flow matching, predictions of
images that are noised to at most t = .2 are scored, and the reward's gradient followed.
The authors' reward is the consistency with a control image; here an image's with its
caption. `:full` reads a folder with metadata.jsonl, `--config.data.dataset=FOLDER`.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for Stable Diffusion 3.5 medium."""
  config = recipes.on_dataset(
    arg, __file__, name="one_step_reward", weight=0.5, latest=0.2
  )
  config.align.gap = 0.0
  return recipes.differentiable(config, arg, __file__, "clip")
