"""Two networks of one architecture as one policy, selected by time.

Wan 2.2 A14B has one for times near noise and one for those near the video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreward import compat
from jaxreward.models import sequence
from jaxreward.types import Array, Cond, Params

# Names in the parameter tree -> folders of a public pipeline.
FOLDERS = {"high": "transformer", "low": "transformer_2"}


class Experts(nn.Module):
  """Two networks for two ranges of times."""

  high: Any
  low: Any

  def encode(self, prompts: Cond) -> Cond:
    """Text states of both networks, on an axis after the prompts'."""
    states = [net.encode(prompts)["words"] for net in (self.high, self.low)]
    return dict(prompts, words=jnp.stack(states, 1))

  def __call__(self, x: Array, t: Array, cond: Cond, name: str) -> Array:
    """The velocity of one of the networks."""
    states = cond["words"][:, list(FOLDERS).index(name)]
    return getattr(self, name)(x, t, dict(cond, words=states))

  def init_forward(self, x: Array, t: Array, prompts: Cond) -> Array:
    cond = self.encode(prompts)
    return self(x, t, cond, "high") + self(x, t, cond, "low")


def by_time(net: Experts, boundary: float) -> Callable[..., Array]:
  """Velocity by the network of each row's time; see `Policy.velocity`.

  A network that no row selects does not run: a sampler's step, where all rows
  have one time, costs one network.
  """

  def velocity(params: Params, x_t: Array, t: Array, cond: Cond) -> Array:
    x_t, t, cond = jax.tree.map(sequence.rows, (x_t, t, cond))
    is_high = t >= boundary

    def of(name: str, rows: Array) -> Array:
      def run(params, x_t, t, cond):
        v: Any = net.apply({"params": {name: params}}, x_t, t, cond, name)
        return v

      return _where_active(run, jnp.any(rows), params[name], x_t, t, cond)

    high, low = of("high", is_high), of("low", ~is_high)
    return jnp.where(is_high[:, None, None, None, None], high, low)

  return velocity


def _where_active(
  fn: Callable[..., Array], is_active: Array, *operands: Any
) -> Array:
  """fn(*operands) if `is_active`, else zeros; likewise its gradient.

  The gradient recomputes `fn`. A plain conditional would store residuals in
  arrays that both branches fill, and copy the parameters into them.
  """
  leaves, tree = jax.tree.flatten(operands)
  # Traced now: the gradient is traced outside the contexts of this call.
  once = compat.closed_function(lambda *x: fn(*tree.unflatten(x)), *leaves)
  plain = lambda *leaves: once(*leaves)[0]
  out_shape = jax.eval_shape(plain, *leaves)

  @jax.custom_vjp
  def run(is_active, *leaves):
    nothing = lambda *_: jnp.zeros(out_shape.shape, out_shape.dtype)
    return jax.lax.cond(is_active, plain, nothing, *leaves)

  def forward(is_active, *leaves):
    return run(is_active, *leaves), (is_active, leaves)

  def backward(residuals, cotangent):
    is_active, leaves = residuals
    pull = lambda *leaves: jax.vjp(plain, *leaves)[1](cotangent)
    none = lambda *leaves: jax.tree.map(jnp.zeros_like, leaves)
    return None, *jax.lax.cond(is_active, pull, none, *leaves)

  run.defvjp(forward, backward)
  return run(is_active, *leaves)
