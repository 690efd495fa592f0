"""ITI-GEN: images of categories differ along the lines that reference images do.

Zhang et al. 2023, https://arxiv.org/abs/2309.05569, learn a few tokens of each category
of an attribute (gender, skin tone) from reference images: differences of CLIP's text
features among categories are turned towards those of the images, and stay .8 like the
plain prompt; categories are then drawn alike. Here the policy learns in the place of
tokens, an edit of a portrait is a category, and its exact answer the reference
(`inclusive`); features are colours of places, at full size CLIP's.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature, `:full` for FLUX.1 Kontext and rows with a "target"."""
  config = recipes.of_edits("flow_grpo", arg, __file__)
  config.rewards = dict(inclusive=dict(fn="inclusive", weight=1.0))
  if recipes.size_of(arg) == "full":
    config.rewards.inclusive.weights = recipes.PUBLISHED["clip"]["weights"]
  return config
