"""Reference networks that follow the trained one, each by its own rule.

A rule is (reference, trained parameters, iteration, metrics of the iteration) ->
reference; it runs once per iteration, after the update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward import rng
from jaxreward.errors import UserError, nearest
from jaxreward.training import ema
from jaxreward.training.state import Reference
from jaxreward.types import Array, Params

Rule = Callable[[Reference, Params, Array, Mapping[str, Any]], Reference]


def fixed() -> Rule:
  """The parameters at the start of training."""
  return lambda reference, params, step, metrics: reference


def decayed(*, decay: float = 0.9, rate: float = 0.0, flat: int = 0) -> Rule:
  """A moving average: decay reference + (1 - decay) params.

  Args:
    decay: from 0 to 1.
    rate: above 0, the decay is min(decay, rate max(n - flat, 0)) in iteration
      n = 0, 1, ..., so that the reference is the trained network at first.
    flat: iterations in which it is, for a rate above 0.
  """
  _require(0 <= decay <= 1, f"decay={decay}: from 0 to 1")
  _require(rate >= 0, f"rate={rate}: 0 or above")
  _require(flat >= 0, f"flat={flat}: 0 or above")

  def rule(reference, params, step, metrics):
    del metrics
    share: Any = decay
    if rate:  # on-policy at first
      share = jnp.minimum(decay, rate * jnp.maximum(step - flat, 0))
    after = ema.update_ema(reference.params, params, share)
    return dataclasses.replace(reference, params=after)

  return rule


def every(*, count: int = 100) -> Rule:
  """A copy of the trained network, refreshed every `count` iterations."""
  _require(count >= 1, f"count={count}: at least 1")
  return lambda reference, params, step, metrics: _moved(
    reference, params, reference.age + 1 >= count
  )


def reset(
  *, metric: str = "kl", above: float = 3e-4, patience: int = 15
) -> Rule:
  """A copy of the trained network, refreshed when a metric exceeds a bound
  (GARDO).

  Args:
    metric: of the iteration, such as the name of a regularizer.
    above: the reference is refreshed when the metric is larger.
    patience: or after so many iterations without a refresh; 0 for never.
  """
  _require(patience >= 0, f"patience={patience}: 0 or above")

  def rule(reference, params, step, metrics):
    del step
    if metric not in metrics:
      raise UserError(
        f'metric="{metric}": no update has a metric of this'
        f" name{nearest(metric, metrics)}; there are"
        f" {', '.join(sorted(metrics))}"
      )
    value = metrics[metric]
    value = value.value() if hasattr(value, "value") else value
    is_due = value > above
    if patience:
      is_due |= reference.age + 1 >= patience
    return _moved(reference, params, is_due)

  return rule


@dataclasses.dataclass(frozen=True)
class Earlier:
  """The rule `earlier`; `slots` copies are kept beside the reference."""

  count: int
  slots: int
  seed: int

  def __call__(self, reference, params, step, metrics):
    del metrics
    key = rng.stream_key(self.seed, "reference", step)
    stored = (step + 1) // self.count  # copies so far, beside that of the start
    # A reservoir: after n copies each of them is kept with probability slots / n.
    place = jax.random.randint(jax.random.fold_in(key, 0), (), 0, stored + 1)
    place = jnp.where(stored < self.slots, stored, place)
    is_due = (step + 1) % self.count == 0
    choose = lambda i: (
      lambda new, old: jnp.where(is_due & (place == i), new, old)
    )
    bank = tuple(
      jax.tree.map(choose(i), params, old)
      for i, old in enumerate(reference.bank)
    )
    count = jnp.minimum(stored + 1, self.slots)
    pick = jax.random.randint(jax.random.fold_in(key, 1), (), 0, count)
    one = lambda *copies: jax.lax.select_n(pick, *copies)
    return Reference(jax.tree.map(one, *bank), reference.age + 1, bank)


def earlier(*, count: int = 25, slots: int = 8, seed: int = 0) -> Rule:
  """One of the network's earlier copies, drawn in every iteration (SePPO).

  A copy is taken every `count` iterations. Up to `slots` of them, that of the start
  among them, are kept beside the reference: all at first, and then a uniform choice
  of those there have been.

  Args:
    count: iterations between copies.
    slots: copies that are kept in memory.
    seed: of the draws; in a config that of the run, unless it is named.
  """
  _require(count >= 1, f"count={count}: at least 1")
  _require(slots >= 1, f"slots={slots}: at least 1")
  return Earlier(count, slots, seed)


RULES: dict[str, Callable[..., Rule]] = {
  "fixed": fixed,
  "decayed": decayed,
  "every": every,
  "reset": reset,
  "earlier": earlier,
}


def _moved(reference: Reference, params: Params, is_due: Array) -> Reference:
  """A copy of the parameters if due, at age 0; else the older reference."""
  choose = lambda new, old: jnp.where(is_due, new, old)
  return Reference(
    jax.tree.map(choose, params, reference.params),
    jnp.where(is_due, 0, reference.age + 1),
  )


def _require(is_right: bool, what: str) -> None:
  if not is_right:
    raise UserError(what)
