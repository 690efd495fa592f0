"""The methods that a config names: bound, and checked on shapes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import (
  advantages,
  composition,
  feeds,
  objectives,
  regularizers,
)
from jaxreward import config as config_lib
from jaxreward.errors import UserError, shown
from jaxreward.flow import steppers
from jaxreward.methods import asks, named, prepare_of
from jaxreward.numerics import Mean
from jaxreward.setup import checks, followers, kernels, offline, players
from jaxreward.training import faults, optimizer, step, writers
from jaxreward.training.adaptive import Adaptive

# Metrics of every run; no regularizer may have their names.
RESERVED = (
  *writers.RESERVED, *optimizer.METRICS, faults.PICTURES,
  "loss", "reward", "advantage_abs", "zero_variance_share", "window_start", "mixture",
  "log_prob_gap", "log_ratio_max", "stored_gap",
)  # fmt: skip
_GAP = "log_ratio_max"  # from the objective


def _bind(config: ConfigDict, field: str, registry, **options):
  return config_lib.bind(config[field], registry, field=field, **options)


def bind_objective(config: ConfigDict) -> tuple[Callable[..., Any], str]:
  """(the objective with its options, the name of its feed)."""
  registry = kernels.objectives(objectives.REGISTRY, config)
  section = config.objective
  fn = config_lib.resolve_callable(
    section.get("name"), registry, field="objective.name"
  )
  feed_by_name = {
    name: followers.extended(config, feed)
    for name, feed in offline.offers(config).items()
  }
  if set(players.predicts(players.bind(config))) & set(feeds.reads(fn)):
    feed_by_name = {
      name: feed for name, feed in feed_by_name.items()
      if "x0_hat" in feed.offers
    } or feed_by_name  # fmt: skip
  also = _also(config, next(reversed(feed_by_name.values())))
  feed = feeds.match(fn, feed_by_name, offline.where(config), also)
  old_options = (
    ("old_decay", "old_rate", "old_flat")
    if keeps_old(fn, feed_of(config, feed))
    else ()
  )
  array_names = lambda fn: (*asks(fn), *_prepared(fn))
  objective = _bind(
    config, "objective", registry, supplied=array_names, reserved=old_options
  )
  return objective, feed


def feed_of(config: ConfigDict, name: str) -> feeds.Feed:
  """A feed by name, with the arrays of the config's references."""
  feed = followers.extended(config, feeds.FEEDS[name])
  if config.align.step_share < 1:  # every row has a step of its own
    return dataclasses.replace(feed, scalars=())
  return feed


def run_feed(config: ConfigDict) -> feeds.Feed:
  """The objective's feed, as the run's objective and terms read it."""
  _, name = bind_objective(config)
  return feeds.narrowed(feed_of(config, name), readers(config))


def readers(config: ConfigDict) -> list[Callable[..., Any]]:
  """The objective and its terms, which read the feed."""
  objective, name = bind_objective(config)
  terms = [fn for fn, _ in bind_regularizers(config, name).values()]
  return [objective, *terms]


def _also(config: ConfigDict, feed: feeds.Feed) -> tuple[str, ...]:
  """Further arrays of a feed's rows, from players and the advantage."""
  advantage, roles = bind_advantage(config), players.bind(config)
  predicts = players.predicts(roles) if "x0_hat" in feed.offers else ()
  return (
    *players.gives(roles), *advantage.gives, *advantage.maps, *predicts
  )  # fmt: skip


def bind_advantage(config: ConfigDict) -> advantages.Advantage:
  """The advantage that the config names; rows of a data set have no group."""
  if offline.origin(config) == "dataset":
    return advantages.as_advantage(lambda signal: signal)
  advantage = _bind(
    config, "advantage", kernels.advantages(advantages.REGISTRY, config),
    supplied=asks,
  )  # fmt: skip
  return advantages.as_advantage(advantage)


def _prepared(fn: Callable[..., Any]) -> tuple[str, ...]:
  prepare = prepare_of(fn)
  return prepare.gives if prepare else ()


def keeps_old(objective: Callable[..., Any], feed: feeds.Feed) -> bool:
  """Whether samples are drawn by a policy that follows the trained one."""
  return any(name in feed.follows for name in asks(objective))


