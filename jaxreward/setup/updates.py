"""The jitted programs of the align job: sample, and update.

Every objective runs through the same update: the feed that offers its arguments
makes rows from the rollout, in micro-batches of one static shape, and offers arrays
of them (`jaxreward.feeds`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxreward import advantages, feeds, methods, rng, setup
from jaxreward.feeds import Credit, Plan
from jaxreward.flow import path, rollout
from jaxreward.flow.sampler import Sampler
from jaxreward.numerics import Max, Mean, Metric, pool
from jaxreward.rewards import (
  Reward,
  RowWeight,
  applies_to,
  device_errors,
  device_scores,
  mask_inapplicable,
)
from jaxreward.setup import controls, credits, players, playing, real, tuning
from jaxreward.setup.judge_labels import Late
from jaxreward.training import async_rollout, references, step
from jaxreward.training import state as state_lib
from jaxreward.training.adaptive import Adaptive
from jaxreward.training.state import TrainState
from jaxreward.types import (
  Array,
  ArrayLike,
  Params,
  Policy,
  PromptBatch,
  PromptEmbeddings,
  Trajectory,
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
  roles: players.Roles = (),
  states: Mapping[str, state_lib.Player] | None = None,
  levels: Array | None = None,
) -> tuple[Trajectory, ArrayLike]:
  """(trajectory, pixels [P, G, H, W, C] not clipped) of one iteration.

  The players' `roles` and `states` are read where the plan has a drift; `levels` are
  those of noise, see `Plan.at`.
  """
  plan = plan.at(iteration, levels)
  inputs = jax.tree.map(jnp.asarray, prompts.words)
  gradient = playing.value_gradient(roles, states or {}, inputs, plan)
  sampler = plan.sampler(policy, setup.spread_rows(plan.layout), gradient)
  start = plan.start(policy, prompts, decoder)
  if plan.rounds or plan.whole is not None:
    key = rng.stream_key(seed, "history", iteration)
    before = drawn if plan.whole is not None else continued
    start = before(policy, params, prompts, plan, start, key)
  trajectory = sampler.sample(
    params, rng.stream_key(seed, "rollout", iteration), prompts.words,
    prompts.ids, start=start, tail=_kept(plan),
  )  # fmt: skip
  pixels = sampler.pixels(trajectory.latents[-1], decoder)
  if plan.real:
    key = rng.stream_key(seed, "real", iteration)
    return real.mix(policy, plan, trajectory, pixels, prompts, key, decoder)
  return trajectory, pixels


def continued(
  policy: Policy,
  params: Params,
  prompts: PromptBatch,
  plan: Plan,
  start: Array | None,
  key: Array,
) -> Array:
  """Latents [P, ...] after 0 to `plan.rounds` chains of the policy itself.

  How many is drawn per prompt; each chain starts from what the last one left.
  """
  assert start is not None
  sampler = _alone(policy, plan)
  ids = jnp.asarray(prompts.ids)
  draws = rng.fold_each(rng.sample_keys(key, ids, jnp.zeros_like(ids)), 0)
  count = jax.vmap(lambda k: jax.random.randint(k, (), 0, plan.rounds + 1))(
    draws
  )

  def chain(n: Array, start: Array) -> Array:
    trajectory = sampler.sample(
      params, jax.random.fold_in(key, n), prompts.words, prompts.ids,
      start=start,
    )  # fmt: skip
    return jnp.where(
      path.expand(count > n, start), _samples(trajectory, plan), start
    )

  return jax.lax.fori_loop(0, plan.rounds, chain, jnp.asarray(start))


def drawn(
  policy: Policy,
  params: Params,
  prompts: PromptBatch,
  plan: Plan,
  start: Array | None,
  key: Array,
) -> Array:
  """Latents [P, ...] of a sample of each prompt, by all of the sampler's steps."""
  assert start is None and plan.whole is not None
  sampler = dataclasses.replace(_alone(policy, plan), table=plan.whole)
  trajectory = sampler.sample(params, key, prompts.words, prompts.ids)
  return _samples(trajectory, plan)


