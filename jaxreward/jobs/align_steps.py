"""The jitted programs of the align job: sample, and update.

Both families of objectives run through the same update. What they read is a
stack of micro-batches of one static shape: transitions of the stored
trajectory for those on the sampler's steps, freshly noised samples for those
on the forward process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreward import rng
from jaxreward.advantages import zero_variance_share
from jaxreward.errors import UserError
from jaxreward.flow import guidance, log_prob, path, rollout, schedule, steppers
from jaxreward.jobs import ahead, kernels, setup
from jaxreward.numerics import Mean, Metric
from jaxreward.regularizers import step_kl, velocity_distance
from jaxreward.rewards import RowWeight, applied
from jaxreward.training import ema, step
from jaxreward.training.state import TrainState
from jaxreward.types import (
  Array,
  ArrayLike,
  Embedded,
  Params,
  Policy,
  PromptBatch,
  Trajectory,
)

# Objectives that this job feeds: on the sampler's steps, on the forward process.
ON_STEPS = ("flow_grpo",)
FORWARD = ("diffusion_nft", "awm")


@flax.struct.dataclass
class Micro:
  """Rows of one micro-batch, M of them.

  Attributes:
    x_t: [M, H, W, C] latents at time t.
    target: [M, H, W, C]: x_{t'} of the transition, or x_0 of the sample.
    t: [M], only for the forward process.
    old_log_prob: [M], only on the sampler's steps.
    advantage: [M].
    mask: bool [M].
    prompt_index: int32 [M].
    facts: constants of the step, scalars (StepTable of one step).
  """

  x_t: Array
  target: Array
  t: Array
  old_log_prob: Array
  advantage: Array
  mask: Array
  prompt_index: Array
  facts: steppers.StepTable


@dataclasses.dataclass(frozen=True)
class Plan:
  """Static facts of a run: who is laid out where and what is trained.

  Attributes:
    table: constants of the sampler's T steps.
    trained: indices of the steps, or the number of times per sample, whose
      loss is taken each iteration.
    layout: of the samples.
    prompts: P.
    group: G.
    updates: optimizer steps per iteration.
    split: what they share out, "times" (each sees every sample) or "samples"
      (each sees every time).
    guidance_scale: of the rollout and, on the sampler's steps, of the loss.
    on_steps: whether the objective is on the sampler's steps.
    take_step: what runs a step of the rollout; None for plain operations.
    replay: what recomputes a stored step; None for plain operations.
  """

  table: steppers.StepTable
  trained: tuple[int, ...]
  layout: rollout.Layout
  prompts: int
  group: int
  updates: int
  guidance_scale: float
  on_steps: bool
  take_step: rollout.TakeStep | None = None
  split: str = "times"
  replay: log_prob.Replay | None = None


def _check_counts(config) -> None:
  for section, name in (
    ("rollout", "prompts"),
    ("rollout", "microbatch"),
    ("align", "times"),
    ("align", "updates"),
  ):
    if config[section][name] < 1:
      raise UserError(
        f"config.{section}.{name}={config[section][name]}: at least 1 is needed"
      )


def make_plan(config, devices: int) -> Plan:
  """Checks the geometry and makes the constants.

  Raises:
    UserError: an objective and a sampler that do not go together, a window
      outside the schedule, or optimizer steps that cannot share the work.
  """
  r, objective = config.rollout, config.objective.name
  _check_counts(config)
  on_steps = objective in ON_STEPS
  noisy = None
  if r.window_start and not r.window_size:
    raise UserError(
      f"config.rollout.window_start={r.window_start} without a window: set"
      " config.rollout.window_size to its number of steps, or both to 0"
    )
  if r.window_size:
    noisy = schedule.window_mask(r.num_steps, r.window_start, r.window_size)
  table = setup.step_table(config, "rollout", noisy)
  drawn = np.flatnonzero(table.std > 0)
  *first, last = (f'"{name}"' for name in steppers.NOISY)
  known = f"{', '.join(first)} or {last}"
  if on_steps and not len(drawn):
    raise UserError(
      f'config.objective.name="{objective}" needs a sampler with noise;'
      f' config.rollout.sampler.name="{r.sampler.name}" draws none:'
      f" use {known}"
    )
  if r.window_size and not len(drawn):
    raise UserError(
      f"config.rollout.window_size={r.window_size}: the sampler"
      f' "{r.sampler.name}" draws no noise in any step; use 0, or'
      f" config.rollout.sampler.name={known}"
    )
  if on_steps:
    # The last step's Gaussian is too sharp to learn from.
    drawn = drawn[drawn < r.num_steps - 1] if len(drawn) > 1 else drawn
    trained = tuple(int(i) for i in drawn)
  else:
    trained = tuple(range(config.align.times))
  by_samples = config.align.split == "samples"
  if not by_samples and len(trained) % config.align.updates:
    # Whole times only: what an optimizer step sees then depends neither on the
    # micro-batch nor on the devices, as every U-th sample of U steps does not.
    raise UserError(
      f"config.align.updates={config.align.updates} does not divide the"
      f" {len(trained)} noise levels that are trained in an iteration; another"
      ' number, or config.align.split="samples"'
    )
  layout = rollout.make_layout(
    r.prompts, r.group, r.microbatch, devices,
    parts=config.align.updates if by_samples else 1,
  )  # fmt: skip
  return Plan(
    table=table,
    trained=trained,
    layout=layout,
    prompts=r.prompts,
    group=r.group,
    updates=config.align.updates,
    split=config.align.split,
    guidance_scale=r.guidance_scale,
    on_steps=on_steps,
    take_step=kernels.take_step(config) if on_steps else None,
    replay=kernels.replay(config) if on_steps else None,
  )


def sample(
  policy: Policy,
  params: Params,
  prompts: PromptBatch,
  plan: Plan,
  *,
  seed: int,
  iteration: Array,
  decoder: Params | None = None,
) -> tuple[Trajectory, ArrayLike]:
  """(trajectory, pixels [P, G, H, W, C] not clipped) of one iteration."""
  layout = setup.spread_rows(plan.layout)
  trajectory = rollout.rollout(
    policy,
    params,
    rng.stream_key(seed, "rollout", iteration),
    prompts.words,
    prompts.ids,
    layout,
    plan.table,
    guidance_scale=plan.guidance_scale,
    record=plan.on_steps,
    take_step=plan.take_step,
  )
  pixels = setup.decode_chunks(policy, trajectory.latents[-1], layout, decoder)
  return trajectory, rollout.to_groups(pixels, plan.prompts, plan.group)


def _stack(rows: Any, plan: Plan) -> Any:
  """Leaves [K, B, ...] -> [U, K C / U, M, ...]; C chunks of every C-th row."""
  chunks, updates = plan.layout.chunks, plan.updates

  def cut(x):
    k = x.shape[0]
    x = x.reshape(k, -1, chunks, *x.shape[2:]).swapaxes(1, 2)
    if plan.split == "samples":
      x = x.reshape(k, -1, updates, *x.shape[2:])
      x = jnp.moveaxis(x, 2, 0).reshape(k, chunks, *x.shape[3:])
    return x.reshape(updates, k * chunks // updates, *x.shape[2:])

  return jax.tree.map(cut, rows)


def _stack_facts(facts: steppers.StepTable, plan: Plan) -> steppers.StepTable:
  """Scalars per time [K] -> [U, K C / U]."""
  chunks, updates = plan.layout.chunks, plan.updates

  def cut(x):
    if plan.split == "samples":
      return jnp.tile(jnp.repeat(x, chunks // updates), (updates, 1))
    return jnp.repeat(x, chunks).reshape(updates, -1)

  return jax.tree.map(cut, facts)


def _shared(trajectory: Trajectory, advantage: ArrayLike, times: int):
  """Rows that every time shares, repeated along a new first axis."""
  spread = lambda x: jnp.broadcast_to(x, (times, *x.shape))
  return {
    "advantage": spread(advantage),
    "mask": spread(_counts(trajectory, advantage)),
    "prompt_index": spread(trajectory.prompt_index),
  }


def _counts(trajectory: Trajectory, advantage: ArrayLike) -> ArrayLike:
  """bool [B]: neither padding nor a failed sample."""
  finite = jnp.isfinite(jnp.asarray(trajectory.latents))
  axes = (0, *range(2, finite.ndim))
  return trajectory.mask & jnp.isfinite(advantage) & finite.all(axes)


def _latents(trajectory: Trajectory, advantage: ArrayLike) -> Array:
  """The latents, with zeros where a row does not count.

  A NaN there would pass the mask of the loss: its gradient is 0 times it.
  """
  counts = path.expand(_counts(trajectory, advantage), trajectory.latents[0])
  return jnp.where(counts, trajectory.latents, 0.0)


def transitions(
  trajectory: Trajectory, advantage: ArrayLike, plan: Plan
) -> Micro:
  """Micro-batches of the stored steps that are trained."""
  steps = np.array(plan.trained)
  rows = _shared(trajectory, advantage, len(steps))
  zero = jnp.zeros_like(rows["advantage"])
  latents = _latents(trajectory, advantage)
  rows |= {
    "x_t": latents[steps],
    "target": latents[steps + 1],
    "old_log_prob": trajectory.log_probs[steps],
    "t": zero,
  }
  facts = jax.tree.map(lambda x: jnp.asarray(x)[steps], plan.table)
  return Micro(**_stack(rows, plan), facts=_stack_facts(facts, plan))


def forward_samples(
  trajectory: Trajectory,
  advantage: ArrayLike,
  prompt_ids: ArrayLike,
  plan: Plan,
  *,
  seed: int,
  iteration: Array,
  shift: float,
  t_min: float = 0.02,
) -> Micro:
  """Micro-batches of samples noised again, each row from its own key.

  Times are stratified: the k-th of K draws falls into the k-th part of
  [0, 1], in an order of its own per sample, then is shifted.
  """
  times = len(plan.trained)
  x0 = _latents(trajectory, advantage)[-1]
  key = rng.stream_key(seed, "forward", iteration)
  keys = rng.sample_keys(
    key, jnp.asarray(prompt_ids)[trajectory.prompt_index], trajectory.member
  )

  def draw_times(k):
    order = jax.random.permutation(jax.random.fold_in(k, 1), times)
    u = (order + jax.random.uniform(jax.random.fold_in(k, 2), (times,))) / times
    return jnp.maximum(shift * u / (1 + (shift - 1) * u), t_min)

  t = jax.vmap(draw_times)(keys).T  # [K, B]
  noise = jnp.stack(
    [
      rng.normal_each(rng.fold_each(keys, 16 + k), x0.shape[1:])
      for k in range(times)
    ]
  )
  rows = _shared(trajectory, advantage, times)
  rows |= {
    "x_t": jax.vmap(path.interpolate, (None, 0, 0))(x0, noise, t),
    "target": jnp.broadcast_to(x0, noise.shape),
    "t": t,
    "old_log_prob": jnp.zeros_like(t),
  }
  facts = jax.tree.map(lambda x: jnp.zeros((times,)), plan.table)
  return Micro(**_stack(rows, plan), facts=_stack_facts(facts, plan))


@flax.struct.dataclass
class Frozen:
  """What a loss reads besides the trained parameters and its rows."""

  base: Params
  old: Params | None
  words: ArrayLike | Embedded


def _conditioning(policy, params, frozen, micro, scale):
  cond, uncond = guidance.conditioning(policy, params, frozen.words, scale)
  rows = micro.prompt_index
  return rollout.gather_cond(cond, rows), rollout.gather_uncond(uncond, rows)


def step_loss(trainable, objective, plan: Plan, kl: float, kl_with_dt: bool):
  """Loss on the sampler's steps, for `training.step`."""
  scale = plan.guidance_scale

  def moments(policy, params, frozen, micro):
    cond, uncond = _conditioning(policy, params, frozen, micro, scale)
    return log_prob.step_log_prob(
      policy, params, cond, uncond, micro.x_t, micro.target, micro.facts,
      guidance_scale=scale, replay=plan.replay,
    )  # fmt: skip

  def loss_fn(trained, micro: Micro, frozen: Frozen):
    params = trainable.whole(trained, frozen.base)
    log_p, mean = moments(trainable.policy, params, frozen, micro)
    loss, metrics = objective(
      log_p, micro.old_log_prob, micro.advantage, micro.mask
    )
    if kl > 0:
      _, reference = moments(trainable.plain, frozen.base, frozen, micro)
      dt = micro.facts.t - micro.facts.t_next
      penalty = step_kl(
        mean, reference, micro.facts.std, dt, micro.mask, with_dt=kl_with_dt
      )
      metrics = metrics | {"kl": penalty}
      loss = Mean(loss.total + kl * penalty.total, loss.weight)
    return loss, metrics

  return loss_fn


def forward_loss(trainable, objective, kl: float):
  """Loss on the forward process, for `training.step`."""

  def velocity(policy, params, frozen, micro):
    cond, _ = _conditioning(policy, params, frozen, micro, 1.0)
    return policy.velocity(params, micro.x_t, micro.t, cond)

  def loss_fn(trained, micro: Micro, frozen: Frozen):
    v = velocity(
      trainable.policy, trainable.whole(trained, frozen.base), frozen, micro
    )
    old = trainable.whole(frozen.old, frozen.base)
    v_old = velocity(
      trainable.policy, jax.lax.stop_gradient(old), frozen, micro
    )
    loss, metrics = objective(
      v, v_old, micro.target, micro.x_t, micro.t, micro.advantage, micro.mask
    )
    if kl > 0:
      v_ref = velocity(trainable.plain, frozen.base, frozen, micro)
      penalty = velocity_distance(v, v_ref, micro.mask)
      metrics = metrics | {"kl": penalty}
      loss = Mean(loss.total + kl * penalty.total, loss.weight)
    return loss, metrics

  return loss_fn


@dataclasses.dataclass(frozen=True)
class Updater:
  """Static parts of the update program."""

  trainable: Any
  plan: Plan
  objective: Callable[..., Any]
  tx: optax.GradientTransformation
  advantage: Callable[..., Any]
  compose: Callable[..., Any]
  weights: dict[str, float | RowWeight]
  seed: int
  shift: float
  kl: float
  kl_with_dt: bool
  ema_decay: float
  old_decay: float
  old_rate: float

  def loss_fn(self):
    if self.plan.on_steps:
      return step_loss(
        self.trainable, self.objective, self.plan, self.kl, self.kl_with_dt
      )
    return forward_loss(self.trainable, self.objective, self.kl)

  def micros(self, trajectory, advantage, prompts, iteration) -> Micro:
    """Rows to train on, with the advantage back on the flat axis."""
    flat = rollout.from_groups(advantage, self.plan.layout)
    if self.plan.on_steps:
      return transitions(trajectory, flat, self.plan)
    return forward_samples(
      trajectory, flat, prompts.ids, self.plan,
      seed=self.seed, iteration=iteration, shift=self.shift,
    )  # fmt: skip


def credit(
  updater: Updater, scores: dict[str, Array], prompts: PromptBatch, stats
):
  """(advantage, mask, new statistics, signal), each [P, G] or a tree."""
  first = next(iter(scores.values()))
  mask = jnp.broadcast_to(jnp.asarray(prompts.mask)[:, None], first.shape)
  asked, weights = applied(scores, updater.weights, prompts)
  signal, mask = updater.compose(asked, mask, weights)
  advantage, stats = updater.advantage(signal, mask, stats)
  return advantage, mask, stats, signal


def update(
  updater: Updater,
  state: TrainState,
  base: Params,
  trajectory: Trajectory,
  scores: dict[str, Array],
  prompts: PromptBatch,
) -> tuple[TrainState, dict[str, Metric]]:
  """One iteration's optimizer steps.

  Args:
    updater: static parts.
    state: donate it.
    base: frozen parameters of the plain policy.
    trajectory: of this iteration.
    scores: name -> [P, G], not finite where a score failed.
    prompts: P prompts.

  Returns:
    (state, metrics); `log_prob_gap` is the largest |log p - stored log p| of
    the first optimizer step, before any parameter has changed.
  """
  behind, drew = state.behind, ahead.drawer(state)
  advantage, mask, stats, signal = credit(updater, scores, prompts, state.stats)
  # A failed sample teaches nothing: NaN marks it until the rows are masked.
  advantage = jnp.where(mask, advantage, jnp.nan)
  micros = updater.micros(trajectory, advantage, prompts, state.step)
  words = jax.tree.map(jnp.asarray, prompts.words)
  frozen = Frozen(base=base, old=state.old, words=words)
  state, metrics = step.update(
    state, updater.loss_fn(), updater.tx, micros, frozen,
    ema_decay=updater.ema_decay,
  )  # fmt: skip
  gap = metrics.pop("log_ratio_max", None)
  pooled: dict[str, Any] = jax.tree.map(lambda x: x.sum(0), metrics)
  if gap is not None:
    pooled["log_prob_gap"] = jax.tree.map(lambda x: x[0], gap)
  pooled["reward"] = Mean.of(signal, mask)
  pooled["advantage_abs"] = Mean.of(jnp.abs(advantage), mask)
  pooled["zero_variance_share"] = zero_variance_share(signal, mask)
  old = state.old
  if old is not None:
    decay: Any = updater.old_decay
    if updater.old_rate:  # on-policy at first
      decay = jnp.minimum(decay, updater.old_rate * state.step)
    old = ema.update_ema(old, state.params, decay)
  if behind is not None:
    behind = drew
  state = dataclasses.replace(
    state, step=state.step + 1, old=old, stats=stats, behind=behind
  )
  return state, pooled
