"""PosterOmni: entities and looks, weighed by what the task asks for.

Chen et al. 2026, https://arxiv.org/abs/2602.12127: posters are edited or drawn anew with
DiffusionNFT, and a task's own weights (unverified) say how far the entities of the
reference and how far the looks count. Their reward is one model that is trained on
preferences; here exact measures of edits. The entity is a person where one is drawn
again, else what an edit does not speak of; where a picture is filled in or coloured,
looks count alone.
"""

from jaxreward import recipes

EDITS = ("give", "recolour", "express", "restyle")
DRAWN = ("sharpen", "fill", "colour")


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext."""
  config = recipes.of_edits(
    "diffusion_nft", arg, __file__, keep=1.0, person=1.0, look=1.0
  )
  if recipes.size_of(arg) != "full":
    config.rewards.keep.kinds = dict.fromkeys(EDITS, 0.7)
    config.rewards.person.kinds = dict(identity=0.7)
    looks = dict.fromkeys((*EDITS, "identity"), 0.3)
    config.rewards.look.kinds = looks | dict.fromkeys(DRAWN, 1.0)
  return config
