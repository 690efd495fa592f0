"""Log-probability of a stored step under given parameters."""

from __future__ import annotations

import jax.numpy as jnp

from jaxreward.flow import guidance, steppers


def step_log_prob(
  policy, params, cond, uncond, x_t, x_next, step, *, guidance_scale=1.0
):
  t = jnp.full((x_t.shape[0],), step.t)
  v = guidance.guided_velocity(
    policy, params, x_t, t, cond, uncond, guidance_scale
  )
  mean = steppers.mean(x_t, v, step)
  return steppers.log_prob(x_next, mean, step), mean
