"""Public functions of the fused SDE step: checks, dispatch, gradients."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.types import Array, ArrayLike
from pallas_kernels import dispatch
from pallas_kernels.sde_step import gpu, reference, tpu

How = tuple[str, tuple[str, ...]]  # implementation, batch axes


def sde_step(
  x_t: Float[ArrayLike, "B *L"],
  v: Float[ArrayLike, "B *L"],
  noise: Float[ArrayLike, "B *L"],
  step: Any,
  *,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> tuple[Float[Array, "B *L"], Float[Array, "B"]]:
  """Next latents of a Gaussian step and their mean log density per element.

  x_{t'} = c_x x_t + c_v v + std xi; the sampler is in the coefficients (see
  `jaxreward.flow.steppers`). Sums are float32; the log-probability is that of
  x_{t'} as it is stored, rounded to its type, so that `transition` finds the
  same. Gradients reach x_t, v and the noise, straight through the rounding.

  Args:
    x_t: latents before the step.
    v: velocity at x_t.
    noise: standard normal.
    step: has `c_x`, `c_v`, `std`, `log_scale`, scalars or [B]: constants, such
      as one step of a `steppers.StepTable`.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the samples.

  Returns:
    (next latents in the type of x_t, log-probability float32 [B]; 0 where the
    step draws no noise).

  Raises:
    UserError: shapes differ.
  """
  _same_shape(x_t, v=v, noise=noise)
  how = (dispatch.choose(implementation), tuple(batch_axes))
  rows = _coefficients(step, x_t.shape[0])
  x_next, log_prob = _draw(how, rows, *map(_flat, (x_t, v, noise)))
  return x_next.reshape(x_t.shape), log_prob


def transition(
  x_t: Float[ArrayLike, "B *L"],
  v: Float[ArrayLike, "B *L"],
  x_next: Float[ArrayLike, "B *L"],
  step: Any,
  *,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> Float[Array, "B"]:
  """Mean log density per latent element of a stored step.

  The counterpart of `sde_step` for the update, by the same kernel body, and of
  `jaxreward.flow.log_prob.transition`. Gradients reach x_t, v and x_next.

  Args:
    x_t: latents before the step.
    v: velocity at x_t.
    x_next: stored latents after the step.
    step: as in `sde_step`.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the samples.

  Returns:
    float32 [B]; 0 where the step draws no noise.

  Raises:
    UserError: shapes differ.
  """
  _same_shape(x_t, v=v, x_next=x_next)
  how = (dispatch.choose(implementation), tuple(batch_axes))
  rows = _coefficients(step, x_t.shape[0])
  return _replay(how, rows, *map(_flat, (x_t, v, x_next)))


def _same_shape(x_t, **others):
  for name, x in others.items():
    if x.shape != x_t.shape:
      raise UserError(
        f"{name} has shape {x.shape}, but x_t has {x_t.shape}: a step needs"
        " the same for both"
      )


def _flat(x):
  x = jnp.asarray(x)
  return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _coefficients(step, samples):
  rows = (step.c_x, step.c_v, step.std, step.log_scale)
  broadcast = lambda x: jnp.broadcast_to(
    jnp.asarray(x, jnp.float32), (samples,)
  )
  return jax.lax.stop_gradient(jnp.stack([broadcast(x) for x in rows], axis=1))


def _run(how, draw, rows, x_t, v, other) -> tuple[Array, ...]:
  """Squared deviations [B] last, next latents before them if `draw`."""
  implementation, batch_axes = how
  if implementation == "xla":
    if draw:
      return reference.draw(x_t, v, other, rows)
    return (reference.replay(x_t, v, other, rows),)
  body = functools.partial(
    dispatch.backend(implementation, tpu, gpu), draw=draw
  )
  return dispatch.over_rows(body, batch_axes, rows, x_t, v, other)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _draw(how: How, rows, x_t, v, noise):
  x_next, squares = _run(how, True, rows, x_t, v, noise)
  return x_next, reference.log_density(squares, rows, x_t.shape[1])


def _draw_forward(how, rows, x_t, v, noise):
  # Empty arrays carry the types.
  return _draw(how, rows, x_t, v, noise), (rows, noise, x_t[:0], v[:0])


def _draw_backward(how, residuals, cotangents):
  """The density's gradient through the mean cancels; the rest is linear."""
  del how
  rows, noise, x_t, v = residuals
  grad_next, log_prob = cotangents[0].astype(jnp.float32), cotangents[1]
  slope = reference.slope(log_prob, rows, noise.shape[1])
  std = rows[:, 2:3]
  deviation = std * noise.astype(jnp.float32)
  return (
    jnp.zeros_like(rows),
    (rows[:, 0:1] * grad_next).astype(x_t.dtype),
    (rows[:, 1:2] * grad_next).astype(v.dtype),
    (std * (grad_next - slope * deviation)).astype(noise.dtype),
  )


_draw.defvjp(_draw_forward, _draw_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _replay(how: How, rows, x_t, v, x_next):
  (squares,) = _run(how, False, rows, x_t, v, x_next)
  return reference.log_density(squares, rows, x_t.shape[1])


def _replay_forward(how, rows, x_t, v, x_next):
  return _replay(how, rows, x_t, v, x_next), (rows, x_t, v, x_next)


def _replay_backward(how, residuals, cotangent):
  """Element-wise: the compiler fuses it into its consumer."""
  del how
  rows, x_t, v, x_next = residuals
  deviation = x_next.astype(jnp.float32) - reference.mean(x_t, v, rows)
  push = reference.slope(cotangent, rows, x_t.shape[1]) * deviation
  return (
    jnp.zeros_like(rows),
    (rows[:, 0:1] * push).astype(x_t.dtype),
    (rows[:, 1:2] * push).astype(v.dtype),
    (-push).astype(x_next.dtype),
  )


_replay.defvjp(_replay_forward, _replay_backward)
