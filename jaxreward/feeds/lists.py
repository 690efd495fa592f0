"""The feed "lists": a whole group at once, under one noise and time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows, group_velocity
from jaxreward.feeds.networks import row, spread
from jaxreward.flow import rollout


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [K, R, G, ...] of R prompts; noise and time belong to the prompt."""
  advantage, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  samples = latents[-1]
  prompt = plan.rows.prompt_index
  of_prompts = lambda x: rollout.to_groups(x, plan.prompts, plan.group)[prompt]
  x0 = of_prompts(samples)
  keys = rollouts.keys_of(trajectory, prompt_ids, key)
  keys = rollout.to_groups(keys, plan.prompts, plan.group)[prompt, 0]
  t = rollouts.draw_times(keys, plan)
  noise = rollouts.draw_noise(keys, samples.shape[1:], len(t))
  every = jnp.broadcast_to(t[:, :, None], (*t.shape, plan.group))
  mask = of_prompts(usable) & plan.rows.mask[:, None]
  return {
    "x_t": jax.vmap(rollouts.noise_at, (1, None, None), 2)(x0, noise, t),
    "u": noise[:, :, None] - x0,
    "t": every,
    "advantage": spread(jnp.where(mask, of_prompts(advantage), 0.0), len(t)),
    "mask": spread(mask, len(t)),
    "real": jnp.broadcast_to(
      jnp.arange(plan.group) >= plan.group - plan.real, (len(t), *mask.shape)
    ),
    "prompt_index": spread(
      jnp.broadcast_to(prompt[:, None], mask.shape), len(t)
    ),
  }


FEED = Feed(
  make,
  {
    "group_v": group_velocity("policy"),
    "group_v_old": group_velocity("old"),
    "group_v_reference": group_velocity("reference"),
    "group_v_reference_empty": group_velocity("reference", is_empty=True),
    "group_u": row("u"),
    "group_t": row("t"),
    "group_advantage": row("advantage"),
    "group_mask": row("mask"),
    "group_real": row("real"),
  },
  size=lambda plan: plan.group,
  per_group=lambda plan: 1,
  latents=(
    "group_v",
    "group_v_old",
    "group_v_reference",
    "group_v_reference_empty",
    "group_u",
  ),
  is_grouped=True,
  follows=("group_v_old",),
)