def bind_regularizers(
  config: ConfigDict, feed: str
) -> dict[str, tuple[Callable[..., Any], float]]:
  """name -> (function with its options, weight); zero weights are dropped."""
  terms: dict[str, tuple[Callable[..., Any], float]] = {}
  for name, section in config.regularizers.items():
    field = f"regularizers.{name}"
    if not isinstance(section, ConfigDict):
      raise UserError(
        f"config.{field}={section!r}: a term is a section; name its function in"
        f" config.{field}.fn"
      )
    fn = config_lib.bind(
      section, regularizers.REGISTRY, field=field, key="fn",
      supplied=lambda fn: (*asks(fn), "sampler"),
      reserved=("weight", "reference", "adapt"),
    )  # fmt: skip
    fn = followers.tied(fn, config, field)
    if "sampler" in inspect.signature(fn).parameters:
      sampler_name = config.rollout.sampler.name
      fn = functools.update_wrapper(
        functools.partial(fn, sampler=sampler_name), fn
      )
    if "/" in name:
      raise UserError(
        f'config.{field}: a term is a metric of its own, and names with "/" are'
        " for those of rewards and panels; give it another"
      )
    if name in RESERVED:
      raise UserError(
        f"config.{field}: every run has a metric of this name; give the term"
        " another"
      )
    weight: Any = section.get("weight", 1.0)
    if not (checks.is_finite(weight) and weight >= 0):
      raise UserError(f"config.{field}.weight={weight}: expected a number >= 0")
    feeds.require(
      fn, feed, feed_of(config, feed), f"{field}.fn={section.fn}",
      _also(config, feed_of(config, feed)),
    )  # fmt: skip
    if weight > 0:
      terms[name] = fn, float(weight)
  return terms


def adaptive_weights(config: ConfigDict) -> dict[str, Adaptive]:
  """name -> how its weight adapts, of the terms whose weight does.

  Raises:
    UserError: an unknown option or one out of range.
  """
  adaptive: dict[str, Adaptive] = {}
  for name, section in config.regularizers.items():
    weight: Any = section.get("weight", 1.0)
    if "adapt" not in section or not weight:
      continue
    field = f"config.regularizers.{name}.adapt"
    options = section.adapt
    known = [f.name for f in dataclasses.fields(Adaptive) if f.name != "most"]
    needed = ("target", "least")
    if not isinstance(options, ConfigDict) or set(options) - set(known):
      raise UserError(
        f"{field}={shown(options)}: expected a section with {', '.join(known)}"
      )
    if set(needed) - set(options):
      raise UserError(f"{field}: it needs {' and '.join(needed)}")
    try:
      values: dict[str, Any] = dict(options.items())
      adaptive[name] = Adaptive(most=float(weight), **values)
    except UserError as error:
      raise UserError(f"{field}.{error}") from error
  return adaptive


def apart(config: ConfigDict, weights: Mapping[str, Any]) -> tuple[str, ...]:
  """Names of the rewards with separate gradients; empty for a single one."""
  if config.composition.name != "separate":
    return ()
  return composition.apart(weights)


def bind_combine(config: ConfigDict, size: int) -> step.Combine | None:
  """The combiner of the gradients of `size` rewards; None for one gradient.

  Raises:
    UserError: a combiner without separate rewards, or the reverse; an objective
      that reads no advantage.
  """
  section = config.align.combine
  name, is_apart = section.name, config.composition.name == "separate"
  if name == "none":
    if is_apart:
      raise UserError(
        'config.composition.name="separate" keeps the rewards apart: name what'
        " makes one gradient of theirs in config.align.combine.name"
        f" ({', '.join(composition.COMBINERS)}), or sum their scores with"
        ' config.composition.name="weighted_sum"'
      )
    return None
  if not is_apart:
    raise UserError(
      f'config.align.combine.name="{shown(name)}" combines a gradient per'
      f' reward, and config.composition.name="{config.composition.name}" makes'
      ' one signal of all: use composition.name="separate", or'
      ' align.combine.name="none"'
    )
  field = "align.combine"
  fn = config_lib.bind(
    section, composition.COMBINERS, field=field, supplied=asks,
    reserved=("every",),
  )  # fmt: skip
  unknown = [n for n in asks(fn) if n not in ("gram", "last", "count")]
  if unknown:
    raise UserError(
      f'config.{field}.name={shown(name)}: it reads "{unknown[0]}"; a combiner'
      " reads gram, last, count"
    )
  every = section.get("every", 1)
  if type(every) is not int or every < 1:
    raise UserError(
      f"config.{field}.every={every}: expected a whole number, at least 1"
    )
  objective, _ = bind_objective(config)
  prepare = prepare_of(objective)
  early = prepare is not None and "advantage" in asks(prepare.read)
  if "advantage" not in asks(objective) or early:
    raise UserError(
      f'config.composition.name="separate": config.objective.name='
      f'"{config.objective.name}" does not take an advantage per sample, of'
      " which each reward has one of its own; use one that does, such as"
      ' "flow_grpo" or "diffusion_nft"'
    )

  advantage = bind_advantage(config)
  if gives := (*advantage.gives, *advantage.maps):
    raise UserError(
      f'config.composition.name="separate": config.advantage.name='
      f'"{shown(config.advantage.name)}" gives "{gives[0]}" of all rewards'
      ' together; take another, such as "group"'
    )

  def weigh(gram, last, count):
    offers = dict(gram=gram, last=last, count=count)
    return fn(**{name: offers[name] for name in asks(fn)})

  return step.Combine(weigh, size, every)


