"""A small flow on features of reference images, off which the policy's lie or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_counts
from jaxreward.models.vision.patch_flow import PatchFlow, patches
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes
from jaxreward.types import Array, ArrayLike

Field = Callable[[Array, Array], Array]  # (x_t [B, N, D], t [B]) -> velocity


def patch_flow(
  *,
  cells: int = 6,
  width: int = 64,
  depth: int = 2,
  times: tuple[float, ...] = (0.2,),
  draws: int = 2,
  worst: float = 1.0,
) -> Player:
  """Minus how far an image's patches lie off the flow of reference patches.

  loss = mean |v(x_t, t, place) - (eps - a)|^2 of patches a of reference images;
  score = -mean of `deviation` over the `worst` share of the image's patches. RLFR,
  https://arxiv.org/abs/2510.10201, read in the authors' code: the flow is of hidden
  states of a language model, t = .8 with data at 1 (here .2, data at 0), and tokens'
  deviations are normalised over a sequence and added to an outcome. Of images the
  patches are tokens, and the mean is the reward; the flow is fitted to references
  alone, not to what the policy got right.

  Args:
    cells: patches along each side.
    width: see `models.vision.patch_flow`.
    depth: the same.
    times: at which patches are noised, each in (0, 1).
    draws: of noise at each time, the same for all images.
    worst: share of the patches that count, those of the largest deviation.

  Raises:
    UserError: times or a share out of range.
  """
  require_counts("", cells=cells, width=width, depth=depth, draws=draws)
  if not times or not all(0 < t < 1 for t in times):
    raise UserError(f"times={times}: one or more, each between 0 and 1")
  if not 0 < worst <= 1:
    raise UserError(f"worst={worst}: above 0 and at most 1")
  net = PatchFlow(width, depth)

  def init(key: Array, sizes: Sizes):
    x = patches(jnp.zeros((1, *sizes.image)), cells)
    return net.init(key, x, jnp.zeros((1,)))["params"]

  def field(arrays: Arrays) -> Field:
    return lambda x, t: jnp.asarray(net.apply({"params": arrays.params}, x, t))

  def error(arrays: Arrays) -> Array:
    """[B], of each image's patches at a time of its own."""
    a = patches(arrays("real_image"), cells)
    keys = jax.random.wrap_key_data(arrays("keys"))
    eps = jax.vmap(lambda k: jax.random.normal(k, a.shape[1:]))(keys)
    t = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(keys)
    return squared(field(arrays), a, eps, t).mean(1)

  def score(arrays: Arrays) -> Array:
    a = patches(arrays("image"), cells)
    off = deviation(field(arrays), a, times, draws)
    count = max(round(worst * a.shape[1]), 1)
    return -jax.lax.top_k(off, count)[0].mean(1)

  return Player(
    init, matched,
    offers={"error": error, "image_score": score},
    reads=("image", "real_image", "real_mask", "keys"), score="image_score",
    rules=(("(kernel|bias|place)$", ()),),
  )  # fmt: skip


def matched(
  error: Float[ArrayLike, "B"], real_mask: Bool[ArrayLike, "B"]
) -> tuple[Mean, dict[str, Any]]:
  """Flow matching on the features of reference images."""
  return Mean.of(error, real_mask), {}


def squared(
  field: Field,
  a: Float[Array, "B N D"],
  eps: Float[Array, "E N D"],
  t: Float[Array, "T"],
) -> Float[Array, "B N"]:
  """Mean over a feature of |v(x_t, t) - (eps - a)|^2, x_t = (1 - t) a + t eps.

  The noise and the time of each image, or one of all.
  """
  t = jnp.broadcast_to(t, (len(a),))
  share = t[:, None, None]
  x_t = (1 - share) * a + share * eps
  return jnp.square(field(x_t, t) - (eps - a)).mean(-1)


def deviation(
  field: Field,
  a: Float[Array, "B N D"],
  times: tuple[float, ...],
  draws: int,
) -> Float[Array, "B N"]:
  """Mean over times of (1 - t) / t times `squared`, under noise that all share."""
  total = jnp.zeros(a.shape[:2])
  for i, t in enumerate(times):
    for j in range(draws):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), j)
      eps = jax.random.normal(key, (1, *a.shape[1:]))
      total += (1 - t) / t * squared(field, a, eps, jnp.full((1,), t))
  return total / (len(times) * draws)
