"""Log-probability of a stored step, equal to the bit in every program.

A rollout stores log p of the steps it took. An update recomputes them, and the
ratio of the two must be exactly 1 until a parameter changes. Two programs with
the same operations do not guarantee that: a compiler fuses an element-wise
chain with its surroundings, and a sum whose terms are kept for a gradient is
added in a different order.

`velocity` and `transition` therefore are sealed computations. Each is wrapped
in a conditional, which compilers do not fuse across (the barrier on the
predicate prevents constant folding; a barrier alone is not enough, since some
backends drop it before fusion), and has a custom derivative, so that
differentiation adds no output to it. Rollout and update call them on the same
stored latents, in micro-batches of the same shape. The cost is one more forward
pass of the network in the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.flow import guidance, steppers
from jaxreward.types import Array, ArrayLike, Cond, Params, Policy

# (x_t, v, x_next, step) -> log-probability [B]
Replay = Callable[..., Array]


def _plain(x_t, v, x_next, step):
  return steppers.log_prob(x_next, steppers.mean(x_t, v, step), step)


def velocity(
  policy: Policy,
  params: Params,
  x_t: Float[ArrayLike, "B *L"],
  t: Float[ArrayLike, "B"],
  cond: Cond,
  uncond: Cond | None,
  scale: float | Array,
) -> Float[Array, "B *L"]:
  """`guidance.guided_velocity`, sealed; t in [0, 1], `scale` a plain number."""

  def plain(params, x_t, t, cond, uncond):
    return guidance.guided_velocity(policy, params, x_t, t, cond, uncond, scale)

  @jax.custom_vjp
  def run(*operands):
    always = jax.lax.optimization_barrier(jnp.all(operands[2] >= 0))
    nothing = lambda *other: jnp.zeros(jnp.shape(other[1]), jnp.float32)
    return jax.lax.cond(always, plain, nothing, *operands)

  def forward(*operands):
    return run(*operands), operands

  def backward(operands, cotangent):
    return jax.vjp(plain, *operands)[1](cotangent)

  run.defvjp(forward, backward)
  return run(params, x_t, t, cond, uncond)


@jax.custom_vjp
def transition(
  x_t: Float[ArrayLike, "B *L"],
  v: Float[ArrayLike, "B *L"],
  x_next: Float[ArrayLike, "B *L"],
  step: steppers.StepTable,
) -> Float[Array, "B"]:
  """`steppers.log_prob` of x_next under the step's mean, sealed.

  Args:
    x_t: latents before the step.
    v: velocity at x_t.
    x_next: stored latents after the step.
    step: constants of the step, scalars or [B] rows.

  Returns:
    Mean log density per latent element; 0 where the step draws no noise.
  """
  rows = x_t.shape[0]
  return jax.lax.cond(
    jax.lax.optimization_barrier(jnp.any(step.std > 0)),
    _plain,
    lambda *_: jnp.zeros((rows,), jnp.float32),
    x_t,
    v,
    x_next,
    step,
  )


def _forward(x_t, v, x_next, step):
  return transition(x_t, v, x_next, step), (x_t, v, x_next, step)


def _backward(operands, cotangent):
  _, pull = jax.vjp(_plain, *operands)
  return pull(cotangent)


transition.defvjp(_forward, _backward)


def step_velocity(
  policy: Policy,
  params: Params,
  cond: Cond,
  uncond: Cond | None,
  x_t: Float[ArrayLike, "B *L"],
  step: steppers.StepTable,
  guidance_scale: float | Array = 1.0,
  *,
  is_sealed: bool = False,
) -> Float[Array, "B *L"]:
  """The guided velocity before a step, at the time that the network is given.

  Args:
    policy: the policy.
    params: its parameters.
    cond: conditioning per sample, leaves [B, ...].
    uncond: of the empty prompt, leaves [1, ...] or [B, ...], or None.
    x_t: latents before the step.
    step: scalars of the step.
    guidance_scale: classifier-free guidance; the plain number 1 for none.
    is_sealed: whether a replay has to give it to the bit; see the module.
  """
  t, cond = steppers.network_time(step, x_t.shape[0], cond)
  run = velocity if is_sealed else guidance.guided_velocity
  return run(policy, params, x_t, t, cond, uncond, guidance_scale)


def step_log_prob(
  policy: Policy,
  params: Params,
  cond: Cond,
  uncond: Cond | None,
  x_t: Float[ArrayLike, "B *L"],
  x_next: Float[ArrayLike, "B *L"],
  step: steppers.StepTable,
  *,
  guidance_scale: float = 1.0,
  replay: Replay | None = None,
  is_sealed: bool = True,
) -> tuple[Float[Array, "B"], Float[Array, "B *L"]]:
  """Replays a stored step under given parameters.

  Args:
    policy: the policy.
    params: its parameters, which may be differentiated.
    cond: conditioning per sample, leaves [B, ...].
    uncond: of the empty prompt, leaves [1, ...] or [B, ...], or None.
    x_t: stored latents before the step.
    x_next: stored latents after it.
    step: scalars of the step.
    guidance_scale: as in the rollout, static.
    replay: replaces `transition`, for example by a kernel.
    is_sealed: whether the velocity is that of the rollout to the bit; without
      it the gradient needs no forward pass of its own.

  Returns:
    (log-probability, mean of the step).
  """
  v = step_velocity(
    policy, params, cond, uncond, x_t, step, guidance_scale,
    is_sealed=is_sealed,
  )  # fmt: skip
  log_p = (replay or transition)(x_t, v, x_next, step)
  return log_p, steppers.mean(x_t, v, step)