def bind_methods(config: ConfigDict) -> dict[str, Any]:
  """Binds the methods of the config; no array is allocated."""
  tx, _ = optimizer.make_optimizer(
    **config.optimizer.to_dict(),
    total_steps=config.align.iterations * config.align.updates,
  )
  compose = _bind(
    config, "composition", kernels.compositions(composition.REGISTRY, config),
    positional=3,
    supplied=(
      "rate", "stds", "references", "iteration", "iterations", "images",
    ),
  )  # fmt: skip
  known = named(compose, iterations=config.align.iterations)
  if known:
    compose = functools.update_wrapper(
      functools.partial(compose, **known), compose
    )
  return dict(advantage=bind_advantage(config), compose=compose, tx=tx)


def try_methods(config: ConfigDict, table: steppers.StepTable) -> None:
  """Lets every method check its own options, before the first update.

  Args:
    config: of the run.
    table: constants of its sampler's steps.

  Raises:
    UserError: a method's own message, or a wrong return value.
  """
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.kernels.implementation = "xla"  # kernels have checks of their own
  objective, feed_name = bind_objective(plain)
  feed = feed_of(config, feed_name)
  group = jax.ShapeDtypeStruct((2, 2), jnp.float32)
  members = jax.ShapeDtypeStruct((2, 2), bool)
  methods = bind_methods(plain)
  weights = _weights(config, methods)
  names = tuple(weights)
  compose = lambda scores, mask: methods["compose"](
    scores,
    mask,
    weights,
    **named(
      methods["compose"],
      stds=scores,
      references=scores,
      iteration=jnp.int32(0),
      images=jnp.zeros((2, 2, 16, 16, 3)),
    ),
  )
  checks.validate_options(
    compose, dict.fromkeys(names, group), members, field="composition"
  )
  combine = bind_combine(plain, 2)
  if combine is not None:
    shape = jax.ShapeDtypeStruct
    checks.validate_options(
      combine.weigh, group, shape((2,), jnp.float32), shape((), jnp.int32),
      field="align.combine", prefix="",
    )  # fmt: skip
  if getattr(objective, "needs_whole_samples", False):
    if config.align.updates > 1 and config.align.split == "times":
      raise UserError(
        f'config.objective.name="{config.objective.name}" sums over all steps of a'
        f" sample, which config.align.updates={config.align.updates} optimizer"
        ' steps would share out: set align.updates=1 or align.split="samples"'
      )
  terms = bind_regularizers(plain, feed_name)
  for field, fn in (
    (f'objective.name="{config.objective.name}"', objective),
    *(
      (f'regularizers.{name}.fn="{config.regularizers[name].fn}"', fn)
      for name, (fn, _) in terms.items()
    ),
  ):
    if {"real", "group_real"} & set(
      feeds.reads(fn)
    ) and not config.rollout.real:
      raise UserError(
        f"config.rollout.real=0: config.{field} reads reference images; set it"
        " to 1"
      )
  adaptive_weights(config)
  maps = methods["advantage"].maps
  metrics = _try_objective(config, objective, feed, maps)
  for name, (fn, _) in terms.items():
    _try_regularizer(name, fn, feed, metrics)
  follows = keeps_old(objective, feed)
  metric_names = {*metrics, *config.regularizers, *RESERVED}
  followers.check(config, follows, metric_names)
  further = followers.names(config)
  if further and feed.offers.keys() == feeds.FEEDS[feed_name].offers.keys():
    raise UserError(
      f'config.references.{further[0]}.rule: the feed "{feed_name}" of'
      f' config.objective.name="{config.objective.name}" has no arrays of a'
      ' further network; leave it out, or call it "reference"'
    )
  _try_advantage(config, methods["advantage"], feed, table, names)
  if run_feed(plain).needs_scores and config.composition.name != "weighted_sum":
    raise UserError(
      f'config.composition.name="{config.composition.name}": the objective'
      " differentiates the weighted sum of the rewards; use weighted_sum"
    )


