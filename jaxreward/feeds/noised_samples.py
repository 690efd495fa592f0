"""The feed "noised": finished samples, noised again at drawn times."""

from __future__ import annotations

import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import Arrays, row, spread


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [K, B, ...]; noise and times belong to the sample."""
  advantage, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  x0 = latents[-1]
  keys = rollouts.keys_of(trajectory, prompt_ids, key)
  x_t, noise, t = rollouts.points(latents, keys, plan)
  return {
    "x_t": x_t,
    "x0": spread(x0, len(t)),
    "noise": noise,
    "t": t,
    "advantage": spread(advantage, len(t)),
    "mask": spread(usable, len(t)),
    "real": spread(trajectory.member >= plan.group - plan.real, len(t)),
    "prompt_index": spread(trajectory.prompt_index, len(t)),
    "sample": spread(jnp.arange(len(usable)), len(t)),
  }


OTHERS = 3  # prompts beside a row's own


def _under_others(arrays: Arrays):
  """The policy's velocities [M, N, ...] under the prompts that follow a row's own.

  N is `OTHERS`, or fewer where the iteration has no more prompts.

  Raises:
    UserError: there is one prompt alone.
  """
  prompts = arrays.plan.prompts
  if prompts < 2:
    raise UserError(
      f"config.rollout.prompts={prompts}: the objective compares prompts; set it"
      " to 2 or more"
    )
  x, t, index = (arrays.rows[k] for k in ("x_t", "t", "prompt_index"))
  shift = 1 + jnp.arange(min(OTHERS, prompts - 1))
  others = (jnp.asarray(index)[:, None] + shift) % prompts
  n = others.shape[1]
  v = arrays.network("policy").velocity(
    jnp.repeat(x, n, 0), jnp.repeat(t, n), others.ravel()
  )
  return v.reshape(len(x), n, *x.shape[1:])


FEED = Feed(
  make,
  {
    "v": lambda arrays: arrays.velocity("policy"),
    "v_others": _under_others,
    "v_old": lambda arrays: arrays.velocity("old"),
    "v_reference": lambda arrays: arrays.velocity("reference"),
    "u": lambda arrays: arrays.rows["noise"] - arrays.rows["x0"],
    "weight": row("advantage"),
    **{
      name: row(name)
      for name in (
        "x0",
        "x_t",
        "noise",
        "t",
        "advantage",
        "mask",
        "sample",
        "real",
      )
    },
  },
  follows=("v_old",),
  latents=("v", "v_old", "v_reference", "x0", "x_t", "noise", "u"),
  stacks=("v_others",),
)
