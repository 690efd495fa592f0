"""The feed "steps": stored transitions of a sampler with noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import Arrays, row, spread


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows of the stored steps that are trained, [K, B, ...]."""
  advantage, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  steps = plan.trained
  if isinstance(steps, tuple):
    steps = np.array(steps)
  at = lambda x: x[steps]  # [T, B, ...] -> [K, B, ...]
  per_step = steps[:, None]
  if plan.among:
    keys = rollouts.keys_of(trajectory, prompt_ids, key)
    steps = per_step = draw_steps(keys, plan)
    at = lambda x: x[steps, jnp.arange(len(usable))]
  after = latents[1:]
  if trajectory.aside is not None:
    after = rollouts.safe_latents(trajectory.aside, usable)
  counts = spread(usable, len(steps))
  if plan.counted is not None:
    counts &= plan.counted[:, None]
  if advantage.ndim == 2:
    advantage = at(advantage.T)
  else:
    advantage = spread(advantage, len(steps))
  table = jax.tree.map(lambda x: jnp.asarray(x)[steps], plan.table)
  return {
    "x_t": at(latents[:-1]),
    "x_next": at(after),
    "old_log_prob": at(trajectory.log_probs),
    "advantage": advantage,
    "mask": counts,
    "prompt_index": spread(trajectory.prompt_index, len(steps)),
    "sample": spread(jnp.arange(len(usable)), len(steps)),
    "t": jnp.broadcast_to(
      jnp.asarray(plan.table.t)[per_step], (len(steps), len(usable))
    ),
    "step": table,
  }


def draw_steps(keys, plan):
  """The steps that each sample trains, int32 [K, B]: K of `plan.among`."""
  among = jnp.asarray(plan.among)
  draw = lambda key: jax.random.permutation(jax.random.fold_in(key, 1), among)
  return jax.vmap(draw)(keys)[:, : len(plan.trained)].T


def _step_coeff(name: str):
  return lambda arrays: getattr(arrays.rows["step"], name)


def _old_log_prob(arrays: Arrays):
  """The rollout's; in the first step of an update possibly recomputed."""
  stored = arrays.rows["old_log_prob"]
  if arrays.plan.old_log_prob == "sealed" or not arrays.plan.is_fresh:
    return stored
  current = jax.lax.stop_gradient(arrays.step("policy")[0])
  return jnp.where(arrays.rows["is_first"], current, stored)


FEED = Feed(
  make,
  {
    "log_prob": lambda arrays: arrays.step("policy")[0],
    "mean": lambda arrays: arrays.step("policy")[1],
    "old_mean": lambda arrays: arrays.step("old")[1],
    "reference_mean": lambda arrays: arrays.step("reference")[1],
    "reference_log_prob": lambda arrays: arrays.step("reference")[0],
    "dt": lambda arrays: arrays.rows["step"].t - arrays.rows["step"].t_next,
    **{name: _step_coeff(name) for name in ("t", "t_next", "std", "c_v", "log_scale")},
    "prompt": row("prompt_index"),
    "old_log_prob": _old_log_prob,
    **{
      name: row(name)
      for name in (
        "x_t", "x_next", "advantage", "mask", "sample"
      )
    },
  },
  keeps="steps",
  needs_noise=True,
  is_per_step=True,
  scalars=("t", "t_next", "std", "dt", "c_v", "log_scale"),
  latents=("mean", "old_mean", "reference_mean", "x_t", "x_next"),
)  # fmt: skip
