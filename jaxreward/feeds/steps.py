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
  del prompt_ids, key
  advantage, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  steps = plan.trained
  if isinstance(steps, tuple):
    steps = np.array(steps)
  counts = spread(usable, len(steps))
  if plan.counted is not None:
    counts &= plan.counted[:, None]
  if advantage.ndim == 2:
    advantage = advantage.T[steps]
  else:
    advantage = spread(advantage, len(steps))
  return {
    "x_t": latents[steps],
    "x_next": latents[steps + 1],
    "old_log_prob": trajectory.log_probs[steps],
    "advantage": advantage,
    "mask": counts,
    "prompt_index": spread(trajectory.prompt_index, len(steps)),
    "sample": spread(jnp.arange(len(usable)), len(steps)),
    "t": jnp.broadcast_to(
      jnp.asarray(plan.table.t)[steps][:, None], (len(steps), len(usable))
    ),
    "step": jax.tree.map(lambda x: jnp.asarray(x)[steps], plan.table),
  }


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
