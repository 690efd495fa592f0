"""The hidden states of a policy, read before its last product."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.types import Array, Cond, Params, Policy

LAST = "patch_out"  # the last product of every policy


def last_states(
  policy: Policy,
  params: Params,
  x_t: Float[Array, "B ..."],
  t: Float[Array, "B"],
  cond: Cond,
) -> Float[Array, "B N D"]:
  """The input of the policy's last product; the velocity itself is dropped."""
  states: list[Array] = []

  def catch(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if context.module.name == LAST and context.method_name == "__call__":
      states.append(args[0])
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(catch):
    policy.velocity(params, x_t, t, cond)
  (last,) = states
  return jnp.asarray(last).reshape(x_t.shape[0], -1, last.shape[-1])
