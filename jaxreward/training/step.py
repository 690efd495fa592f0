"""One loop for every objective: accumulate, update, average.

The step takes the loss as a function and is independent of the method. Work
comes as micro-batches of one static shape with a leading axis; gradients are
summed over the micro-batches of one optimizer step as (sum, weight) pairs and
divided once, so any split of a batch gives the same update. Metrics are pooled
likewise: means as such pairs, maxima by maximum.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxreward.numerics import Mean, Metric, pool
from jaxreward.training import ema, optimizer
from jaxreward.training.state import Player, TrainState
from jaxreward.types import Array, Params

Metrics = dict[str, Metric]
# loss(params, micro-batch, frozen) -> (Mean loss, metrics)
LossFn = Callable[[Params, Any, Any], tuple[Mean, Metrics]]
Prepare = Callable[[Params, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Combine:
  """Combines the gradients of K losses into one.

  A loss with K gradients returns a Mean whose total has at least K entries;
  entries after the first K are added with weight 1.

  Attributes:
    weigh: (inner products [K, K], last weights [K], computations so far) ->
      weights [K].
    size: K.
    every: optimizer steps between computations; other steps reuse the weights
      and need one backward pass.
  """

  weigh: Callable[[Array, Array, Array], Array]
  size: int
  every: int = 1


def value_and_grad(
  loss_fn: LossFn,
  params: Params,
  micro: Any,
  frozen: Any,
  weights: Array | None = None,
):
  """((sum, weight), metrics), gradient of the (weighted) sum."""

  def total(p):
    loss, metrics = loss_fn(p, micro, frozen)
    value = loss.total if weights is None else loss.total @ weights
    return value, (loss, metrics)

  (_, (loss, metrics)), grads = jax.value_and_grad(total, has_aux=True)(params)
  return loss, metrics, grads


def values_and_grads(loss_fn: LossFn, params: Params, micro: Any, frozen: Any):
  """`value_and_grad` for [K] sums; gradients have a leading axis K.

  The network is evaluated once; the backward passes follow one another.
  """

  def totals(p):
    loss, metrics = loss_fn(p, micro, frozen)
    return loss.total, (loss, metrics)

  _, back, (loss, metrics) = jax.vjp(totals, params, has_aux=True)
  rows = jnp.eye(loss.total.shape[0], dtype=loss.total.dtype)
  return loss, metrics, jax.lax.map(lambda row: back(row)[0], rows)


def accumulate(
  loss_fn: LossFn,
  params: Params,
  micros: Any,
  frozen: Any,
  evaluate: Callable[..., Any] = value_and_grad,
):
  """Mean loss, pooled metrics and the mean's gradient over micro-batches.

  Args:
    loss_fn: the objective.
    params: differentiated.
    micros: pytree of arrays [N, ...], N micro-batches.
    frozen: anything else the loss reads.
    evaluate: `value_and_grad` or a replacement.

  Returns:
    (loss Mean, metrics, grads).
  """
  count = jax.tree.leaves(micros)[0].shape[0]
  example = jax.tree.map(lambda x: x[0], micros)
  if count == 1:
    loss, metrics, grads = evaluate(loss_fn, params, example, frozen)
  else:
    shapes = jax.eval_shape(
      lambda m: evaluate(loss_fn, params, m, frozen), example
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(carry, micro):
      sums = evaluate(loss_fn, params, micro, frozen)
      return pool(carry, sums), None

    (loss, metrics, grads), _ = jax.lax.scan(add, zeros, micros)
  scale = 1 / jnp.maximum(loss.weight, 1e-12)
  return loss, metrics, jax.tree.map(lambda g: g * scale, grads)


def accumulate_apart(
  combine: Combine,
  loss_fn: LossFn,
  params: Params,
  micros: Any,
  frozen: Any,
  mixture: Array,
  updates: Array,
):
  """`accumulate` for a loss with K gradients: (loss, metrics, grads, weights).

  Args:
    combine: how to weight the gradients.
    loss_fn: see `Combine`.
    params: differentiated.
    micros: pytree of arrays [N, ...].
    frozen: anything else the loss reads.
    mixture: weights of the previous step.
    updates: int32, optimizer steps so far.
  """
  terms = lambda loss: jnp.ones(loss.total.shape[0] - combine.size)

  def fresh(mixture):
    loss, metrics, grads = accumulate(
      loss_fn, params, micros, frozen, values_and_grads
    )
    gram = gram_of(jax.tree.map(lambda g: g[: combine.size], grads))
    weights = combine.weigh(gram, mixture, updates // combine.every)
    every = jnp.concatenate([weights, terms(loss)])
    grads = jax.tree.map(
      lambda g: jnp.tensordot(every.astype(g.dtype), g, 1), grads
    )
    is_finite = jnp.isfinite(weights).all()
    next_mixture = jnp.where(is_finite, weights, mixture)
    return Mean(loss.total @ every, loss.weight), metrics, grads, next_mixture

  def reuse(mixture):
    shape = jax.eval_shape(
      loss_fn, params, jax.tree.map(lambda x: x[0], micros), frozen
    )[0]
    every = jnp.concatenate([mixture, terms(shape)])
    evaluate = functools.partial(value_and_grad, weights=every)
    loss, metrics, grads = accumulate(loss_fn, params, micros, frozen, evaluate)
    return Mean(loss.total @ every, loss.weight), metrics, grads, mixture

  if combine.every == 1:
    return fresh(mixture)
  return jax.lax.cond(updates % combine.every == 0, fresh, reuse, mixture)


def gram_of(grads: Params) -> Array:
  """Inner products [K, K] of gradients with a leading axis K, in float32."""

  def one(g):
    g = jnp.asarray(g, jnp.promote_types(g.dtype, jnp.float32))
    axes = tuple(range(1, g.ndim))
    return jnp.tensordot(g, g, (axes, axes), precision="highest")

  return jnp.stack([one(g) for g in jax.tree.leaves(grads)]).sum(0)


State = TypeVar("State", TrainState, Player)


def update(
  state: State,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  micros: Any,
  frozen: Any,
  *,
  ema_decay: float,
  ema_schedule: str = "constant",
  prepare: Prepare | None = None,
  combine: Combine | None = None,
) -> tuple[State, Metrics]:
  """U optimizer steps, each over N micro-batches.

  Args:
    state: of the policy or of a player; donate it.
    loss_fn: the objective.
    tx: from `optimizer.make_optimizer`.
    micros: pytree of arrays [U, N, ...].
    frozen: other inputs of the loss, such as the reference parameters.
    ema_decay: of the average of the parameters, if the state keeps one, per
      optimizer step.
    ema_schedule: see `ema.ema_decay`.
    prepare: (params, micro-batches [N, ...], frozen) -> micro-batches, called
      before every optimizer step.
    combine: of a loss with several gradients; None for one.

  Returns:
    The state after U steps, and metrics with a leading axis U, among them
    "mixture", the weights of several gradients. A step whose
    loss or gradient is not finite changes nothing and is counted.
  """

  def one(carry, micro):
    params, opt_state, average, updates, mixture = carry
    if prepare is not None:
      micro = prepare(params, micro, frozen)
    if combine is None:
      loss, metrics, grads = accumulate(loss_fn, params, micro, frozen)
    else:
      loss, metrics, grads, mixture = accumulate_apart(
        combine, loss_fn, params, micro, frozen, mixture, updates
      )
      metrics = metrics | {"mixture": mixture}
    value = loss.value()
    params, opt_state, extra = optimizer.apply_if_finite(
      tx, grads, opt_state, params, loss=value, weight=loss.weight
    )
    if average is not None:
      decay = ema.ema_decay(updates, decay=ema_decay, schedule=ema_schedule)
      average = ema.update_ema(average, params, decay)
    metrics = metrics | extra | {"loss": loss}
    return (params, opt_state, average, updates + 1, mixture), metrics

  carry = (
    state.params, state.opt_state, state.ema, state.updates, state.mixture,
  )  # fmt: skip
  carry, metrics = jax.lax.scan(one, carry, micros)
  params, opt_state, average, updates, mixture = carry
  state = dataclasses.replace(
    state, params=params, opt_state=opt_state, ema=average, updates=updates,
    mixture=mixture,
  )  # fmt: skip
  return state, metrics