def _alone(policy: Policy, plan: Plan) -> Sampler:
  """The plan's sampler for one sample of each prompt."""
  assert plan.history is not None
  layout = setup.spread_rows(plan.history)
  return dataclasses.replace(
    plan.sampler(policy, layout), is_recorded=False, share=None
  )


def _samples(trajectory: Trajectory, plan: Plan) -> Array:
  """Finished latents [P, ...] of one sample of each prompt."""
  latents = jnp.asarray(trajectory.latents)[-1]
  return jnp.asarray(rollout.to_groups(latents, plan.prompts, 1))[:, 0]


def _kept(plan: Plan) -> int:
  """Before how many of the last steps latents are kept; 0 for the samples."""
  if plan.noise == "first":
    return len(plan.table.t)
  return plan.last_steps if plan.feed.keeps == "tail" else 0


def finish(
  policy: Policy,
  params: Params,
  trajectory: Trajectory,
  prompts: PromptBatch,
  plan: Plan,
  *,
  first: Array,
  jumps: bool = False,
  decoder: Params | None = None,
) -> Array:
  """Images [P, G, H, W, C] of the latents before a step, finished by the ODE.

  They are those that the step before has led to, where it has left the chain.

  Args:
    policy: the policy.
    params: that drew the trajectory.
    trajectory: with every latent.
    prompts: P prompts.
    plan: of the run.
    first: the step, int32, traced: one program serves all.
    jumps: whether one Euler step finishes them.
    decoder: parameters of the autoencoder.
  """
  sampler = plan.sampler(policy, setup.spread_rows(plan.layout))
  latents = before_step(trajectory, first)
  latents = sampler.finish(params, prompts.words, latents, first, jumps=jumps)
  return jnp.clip(sampler.pixels(latents, decoder), 0, 1)


def before_step(trajectory: Trajectory, first: Array) -> Array:
  """Latents [B, ...] that a step starts from, or that the one before has led to.

  The two are one, unless steps lead aside of the chain.
  """
  latents = jnp.asarray(trajectory.latents)[first]
  if trajectory.aside is None:
    return latents
  before = jnp.asarray(trajectory.aside)[jnp.maximum(first - 1, 0)]
  return jnp.where(first > 0, before, latents)


