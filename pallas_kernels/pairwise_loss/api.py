"""Public functions for sums over pairs: checks, dispatch, gradients."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Num

from jaxreward.errors import UserError, nearest
from jaxreward.numerics import Mean
from jaxreward.types import Array, ArrayLike
from pallas_kernels import dispatch
from pallas_kernels.pairwise_loss import gpu, reference, tiles, tpu

TIES = ("half", "skip", "rao_kupper")
MAX_GROUP = 4096  # what a block of a TPU's fast memory holds
How = tuple[str, tuple[str, ...], Any]  # implementation, batch axes, tile


def pairwise_loss(
  scores: Float[ArrayLike, "*B G"],
  ratings: Num[ArrayLike, "*B G"],
  mask: Bool[ArrayLike, "*B G"] | None = None,
  *,
  ties: str = "half",
  margin: float = 0.0,
  label_noise: float = 0.0,
  threshold: float = 2.0,
  tie_width: float = 0.0,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> Mean:
  """Bradley-Terry loss over all pairs of each group.

  Equals `jaxreward.reward_models.preference_losses.bradley_terry` (or its
  `rao_kupper`) on the G (G - 1) / 2 pairs of every group, where the first is
  preferred if it is rated higher. Time grows with G^2, memory with G. The
  gradient is computed in the same pass and reaches only the scores, to first
  order.

  Args:
    scores: of the candidates under the model.
    ratings: of the candidates; higher is better. They are compared in
      float32. Candidates with a non-finite rating are in no pair.
    mask: valid candidates; all if None.
    ties: pairs rated alike: "half" takes a preference of one half, "skip"
      leaves them out, "rao_kupper" models them (Rao and Kupper, 1967).
    margin: lead that the preferred score must have; not with "rao_kupper".
    label_noise: assumed share of flipped labels; likewise.
    threshold: k > 1 of "rao_kupper".
    tie_width: ratings that differ by no more than this are alike.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the groups; a group stays whole.

  Returns:
    Mean over the pairs.

  Raises:
    UserError: shapes that differ, groups above 4,096 (but for
      implementation="xla"), or an unknown choice.
  """
  scores, ratings = jnp.asarray(scores), jnp.asarray(ratings)
  _check_group(scores, implementation, ratings=ratings, mask=mask)
  tile = _loss_tile(ties, margin, label_noise, threshold, tie_width)
  ratings = ratings.astype(jnp.float32)
  valid = jnp.isfinite(ratings)
  valid = valid if mask is None else valid & jnp.asarray(mask, bool)
  fields = jnp.where(valid, scores, 0.0), jnp.where(valid, ratings, jnp.nan)
  how = (dispatch.choose(implementation), tuple(batch_axes), tile)
  loss, pairs = _loss_sums(how, *map(_groups, fields))
  return Mean(jnp.sum(loss), jax.lax.stop_gradient(jnp.sum(pairs)))


def win_rate(
  scores: Float[ArrayLike, "*B G"],
  mask: Bool[ArrayLike, "*B G"] | None = None,
  *,
  temperature: float = 1.0,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> Float[Array, "*B G"]:
  """Mean probability of a candidate to beat another one of its group.

  w_i = mean_{j != i} sigmoid((s_i - s_j) / temperature), the Bradley-Terry
  win rate; with temperature 0 the share of others that score lower, ties as
  one half. As a reward it has the scale of a probability whatever the scale of
  the scores. Time grows with G^2, memory with G.

  Args:
    scores: of the candidates.
    mask: valid candidates; all if None.
    temperature: what the scores are divided by; 0 has no gradient.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the groups; a group stays whole.

  Returns:
    float32; 0 where masked, one half without another candidate.

  Raises:
    UserError: shapes that differ, a negative temperature, groups above 4,096
      (but for implementation="xla").
  """
  scores = jnp.asarray(scores)
  _check_group(scores, implementation, mask=mask)
  if not temperature >= 0:
    raise UserError(f"temperature={temperature}: it must be 0 or above")
  valid = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask)
  count = jnp.sum(valid, axis=-1, keepdims=True)
  tile = tiles.WinRate(float(temperature))
  how = (dispatch.choose(implementation), tuple(batch_axes), tile)
  safe = jnp.where(valid, scores.astype(jnp.float32), jnp.nan)
  wins = _win_sums(how, _groups(safe)).reshape(scores.shape)
  rate = jnp.where(count > 1, wins / jnp.maximum(count - 1, 1), 0.5)
  return jnp.where(valid, rate, 0.0)


def _check_group(scores, implementation, **others):
  for name, x in others.items():
    if x is not None and x.shape != scores.shape:
      raise UserError(
        f"{name} has shape {x.shape}, but scores have {scores.shape}: every"
        " candidate needs one"
      )
  if scores.shape[-1] > MAX_GROUP and implementation != "xla":
    raise UserError(
      f"a group of {scores.shape[-1]} candidates is above the kernel's"
      f' {MAX_GROUP}: use smaller groups, or implementation="xla"'
    )


def _loss_tile(ties, margin, label_noise, threshold, tie_width):
  if ties not in TIES:
    raise UserError(
      f'ties="{ties}" is none of {", ".join(TIES)}{nearest(ties, TIES)}'
    )
  if not tie_width >= 0:
    raise UserError(f"tie_width={tie_width}: it must be 0 or above")
  if ties != "rao_kupper":
    return tiles.bradley_terry(
      ties, float(margin), float(label_noise), float(tie_width)
    )
  if margin or label_noise:
    raise UserError(
      'ties="rao_kupper" takes no margin and no label_noise: leave both at 0'
    )
  if not threshold > 1:
    raise UserError(
      f"threshold={threshold}: it must be above 1, where ties begin"
    )
  return tiles.rao_kupper(float(threshold), float(tie_width))


def _groups(x):
  return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _run(how, sums, *fields):
  """Sums over the other candidates, each [N, G]."""
  implementation, batch_axes, tile = how
  stacked = jnp.stack([x.astype(jnp.float32) for x in fields], axis=1)
  if implementation == "xla":
    return reference.run(stacked, tile)
  body = functools.partial(
    dispatch.backend(implementation, tpu, gpu), tile=tile, sums=sums
  )
  return dispatch.over_rows(body, batch_axes, stacked)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss_sums(how: How, scores, ratings):
  """(sum of the losses of a group's pairs, their number), each [N]."""
  loss, _, pairs = _run(how, 3, scores, ratings)
  return jnp.sum(loss, axis=1), jnp.sum(pairs, axis=1)


def _loss_forward(how, scores, ratings):
  loss, slope, pairs = _run(how, 3, scores, ratings)
  sums = jnp.sum(loss, axis=1), jnp.sum(pairs, axis=1)
  return sums, (slope, scores[:0])


def _loss_backward(how, residuals, cotangents):
  del how
  slope, like = residuals
  return (slope * cotangents[0][:, None]).astype(like.dtype), None


_loss_sums.defvjp(_loss_forward, _loss_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _win_sums(how: How, scores):
  return _run(how, 1, scores)[0]


def _win_forward(how, scores):
  return _win_sums(how, scores), scores


def _win_backward(how, scores, cotangent):
  implementation, batch_axes, tile = how
  if not tile.temperature:
    return (jnp.zeros_like(scores),)
  tile = tiles.WinRateGradient(tile.temperature)
  how = (implementation, batch_axes, tile)
  (push,) = _run(how, 1, cotangent, scores)
  return (jnp.where(jnp.isnan(scores), 0.0, push),)


_win_sums.defvjp(_win_forward, _win_backward)
