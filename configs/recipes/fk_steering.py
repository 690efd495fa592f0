"""Feynman-Kac steering: particles are resampled by intermediate rewards.

Singhal et al. 2025, https://arxiv.org/abs/2501.06848. The authors' lambda, potential
and number of particles; they look four times at equal distances, as here.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  return recipes.steered(
    arg, __file__, num_steps=4 if small else 10,
    name="fk", particles=4, tilt=10.0, potential="max",
    first=2, every=2,
  )  # fmt: skip
