"""Compositions that keep samples by Pareto dominance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.composition.parts import (
  Masks,
  Scores,
  Signal,
  Weights,
  safe_of,
  valid_of,
)
from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean
from jaxreward.types import Array, ArrayLike


def dominates(
  scores: Float[ArrayLike, "K *P G"], mask: Bool[ArrayLike, "*P G"]
) -> Bool[Array, "*P G G"]:
  """Whether sample i is at least as good as j on all scores, better on one."""
  scores = jnp.asarray(scores)
  left, right = scores[..., :, None], scores[..., None, :]
  both = mask[..., :, None] & mask[..., None, :]
  return jnp.all(left >= right, 0) & jnp.any(left > right, 0) & both


def pareto(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  among: str = "group",
  centre: bool = True,
) -> Signal:
  """Weighted sum of the samples that no other dominates; others are masked.

  Parrot, https://arxiv.org/abs/2401.05675: only these contribute to the policy
  gradient, 1 / |P| sum over them. Whether their sum is centred is unverified:
  here it is, on the mean of the whole group, before the others are masked. Follow
  it with `dict(name="given")`: an advantage that centres again gives no credit in
  a group with one sample left.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    among: "group" compares the samples of a prompt, "batch" all, as the paper.
    centre: whether the group's mean is subtracted.

  Returns:
    (signal, mask): dominated samples are masked too.

  Raises:
    UserError: another `among`.
  """
  if among not in ("group", "batch"):
    raise UserError(
      f'config.composition.among="{among}": it is "group" or "batch"'
    )
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  stacked = jnp.stack([jnp.sign(weights[k]) * safe[k] for k in weights])
  if among == "batch":
    is_dominated = dominates(
      stacked.reshape(len(stacked), -1), mask.reshape(-1)
    )
    is_dominated = is_dominated.any(-2).reshape(mask.shape)
  else:
    is_dominated = dominates(stacked, mask).any(-2)
  total = jnp.asarray(sum(weights[k] * safe[k] for k in weights))
  if centre:
    total = total - masked_mean(total, mask, axis=1, keepdims=True)
  mask = mask & ~is_dominated
  return jnp.where(mask, total, 0.0), mask


def chain(scores: Scores, masks: Masks, weights: Weights) -> Signal:
  """Weighted sum of the longest chain of the dominance order; others are masked.

  In a chain each sample dominates the next, so that all rewards agree on the
  order of what is compared.
  ThinkRL-Edit, https://arxiv.org/abs/2601.03467, the choice of candidates; that
  the chain is the longest, and that the advantage is of the sum, are unverified.
  Ties between longest chains go to the one with earlier members.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.

  Returns:
    (signal, mask): samples outside the chain are masked too.
  """
  mask = valid_of(scores, masks, weights)
  safe = safe_of(scores, mask, weights)
  stacked = jnp.stack([jnp.sign(weights[k]) * safe[k] for k in weights])
  total = jnp.asarray(sum(weights[k] * safe[k] for k in weights))
  inside = jax.vmap(_longest)(dominates(stacked, mask), mask)
  return jnp.where(inside, total, 0.0), inside


def _longest(
  above: Bool[Array, "G G"], mask: Bool[Array, "G"]
) -> Bool[Array, "G"]:
  """Members of the longest chain."""
  size = len(mask)
  length = mask.astype(jnp.int32)

  def grow(length, _):
    below = jnp.max(jnp.where(above, length[None], 0), axis=1)
    return jnp.where(mask, below + 1, 0), None

  length, _ = jax.lax.scan(grow, length, None, length=size)

  def walk(carry, _):
    inside, last = carry
    after = jnp.where(above[last], length, 0)
    here = jnp.argmax(after)
    there = after[here] > 0
    inside = inside.at[here].set(inside[here] | there)
    # A sample that dominates none ends the walk.
    return (inside, jnp.where(there, here, last)), None

  first = jnp.argmax(length)
  inside = jnp.zeros(size, bool).at[first].set(mask[first])
  (inside, _), _ = jax.lax.scan(walk, (inside, first), None, length=size)
  return inside
