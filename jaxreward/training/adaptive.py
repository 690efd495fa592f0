"""Weights of terms that follow the size of the term."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError, require_positive
from jaxreward.types import Array, ArrayLike


@dataclasses.dataclass(frozen=True)
class Adaptive:
  """A weight that grows while a term exceeds a target, and shrinks while it does not.

  After every iteration w becomes clip(w (1 + rate clip(term / target - 1, -limit,
  limit)), least, most), from `least` on. Ziegler et al. 2019,
  https://arxiv.org/abs/1909.08593, section 2.2, with bounds.

  Attributes:
    target: of the term, above 0.
    least: the first and smallest weight, above 0.
    most: the largest one.
    rate: of a change, above 0.
    limit: of the relative error that counts, above 0.
  """

  target: float
  least: float
  most: float
  rate: float = 1.0
  limit: float = 0.2

  def __post_init__(self):
    require_positive(
      "", target=self.target, least=self.least, rate=self.rate, limit=self.limit
    )
    if self.least > self.most:
      raise UserError(
        f"least={self.least}: it is at most the term's weight, {self.most}"
      )
    if self.rate * self.limit >= 1:
      raise UserError(
        f"rate={self.rate}: times limit={self.limit} it must be less than 1"
      )

  def after(
    self, weight: Float[ArrayLike, ""], term: Float[ArrayLike, ""]
  ) -> Float[Array, ""]:
    """The next iteration's weight; as it was for a term that is not finite."""
    error = jnp.clip(term / self.target - 1, -self.limit, self.limit)
    new = jnp.clip(weight * (1 + self.rate * error), self.least, self.most)
    return jnp.where(jnp.isfinite(new), new, weight)
