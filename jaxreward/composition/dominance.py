"""Compositions that keep what no other sample beats on every score."""

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
  """Whether sample i is as good as j on every score, and better on one."""
  scores = jnp.asarray(scores)
  one, other = scores[..., :, None], scores[..., None, :]
  both = mask[..., :, None] & mask[..., None, :]
  return jnp.all(one >= other, 0) & jnp.any(one > other, 0) & both


def pareto(
  scores: Scores,
  masks: Masks,
  weights: Weights,
  *,
  among: str = "group",
  centre: bool = True,
) -> Signal:
  """Weighted sum of the samples that no other dominates; the rest is masked.

  Parrot, https://arxiv.org/abs/2401.05675: only these contribute to the policy
  gradient, 1 / |P| sum over them. Whether their sum is centred is unverified:
  here it is, on the mean of the whole group, before the rest is masked. Follow
  it with `dict(name="given")`; an advantage that centres again would take all
  credit from a group of which one sample is left.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.
    among: "group" compares the samples of a prompt, "batch" all, as the paper.
    centre: whether the group's mean is taken away.

  Returns:
    (signal, mask): False, too, where a sample is dominated.

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
    beaten = dominates(stacked.reshape(len(stacked), -1), mask.reshape(-1))
    beaten = beaten.any(-2).reshape(mask.shape)
  else:
    beaten = dominates(stacked, mask).any(-2)
  total = jnp.asarray(sum(weights[k] * safe[k] for k in weights))
  if centre:
    total = total - masked_mean(total, mask, axis=1, keepdims=True)
  mask = mask & ~beaten
  return jnp.where(mask, total, 0.0), mask


def chain(scores: Scores, masks: Masks, weights: Weights) -> Signal:
  """Weighted sum of the longest chain of the dominance order; the rest is masked.

  In a chain each sample dominates the next, so that all rewards agree on the
  order of what is compared.
  ThinkRL-Edit, https://arxiv.org/abs/2601.03467, the choice of candidates; that
  the chain is the longest, and that the advantage is of the sum, are unverified.
  Of several longest chains the one with the earlier members is taken.

  Args:
    scores: name -> raw scores; not finite where a score failed.
    masks: True where a sample counts, one for all scores or one per name.
    weights: name -> weight.

  Returns:
    (signal, mask): False, too, where a sample is outside the chain.
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
  """Members of the longest chain below which each stands."""
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
    # A sample without anything below it stays where it is.
    return (inside, jnp.where(there, here, last)), None

  first = jnp.argmax(length)
  inside = jnp.zeros(size, bool).at[first].set(mask[first])
  (inside, _), _ = jax.lax.scan(walk, (inside, first), None, length=size)
  return inside
