"""Weights of particles: potentials, effective number, resampling.

Pure functions of arrays whose last axis is a set of N particles. Products of
potentials along a lineage end in exp(scale r(x_0)) whatever the potential, so
that weighted particles follow p(x_0) exp(scale r(x_0)) as N grows. Weights are
kept where nothing is resampled; the authors' released code drops them there.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer, Key

from jaxreward.errors import UserError
from jaxreward.types import Array

POTENTIALS = ("difference", "max", "sum", "last")


@flax.struct.dataclass
class Lineage:
  """History of a particle's lineage, each float32 [..., N].

  Attributes:
    log_weight: since the set was last resampled.
    paid: log of all potentials of the lineage.
    best: highest score so far; -inf before the first.
    total: sum of the scores.
    previous: score before this one; 0 before the first.
  """

  log_weight: Array
  paid: Array
  best: Array
  total: Array
  previous: Array


def start(shape: tuple[int, ...]) -> Lineage:
  """Particles without any score yet, [..., N]."""
  zero = jnp.zeros(shape, jnp.float32)
  return Lineage(zero, zero, jnp.full(shape, -jnp.inf), zero, zero)


def check_potential(name: str) -> None:
  """Refuses an unknown potential.

  Raises:
    UserError: names the known ones.
  """
  if name not in POTENTIALS:
    raise UserError(
      f'steering.potential="{name}" is not known; there are'
      f" {', '.join(POTENTIALS)}"
    )


def reweigh(
  lineage: Lineage,
  score: Float[Array, "*B N"],
  *,
  potential: str,
  scale: float,
  is_last: bool,
) -> Lineage:
  """The lineage after one more score.

  Log-potentials (Singhal et al. 2025, https://arxiv.org/abs/2501.06848):
  "difference" scale (r - r_before), "max" scale max(r, r_best), "sum" scale times
  the sum of all r, "last" scale r. At the end those but the first give scale r -
  what the lineage has paid. The best score starts at -inf: a start of 0, as in
  the released code, makes "max" blind to negative rewards.

  Args:
    lineage: before this score.
    score: of the network's estimates, or at the end of the samples; a
      non-finite one gives its particle weight 0.
    potential: one of `POTENTIALS`.
    scale: lambda, per unit of the reward.
    is_last: whether these are the samples themselves.
  """
  failed = ~jnp.isfinite(score)
  none = failed.all(-1, keepdims=True)  # a look that says nothing of the set
  score = jnp.where(failed, lineage.previous, score)
  best = jnp.where(failed, lineage.best, jnp.maximum(lineage.best, score))
  total = jnp.where(failed, lineage.total, lineage.total + score)
  gains = {
    "difference": score - lineage.previous,
    "max": best,
    "sum": total,
    "last": score,
  }
  gain = scale * gains[potential]
  if is_last and potential != "difference":
    gain = scale * score - lineage.paid
  gain = jnp.where(failed, 0.0, gain)
  lost = jnp.where(failed & ~none, -jnp.inf, 0.0)
  weight = lineage.log_weight + gain + lost
  return Lineage(weight, lineage.paid + gain, best, total, score)


def normalized(log_weight: Float[Array, "*B N"]) -> Float[Array, "*B N"]:
  """Weights that sum to 1; equal ones where all are 0."""
  none = ~jnp.isfinite(log_weight).any(-1, keepdims=True)
  return jax.nn.softmax(jnp.where(none, 0.0, log_weight), axis=-1)


def effective_number(log_weight: Float[Array, "*B N"]) -> Float[Array, "*B"]:
  """1 / sum w^2 of normalized weights: N for equal ones, 1 for a single one."""
  return 1 / jnp.square(normalized(log_weight)).sum(-1)


def systematic(
  keys: Key[Array, "S"], log_weight: Float[Array, "S N"]
) -> Integer[Array, "S N"]:
  """Parents by systematic resampling: each is copied N w times, up to rounding.

  Args:
    keys: typed keys, one per set.
    log_weight: of S sets.
  """

  def sample(key, weight):
    count = weight.shape[0]
    points = (jax.random.uniform(key) + jnp.arange(count)) / count
    parents = jnp.searchsorted(jnp.cumsum(weight), points, side="right")
    return jnp.minimum(parents, count - 1)

  return jax.vmap(sample)(keys, normalized(log_weight)).astype(jnp.int32)


def select(lineage: Lineage, parents: Integer[Array, "S N"]) -> Lineage:
  """Lineages of the parents, with equal weights."""
  take = lambda x: jnp.take_along_axis(x, parents, axis=-1)
  lineages = jax.tree.map(take, lineage)
  return lineages.replace(log_weight=jnp.zeros_like(lineages.log_weight))
