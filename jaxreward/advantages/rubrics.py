"""Credit by a rubric that is replaced while the policy learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.contract import Advantage, Sizes
from jaxreward.advantages.group import group, require_reward
from jaxreward.errors import UserError, require_counts
from jaxreward.numerics import masked_mean, safe_sqrt
from jaxreward.types import Array, ArrayLike

Scores = Float[ArrayLike, "P G"]
Mask = Bool[ArrayLike, "P G"]


@flax.struct.dataclass
class Window:
  """What a rubric has been seen to do since it came into force.

  Attributes:
    version: int32, of the rubric in force, from 0.
    count: int32, iterations since it was last reviewed.
    mean: float32, the sum of its mean scores in these.
    agreement: float32, the sum of its agreement with the next version.
  """

  version: ArrayLike
  count: ArrayLike
  mean: ArrayLike
  agreement: ArrayLike


def revised(
  *,
  versions: Any,
  every: int = 10,
  saturated: float = 0.9,
  agreement: float = 0.0,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Advantage:
  """`group` of the rubric in force, which gives way when it no longer tells anything.

  Each version of a rubric is a reward that scores throughout. Every `every` iterations
  the one in force is reviewed: if its mean score has reached `saturated`, or its
  `agreement_of` with the next version has fallen below `agreement`, so that samples are
  good for it alone, the next one is in force from the following iteration. All samples
  of an iteration are compared by one version.
  Meta Policy Optimization, https://arxiv.org/abs/2504.20157, where a language model
  reads recent samples with their scores and rewrites the rubric; here versions are
  written in advance; which one is in force is part of the run's state and in no metric.
  Both rules of a review are unverified.

  Args:
    versions: names of the rewards, in their order; the last one stays.
    every: iterations from one review to the next.
    saturated: mean score from which a rubric is replaced.
    agreement: correlation with the next version below which it is, in [-1, 1].
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`.

  Raises:
    UserError: fewer than two versions, or a number out of range.
  """
  names = (versions,) if isinstance(versions, str) else tuple(versions)
  if len(names) < 2 or len(set(names)) < len(names):
    raise UserError(
      f"config.advantage.versions={names}: name two rewards or more, each once"
    )
  require_counts("config.advantage.", every=every)
  if not math.isfinite(saturated):
    raise UserError(
      f"config.advantage.saturated={saturated}: it is a score, a finite number"
    )
  if not -1 <= agreement <= 1:
    raise UserError(
      f"config.advantage.agreement={agreement}: it is a correlation, from -1 to 1"
    )

  def init(sizes: Sizes) -> Window:
    del sizes
    zero, start = jnp.float32(0), jnp.int32(0)
    return Window(start, start, zero, zero)

  def update(
    scores: Mapping[str, Scores], mask: Mask, state: Window
  ) -> tuple[Float[Array, "P G"], Window]:
    for name in names:
      require_reward("versions", name, scores)
    rows = jnp.stack([jnp.asarray(scores[name]) for name in names])
    valid = jnp.asarray(mask) & jnp.isfinite(rows).all(0)
    rows = jnp.where(valid, rows, 0.0)
    version = jnp.asarray(state.version)
    successor = jnp.minimum(version + 1, len(names) - 1)
    now = rows[version]
    credit = group(now, valid, std=std, epsilon=epsilon, clip=clip)
    counts = valid.any()  # an iteration in which all scores failed is none
    count = state.count + counts
    mean = state.mean + jnp.where(counts, masked_mean(now, valid), 0.0)
    agreements = state.agreement + jnp.where(
      counts, agreement_of(now, rows[successor], valid), 0.0
    )
    review = count >= every
    iterations = jnp.maximum(count, 1)
    fails = mean / iterations >= saturated
    fails |= agreements / iterations < agreement
    version = jnp.where(review & fails, successor, version)
    window = lambda x: jnp.where(review, 0, x).astype(jnp.asarray(x).dtype)
    state = Window(
      version.astype(jnp.int32), window(count), window(mean), window(agreements)
    )
    return credit, state

  return Advantage(init, update)


def agreement_of(first: Scores, second: Scores, mask: Mask) -> Float[Array, ""]:
  """Mean over groups of the correlation of two scores.

  Groups in which either score is the same for all are left out; 1 without any other.
  """
  centred = lambda x: jnp.where(
    mask, x - masked_mean(x, mask, axis=1, keepdims=True), 0.0
  )
  a, b = centred(jnp.asarray(first)), centred(jnp.asarray(second))
  scale = safe_sqrt((a * a).sum(1) * (b * b).sum(1))
  varies = scale > 1e-8
  each = (a * b).sum(1) / jnp.where(varies, scale, 1.0)
  return jnp.where(varies.any(), masked_mean(each, varies), 1.0)
