"""Shared by the feeds: masks of usable rows, and samples noised again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward import rng
from jaxreward.feeds.contract import Credit, Plan
from jaxreward.flow import path, rollout
from jaxreward.types import Array, ArrayLike, Trajectory


def flat_advantage(credit: Credit, plan: Plan) -> Array:
  """[P, G] or [P, G, T] -> [B] or [B, T]."""
  return jnp.asarray(rollout.from_groups(credit.advantage, plan.layout))


def counts(trajectory: Trajectory, advantage: ArrayLike) -> Array:
  """bool [B]: neither padding nor a failed sample."""
  usable = jnp.isfinite(advantage)
  if usable.ndim == 2:
    usable = usable.all(1)
  usable &= jnp.asarray(trajectory.mask)
  for latents in jax.tree.leaves((trajectory.latents, trajectory.aside)):
    axes = (0, *range(2, jnp.ndim(latents)))
    usable &= jnp.isfinite(jnp.asarray(latents)).all(axes)
  return usable


def safe_latents(latents: ArrayLike, usable: ArrayLike) -> Array:
  """The latents, with zeros where a row does not count.

  A NaN there would pass the mask of the loss, as 0 times NaN is NaN.
  """
  latents = jnp.asarray(latents)
  return jnp.where(path.expand(usable, latents[0]), latents, 0.0)


def samples_of(
  trajectory: Trajectory, credit: Credit, plan: Plan
) -> tuple[Array, Array, Array]:
  """(advantage [B] or [B, T], bool [B], latents [S, B, ...]), safe to train on."""
  advantage = flat_advantage(credit, plan)
  usable = counts(trajectory, advantage)
  return advantage, usable, safe_latents(trajectory.latents, usable)


def keys_of(trajectory: Trajectory, prompt_ids: ArrayLike, key: Array) -> Array:
  """Typed keys [B], one per sample."""
  ids = jnp.asarray(prompt_ids)[trajectory.prompt_index]
  return rng.sample_keys(key, ids, trajectory.member)


def draw_times(keys: Array, plan: Plan) -> Array:
  """Stratified times [K, B], shifted and at least `plan.t_min`.

  The k-th of K draws falls into the k-th part of `plan.density`, in a random order
  per key.
  """
  times = len(plan.trained)

  def draw(k):
    order = jax.random.permutation(jax.random.fold_in(k, 1), times)
    u = (order + jax.random.uniform(jax.random.fold_in(k, 2), (times,))) / times
    t = plan.density(u)
    return jnp.maximum(plan.shift * t / (1 + (plan.shift - 1) * t), plan.t_min)

  return jax.vmap(draw)(keys).T


def draw_noise(keys: Array, shape: tuple[int, ...], times: int) -> Array:
  """Standard normal [K, B, *shape]."""
  draws = [
    rng.normal_each(rng.fold_each(keys, 16 + k), shape) for k in range(times)
  ]
  return jnp.stack(draws)


noise_at = jax.vmap(path.interpolate, (None, 0, 0))  # (x0, noise, t) -> x_t


def points(
  latents: Array, keys: Array, plan: Plan
) -> tuple[Array, Array, Array]:
  """(x_t, noise, t), [K, B, ...], of finished samples; see `NOISES`.

  Args:
    latents: [S, B, ...] that the rollout kept; the last are the samples.
    keys: [B].
    plan: of the run.
  """
  x0 = latents[-1]
  if plan.noise == "path":
    times, steps = len(plan.trained), jnp.asarray(plan.table.t)
    draw = lambda k: jax.random.permutation(
      jax.random.fold_in(k, 1), len(steps)
    )
    index = jax.vmap(draw)(keys)[:, :times].T
    x_t = latents[index, jnp.arange(len(keys))]
    t = steps[index]
    share = path.expand(t, x_t)
    return x_t, (x_t - (1 - share) * x0) / share, t
  t = draw_times(keys, plan)
  if plan.noise == "first":
    noise = jnp.broadcast_to(latents[0], (len(t), *x0.shape))
  else:
    noise = draw_noise(keys, x0.shape[1:], len(t))
  return noise_at(x0, noise, t), noise, t
