"""The feed "tail": the last steps run again, with a gradient through them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import Arrays, row
from jaxreward.flow import steppers


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [1, B, ...]: the latents at which the last steps begin."""
  del prompt_ids, key
  usable = rollouts.counts(trajectory, rollouts.flat_advantage(credit, plan))
  latents = rollouts.safe_latents(trajectory, usable)
  return {
    "x_t": latents[:1],
    "mask": usable[None],
    "prompt_index": trajectory.prompt_index[None],
  }


def _latents(arrays: Arrays):
  """The finished samples [M, ...]; one step is kept in memory at a time."""
  net, rows, count = (
    arrays.network("policy"),
    arrays.rows,
    arrays.plan.last_steps,
  )
  table = jax.tree.map(lambda x: jnp.asarray(x)[-count:], arrays.plan.table)

  @jax.checkpoint
  def body(x, step):
    t = jnp.full((x.shape[0],), step.t)
    v = net.guided_velocity(x, t, rows["prompt_index"])
    return steppers.mean(x, v, step), None

  return jax.lax.scan(body, rows["x_t"], table)[0]


def _scored(arrays: Arrays):
  assert arrays.score is not None
  return arrays.once(
    "scored",
    lambda: arrays.score(arrays("latents"), arrays.rows["prompt_index"]),
  )


FEED = Feed(
  make,
  {
    "latents": _latents,
    "scores": lambda arrays: _scored(arrays)[0],
    "images": lambda arrays: _scored(arrays)[1],
    "mask": row("mask"),
  },
  keeps="tail",
  latents=("latents", "images"),
  needs_scores=True,
)
