"""The jitted programs of the align job: sample, and update.

Every objective runs through the same update: the feed that its arguments name
makes rows of the rollout, cut into micro-batches of one static shape, and offers
arrays of them (`jaxreward.feeds`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxreward import advantages, feeds, methods, rng
from jaxreward import config as config_lib
from jaxreward.errors import UserError
from jaxreward.feeds import Credit, Plan, tail
from jaxreward.flow import path, rollout, schedule, steppers, windows
from jaxreward.jobs import ahead, checks, kernels, setup
from jaxreward.numerics import Mean, Metric
from jaxreward.rewards import Reward, RowWeight, applied, device_scores
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


def _check_counts(config) -> None:
  for section, name in (
    ("rollout", "prompts"),
    ("rollout", "microbatch"),
    ("align", "times"),
    ("align", "updates"),
    ("align", "pairs"),
  ):
    if config[section][name] < 1:
      raise UserError(
        f"config.{section}.{name}={config[section][name]}: at least 1 is needed"
      )


def make_plan(config, devices: int, feed: feeds.Feed) -> Plan:
  """Checks the geometry and makes the constants.

  Args:
    config: of the run.
    devices: that rows are spread over.
    feed: of the objective.

  Raises:
    UserError: an objective and a sampler that do not go together, a window
      outside the schedule, or optimizer steps that cannot share the work.
  """
  r, align = config.rollout, config.align
  _check_counts(config)
  on_steps = feed.needs_noise
  steps = _steps(config, feed)
  by_samples = align.split == "samples"
  if not by_samples and len(steps["trained"]) % align.updates:
    # Whole times only: what an optimizer step sees then depends neither on the
    # micro-batch nor on the devices, as every U-th sample of U steps does not.
    raise UserError(
      f"config.align.updates={align.updates} does not divide the"
      f" {len(steps['trained'])} noise levels that are trained in an iteration;"
      ' another number, or config.align.split="samples"'
    )
  parts = align.updates if by_samples else 1
  layout = rollout.make_layout(
    r.prompts, r.group, r.microbatch, devices, parts=parts
  )
  plan = Plan(
    **steps,
    layout=layout,
    rows=layout,
    prompts=r.prompts,
    group=r.group,
    updates=align.updates,
    split=align.split,
    guidance_scale=r.guidance_scale,
    feed=feed,
    take_step=kernels.take_step(config) if on_steps else None,
    replay=kernels.replay(config) if on_steps else None,
    shift=setup.make_schedule(config).shift,
    pairs=align.pairs,
    last_steps=align.last_steps,
    depth=_depth(config),
    is_on_policy=align.updates == 1 and not align.overlap,
  )
  most = r.prompts * feed.per_group(plan)
  if by_samples and align.updates > most:
    raise UserError(
      f"config.align.updates={align.updates}: with"
      f' config.align.split="samples" there are {most} rows to share out'
    )
  return _with_rows(plan, r.microbatch, devices, parts)


def _steps(config, feed: feeds.Feed) -> dict[str, Any]:
  """The plan's constants of steps, and those that are trained."""
  r = config.rollout
  if r.window_move.name != "none":
    return _moving(config, feed)
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
  _require_noise(config, feed, bool(len(drawn)))
  if feed.needs_noise:
    # The last step's Gaussian is too sharp to learn from.
    drawn = drawn[drawn < r.num_steps - 1] if len(drawn) > 1 else drawn
    return dict(table=table, trained=tuple(int(i) for i in drawn))
  if feed.keeps == "tail":
    _check_tail(config, table)
    return dict(table=table, trained=(0,))
  return dict(table=table, trained=tuple(range(config.align.times)))


def _require_noise(config, feed: feeds.Feed, is_noisy: bool) -> None:
  """Refuses a sampler without noise where something needs it."""
  r = config.rollout
  if is_noisy:
    return
  *first, last = (f'"{name}"' for name in steppers.NOISY)
  known = f"{', '.join(first)} or {last}"
  if feed.needs_noise:
    raise UserError(
      f'config.objective.name="{config.objective.name}" needs a sampler with'
      f' noise; config.rollout.sampler.name="{r.sampler.name}" draws none:'
      f" use {known}"
    )
  if r.window_size:
    raise UserError(
      f"config.rollout.window_size={r.window_size}: the sampler"
      f' "{r.sampler.name}" draws no noise in any step; use 0, or'
      f" config.rollout.sampler.name={known}"
    )


