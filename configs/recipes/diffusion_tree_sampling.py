"""DTS*: rollouts of one image share a tree and hand their rewards up.

Jain et al. 2025, https://arxiv.org/abs/2506.20701. The search, which takes the best
image; pick="drawn" draws it by the tilted law. Lambda and how fast the tree widens
are not the authors'.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  return recipes.steered(
    arg, __file__, num_steps=3 if small else 10,
    name="tree", rollouts=3 if small else 8, tilt=10.0, pick="best",
  )  # fmt: skip
