"""One loop for every objective: accumulate, update, average.

The step takes a loss as a function, so it knows no method. Work comes as
micro-batches of one static shape with a leading axis; gradients are summed
over the micro-batches of one optimizer step as (sum, weight) pairs and divided
once, so any cut of a batch gives the same update. Metrics are pooled likewise:
means as such pairs, maxima by the larger.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreward.numerics import Mean, Metric, pool
from jaxreward.training import ema, optimizer
from jaxreward.training.state import TrainState
from jaxreward.types import Params

Metrics = dict[str, Metric]
# loss(params, micro-batch, frozen) -> (Mean loss, metrics)
LossFn = Callable[[Params, Any, Any], tuple[Mean, Metrics]]
Prepare = Callable[[Params, Any, Any], Any]


def value_and_grad(loss_fn: LossFn, params: Params, micro: Any, frozen: Any):
  """((sum, weight), metrics), gradient of the sum."""

  def total(p):
    loss, metrics = loss_fn(p, micro, frozen)
    return loss.total, (loss, metrics)

  (_, (loss, metrics)), grads = jax.value_and_grad(total, has_aux=True)(params)
  return loss, metrics, grads


def accumulate(loss_fn: LossFn, params: Params, micros: Any, frozen: Any):
  """Mean loss, pooled metrics and the mean's gradient over micro-batches.

  Args:
    loss_fn: the objective.
    params: differentiated.
    micros: pytree of arrays [N, ...], N micro-batches.
    frozen: anything else the loss reads.

  Returns:
    (loss Mean, metrics, grads).
  """
  count = jax.tree.leaves(micros)[0].shape[0]
  first = jax.tree.map(lambda x: x[0], micros)
  if count == 1:
    loss, metrics, grads = value_and_grad(loss_fn, params, first, frozen)
  else:
    shapes = jax.eval_shape(
      lambda m: value_and_grad(loss_fn, params, m, frozen), first
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(carry, micro):
      found = value_and_grad(loss_fn, params, micro, frozen)
      return pool(carry, found), None

    (loss, metrics, grads), _ = jax.lax.scan(add, zeros, micros)
  scale = 1 / jnp.maximum(loss.weight, 1e-12)
  return loss, metrics, jax.tree.map(lambda g: g * scale, grads)


def update(
  state: TrainState,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  micros: Any,
  frozen: Any,
  *,
  ema_decay: float,
  ema_schedule: str = "constant",
  prepare: Prepare | None = None,
) -> tuple[TrainState, Metrics]:
  """U optimizer steps, each over N micro-batches.

  Args:
    state: donate it.
    loss_fn: the objective.
    tx: from `optimizer.make_optimizer`.
    micros: pytree of arrays [U, N, ...].
    frozen: other inputs of the loss, such as the reference parameters.
    ema_decay: of the average of the parameters, per optimizer step.
    ema_schedule: see `ema.ema_decay`.
    prepare: (params, micro-batches [N, ...], frozen) -> micro-batches, called
      before every optimizer step.

  Returns:
    The state after U steps, and metrics with a leading axis U. A step whose
    loss or gradient is not finite changes nothing and is counted.
  """

  def one(carry, micro):
    params, opt_state, average, done = carry
    if prepare is not None:
      micro = prepare(params, micro, frozen)
    loss, metrics, grads = accumulate(loss_fn, params, micro, frozen)
    value = loss.value()
    params, opt_state, extra = optimizer.apply_if_finite(
      tx, grads, opt_state, params, loss=value, weight=loss.weight
    )
    decay = ema.ema_decay(done, decay=ema_decay, schedule=ema_schedule)
    average = ema.update_ema(average, params, decay)
    metrics = metrics | extra | {"loss": loss}
    return (params, opt_state, average, done + 1), metrics

  carry = (state.params, state.opt_state, state.ema, state.updates)
  (params, opt_state, average, done), metrics = jax.lax.scan(one, carry, micros)
  state = dataclasses.replace(
    state, params=params, opt_state=opt_state, ema=average, updates=done
  )
  return state, metrics
