"""Classifier-free guidance (Ho and Salimans, 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.types import Array, Cond, Params, Policy


def guided_velocity(
  policy: Policy,
  params: Params,
  x_t: Array,
  t: Array,
  cond: Cond,
  uncond: Cond | None,
  scale: float,
) -> Array:
  """v_uncond + scale (v_cond - v_uncond), in one pass over both.

  Args:
    policy: the policy.
    params: its parameters.
    x_t: [B, H, W, C].
    t: [B].
    cond: per-sample conditioning, leaves [B, ...].
    uncond: the empty prompt's conditioning, leaves [1, ...]; not read when
      scale is 1.
    scale: static; 1 runs the conditional pass alone.

  Returns:
    velocity [B, H, W, C].
  """
  if scale == 1.0 or uncond is None:
    return policy.velocity(params, x_t, t, cond)
  both = jax.tree.map(
    lambda c, u: jnp.concatenate([c, jnp.broadcast_to(u, c.shape)]),
    cond,
    uncond,
  )
  v = policy.velocity(
    params, jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]), both
  )
  v_cond, v_uncond = jnp.split(v, 2)
  return v_uncond + scale * (v_cond - v_uncond)


def conditioning(
  policy: Policy, params: Params, tokens: Array, scale: float
) -> tuple[Cond, Cond | None]:
  """(cond [P, ...], uncond [1, ...] or None) of a prompt batch's tokens."""
  cond = policy.encode(params, tokens)
  if scale == 1.0:
    return cond, None
  return cond, policy.encode(params, jnp.zeros_like(tokens[:1]))
