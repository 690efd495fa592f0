"""The feed "tail": the last steps run again, with a gradient through them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import Arrays, row, scored
from jaxreward.flow import steppers
from jaxreward.types import Array


def whole(key: Array, most: int) -> Array:
  """Differentiates all of the last steps (DRaFT-K)."""
  del key
  return jnp.int32(most)


def uniform(key: Array, most: int) -> Array:
  """Uniform in 1 ... `most`: the truncation in AlignProp's paper."""
  return jax.random.randint(key, (), 1, most + 1)


def normal(
  key: Array, most: int, *, mean: float = 8.0, std: float = 5.0
) -> Array:
  """A rounded normal, redrawn until it lies in 1 ... `most`.

  Of T steps the released code of AlignProp leaves k = floor(N(42, 5)) without a
  gradient, T = 50 and 1 <= k < T, so that d = T - k are differentiated: mean 8
  and standard deviation 5 here, with `align.last_steps` of 49.

  Args:
    key: scalar key.
    most: `align.last_steps`.
    mean: of T - N.
    std: of the same, greater than 0.
  """
  if not std > 0:
    raise UserError(f"config.align.depth.std={std}: it must be greater than 0")
  depth = jnp.arange(1, most + 1)
  # floor(N) = T - d where T - N lies in (d - 1, d].
  upper, lower = (
    jax.scipy.special.ndtr((depth - offset - mean) / std) for offset in (0, 1)
  )
  weight = jnp.maximum(upper - lower, 1e-30)
  return 1 + jax.random.categorical(key, jnp.log(weight))


# (key, align.last_steps, *, ...) -> how many of these a gradient flows through
DEPTHS = {"whole": whole, "uniform": uniform, "normal": normal}


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [1, B, ...]: the latents at which the last steps begin."""
  del prompt_ids
  _, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  return {
    "x_t": latents[:1],
    "mask": usable[None],
    "prompt_index": trajectory.prompt_index[None],
    "step": jnp.asarray(plan.depth(key, plan.last_steps))[None],
  }


def _latents(arrays: Arrays):
  """The finished samples [M, ...]; one step is kept in memory at a time."""
  net, rows, count = (
    arrays.network("policy"),
    arrays.rows,
    arrays.plan.last_steps,
  )
  table = jax.tree.map(lambda x: jnp.asarray(x)[-count:], arrays.plan.table)

  constant = count - rows["step"]  # leading steps without a gradient
  guided = net.guided(rows["prompt_index"])  # texts are encoded once

  @jax.checkpoint
  def body(x, item):
    step, i = item
    v = guided(x, step)
    v = jnp.where(i < constant, jax.lax.stop_gradient(v), v)
    return steppers.mean(x, v, step), None

  return jax.lax.scan(body, rows["x_t"], (table, jnp.arange(count)))[0]


def _drift(arrays: Arrays):
  """Mean square distance [M] of the velocities of policy and reference.

  The mean is over elements and over the steps that a gradient flows through; the
  latents between them are constants.
  """
  rows, count = arrays.rows, arrays.plan.last_steps
  table = jax.tree.map(lambda x: jnp.asarray(x)[-count:], arrays.plan.table)
  constant = count - rows["step"]
  policy, reference = (
    arrays.network(role).guided(rows["prompt_index"])
    for role in ("policy", "reference")
  )

  @jax.checkpoint
  def body(x, item):
    step, i = item
    v, still = policy(x, step), jax.lax.stop_gradient(reference(x, step))
    gap = jnp.square(v - still).reshape(len(x), -1).mean(1)
    x = jax.lax.stop_gradient(steppers.mean(x, v, step))
    return x, jnp.where(i < constant, 0.0, gap)

  start = jax.lax.stop_gradient(rows["x_t"])
  _, gaps = jax.lax.scan(body, start, (table, jnp.arange(count)))
  return gaps.sum(0) / jnp.maximum(rows["step"], 1)


def _scored(arrays: Arrays):
  return scored(arrays, "latents", arrays("latents"))


FEED = Feed(
  make,
  {
    "latents": _latents,
    "scores": lambda arrays: _scored(arrays)[0],
    "images": lambda arrays: _scored(arrays)[1],
    "drift": _drift,
    "mask": row("mask"),
  },
  keeps="tail",
  latents=("latents", "images"),
  scoring=("scores", "images"),
)