def _weight(entry: Any) -> float:
  """A reward's weight; 1 for what is refused where rewards are bound."""
  weight: Any = 1.0
  if isinstance(entry, ConfigDict):
    weight = entry.get("weight", 1.0)
  return float(weight) if checks.is_finite(weight) else 1.0


def _weights(
  config: ConfigDict, methods: Mapping[str, Any]
) -> dict[str, float]:
  """Weights of all that is composed: rewards, and players that score.

  Raises:
    UserError: a composition or an advantage that needs more of a player's
      scores than there is.
  """
  weights = {name: _weight(entry) for name, entry in config.rewards.items()}
  scoring = players.weights(players.bind(config))
  if scoring and named(methods["compose"], references=None):
    raise UserError(
      f'config.composition.name="{config.composition.name}" compares with scores'
      " of the policy where training began, and those of"
      f" config.players.{next(iter(scoring))} change: take another composition"
    )
  if scoring and methods["advantage"].needs_steps:
    raise UserError(
      f'config.advantage.name="{config.advantage.name}" scores every step, and'
      f" config.players.{next(iter(scoring))} scores finished samples alone: take"
      " another advantage"
    )
  return weights | scoring or {"_": 1.0}


def _try_objective(
  config: ConfigDict,
  objective: Callable[..., Any],
  feed: feeds.Feed,
  maps: tuple[str, ...],
) -> Mapping[str, Any]:
  """The metrics of an objective, by name."""
  arrays = feeds.shapes(objective, feed, maps)
  result = checks.validate_options(
    lambda x: objective(**x), arrays, field="objective"
  )
  is_pair = isinstance(result, tuple) and len(result) == 2
  if not (
    is_pair and isinstance(result[0], Mean) and isinstance(result[1], Mapping)
  ):
    raise UserError(
      f"config.objective.name={shown(config.objective.name)}: it returned"
      f" {_kind(result)}; expected (jaxreward.numerics.Mean, metrics by name)"
    )
  clash = [n for n in result[1] if n in RESERVED and n != _GAP]
  if clash:
    raise UserError(
      f"config.objective.name={shown(config.objective.name)}: every run has a"
      f" metric {clash[0]}; give that of the objective another name"
    )
  return result[1]


def _try_regularizer(
  name: str,
  fn: Callable[..., Any],
  feed: feeds.Feed,
  metrics: Mapping[str, Any],
) -> None:
  field = f"regularizers.{name}"
  result = checks.validate_options(
    lambda x: fn(**x), feeds.shapes(fn, feed), field=field,
    prefix=f"config.{field}.",
  )  # fmt: skip
  if not isinstance(result, Mean):
    raise UserError(
      f"config.{field}.fn: it returned {_kind(result)}; expected a"
      " jaxreward.numerics.Mean"
    )
  if name in metrics:
    raise UserError(
      f"config.{field}: the objective has a metric of this name; give the term"
      " another"
    )