@flax.struct.dataclass
class Frozen:
  """Inputs of a loss besides the trained parameters and its rows.

  Attributes:
    base: parameters of the plain policy.
    old: trained parameters that sampled the rows.
    words: policy inputs: tokens or embeddings.
    prompts: for differentiated rewards; else None.
    contexts: arrays of these rewards.
    decoder: parameters of an autoencoder before them.
    players: parameters of the players that a loss may read.
    references: parameters of the references that move.
    weights: of the terms whose weights adapt, by name.
  """

  base: Params
  old: Params
  words: ArrayLike | PromptEmbeddings
  prompts: PromptBatch | None = None
  contexts: Any = None
  decoder: Params | None = None
  players: Mapping[str, Params] = flax.struct.field(default_factory=dict)
  references: Mapping[str, Params] = flax.struct.field(default_factory=dict)
  weights: Mapping[str, Array] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
  """An objective and its regularizers on rows of a feed.

  Attributes:
    trainable: the policy and its trained part.
    plan: of the run.
    objective: arrays by name -> (Mean, metrics).
    regularizers: name -> (function, weight); arrays -> Mean, logged by name.
    rewards: the differentiated ones, for feeds that need their scores.
    weights: of these.
    names: of the rewards with separate losses; empty for one loss.
    roles: the players beside the policy.
  """

  trainable: Any
  plan: Plan
  objective: Callable[..., Any]
  regularizers: Mapping[str, tuple[Callable[..., Mean], float]]
  rewards: tuple[Reward, ...] = ()
  weights: Mapping[str, float | RowWeight] = dataclasses.field(
    default_factory=dict
  )
  names: tuple[str, ...] = ()
  roles: players.Roles = ()

  def arrays(self, trained: Params, rows: Any, frozen: Frozen) -> feeds.Arrays:
    """Arrays of a micro-batch under the trained parameters."""
    policy = self.trainable.policy
    merge = lambda params: self.trainable.merge(params, frozen.base)
    network = lambda policy, params: feeds.Network(
      policy, params, frozen.words, self.plan
    )
    follower = lambda name: (
      lambda: network(
        policy, jax.lax.stop_gradient(merge(frozen.references[name]))
      )
    )
    networks = {
      "policy": lambda: network(policy, merge(trained)),
      "old": lambda: network(policy, jax.lax.stop_gradient(merge(frozen.old))),
      "reference": lambda: self.network(None, frozen.base, frozen.words),
    } | {name: follower(name) for name in frozen.references}
    score = functools.partial(self._score, frozen)
    networks |= {
      role.name: functools.partial(
        self.network, jax.lax.stop_gradient(frozen.players[role.name]),
        frozen.base, frozen.words,
      )
      for role in self.roles if role.player.copies
    }  # fmt: skip
    of_players = self.roles, frozen.players, frozen.words
    return feeds.Arrays(
      self.plan.feed, rows, networks, self.plan, score,
      playing.player_arrays(*of_players), playing.prediction_arrays(*of_players),
    )  # fmt: skip

  def network(
    self, trained: Params | None, base: Params, words: Any
  ) -> feeds.Network:
    """The policy with other trained parameters; None for where training began."""
    if trained is None:
      return feeds.Network(self.trainable.plain, base, words, self.plan)
    params = self.trainable.merge(trained, base)
    return feeds.Network(self.trainable.policy, params, words, self.plan)

  def __call__(self, trained: Params, rows: Any, frozen: Frozen):
    """(Mean loss, metrics) of a micro-batch, for `training.step`.

    With separate rewards the total is [K], with the regularizers at the end.
    """
    arrays = self.arrays(trained, rows, frozen)
    loss, metrics = self._objective(arrays)
    terms = []
    for name, (fn, weight) in self.regularizers.items():
      penalty = feeds.call(fn, arrays)
      metrics = metrics | {name: penalty}
      weight = frozen.weights.get(name, weight)
      added = weight * (penalty.total * arrays.rows["shares"][name])
      if self.names:
        terms.append(added)
      else:
        loss = Mean(loss.total + added, loss.weight)
    if self.plan.old_log_prob != "sealed":
      gap = arrays.step("policy")[0] - arrays.rows["old_log_prob"]
      gap = jnp.abs(jax.lax.stop_gradient(gap))
      metrics |= {"stored_gap": Max.of(gap, arrays.rows["mask"])}
    if terms:
      total = jnp.concatenate([loss.total, jnp.stack(terms).sum()[None]])
      loss = Mean(total, loss.weight)
    return loss, metrics

  def recompute(self, trained: Params, micros: Any, frozen: Frozen) -> Any:
    """Micro-batches whose old log-probabilities are those of `trained`.

    Those of the first optimizer step stay: it takes its own.
    """
    stored = micros["old_log_prob"]
    later = jax.tree.map(lambda x: x[1:], micros)
    if not later["old_log_prob"].size:
      return micros

    def log_probs_of(rows):
      return self.arrays(trained, rows, frozen).step("policy")[0]

    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), later)
    old = jax.lax.stop_gradient(jax.lax.map(log_probs_of, flat))
    old = old.reshape(stored[1:].shape)
    return micros | {"old_log_prob": jnp.concatenate([stored[:1], old])}

  def _objective(self, arrays: feeds.Arrays) -> tuple[Mean, dict[str, Metric]]:
    if self.names:
      return self._apart(arrays)
    return feeds.call(self.objective, arrays)

  def _with_shares(self, trained: Params, micros: Any, frozen: Frozen) -> Any:
    """Micro-batches with the weight of the loss over that of each regularizer.

    Both are sums over all of an optimizer step: pairs may be spread over
    micro-batches in another way than the rows that a regularizer counts. Only
    weights are computed, which need no network.
    """

    def weigh_rows(rows):
      arrays = self.arrays(trained, rows, frozen)
      penalties = {
        name: feeds.call(fn, arrays).weight
        for name, (fn, _) in self.regularizers.items()
      }
      return self._objective(arrays)[0].weight, penalties

    weights = jax.lax.stop_gradient(jax.lax.map(weigh_rows, micros))
    loss, penalties = jax.tree.map(lambda x: x.sum(0), weights)
    count = len(jax.tree.leaves(micros)[0])
    shares = {
      name: jnp.broadcast_to(loss / jnp.maximum(penalty, 1e-12), (count,))
      for name, penalty in penalties.items()
    }
    return micros | {"shares": shares}

  def _apart(self, arrays: feeds.Arrays) -> tuple[Mean, dict[str, Metric]]:
    """The objective under each reward's advantage; the network runs once."""
    results: dict[str, tuple[Mean, dict[str, Metric]]] = {}
    for k, name in enumerate(self.names):
      arrays_for = lambda key, k=k: (
        arrays(key)[..., k] if key == "advantage" else arrays(key)
      )
      results[name] = feeds.call(self.objective, arrays_for)
    losses = {name: loss for name, (loss, _) in results.items()}
    metrics = functools.reduce(pool, [each for _, each in results.values()])
    metrics |= {f"loss/{name}": loss for name, loss in losses.items()}
    total = jnp.stack([jnp.asarray(loss.total) for loss in losses.values()])
    # Samples count for all rewards or for none.
    return Mean(total, losses[self.names[0]].weight), metrics

  @property
  def prepare(self) -> Callable[..., Any] | None:
    """Computes columns from all rows of an optimizer step, before it."""
    functions = [self.objective, *(fn for fn, _ in self.regularizers.values())]
    prepared = [p for p in map(methods.prepare_of, functions) if p is not None]
    if not (prepared or self.regularizers):
      return None

    def prepare(trained, micros, frozen):
      def read_rows(rows):
        arrays = self.arrays(trained, rows, frozen)
        return [feeds.call(each.read, arrays) for each in prepared]

      values = jax.lax.stop_gradient(jax.lax.map(read_rows, micros))
      columns = [e.finish(c) for e, c in zip(prepared, values, strict=True)]
      micros = functools.reduce(lambda a, b: {**a, **b}, columns, micros)
      if self.regularizers:
        micros = self._with_shares(trained, micros, frozen)
      return micros

    return prepare

  def _score(
    self, frozen: Frozen, latents: Array, index: ArrayLike, of: str = "own"
  ):
    """(weighted scores [M], images [M, ...]) of rows, differentiable.

    See `feeds.Arrays` for what scores are `of`.
    """
    images = self.trainable.policy.to_pixels(latents, frozen.decoder)
    images = jnp.clip(images, 0.0, 1.0)
    if of == "errors":
      return self._errors(frozen, images, index), images
    rows = controls.rows(index, of, self.plan)
    score = lambda images: self._scores(
      frozen.contexts, frozen.prompts, images, *rows
    )
    if of == "pull":
      return controls.pull(images, score), images
    scores, weights_of = score(images)
    total = sum(weights_of[name] * scores[name] for name in scores)
    return jnp.asarray(total), images

  def _errors(self, frozen: Frozen, images: Array, index: ArrayLike) -> Array:
    """Errors [M, N] by their own prompts.

    0 where the reward is not applicable, and where it failed.
    """
    index, row = controls.rows(index, "own", self.plan)
    prompts = jax.tree.map(lambda x: jnp.asarray(x)[index], frozen.prompts)
    name, errors = device_errors(
      {reward.name: reward for reward in self.rewards},
      {k: v.take(row) for k, v in frozen.contexts.items()},
      images[:, None], prompts,
    )  # fmt: skip
    errors = errors[:, 0]
    is_finite = jnp.isfinite(errors).all(-1, keepdims=True)
    applies = applies_to(self.weights[name], prompts)
    return jnp.where(applies & is_finite, errors, 0.0)

  def scores(
    self, contexts: Any, prompts: Any, images: Array, index: ArrayLike
  ) -> tuple[dict[str, Array], dict[str, Any]]:
    """({name: scores [M]}, weights) of images by their own prompts."""
    rows = controls.rows(index, "own", self.plan)
    return self._scores(contexts, prompts, images, *rows)

  def _scores(
    self,
    contexts: Any,
    prompts: Any,
    images: Array,
    index: ArrayLike,
    row: ArrayLike,
  ) -> tuple[dict[str, Array], dict[str, Any]]:
    """({name: scores [M]}, weights) by prompts `index` and contexts `row`."""
    prompts = jax.tree.map(lambda x: jnp.asarray(x)[index], prompts)
    by_name = {reward.name: reward for reward in self.rewards}
    contexts = {k: v.take(row) for k, v in contexts.items()}
    scores = device_scores(by_name, contexts, images[:, None], prompts)
    scores, weights = mask_inapplicable(scores, dict(self.weights), prompts)
    column = lambda x: x if jnp.ndim(x) == 0 else jnp.asarray(x)[:, 0]
    of = lambda values: {name: column(values[name]) for name in by_name}
    return of(scores), of(weights)


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
  rules: Mapping[str, references.Rule]
  combine: step.Combine | None = None
  hold_policy: int = 0
  adaptive: Mapping[str, Adaptive] = dataclasses.field(default_factory=dict)

  @property
  def plan(self) -> Plan:
    return self.loss.plan

  def levels(self, stats: Any) -> Array | None:
    """Noise levels of the steps by the advantage's state; None for the plan's."""
    of = self.advantage.levels
    return None if of is None else of(stats)

  def micros(
    self,
    trajectory,
    credit: Credit,
    prompts,
    iteration,
    levels: Array | None = None,
  ) -> Any:
    """Rows to train on, [U, N, M, ...]."""
    key = rng.stream_key(self.seed, "forward", iteration)
    plan = self.plan.at(iteration, levels)
    plan = dataclasses.replace(plan, rows=setup.spread_rows(plan.rows))
    make = lambda credit: plan.feed.make(
      trajectory, credit, prompts.ids, plan, key
    )
    if not self.loss.names:
      rows = make(credit)
      for name, column in credit.columns.items():
        flat = rollout.from_groups(jnp.asarray(column), plan.layout)
        lead = rows["advantage"].shape
        rows[name] = jnp.broadcast_to(flat, (*lead, *flat.shape[1:]))
      return feeds.cut(rows, self.plan)
    each = [
      make(dataclasses.replace(credit, advantage=credit.advantage[name]))
      for name in self.loss.names
    ]
    advantage = jnp.stack([rows["advantage"] for rows in each], -1)
    return feeds.cut(each[0] | {"advantage": advantage}, self.plan)

  def init_stats(self, sizes: advantages.Sizes) -> Any:
    """The advantage's initial state; by name for separate rewards."""
    if not self.loss.names:
      return self.advantage.init(sizes)
    return {name: self.advantage.init(sizes) for name in self.loss.names}


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
  offered: Mapping[str, dict[str, Array]] | None = None,
  late: Late | None = None,
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
    step_scores: see `credits.credit_of`.
    offered: see `credits.credit_of`.
    late: labels of judges for the players that learn from them.

  Returns:
    (state, metrics); `log_prob_gap` is the largest |log p - stored log p| of
    the first optimizer step, before any parameter has changed.
  """
  before, sampler_params = state, state.sampler_params
  draw_params = async_rollout.draw_params(state)
  reads_newest = sampler_params is None or state.old is not None
  audience = playing.Audience(
    updater, state, trajectory, prompts, decoder, base, contexts, late
  )
  credit, stats = credits.credit_of(
    updater, scores | audience.scores, prompts, state.stats, state.step,
    step_scores, offered, audience.offers, audience.images,
  )  # fmt: skip
  advantage, counts = credit.advantage, jnp.asarray(credit.mask)
  # Failed samples are NaN until the rows are masked.
  marked = jax.tree.map(
    lambda a: jnp.where(path.expand(counts, a), a, jnp.nan), advantage
  )
  credit = dataclasses.replace(credit, advantage=marked)
  micros = updater.micros(
    trajectory, credit, prompts, state.step, updater.levels(state.stats)
  )
  player_states, player_metrics = audience.learn(credit)
  if contexts is not None:
    contexts = tuning.tuned(
      updater.loss.roles, contexts, playing.averages(player_states)
    )
  frozen = Frozen(
    base=base, old=draw_params if reads_newest else sampler_params,
    words=jax.tree.map(jnp.asarray, prompts.words), decoder=decoder,
    prompts=prompts.plain if contexts is not None else None, contexts=contexts,
    players=audience.params | {
      role.name: player_states[role.name].averaged
      for role in updater.loss.roles if role.player.leads
    },
    references={
      k: v.params for k, v in state.references.items() if k != "old"
    },
    weights=state.weights,
  )  # fmt: skip
  if updater.plan.old_log_prob == "recomputed":
    micros = updater.loss.recompute(state.params, micros, frozen)
  state, metrics = step.update(
    state, updater.loss, updater.tx, micros, frozen,
    ema_decay=updater.ema_decay, prepare=updater.loss.prepare,
    combine=updater.combine,
  )  # fmt: skip
  mixture: Any = metrics.pop("mixture", None)
  gap = metrics.pop("log_ratio_max", None)
  stored = metrics.pop("stored_gap", None)
  pooled: dict[str, Any] = jax.tree.map(lambda x: x.sum(0), metrics)
  if gap is not None:
    pooled["log_prob_gap"] = jax.tree.map(lambda x: x[0], gap)
  if stored is not None:
    pooled["stored_gap"] = jax.tree.map(lambda x: x[0], stored)
  if updater.plan.origin == "rollout":  # files have no scores to watch
    pooled |= _of_credit(credit.signal, advantage, counts)
  if mixture is not None:
    pooled |= {
      f"mixture/{name}": Mean.of(mixture[:, k])
      for k, name in enumerate(updater.loss.names)
    }
  pooled |= player_metrics
  if updater.plan.move is not None:
    pooled["window_start"] = Mean.of(updater.plan.move(state.step))
  followers = {
    name: rule(state.references[name], state.params, state.step, pooled)
    for name, rule in updater.rules.items()
  }
  pooled |= {f"{k}_weight": Mean.of(w) for k, w in state.weights.items()}
  term_weights = {
    name: updater.adaptive[name].after(weight, pooled[name].value())
    for name, weight in state.weights.items()
  }
  if sampler_params is not None:
    sampler_params = draw_params
  state = dataclasses.replace(
    state, step=state.step + 1, references=followers, stats=stats,
    sampler_params=sampler_params, players=player_states, weights=term_weights,
  )  # fmt: skip
  if updater.hold_policy:
    state = state_lib.held(state, before, before.step < updater.hold_policy)
  if audience.trusted is not None:
    state = state_lib.held(state, before, ~audience.trusted)
  return state, pooled


def _of_credit(signal: Any, advantage: Any, counts: Array) -> dict[str, Mean]:
  """Metrics of scores and of the credit they gave."""
  signals, each = jax.tree.leaves(signal), jax.tree.leaves(advantage)
  return {
    "reward": Mean.of(jnp.stack(signals).sum(0), counts),
    "advantage_abs": _pooled(
      Mean.of(jnp.abs(a), path.expand(counts, a) & jnp.isfinite(a))
      for a in each
    ),
    "zero_variance_share": _pooled(
      advantages.zero_variance_share(signal, counts) for signal in signals
    ),
  }


def _pooled(means: Iterable[Mean]) -> Mean:
  return functools.reduce(pool, means)
