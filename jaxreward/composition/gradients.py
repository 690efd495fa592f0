"""Gradients of several rewards into one: combine(gram, ...) -> weights.

Every reward's loss has its own gradient g_k, and the update follows sum_k w_k g_k.
The weights depend only on the inner products gram[k, l] = g_k . g_l, so that a
combiner never sees parameters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike

_ITERATIONS = 64  # of the solver; each is a few operations on K numbers


def sum_of_gradients(gram: Float[ArrayLike, "K K"]) -> Float[Array, "K"]:
  """Every gradient with weight 1: the gradient of the sum of the losses."""
  return jnp.ones(jnp.shape(gram)[0], jnp.float32)


def marble(
  gram: Float[ArrayLike, "K K"],
  last: Float[ArrayLike, "K"] | None,
  count: Int[ArrayLike, ""] | int,
  *,
  decay: float = 0.7,
  normalize: bool = True,
) -> Float[Array, "K"]:
  """The shortest convex combination of the gradients, smoothed (MARBLE).

  w = decay last + (1 - decay) argmin_{w >= 0, sum w = 1} |sum_k w_k g_k|^2. The
  minimiser d has d . g_k >= |d|^2 for every k: no reward's loss rises along it
  (MGDA). A gradient of exactly zero, as of a reward that is equal over every
  group, gets no weight; it would otherwise stop the others.
  Zhao et al. 2026, https://arxiv.org/abs/2605.06507; read in the authors' code,
  which computes weights in every tenth step (`align.combine.every`) and weighs
  advantages in the others. Here the losses are weighed, which is exact for any
  loss. With `normalize` the problem is that of gradients of length 1, whose weights
  are then divided by these lengths, so that the mix points the same way.

  Args:
    gram: inner products of the gradients.
    last: weights of the computation before; None for no smoothing.
    count: of the computations before; the first is not smoothed.
    decay: share of the last weights.
    normalize: whether each gradient is divided by its length first.

  Returns:
    weights, which sum to 1.

  Raises:
    UserError: a decay outside [0, 1).
  """
  if not 0 <= decay < 1:
    raise UserError(
      f"config.align.combine.decay={decay}: it must be at least 0 and less"
      " than 1"
    )
  gram = jnp.asarray(gram)
  square = jnp.diagonal(gram)
  is_nonzero = square > 0
  scale = jnp.where(
    is_nonzero, jax.lax.rsqrt(jnp.where(is_nonzero, square, 1.0)), 0.0
  )
  if normalize:
    weights = min_norm(gram * scale[:, None] * scale[None, :], is_nonzero)
    # From unit gradients back to the gradients, normalised to sum 1.
    weights = weights * jnp.where(is_nonzero.any(), scale, 1.0)
    weights = weights / weights.sum()
  else:
    weights = min_norm(gram, is_nonzero)
  if last is None:
    return weights
  mixed = decay * jnp.asarray(last) + (1 - decay) * weights
  return jnp.where(jnp.asarray(count) > 0, mixed, weights)


def bilevel(
  gram: Float[ArrayLike, "K K"],
  last: Float[ArrayLike, "K"] | None,
  count: Int[ArrayLike, ""] | int,
  *,
  rate: float = 0.1,
  most: float = 1.0,
) -> Float[Array, "K"]:
  """Auxiliary rewards weigh as far as they help the first one (BARFI).

  w_k <- clip(w_k + rate cos(g_1, g_k), 0, most), w_1 = 1: after a step along
  sum_k w_k g_k the first reward has gained in proportion to g_1 . g_k by w_k, the
  derivative of the outer problem for one inner step. A misleading auxiliary ends
  at 0.
  Gupta et al. 2023, https://arxiv.org/abs/2310.19007, who differentiate through
  the inner optimum by a Neumann series; the one-step form, the cosine and the
  constants are chosen here.

  Args:
    gram: inner products of the gradients; the first is of the primary reward.
    last: weights of the computation before; None for weights of `most`.
    count: of the computations before.
    rate: of the weights, above 0.
    most: largest weight of an auxiliary, and the first, above 0.

  Returns:
    weights, the first 1.

  Raises:
    UserError: a rate or a bound that is not positive.
  """
  if not (rate > 0 and most > 0):
    raise UserError(
      f"config.align.combine.rate={rate} and most={most}: both must be above 0"
    )
  gram = jnp.asarray(gram)
  length = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))
  scale = length[0] * length
  cosine = jnp.where(scale > 0, gram[0] / jnp.where(scale > 0, scale, 1), 0)
  start = jnp.full(gram.shape[0], most, jnp.float32)
  if last is not None:
    start = jnp.where(jnp.asarray(count) > 0, jnp.asarray(last), start)
  return jnp.clip(start + rate * cosine, 0.0, most).at[0].set(1.0)


def min_norm(
  gram: Float[ArrayLike, "K K"], there: ArrayLike | None = None
) -> Float[Array, "K"]:
  """argmin of w' gram w over the simplex, by pairwise Frank-Wolfe steps.

  Each step moves weight from the worst to the best of the gradients, as far as
  the quadratic falls: for two of them that is the closed form
  w_1 = clip((g_2 - g_1) . g_2 / |g_1 - g_2|^2, 0, 1), and for more it converges
  linearly (Lacoste-Julien and Jaggi 2015).

  Args:
    gram: inner products, positive semi-definite.
    there: bool [K], gradients that may have weight; where none may, all weights
      are equal.
  """
  gram = jnp.asarray(gram)
  size = gram.shape[0]
  there = jnp.ones(size, bool) if there is None else jnp.asarray(there)
  there = there | ~there.any()
  top = jnp.max(jnp.where(there, jnp.diagonal(gram), 0.0))
  gram = gram / jnp.where(top > 0, top, 1.0)
  start = there / there.sum()

  def step(_, w):
    slope = gram @ w
    best = jnp.argmin(jnp.where(there, slope, jnp.inf))
    worst = jnp.argmax(jnp.where(w > 0, slope, -jnp.inf))
    bend = gram[best, best] + gram[worst, worst] - 2 * gram[best, worst]
    gain = slope[worst] - slope[best]
    far = jnp.where(bend > 0, gain / jnp.where(bend > 0, bend, 1.0), 0.0)
    far = jnp.clip(far, 0.0, w[worst])
    return w.at[best].add(far).at[worst].add(-far)

  w = jax.lax.fori_loop(0, _ITERATIONS, step, start.astype(gram.dtype))
  return w / w.sum()
