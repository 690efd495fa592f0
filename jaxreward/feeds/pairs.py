"""The feed "pairs": better and worse samples of a group under one noise."""

from __future__ import annotations

import jax.numpy as jnp

from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import row, spread
from jaxreward.flow import rollout
from jaxreward.numerics import masked_mean, masked_std


def choose(signal, mask, pairs: int):
  """Members of each pair: the i-th best beside the i-th worst.

  Args:
    signal: [P, G].
    mask: bool [P, G], samples that count.
    pairs: n, at most G // 2.

  Returns:
    (chosen, rejected int32 [P, n], valid bool [P, n]); a pair of equal
    signals, or with a sample that does not count, is not valid.
  """
  count = mask.sum(1, keepdims=True)
  order = jnp.argsort(jnp.where(mask, -signal, jnp.inf), axis=1, stable=True)
  place = jnp.arange(pairs)
  chosen = order[:, :pairs]
  last = jnp.maximum(count - 1 - place, 0)
  rejected = jnp.take_along_axis(order, last, axis=1)
  better, worse = (
    jnp.take_along_axis(signal, index, axis=1) for index in (chosen, rejected)
  )
  return chosen, rejected, (place < count // 2) & (better > worse)


def signals(signal, mask, pairs: int):
  """Statistics of each pair, [P, n], from the signals of its group.

  Returns:
    {name: [P, n]}: signal_chosen, signal_rejected, group_gap (mean difference of
    the group's pairs) and group_std (standard deviation of the group's signals).
  """
  chosen, rejected, valid = choose(signal, mask, pairs)
  better, worse = (
    jnp.take_along_axis(signal, index, axis=1) for index in (chosen, rejected)
  )
  gap = masked_mean(better - worse, valid, axis=1, keepdims=True)
  std = masked_std(signal, mask, axis=1, keepdims=True)
  same = lambda x: jnp.broadcast_to(x, better.shape)
  return {
    "signal_chosen": better,
    "signal_rejected": worse,
    "group_gap": same(gap),
    "group_std": same(std),
  }


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [K, R, ...] of R pairs; both get the noise and times of the chosen."""
  _, usable, latents = rollouts.samples_of(trajectory, credit, plan)
  samples = latents[-1]
  grouped = rollout.to_groups(usable, plan.prompts, plan.group)
  chosen, rejected, valid = choose(credit.signal, grouped, plan.pairs)
  first = jnp.arange(plan.prompts)[:, None] * plan.group
  index = lambda member: rollout.from_groups(first + member, plan.rows)
  keys = rollouts.keys_of(trajectory, prompt_ids, key)[index(chosen)]
  x0_chosen, x0_rejected = samples[index(chosen)], samples[index(rejected)]
  t = rollouts.draw_times(keys, plan)
  noise = rollouts.draw_noise(keys, samples.shape[1:], len(t))
  mask = rollout.from_groups(valid, plan.rows) & plan.rows.mask
  pair_stats = {
    name: jnp.where(mask, rollout.from_groups(x, plan.rows), 0.0)
    for name, x in signals(credit.signal, grouped, plan.pairs).items()
  }
  return {
    **{name: spread(x, len(t)) for name, x in pair_stats.items()},
    "x_chosen": rollouts.noise_at(x0_chosen, noise, t),
    "x_rejected": rollouts.noise_at(x0_rejected, noise, t),
    "u_chosen": noise - x0_chosen,
    "u_rejected": noise - x0_rejected,
    "t": t,
    "mask": spread(mask, len(t)),
    "prompt_index": spread(plan.rows.prompt_index, len(t)),
  }


def _velocity(role: str, side: str):
  return lambda arrays: arrays.velocity(role, f"x_{side}")


FEED = Feed(
  make,
  {
    "v_chosen": _velocity("policy", "chosen"),
    "v_rejected": _velocity("policy", "rejected"),
    "v_ref_chosen": _velocity("reference", "chosen"),
    "v_ref_rejected": _velocity("reference", "rejected"),
    **{
      name: row(name)
      for name in (
        "u_chosen", "u_rejected", "t", "mask", "signal_chosen",
        "signal_rejected", "group_gap", "group_std",
      )
    },
  },
  size=lambda plan: 2,
  per_group=lambda plan: plan.pairs,
  latents=(
    "v_chosen", "v_rejected", "v_ref_chosen", "v_ref_rejected", "u_chosen",
    "u_rejected",
  ),
)  # fmt: skip
