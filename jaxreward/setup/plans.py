"""The plan of an align run: its geometry and the constants of its steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import config as config_lib
from jaxreward import feeds, rng, setup
from jaxreward.errors import UserError
from jaxreward.feeds import Plan, tail
from jaxreward.flow import rollout, schedule, steppers, windows
from jaxreward.setup import (
  branches,
  checks,
  controls,
  kernels,
  offline,
  players,
  real,
  starts,
)
from jaxreward.types import Array, ArrayLike


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


def _old_log_prob(config, feed: feeds.Feed) -> str:
  """Where old log-probabilities come from, one of `feeds.OLD_LOG_PROBS`.

  By default the cheapest way that is exact: in float32 the rollout's are as good
  as the update's own; in 16 bits they differ by a share of the clip range.
  """
  align = config.align
  choice = align.old_log_prob
  if choice == "auto":
    if not feed.needs_noise:
      return "sealed"
    if config.model.dtype == "float32":
      return "stored"
    return "sealed" if align.overlap else "recomputed"
  field = f'config.align.old_log_prob="{choice}"'
  if choice not in feeds.OLD_LOG_PROBS:
    raise UserError(
      f"{field} is not known; there are auto, {', '.join(feeds.OLD_LOG_PROBS)}"
    )
  if not feed.needs_noise:
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" reads no'
      ' log-probabilities of stored steps; use "auto"'
    )
  if choice == "recomputed" and align.overlap:
    raise UserError(
      f"{field}: with config.align.overlap=True samples come from parameters an"
      " update older, whose log-probabilities ratios compare with; use"
      ' "sealed" or "stored"'
    )
  return choice


def make_plan(config, devices: int, feed: feeds.Feed) -> Plan:
  """Checks the geometry and builds the plan.

  Args:
    config: of the run.
    devices: that rows are spread over.
    feed: of the objective.

  Raises:
    UserError: an objective and a sampler that do not match, a window outside
      the schedule, or a number of optimizer steps that does not divide the work.
  """
  r, align = config.rollout, config.align
  _check_counts(config)
  on_steps = feed.needs_noise
  old_log_prob = _old_log_prob(config, feed)
  real.check(config, feed, offline.group(config))
  feed = _with_noise(config, feed)
  _check_share(config, feed)
  steps = _steps(config, feed)
  if not steps["trained"]:
    raise UserError(
      f"config.align.step_share={align.step_share}: of"
      f" {len(steps['among'])} steps with noise none is left to train; a larger"
      " share"
    )
  by_samples = align.split == "samples"
  if not by_samples and len(steps["trained"]) % align.updates:
    # Whole noise levels only: the rows of an optimizer step must depend neither
    # on the micro-batch nor on the devices.
    raise UserError(
      f"config.align.updates={align.updates} does not divide the"
      f" {len(steps['trained'])} noise levels that are trained in an iteration;"
      ' another number, or config.align.split="samples"'
    )
  parts = align.updates if by_samples else 1
  group = offline.group(config)
  layout = rollout.make_layout(
    r.prompts, group, r.microbatch, devices, parts=parts
  )
  plan = Plan(
    **steps,
    layout=layout,
    rows=layout,
    prompts=r.prompts,
    group=group,
    updates=align.updates,
    split=align.split,
    guidance_scale=r.guidance_scale,
    feed=feed,
    take_step=kernels.take_step(config) if on_steps else None,
    replay=kernels.replay(config) if on_steps else None,
    shift=setup.make_schedule(config).shift_of(r.num_steps),
    density=_density(config, feed),
    origin=offline.origin(config),
    pairs=align.pairs,
    last_steps=align.last_steps,
    depth=_depth(config),
    is_fresh=not align.overlap,
    old_log_prob=old_log_prob,
    share=branches.make_share(config, "rollout", group, steps["table"]),
    is_aside=_aside(config, steps, feed),
    parts_at_window=config.rollout.branch.steps == branches.UNTIL_WINDOW,
    start=functools.partial(setup.start_latents, config, "rollout"),
    rounds=setup.make_start(config, "rollout").rounds,
    history=rollout.make_layout(r.prompts, 1, r.microbatch, devices),
    whole=_whole(config),
    drift=_drift(config, steps["table"]),
    noise=align.noise,
    gap=align.gap,
    is_controlled=controls.words_of(config) is not None,
    real=r.real,
    render=setup.make_task(config).render if r.real else None,
  )
  most = r.prompts * feed.per_group(plan)
  if by_samples and align.updates > most:
    raise UserError(
      f"config.align.updates={align.updates}: with"
      f' config.align.split="samples" there are {most} rows to share out'
    )
  return _with_rows(plan, r.microbatch, devices, parts)


def _drift(config, table: steppers.StepTable) -> feeds.Drift | None:
  """The drift along a player's values, or None.

  Raises:
    UserError: a player without values, a share outside [0, 1], or steps that cannot
      be moved.
  """
  section = config.rollout.drift
  if not section.player:
    return None
  field = f'config.rollout.drift.player="{section.player}"'
  values = {
    role.name for role in players.bind(config) if "value" in role.player.gives
  }
  if section.player not in values:
    raise UserError(
      f"{field}: it is not a player that gives values; name one as in"
      ' config.players.critic.fn="critic"'
    )
  if not 0 <= section.first <= 1 or not checks.is_finite(section.scale):
    raise UserError(
      f"config.rollout.drift.first={section.first},"
      f" scale={section.scale}: expected a share of the steps from 0 to 1, and a"
      " finite number"
    )
  others = table.solver is not None or table.end_t is not None
  if others or config.kernels.implementation != "xla":
    raise UserError(
      f"{field}: steps of solvers and of kernels are not moved; take another"
      ' config.rollout.sampler.name, and config.kernels.implementation="xla"'
    )
  return feeds.Drift(section.player, section.scale, section.first, section.unit)


def _aside(config, steps: Mapping[str, Any], feed: feeds.Feed) -> bool:
  """Whether steps leave a chain without noise, one at a time.

  Raises:
    UserError: steps that cannot, or whose rewards would not be their own.
  """
  r = config.rollout
  if not r.aside:
    return False
  field = "config.rollout.aside=True"
  if not feed.needs_noise:
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" reads no stored'
      ' steps; use False, or an objective that does, such as "flow_grpo"'
    )
  others = {
    f'config.rollout.window_move.name="{r.window_move.name}"': (
      r.window_move.name != "none"
    ),
    f"config.rollout.branch.steps={r.branch.steps}": r.branch.steps != 0,
    f"config.rollout.branch.children={r.branch.children}": r.branch.children,
    f'config.rollout.drift.player="{r.drift.player}"': r.drift.player,
    f'config.kernels.implementation="{config.kernels.implementation}"': (
      config.kernels.implementation != "xla"
    ),
  }
  for other, is_set in others.items():
    if is_set:
      raise UserError(
        f"{field}: every step leaves the chain for itself, which {other} is"
        " not made for; leave it as in configs/base.py"
      )
  last = len(steps["table"].t) - 1
  if last in (steps.get("among") or steps["trained"]):
    raise UserError(
      f"{field}: what step {last}, the last, has led to is not scored; set"
      f" config.rollout.window_size to {last} or less"
    )
  return True


def _with_noise(config, feed: feeds.Feed) -> feeds.Feed:
  """The feed, keeping what `align.noise` needs of the rollout.

  Raises:
    UserError: noise that the samples did not come from, or a gap outside [0, 1].
  """
  align, r = config.align, config.rollout
  if not 0 <= align.gap <= 1:
    raise UserError(
      f"config.align.gap={align.gap}: expected a time from 0 to 1"
    )
  if "x0_hat" not in feed.offers and any(align.controls.values()):
    raise UserError(
      f'config.align.controls.positive="{align.controls.positive}":'
      f' config.objective.name="{config.objective.name}" scores no predictions'
      " by other words; leave both empty"
    )
  if align.noise == "fresh":
    return feed
  field = f'config.align.noise="{align.noise}"'
  if align.noise not in feeds.NOISES:
    raise UserError(
      f"{field} is not known; there are {', '.join(feeds.NOISES)}"
    )
  if "noise" not in feed.offers:
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" noises no single'
      ' samples; use "fresh"'
    )
  if offline.origin(config) != "rollout" or r.real or r.start.name != "noise":
    raise UserError(
      f"{field}: samples of files, reference images and starts from an image did"
      ' not begin as noise; use "fresh"'
    )
  if align.noise == "path":
    if align.times > r.num_steps:
      raise UserError(
        f"{field}: config.align.times={align.times} is more than the"
        f" config.rollout.num_steps={r.num_steps} that a sample has"
      )
    return dataclasses.replace(feed, keeps="steps")
  return feed


def _whole(config) -> steppers.StepTable | None:
  """All steps of the sampler, where groups explore around a sample of its own."""
  if setup.make_start(config, "rollout").of != starts.OWN:
    return None
  config = config.copy_and_resolve_references()
  config.rollout.start = dict(name="noise")
  return setup.step_table(config, "rollout")


def _steps(config, feed: feeds.Feed) -> dict[str, Any]:
  """Constants of the steps, and indices of the trained ones."""
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
    steps = len(setup.section_times(config, "rollout")[0]) - 1
    noisy = schedule.window_mask(steps, r.window_start, r.window_size)
  table = setup.step_table(config, "rollout", noisy)
  steps_with_noise = np.flatnonzero(table.std > 0)
  _require_noise(config, feed, bool(len(steps_with_noise)))
  if feed.needs_noise:
    # The last step's Gaussian is too sharp to learn from.
    steps_with_noise = (
      steps_with_noise[steps_with_noise < len(table.t) - 1]
      if len(steps_with_noise) > 1
      else steps_with_noise
    )
    trained = tuple(int(i) for i in steps_with_noise)
    return dict(table=table, **_shared_out(config, trained))
  if feed.keeps == "tail":
    _check_tail(config, table)
    return dict(table=table, trained=(0,))
  return dict(table=table, trained=tuple(range(config.align.times)))


def _shared_out(config, trained: tuple[int, ...]) -> dict[str, Any]:
  """The steps that are trained: all, or a number that each sample draws."""
  share = config.align.step_share
  if share == 1:
    return dict(trained=trained)
  count = int(len(trained) * share)
  return dict(trained=trained[:count], among=trained)


def _check_share(config, feed: feeds.Feed) -> None:
  """Refuses a share of the steps where samples cannot train steps of their own."""
  share = config.align.step_share
  if share == 1:
    return
  field = f"config.align.step_share={share}"
  if not 0 < share < 1:
    raise UserError(f"{field}: expected a share above 0 and at most 1")
  if not feed.needs_noise:
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" reads no stored'
      " steps; use 1, and config.align.times for their number"
    )
  if config.rollout.window_move.name != "none":
    raise UserError(
      f"{field}: steps are drawn from all that have noise, and"
      f' config.rollout.window_move.name="{config.rollout.window_move.name}" moves'
      " those; use 1"
    )
  if config.kernels.implementation != "xla":
    raise UserError(
      f"{field}: kernels replay one step for all samples; set"
      ' config.kernels.implementation="xla"'
    )


def _require_noise(config, feed: feeds.Feed, is_noisy: bool) -> None:
  """Refuses a deterministic sampler where noise is needed."""
  r = config.rollout
  if is_noisy:
    return
  *first, last = (f'"{name}"' for name in steppers.NOISY)
  samplers = f"{', '.join(first)} or {last}"
  if feed.needs_noise:
    raise UserError(
      f'config.objective.name="{config.objective.name}" needs a sampler with'
      f' noise; config.rollout.sampler.name="{r.sampler.name}" draws none:'
      f" use {samplers}"
    )
  if r.window_size:
    raise UserError(
      f"config.rollout.window_size={r.window_size}: the sampler"
      f' "{r.sampler.name}" draws no noise in any step; use 0, or'
      f" config.rollout.sampler.name={samplers}"
    )


def _moving(config, feed: feeds.Feed) -> dict[str, Any]:
  """The same for a window that moves between iterations."""
  r, name = config.rollout, config.rollout.window_move.name
  field = f'config.rollout.window_move.name="{name}"'
  window_start = config_lib.bind(
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
  steps = len(table.t)
  _require_noise(config, feed, bool((table.std > 0).any()))

  def move(iteration: ArrayLike) -> Array:
    key = rng.stream_key(config.seed, "window", iteration)
    return window_start(jnp.asarray(iteration), key, r.window_size, steps)

  checks.validate_options(move, 0, field="rollout.window_move", prefix="")
  end = r.window_move.get("last", 0) or steps - 1
  if not (np.asarray(table.std)[:end] > 0).all():
    raise UserError(
      f"{field}: a step before step {end} draws no noise with"
      f' config.rollout.sampler.name="{r.sampler.name}"; set'
      " config.rollout.window_move.last lower"
    )
  times, _ = setup.section_times(config, "rollout")
  outside = dataclasses.replace(steppers.ode(times), network_t=table.network_t)
  if not np.all(table.log_scale > 0):  # published forms differ in the constant
    outside = dataclasses.replace(outside, log_scale=table.log_scale)
  return dict(
    table=table, trained=tuple(range(r.window_size)), move=move,
    outside=outside, end=end,
  )  # fmt: skip


def _with_rows(plan: Plan, microbatch: int, devices: int, parts: int) -> Plan:
  """The plan with its feed's row layout, if a row is more than one sample."""
  size = plan.feed.size(plan)
  if size == 1:
    return plan
  if size * plan.feed.per_group(plan) > plan.group:
    whose = "config.rollout.group="
    if plan.origin != "rollout":
      whose = f"a row of config.data.{plan.origin}, "
    raise UserError(
      f"config.align.pairs={plan.pairs}: a group of {whose}"
      f"{plan.group} has at most {plan.group // 2} pairs"
    )
  rows = rollout.make_layout(
    plan.prompts, plan.feed.per_group(plan), max(microbatch // size, 1),
    devices, parts=parts,
  )  # fmt: skip
  return dataclasses.replace(plan, rows=rows)


def _depth(config) -> Callable[[Any, int], Any]:
  """Samples, per iteration, how many of the last steps are differentiated."""
  depth = config_lib.bind(
    config.align.depth, tail.DEPTHS, field="align.depth", positional=2
  )
  draw = lambda: depth(jax.random.key(0), 2)
  checks.validate_options(draw, field="align.depth", prefix="")
  return depth


def _density(config, feed: feeds.Feed) -> Callable[[Array], Array]:
  """Density of the times at which samples are noised, for feeds that do so."""
  density = offline.bind_density(config)
  name = config.align.density.name
  if feed.keeps != "samples" and name != "uniform":
    raise UserError(
      f'config.align.density.name="{name}": config.objective.name='
      f'"{config.objective.name}" noises no samples; use "uniform"'
    )
  return density


def _check_tail(config, table: steppers.StepTable) -> None:
  """Refuses last steps that cannot be differentiated."""
  last, steps = config.align.last_steps, len(table.t)
  if not 1 <= last <= steps:
    raise UserError(
      f"config.align.last_steps={last}: at least 1 and no more than the"
      f" {steps} of config.rollout.num_steps"
    )
  others = table.solver is not None or table.end_t is not None
  if np.asarray(table.std)[-last:].any() or others:
    raise UserError(
      f"config.align.last_steps={last}: with"
      f' config.rollout.sampler.name="{config.rollout.sampler.name}" these steps'
      ' draw noise, remember others or look ahead; use "ode", or a window of noise before'
      " them"
    )