def _moving(config, feed: feeds.Feed) -> dict[str, Any]:
  """The same for a window that lies elsewhere in other iterations."""
  r, name = config.rollout, config.rollout.window_move.name
  field = f'config.rollout.window_move.name="{name}"'
  bound = config_lib.bind(
    r.window_move, windows.REGISTRY, field="rollout.window_move", positional=4
  )
  if not feed.needs_noise:
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" reads finished'
      ' samples alone; use window_move.name="none"'
    )
  if not r.window_size or r.window_start:
    raise UserError(
      f"{field} needs config.rollout.window_size, the number of its steps, and"
      " a window_start of 0"
    )
  table = setup.step_table(config, "rollout")
  _require_noise(config, feed, bool((table.std > 0).any()))

  def move(iteration: ArrayLike) -> Array:
    key = rng.stream_key(config.seed, "window", iteration)
    return bound(jnp.asarray(iteration), key, r.window_size, r.num_steps)

  checks.try_out(move, 0, field="rollout.window_move", prefix="")
  end = r.window_move.get("last", 0) or r.num_steps - 1
  if not (np.asarray(table.std)[:end] > 0).all():
    raise UserError(
      f"{field}: a step before step {end} draws no noise with"
      f' config.rollout.sampler.name="{r.sampler.name}"; set'
      " config.rollout.window_move.last lower"
    )
  times = setup.make_schedule(config).times(r.num_steps)
  outside = dataclasses.replace(steppers.ode(times), told=table.told)
  if not np.all(table.log_scale > 0):  # published forms differ in the constant
    outside = dataclasses.replace(outside, log_scale=table.log_scale)
  return dict(
    table=table, trained=tuple(range(r.window_size)), move=move,
    outside=outside,
  )  # fmt: skip


