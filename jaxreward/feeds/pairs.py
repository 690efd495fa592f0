"""The feed "pairs": better and worse samples of a group under one noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.feeds import rollouts
from jaxreward.feeds.contract import Feed, Rows
from jaxreward.feeds.networks import Arrays, row, spread
from jaxreward.flow import path, rollout
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


INVERSION_STEPS = 10


def _inverted(side: str):
  """(x_t, target): the latents that lead to a sample, by the policy's own ODE.

  From t = 0 in `INVERSION_STEPS` equal steps to the row's own time, each with the
  velocity at its end, without guidance and without a gradient.
  """

  def compute(arrays: Arrays):
    rows = arrays.rows
    velocity = arrays.network("policy").plain(rows["prompt_index"])
    t = path.expand(rows["t"], rows[f"x_{side}"])
    x0 = rows[f"x_{side}"] - t * rows[f"u_{side}"]

    def step(x, k):
      time = rows["t"] * (k + 1) / INVERSION_STEPS
      v = velocity(x, time)
      return x + t / INVERSION_STEPS * v, None

    x, _ = jax.lax.scan(step, x0, jnp.arange(INVERSION_STEPS))
    return jax.lax.stop_gradient((x, (x - x0) / t))

  return lambda arrays: arrays.once(("inverted", side), lambda: compute(arrays))


def _at_inverted(role: str, side: str):
  def compute(arrays: Arrays):
    x, _ = _inverted(side)(arrays)
    rows = arrays.rows
    return arrays.network(role).velocity(x, rows["t"], rows["prompt_index"])

  return compute


INVERTED = {
  f"{name}_inverted_{side}": _at_inverted(role, side)
  for name, role in (("v", "policy"), ("v_ref", "reference"))
  for side in ("chosen", "rejected")
} | {
  f"u_inverted_{side}": lambda arrays, side=side: _inverted(side)(arrays)[1]
  for side in ("chosen", "rejected")
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
    **INVERTED,
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
    "u_rejected", *INVERTED,
  ),
)  # fmt: skip
