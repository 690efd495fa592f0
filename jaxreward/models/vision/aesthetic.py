"""Aesthetic score: a linear head over CLIP features.

https://github.com/christophschuhmann/improved-aesthetic-predictor: five linear
layers without activations, with dropout between them in training.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models.convert import Rule, linear
from jaxreward.types import Array, ArrayLike, Params

WIDTHS = (1024, 128, 64, 16, 1)
_NUMBERS = (0, 2, 4, 6, 7)

RULES: tuple[Rule, ...] = tuple(
  rule for n in _NUMBERS for rule in linear(f"layer_{n}", f"layers.{n}")
)


def shapes(features: int = 768) -> Params:
  """The parameters as `jax.ShapeDtypeStruct`."""
  variables, before = {}, features
  for n, width in zip(_NUMBERS, WIDTHS, strict=True):
    variables[f"layer_{n}"] = {
      "kernel": jax.ShapeDtypeStruct((before, width), jnp.float32),
      "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
    }
    before = width
  return variables


def apply(params: Params, x: Float[ArrayLike, "*B E"]) -> Float[Array, "*B"]:
  """The score of unit features, about 1 to 10."""
  for n in _NUMBERS:
    layer = params[f"layer_{n}"]
    x = jnp.dot(x, layer["kernel"]) + layer["bias"]
  return jnp.asarray(x)[..., 0]
