"""Plans of optimal transport between tokens."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike

FLOOR = 1e-9  # added to a plan before its logarithm


def solver() -> tuple[Any, Any, Any]:
  """Modules of ott-jax: the geometry, the linear problem and its solver.

  Raises:
    UserError: it is not installed.
  """
  try:
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn
  except ImportError as error:
    raise UserError(
      "plans of transport need ott-jax; pip install"
      f' "jaxreward[transport]" ({error})'
    ) from error
  return geometry, linear_problem, sinkhorn


def plan(
  cost: Float[ArrayLike, "*B M N"],
  rows: Float[ArrayLike, "*B M"],
  columns: Float[ArrayLike, "*B N"],
  *,
  epsilon: float = 0.05,
  mass: float = 0.9,
  steps: int = 50,
) -> Float[Array, "*B M N"]:
  """The entropic plan P = diag(u) K diag(v), K = exp(-cost / epsilon), by ott-jax.

  u = (rows / K v)^tau, v = (columns / K' u)^tau, tau = mass: marginals are
  relaxed by rho KL with rho = epsilon mass / (1 - mass), and exact with mass 1.
  The plan's own sum is not `mass`. Chizat et al. 2018,
  https://arxiv.org/abs/1607.05816.

  Args:
    cost: of moving row i to column j.
    rows: marginal of the rows; rows of 0 move nothing.
    columns: marginal of the columns.
    epsilon: of the entropy, above 0.
    mass: tau, in (0, 1].
    steps: number of Sinkhorn iterations, without early stopping.

  Raises:
    UserError: an epsilon, mass or number of steps outside its range; ott-jax is not
      installed.
  """
  if not (epsilon > 0 and 0 < mass <= 1 and steps >= 1):
    raise UserError(
      f"transport: epsilon={epsilon}, mass={mass}, steps={steps}; expected an"
      " epsilon above 0, a mass in (0, 1] and one step or more"
    )
  geometry, linear_problem, sinkhorn = solver()
  iterate = sinkhorn.Sinkhorn(
    threshold=-1, inner_iterations=steps, min_iterations=steps,
    max_iterations=steps,
  )  # fmt: skip

  def one(cost: Array, rows: Array, columns: Array) -> Array:
    moves = geometry.Geometry(cost, epsilon=epsilon)
    return iterate(
      linear_problem.LinearProblem(moves, rows, columns, mass, mass)
    ).matrix

  arrays = (jnp.asarray(x, jnp.float32) for x in (cost, rows, columns))
  return jnp.vectorize(one, signature="(m,n),(m),(n)->(m,n)")(*arrays)


def token_cost(
  cosines: Float[ArrayLike, "*B M N"],
  attention: Float[ArrayLike, "*B M N"],
  known: Bool[ArrayLike, "*B M"] | bool = True,
  *,
  spatial: float = 0.2,
) -> Float[Array, "*B M N"]:
  """PISCES's cost of words and patches, in [0, 1].

  C = (1 - cos) + spatial |p_i - s_j|, p_i the mean place of the patches that
  word i attends to; both terms and the sum are brought to [0, 1]. Places are
  those of a square grid; without one the second term is left out, as is the
  paper's term of time. https://arxiv.org/abs/2602.01624

  Args:
    cosines: of words and patches.
    attention: of words to patches, rows of sum 1.
    known: False for padding, which is ignored and costs nothing.
    spatial: weight of the distance, .2 in the paper.
  """
  known = jnp.asarray(known)[..., None]
  cost = _to_unit(1 - jnp.asarray(cosines), known)
  count = cost.shape[-1]
  side = math.isqrt(count)
  if side * side == count and side > 1 and spatial:
    index = jnp.arange(count)
    places = jnp.stack([index // side, index % side], -1) / (side - 1)
    mean = jnp.einsum("...mn,nd->...md", attention, places)
    gap = mean[..., :, None, :] - places
    square = jnp.square(gap).sum(-1)
    cost = cost + spatial * _to_unit(jnp.sqrt(square + 1e-12), known)
  return _to_unit(cost, known)


def _to_unit(x: Array, known: Array) -> Array:
  low = jnp.min(x, (-2, -1), keepdims=True, where=known, initial=jnp.inf)
  high = jnp.max(x, (-2, -1), keepdims=True, where=known, initial=-jnp.inf)
  unit = (x - low) / jnp.maximum(high - low, 1e-9)
  return jnp.where(known, unit, 0.0)


def attention_bias(
  query: Float[ArrayLike, "B M F"],
  key: Float[ArrayLike, "B N F"],
  known: Bool[ArrayLike, "B M"],
  *,
  mass: float,
) -> Float[Array, "B 1 M N"]:
  """log(P + floor) of the plan between queries and keys; no gradient.

  Added to the logits it makes attention proportional to A P, PISCES's fusion. Rows of
  padding are constant and change nothing.

  Args:
    query: of all heads, side by side.
    key: the same.
    known: False for padding.
    mass: see `plan`.
  """
  query, key = (
    jax.lax.stop_gradient(jnp.asarray(x, jnp.float32)) for x in (query, key)
  )
  known = jnp.asarray(known)
  dot = jnp.einsum("bmf,bnf->bmn", query, key)
  length = lambda x: jnp.sqrt(jnp.square(x).sum(-1) + 1e-12)
  cosines = dot / (length(query)[..., :, None] * length(key)[..., None, :])
  attention = jax.nn.softmax(dot * query.shape[-1] ** -0.5, -1)
  rows = known / jnp.maximum(known.sum(-1, keepdims=True), 1)
  columns = jnp.full((*known.shape[:-1], key.shape[-2]), 1 / key.shape[-2])
  cost = token_cost(cosines, attention, known)
  shares = plan(cost, rows, columns, mass=mass)
  shares = jnp.where(known[..., None], shares, 0.0)
  return jnp.log(shares + FLOOR)[:, None]