def _with_rows(plan: Plan, microbatch: int, devices: int, parts: int) -> Plan:
  """The plan with rows of its feed, where a row is more than one sample."""
  size = plan.feed.size(plan)
  if size == 1:
    return plan
  if size * plan.feed.per_group(plan) > plan.group:
    raise UserError(
      f"config.align.pairs={plan.pairs}: a group of config.rollout.group="
      f"{plan.group} has at most {plan.group // 2} pairs"
    )
  rows = rollout.make_layout(
    plan.prompts, plan.feed.per_group(plan), max(microbatch // size, 1),
    devices, parts=parts,
  )  # fmt: skip
  return dataclasses.replace(plan, rows=rows)


def _depth(config) -> Callable[[Any, int], Any]:
  """How many of the last steps are differentiated, drawn by iteration."""
  bound = config_lib.bind(
    config.align.depth, tail.DEPTHS, field="align.depth", positional=2
  )
  draw = lambda: bound(jax.random.key(0), 2)
  checks.try_out(draw, field="align.depth", prefix="")
  return bound


def _check_tail(config, table: steppers.StepTable) -> None:
  """Refuses steps that a gradient cannot be taken through."""
  last, steps = config.align.last_steps, config.rollout.num_steps
  if not 1 <= last < steps:
    raise UserError(
      f"config.align.last_steps={last}: at least 1 and fewer than the"
      f" {steps} of config.rollout.num_steps"
    )
  if np.asarray(table.std)[-last:].any() or table.solver is not None:
    raise UserError(
      f"config.align.last_steps={last}: with"
      f' config.rollout.sampler.name="{config.rollout.sampler.name}" these steps'
      ' draw noise or remember others; use "ode", or a window of noise before'
      " them"
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
  plan = plan.at(iteration)
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
    record=plan.feed.keeps == "steps",
    tail=plan.last_steps if plan.feed.keeps == "tail" else 0,
    take_step=plan.take_step,
  )
  pixels = setup.decode_chunks(policy, trajectory.latents[-1], layout, decoder)
  return trajectory, rollout.to_groups(pixels, plan.prompts, plan.group)


def finish(
  policy: Policy,
  params: Params,
  trajectory: Trajectory,
  prompts: PromptBatch,
  plan: Plan,
  *,
  first: Array,
  decoder: Params | None = None,
) -> Array:
  """Images [P, G, H, W, C] of the latents before a step, finished by the ODE.

  Args:
    policy: the policy.
    params: that drew the trajectory.
    trajectory: with every latent.
    prompts: P prompts.
    plan: of the run.
    first: the step, int32, traced: one program serves all.
    decoder: parameters of the autoencoder.
  """
  layout = setup.spread_rows(plan.layout)
  latents = rollout.finish(
    policy, params, prompts.words, jnp.asarray(trajectory.latents)[first],
    layout, plan.table, first, guidance_scale=plan.guidance_scale,
  )  # fmt: skip
  pixels = setup.decode_chunks(policy, latents, layout, decoder)
  return jnp.clip(rollout.to_groups(pixels, plan.prompts, plan.group), 0, 1)


@flax.struct.dataclass
class Frozen:
  """What a loss reads besides the trained parameters and its rows.

  Attributes:
    base: parameters of the plain policy.
    old: trained parameters that drew the samples.
    words: what a policy encodes.
    prompts: for rewards that are differentiated; else None.
    contexts: arrays of these rewards.
    decoder: parameters of an autoencoder before them.
  """

  base: Params
  old: Params
  words: ArrayLike | Embedded
  prompts: PromptBatch | None = None
  contexts: Any = None
  decoder: Params | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
  """An objective and its regularizers on rows of a feed.

  Attributes:
    trainable: the policy, and what of it is trained.
    plan: of the run.
    objective: asks for arrays by name -> (Mean, metrics).
    regularizers: name -> (function, weight); asks -> Mean, logged by its name.
    rewards: that are differentiated, for feeds that need their scores.
    weights: of these.
  """

  trainable: Any
  plan: Plan
  objective: Callable[..., Any]
  regularizers: Mapping[str, tuple[Callable[..., Mean], float]]
  rewards: tuple[Reward, ...] = ()
  weights: Mapping[str, float | RowWeight] = dataclasses.field(
    default_factory=dict
  )

  def arrays(self, trained: Params, rows: Any, frozen: Frozen) -> feeds.Arrays:
    """What a micro-batch offers under the trained parameters."""
    policy, plain = self.trainable.policy, self.trainable.plain
    whole = lambda params: self.trainable.whole(params, frozen.base)
    network = lambda policy, params: feeds.Network(
      policy, params, frozen.words, self.plan
    )
    networks = {
      "policy": lambda: network(policy, whole(trained)),
      "old": lambda: network(policy, jax.lax.stop_gradient(whole(frozen.old))),
      "reference": lambda: network(plain, frozen.base),
    }
    score = functools.partial(self._score, frozen)
    return feeds.Arrays(self.plan.feed, rows, networks, self.plan, score)

  def __call__(self, trained: Params, rows: Any, frozen: Frozen):
    """(Mean loss, metrics) of a micro-batch, for `training.step`."""
    arrays = self.arrays(trained, rows, frozen)
    loss, metrics = feeds.call(self.objective, arrays)
    for name, (fn, weight) in self.regularizers.items():
      penalty = feeds.call(fn, arrays)
      metrics = metrics | {name: penalty}
      # As a mean over its own weight, which most often is that of the loss.
      share = loss.weight / jnp.maximum(penalty.weight, 1e-12)
      added = weight * (penalty.total * share)
      loss = Mean(loss.total + added, loss.weight)
    return loss, metrics

  @property
  def prepare(self) -> Callable[..., Any] | None:
    """What is computed of all rows of an optimizer step, before it."""
    functions = [self.objective, *(fn for fn, _ in self.regularizers.values())]
    asked = [p for p in map(methods.prepare_of, functions) if p is not None]
    if not asked:
      return None

    def prepare(trained, micros, frozen):
      def one(rows):
        arrays = self.arrays(trained, rows, frozen)
        return [feeds.call(each.read, arrays) for each in asked]

      read = jax.lax.stop_gradient(jax.lax.map(one, micros))
      columns = [e.finish(c) for e, c in zip(asked, read, strict=True)]
      return functools.reduce(lambda a, b: {**a, **b}, columns, micros)

    return prepare

  def _score(self, frozen: Frozen, latents: Array, index: ArrayLike):
    """(weighted scores [M], images [M, ...]) of rows, differentiable."""
    images = self.trainable.policy.to_pixels(latents, frozen.decoder)
    images = jnp.clip(images, 0.0, 1.0)
    prompts = jax.tree.map(lambda x: jnp.asarray(x)[index], frozen.prompts)
    by_name = {reward.name: reward for reward in self.rewards}
    contexts = {k: v.take(index) for k, v in frozen.contexts.items()}
    scores = device_scores(by_name, contexts, images[:, None], prompts)
    scores, weights = applied(scores, dict(self.weights), prompts)
    total = sum(weights[name] * scores[name] for name in by_name)
    return jnp.asarray(total)[:, 0], images


@dataclasses.dataclass(frozen=True)
class Updater:
  """Static parts of the update program."""

  loss: Loss
  tx: optax.GradientTransformation
  advantage: advantages.Advantage
  compose: Callable[..., Any]
  weights: dict[str, float | RowWeight]
  seed: int
  ema_decay: float
  old_decay: float
  old_rate: float

  @property
  def plan(self) -> Plan:
    return self.loss.plan

  def micros(self, trajectory, credit: Credit, prompts, iteration) -> Any:
    """Rows to train on, [U, N, M, ...]."""
    key = rng.stream_key(self.seed, "forward", iteration)
    plan = self.plan.at(iteration)
    plan = dataclasses.replace(plan, rows=setup.spread_rows(plan.rows))
    rows = plan.feed.make(trajectory, credit, prompts.ids, plan, key)
    return feeds.cut(rows, self.plan)


def credit_of(
  updater: Updater,
  scores: dict[str, Array],
  prompts: PromptBatch,
  stats: Any,
  iteration: Array,
  step_scores: dict[str, Array] | None = None,
) -> tuple[Credit, Any]:
  """(credit, the advantage's new state) of an iteration's scores.

  Args:
    updater: static parts.
    scores: {name: [P, G]}.
    prompts: P prompts.
    stats: state of the advantage.
    iteration: int32.
    step_scores: {name: [P, G, T + 1]} where the advantage asks for them.
  """
  first = next(iter(scores.values()))
  mask = jnp.broadcast_to(jnp.asarray(prompts.mask)[:, None], first.shape)
  asked, weights = applied(scores, updater.weights, prompts)
  signal, mask = updater.compose(asked, mask, weights)
  offers = dict(
    signal=signal, mask=mask, scores=asked, prompt_ids=prompts.ids,
    steps=updater.plan.at(iteration).table,
  )  # fmt: skip
  if step_scores is not None:
    compose = lambda one: updater.compose(
      applied(one, updater.weights, prompts)[0], mask, weights
    )
    step_signal, step_mask = jax.vmap(compose, -1, -1)(step_scores)
    offers |= dict(step_signal=step_signal, step_mask=step_mask)
  advantage, stats = advantages.credit(updater.advantage, offers, stats)
  if advantage.ndim == 3 and not updater.plan.feed.is_per_step:
    raise UserError(
      "config.advantage.name: it gives credit to each denoising step, which"
      " config.objective.name does not read; take an objective on the sampler's"
      ' steps, such as "flow_grpo"'
    )
  return Credit(signal, advantage, mask), stats


def update(
  updater: Updater,
  state: TrainState,
  base: Params,
  trajectory: Trajectory,
  scores: dict[str, Array],
  prompts: PromptBatch,
  contexts: Any = None,
  decoder: Params | None = None,
  step_scores: dict[str, Array] | None = None,
) -> tuple[TrainState, dict[str, Metric]]:
  """One iteration's optimizer steps.

  Args:
    updater: static parts.
    state: donate it.
    base: frozen parameters of the plain policy.
    trajectory: of this iteration.
    scores: name -> [P, G], not finite where a score failed.
    prompts: P prompts.
    contexts: arrays of rewards that the loss differentiates.
    decoder: parameters of the autoencoder before them.
    step_scores: see `credit_of`.

  Returns:
    (state, metrics); `log_prob_gap` is the largest |log p - stored log p| of
    the first optimizer step, before any parameter has changed.
  """
  behind, drew = state.behind, ahead.drawer(state)
  credit, stats = credit_of(
    updater, scores, prompts, state.stats, state.step, step_scores
  )
  advantage, mask = credit.advantage, path.expand(credit.mask, credit.advantage)
  # A failed sample teaches nothing: NaN marks it until the rows are masked.
  credit = dataclasses.replace(
    credit, advantage=jnp.where(mask, advantage, jnp.nan)
  )
  micros = updater.micros(trajectory, credit, prompts, state.step)
  frozen = Frozen(
    base=base, old=drew if behind is None or state.old is not None else behind,
    words=jax.tree.map(jnp.asarray, prompts.words), decoder=decoder,
    prompts=prompts.plain if contexts is not None else None, contexts=contexts,
  )  # fmt: skip
  state, metrics = step.update(
    state, updater.loss, updater.tx, micros, frozen,
    ema_decay=updater.ema_decay, prepare=updater.loss.prepare,
  )  # fmt: skip
  gap = metrics.pop("log_ratio_max", None)
  pooled: dict[str, Any] = jax.tree.map(lambda x: x.sum(0), metrics)
  if gap is not None:
    pooled["log_prob_gap"] = jax.tree.map(lambda x: x[0], gap)
  pooled["reward"] = Mean.of(credit.signal, credit.mask)
  pooled["advantage_abs"] = Mean.of(
    jnp.abs(advantage), jnp.broadcast_to(mask, advantage.shape)
  )
  pooled["zero_variance_share"] = advantages.zero_variance_share(
    credit.signal, credit.mask
  )
  if updater.plan.move is not None:
    pooled["window_start"] = Mean.of(updater.plan.move(state.step))
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
