"""ControlNet++: a reward on slightly noised images of a dataset, in one step.

Li et al. 2024, https://arxiv.org/abs/2404.07987. The policy starts from a control image.
Beside flow matching, predictions of images that are noised to at most t = .2 are scored
by how far the control image is found in them again, and the reward's gradient followed;
weight 1 as of the authors' edges and depth. Here portraits are coloured after their
grey, their edges (`:control=edges`) or a map of their regions (`:control=regions`), see
docs/portraits.md; the distance is absolute, theirs is squared. `:full` reads a folder
with metadata.jsonl, `--config.data.dataset=FOLDER`, whose rows have a control "image" and
its "target".
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext; control=edges, regions."""
  config = recipes.on_controls(
    arg, __file__, name="one_step_reward", weight=1.0, latest=0.2
  )
  config.align.gap = 0.0
  return config