def _try_advantage(
  config: ConfigDict,
  advantage: advantages.Advantage,
  feed: feeds.Feed,
  table: steppers.StepTable,
  rewards: tuple[str, ...],
) -> None:
  name = shown(config.advantage.name)
  if advantage.needs_steps and feed.keeps != "steps":
    raise UserError(
      f'config.advantage.name="{name}" scores every denoising step, which'
      f' config.objective.name="{config.objective.name}" does not keep; take an'
      ' objective on the sampler\'s steps, such as "flow_grpo"'
    )
  if config.rollout.aside and "step_signal" not in advantage.names:
    raise UserError(
      f'config.rollout.aside=True: config.advantage.name="{name}" does not score'
      ' what each step has led to; take "branched"'
    )
  roles = players.bind(config)
  readers = [r.name for r in roles if r.player.step_rewards]
  if config.rollout.aside and readers:
    raise UserError(
      f"config.rollout.aside=True: config.players.{readers[0]} reads the"
      " log-probabilities of whole paths, which steps that leave the chain do not"
      " have; use False"
    )
  first = config.align.hold_policy
  if advantage.levels is not None:
    _check_levels(config, advantage.settles)
  elif first and not roles:
    raise UserError(
      f"config.align.hold_policy={first}: there are no players to train"
      " before the policy; set it to 0, or name one in config.players"
    )
  if "step_values" in advantage.names:
    if "value" not in players.gives(roles):
      raise UserError(
        f'config.advantage.name="{name}" reads the values of a critic: name one'
        ' that gives them, as in config.players.critic.fn="critic"'
      )
    if feed.keeps != "steps":
      raise UserError(
        f'config.advantage.name="{name}" reads every denoising step, which'
        f' config.objective.name="{config.objective.name}" does not keep; take'
        ' an objective on the sampler\'s steps, such as "flow_grpo"'
      )
  for role in roles:
    if "path" in role.player.reads and feed.keeps != "steps":
      raise UserError(
        f"config.players.{role.name}.fn: it reads every denoising step, which"
        f' config.objective.name="{config.objective.name}" does not keep; take'
        ' an objective on the sampler\'s steps, such as "flow_grpo"'
      )
  if "step_rewards" in advantage.names:
    if not readers:
      raise UserError(
        f'config.advantage.name="{name}" reads rewards of steps from a player: name'
        " one that gives them, as in config.players.process.fn="
        '"process_reward"'
      )
  steps, group = len(table.t), offline.group(config)
  sizes = advantages.Sizes(2, group, steps, lambda: np.arange(2))
  per_step = lambda x: jnp.broadcast_to(x[..., None], (*x.shape, steps + 1))

  def credit(signal, mask, ids, table):
    offers = dict(
      signal=signal, mask=mask, scores=dict.fromkeys(rewards, signal),
      prompt_ids=ids,
      steps=table, key=jax.random.key(0), step_signal=per_step(signal),
      step_mask=per_step(mask), step_values=per_step(signal)[..., :-1],
      step_rewards=per_step(signal)[..., :-1],
      unweighted={}, images=jnp.zeros((*signal.shape, 4, 4, 3)),
      real=jnp.zeros(signal.shape, bool),
      jump_signal=per_step(signal), jump_mask=per_step(mask),
      stds=dict.fromkeys(rewards, signal),
      places=dict.fromkeys(rewards, jnp.zeros((*signal.shape, 4, 4))),
    )  # fmt: skip
    state = advantage.init(sizes)
    return state, advantages.credit(advantage, offers, state)

  shape = jax.ShapeDtypeStruct
  state, (value, next_state) = checks.validate_options(
    credit, shape((2, group), jnp.float32), shape((2, group), bool),
    shape((2,), jnp.uint32), table, field="advantage",
  )  # fmt: skip
  specs = [
    jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    for tree in (state, next_state)
  ]
  if specs[0] != specs[1]:
    raise UserError(
      f'config.advantage.name="{name}": its update returns a state of other'
      " arrays, shapes or types than its init; they have to be the same"
    )
  if value.ndim == 3 and not feed.is_per_step:
    raise UserError(
      f'config.advantage.name="{name}" gives credit to each denoising step,'
      f' which config.objective.name="{config.objective.name}" does not read;'
      ' take an objective on the sampler\'s steps, such as "flow_grpo"'
    )


def _check_levels(config: ConfigDict, settles: int) -> None:
  """Refuses an advantage with noise levels where others would hold, or the policy
  learns before they have settled."""
  r = config.rollout
  for field, value, needed in (
    ("rollout.sampler.name", r.sampler.name, "dance_sde"),
    ("rollout.window_move.name", r.window_move.name, "none"),
    ("align.overlap", config.align.overlap, False),
    ("align.combine.name", config.align.combine.name, "none"),
  ):
    if value != needed:
      raise UserError(
        f"config.{field}={shown(value)}: config.advantage.name="
        f'"{config.advantage.name}" sets the noise of the sampler\'s steps; use'
        f" {shown(needed)}"
      )
  first = config.align.hold_policy
  if first < settles:
    raise UserError(
      f"config.align.hold_policy={first}: the levels of noise of"
      f' config.advantage.name="{shown(config.advantage.name)}" move for {settles}'
      f" iterations, in which the policy has to wait; set it to {settles}"
    )


def _kind(result: Any) -> str:
  """Describes what a method returned."""
  if isinstance(result, tuple):
    return f"({', '.join(map(_kind, result))})"
  if isinstance(result, jax.ShapeDtypeStruct):
    return f"an array of shape {list(result.shape)}"
  return f"a {type(result).__name__}"
