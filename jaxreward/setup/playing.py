"""The players in an iteration: their scores, values and training."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxreward import advantages, feeds, methods, rng, setup
from jaxreward.feeds import Credit, Plan, rollouts
from jaxreward.flow import path, rollout
from jaxreward.methods import prepare_of
from jaxreward.numerics import Mean, Metric
from jaxreward.players import Arrays
from jaxreward.setup import judge_labels, players, real, tuning
from jaxreward.setup.judge_labels import Late
from jaxreward.setup.players import Role, Roles
from jaxreward.training import state, step
from jaxreward.training.state import TrainState
from jaxreward.types import (
  Array,
  ArrayLike,
  Params,
  Policy,
  PromptBatch,
  Trajectory,
)

if TYPE_CHECKING:
  from jaxreward.setup.updates import Updater

PlayerArrays = dict[str, Callable[[Mapping[str, Any]], Array]]


def averages(players: Mapping[str, state.Player]) -> dict[str, Params]:
  """The averaged parameters, which others read."""
  return {name: player.averaged for name, player in players.items()}


def player_arrays(
  roles: Roles, params: Mapping[str, Params], policy_inputs: Any
) -> PlayerArrays:
  """Arrays of an objective's rows from the players, by name; no gradient."""

  def of(role: Role, name: str):
    def compute(rows: Mapping[str, Any]) -> Array:
      frozen = jax.lax.stop_gradient(params[role.name])
      value = Arrays(role.player, frozen, rows, policy_inputs)(name)
      return jax.lax.stop_gradient(value)

    return compute

  return {name: of(role, name) for role in roles for name in role.player.gives}


def prediction_arrays(
  roles: Roles, params: Mapping[str, Params], policy_inputs: Any
) -> dict[str, Callable[[Array, Mapping[str, Any]], Array]]:
  """(x0 [M, ...], rows) -> arrays of predicted samples, with a gradient in x0."""

  def of(role: Role, name: str):
    def compute(x0: Array, rows: Mapping[str, Any]) -> Array:
      frozen = jax.lax.stop_gradient(params[role.name])
      rows = {**rows, "x0": x0}
      return Arrays(role.player, frozen, rows, policy_inputs)(name)

    return compute

  return {
    name: of(role, name) for role in roles for name in role.player.predicts
  }


def value_gradient(
  roles: Roles,
  players: Mapping[str, state.Player],
  policy_inputs: Any,
  plan: Plan,
) -> Callable[..., Array] | None:
  """(x, t, rows of the prompts) -> gradient in x of the drift's player's values."""
  if plan.drift is None or not players:
    return None
  role = next(role for role in roles if role.name == plan.drift.player)
  params = players[role.name].averaged

  def gradient(x: Array, t: Array, index: Array) -> Array:
    def total(x):
      rows = dict(x_t=x, t=t, prompt_index=index)
      return Arrays(role.player, params, rows, policy_inputs)("value").sum()

    return jax.lax.stop_gradient(jax.grad(total)(x))

  return gradient


def images_of(
  policy: Policy, trajectory: Trajectory, plan: Plan, decoder: Params | None
) -> Array:
  """Images [B, H, W, C] of the samples, in [0, 1]."""
  sampler = plan.sampler(policy, setup.spread_rows(plan.layout))
  pixels = sampler.pixels(jnp.asarray(trajectory.latents)[-1], decoder)
  images = rollout.from_groups(jnp.clip(pixels, 0, 1), plan.layout)
  return setup.spread_rows(jnp.asarray(images))


def scores(
  roles: Roles,
  params: Mapping[str, Params],
  images: Array | None,
  plan: Plan,
  policy_inputs: Any = None,
) -> dict[str, Array]:
  """{name: [P, G]} of the players that are rewards; NaN for non-finite images.

  Args:
    roles: of the run.
    params: from `averages`.
    images: from `images_of`.
    plan: of the run.
    policy_inputs: words of the prompts.
  """
  if images is None:
    return {}
  return {
    role.name: score(role, params[role.name], images, plan, policy_inputs)
    for role in roles
    if role.weight
  }


def score(
  role: Role, params: Params, images: Array, plan: Plan, policy_inputs: Any
) -> Array:
  """`scores` of one player, [P, G]."""

  def score_rows(rows):
    return Arrays(role.player, params, rows, policy_inputs)(role.player.score)

  usable = jnp.isfinite(images).all((1, 2, 3))
  rows = {
    "image": jnp.where(path.expand(usable, images), images, 0.0),
    "prompt_index": jnp.asarray(plan.layout.prompt_index),
  }
  count = plan.layout.chunks
  chunks = jax.tree.map(lambda x: rollout.to_chunks(x, count), rows)
  values = rollout.from_chunks(jax.lax.map(score_rows, chunks))
  values = jnp.where(usable, values, jnp.nan)
  groups = rollout.to_groups(values, plan.prompts, plan.group)
  return jnp.asarray(jax.lax.stop_gradient(groups))


def step_values(
  roles: Roles,
  params: Mapping[str, Params],
  trajectory: Trajectory,
  policy_inputs: Any,
  plan: Plan,
) -> Array:
  """Values before each step, [P, G, T], of the player that gives "value"."""
  value = player_arrays(roles, params, policy_inputs)["value"]

  def values_at(row):
    x_t, t = row
    rows = dict(x_t=x_t, t=t, prompt_index=trajectory.prompt_index)
    return value(rows)

  latents = jnp.asarray(trajectory.latents)[:-1]
  values = jax.lax.map(values_at, (latents, jnp.asarray(plan.table.t)))
  return jnp.asarray(rollout.to_groups(values.T, plan.prompts, plan.group))


def step_rewards(
  role: Role,
  params: Params,
  trajectory: Trajectory,
  policy_inputs: Any,
  plan: Plan,
  network: Callable[[Params | None], Any],
) -> Array:
  """A player's rewards of each step, [P, G, T], from the sampler's latents."""
  latents = jnp.moveaxis(jnp.asarray(trajectory.latents), 0, 1)
  finite = jnp.isfinite(latents).all(tuple(range(1, latents.ndim)))
  rows = {
    "path": jnp.where(path.expand(finite, latents), latents, 0.0),
    "path_log_probs": jnp.asarray(trajectory.log_probs).T,
    "prompt_index": jnp.asarray(trajectory.prompt_index),
  }

  def of_rows(rows):
    arrays = Arrays(role.player, params, rows, policy_inputs, None, network)
    return arrays(role.player.step_rewards)

  count = plan.layout.chunks
  chunks = jax.tree.map(lambda x: rollout.to_chunks(x, count), rows)
  values = rollout.from_chunks(jax.lax.map(of_rows, chunks))
  values = jax.lax.stop_gradient(values)
  return jnp.asarray(rollout.to_groups(values, plan.prompts, plan.group))


def train(
  role: Role,
  player: state.Player,
  arrays_of: PlayerArrays,
  rows_of: Callable[[], dict[str, Any]],
  policy_inputs: Any,
  iteration: Array,
  network: Callable[[Params | None], Any] | None = None,
  score: Callable[..., Array] | None = None,
) -> tuple[state.Player, dict[str, Any]]:
  """A player after an iteration: (its state, metrics by its name).

  Args:
    role: of the run.
    player: its state.
    arrays_of: from `arrays_of`, what others give.
    rows_of: makes its rows, as `make_rows`.
    policy_inputs: words of the prompts of these.
    iteration: int32.
    network: parameters -> the policy with them, for players that are copies.
    score: see `players.Arrays`.
  """

  def loss(params, rows, frozen):
    arrays = Arrays(
      role.player, params, rows, frozen, arrays_of, network, score
    )
    return feeds.call(role.player.loss, arrays)

  def learn(player):
    after, metrics = step.update(
      player, loss, role.tx, rows_of(), policy_inputs, ema_decay=role.average,
      prepare=_prepare(role, policy_inputs, arrays_of, network),
    )  # fmt: skip
    return after, jax.tree.map(lambda x: x.sum(0), metrics)

  def skip(player):
    shapes = jax.eval_shape(learn, player)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return player, zeros

  if role.every == 1 and not role.until:
    player, metrics = learn(player)
  else:
    due = iteration % role.every == 0
    if role.until:
      due &= iteration < role.until
    player, metrics = jax.lax.cond(due, learn, skip, player)
  return player, {f"{role.name}/{k}": v for k, v in metrics.items()}


def _prepare(role: Role, policy_inputs: Any, arrays_of: PlayerArrays, network):
  prepared = prepare_of(role.player.loss)
  if prepared is None:
    return None

  def prepare(params, micros, frozen):
    read_rows = lambda rows: feeds.call(
      prepared.read,
      Arrays(role.player, params, rows, policy_inputs, arrays_of, network),
    )
    columns = prepared.finish(
      jax.lax.stop_gradient(jax.lax.map(read_rows, micros))
    )
    return {**micros, **columns}

  return prepare


def make_rows(
  role: Role,
  trajectory: Trajectory,
  images: Array | None,
  signal: Array,
  mask: Array,
  prompts: PromptBatch,
  plan: Plan,
  key: Array,
) -> dict[str, Any]:
  """The rows of a player in micro-batches: leaves [steps, N, M, ...]."""
  count = role.steps
  plan = dataclasses.replace(
    plan, rows=setup.spread_rows(plan.layout), layout=plan.layout,
    updates=count, split="times", trained=tuple(range(count)),
  )  # fmt: skip
  marked = jnp.where(mask, signal, jnp.nan)
  earned, usable, latents = rollouts.samples_of(
    trajectory, Credit(signal, marked, mask), plan
  )
  keys = rollouts.keys_of(trajectory, prompts.ids, key)
  x0 = latents[-1]
  every = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))

  def noised():
    t = rollouts.draw_times(keys, plan)
    noise = rollouts.draw_noise(keys, x0.shape[1:], count)
    return {"t": t, "noise": noise, "x_t": rollouts.noise_at(x0, noise, t)}

  def shaped():
    value = advantages.whitened(signal, mask)
    return every(rollout.from_groups(value, plan.layout))

  def real():
    references_of = lambda k: _references(
      role, prompts, trajectory, rng.fold_each(keys, k)
    )
    is_valid, images = jax.lax.map(references_of, 1024 + jnp.arange(count))
    return {"real_image": images, "real_mask": is_valid}

  def image():
    assert images is not None
    safe = jnp.where(path.expand(usable, images), images, 0.0)
    return every(safe)

  along = lambda: jnp.moveaxis(latents, 0, 1)
  log_probs = lambda: jnp.asarray(trajectory.log_probs).T

  def next_of(x):
    groups = rollout.to_groups(x, plan.prompts, plan.group)
    return rollout.from_groups(jnp.roll(groups, -1, axis=1), plan.layout)

  has_rivals = any(name.startswith("rival") for name in role.player.reads)
  valid = usable & next_of(usable) if has_rivals else usable

  def keys_of_steps():
    own = rng.fold_each(keys, 2048)
    fold = lambda k: jax.random.key_data(rng.fold_each(own, k))
    return jax.lax.map(fold, jnp.arange(count))

  makers: dict[str, Callable[[], Any]] = {
    "keys": keys_of_steps,
    "image": image,
    "x0": lambda: every(x0),
    "signal": lambda: every(jnp.where(usable, earned, 0.0)),
    "path": lambda: every(along()),
    "path_log_probs": lambda: every(log_probs()),
    "rival_path": lambda: every(next_of(along())),
    "rival_log_probs": lambda: every(next_of(log_probs())),
    "rival": lambda: every(next_of(x0)),
    "rival_signal": lambda: every(next_of(jnp.where(usable, earned, 0.0))),
    "shaped": shaped,
    "mask": lambda: every(valid),
    "prompt_index": lambda: every(jnp.asarray(trajectory.prompt_index)),
  }
  rows: dict[str, Any] = {}
  for name in (*role.player.reads, "prompt_index"):
    if name in ("real_image", "real_mask") and name not in rows:
      rows |= real()
    elif name in ("t", "noise", "x_t") and name not in rows:
      rows |= noised()
    elif name not in rows:
      rows[name] = makers[name]()
  return feeds.cut(rows, plan)


def _references(
  role: Role, prompts: PromptBatch, trajectory: Trajectory, keys: Array
) -> tuple[Array, Array]:
  """(bool [B], images [B, H, W, C]): exact answers, or new renders."""
  index = jnp.asarray(trajectory.prompt_index)
  images = real.images_of(prompts, role.render, index, keys)
  is_valid = jnp.isfinite(images).all((1, 2, 3))
  return is_valid, jnp.where(path.expand(is_valid, images), images, 0.0)


class Audience:
  """The players in one iteration: their outputs and their training.

  Attributes:
    params: averages, which others read.
    scores: {name: [P, G]} of those that are rewards.
    offers: arrays for the advantage, by name.
    images: [P, G, H, W, C], if an advantage or a composition reads them.
    trusted: bool; whether the policy may follow those that are judged.
  """

  def __init__(
    self,
    updater: Updater,
    current: TrainState,
    trajectory: Trajectory,
    prompts: PromptBatch,
    decoder: Params | None,
    base: Params,
    contexts: Any = None,
    late: Late | None = None,
  ):
    loss = updater.loss
    self._contexts = contexts
    self._updater, self._state, self._plan = updater, current, loss.plan
    self._trajectory, self._prompts = trajectory, prompts
    self.params = averages(current.players)
    policy_inputs = jax.tree.map(jnp.asarray, prompts.words)
    now = loss.plan.at(current.step)
    self._network = lambda params: dataclasses.replace(
      loss.network(params, base, policy_inputs), plan=now
    )
    names = updater.advantage.names
    self._images = None
    reads = players.reads(loss.roles, "image") or players.weights(loss.roles)
    shows = "images" in names or methods.named(updater.compose, images=None)
    if reads or shows:
      self._images = images_of(
        loss.trainable.policy, trajectory, loss.plan, decoder
      )
    self.scores = scores(
      loss.roles, self.params, self._images, loss.plan, policy_inputs
    )
    self.trusted: Array | None = None
    self._players = dict(current.players)
    self._judged: dict[str, judge_labels.LabelledSamples] = {}
    self._metrics: dict[str, Metric] = {}
    for role in loss.roles:
      if role.player.judged:
        self._hear(role, late)
      if role.weight:
        self._settle(role, jnp.asarray(prompts.mask)[:, None])
    self.images, self.offers = None, {}
    if shows:
      assert self._images is not None
      self.images = jnp.asarray(
        rollout.to_groups(self._images, loss.plan.prompts, loss.plan.group)
      )
    if "images" in names:
      self.offers["images"] = self.images
    if "step_values" in names:
      self.offers["step_values"] = step_values(
        loss.roles, self.params, trajectory, policy_inputs, now
      )
    if "step_rewards" in names:
      role = next(r for r in loss.roles if r.player.step_rewards)
      self.offers["step_rewards"] = step_rewards(
        role, self.params[role.name], trajectory, policy_inputs, now,
        self._network,
      )  # fmt: skip

  def _hear(self, role: Role, late: Late | None) -> None:
    """Takes in the labels that arrive now; the player keeps the images."""
    name, plan = role.name, self._plan
    assert self._images is not None
    images, labels = self._images, judge_labels.no_labels(self._prompts, plan)
    if late is not None:
      images = rollout.from_groups(jnp.asarray(late.images), plan.layout)
      labels = late.labels[name]
    samples = judge_labels.hear(
      role, self._players[name], jnp.asarray(images), labels, self._state.step,
      plan, functools.partial(score, role, self.params[name]),
    )  # fmt: skip
    self._players[name], self._judged[name] = samples.player, samples
    self._metrics |= samples.metrics
    if role.floor and role.lag:
      earlier = True if self.trusted is None else self.trusted
      self.trusted = samples.trusted & earlier

  def _settle(self, role: Role, mask: Array) -> None:
    """The scores of a player, in units of their own; see `players.Role`."""
    value = self.scores[role.name]
    if role.normalize:
      player = self._players[role.name]
      assert player.scale is not None
      scale = player.scale.add(value, jnp.isfinite(value) & mask)
      self._players[role.name] = dataclasses.replace(player, scale=scale)
      value = jnp.where(jnp.isfinite(value), scale.normalize(value), jnp.nan)
    if role.floor and not role.lag:
      samples = self._judged[role.name]
      labels = samples.marked(role.normalize)
      value = jnp.where(samples.trusted, value, labels)
    self.scores[role.name] = value

  def _score(self, role: Role) -> Callable[..., Array] | None:
    """(parameters, images, prompts' indices) -> scores by the reward it tunes."""
    name, loss = role.player.tunes, self._updater.loss
    if not name:
      return None
    assert self._contexts is not None

    def score(own: Params, images: Array, index: ArrayLike) -> Array:
      contexts = tuning.tuned((role,), self._contexts, {role.name: own})
      prompts = self._prompts.plain
      return loss.scores(contexts, prompts, images, index)[0][name]

    return score

  def _rows(self, role: Role, signal: Array, mask: ArrayLike):
    if role.player.judged:
      return judge_labels.make_rows(role, self._judged[role.name], self._plan)
    key = rng.stream_key(
      self._updater.seed, f"player/{role.name}/rows", self._state.step
    )
    return make_rows(
      role, self._trajectory, self._images, signal, jnp.asarray(mask),
      self._prompts, self._plan, key,
    )  # fmt: skip

  def learn(self, credit: Credit) -> tuple[dict[str, Any], dict[str, Metric]]:
    """(the players after the iteration, metrics), from the samples' rewards."""
    roles, states = self._updater.loss.roles, {}
    metrics = dict(self._metrics)
    policy_inputs = jax.tree.map(jnp.asarray, self._prompts.words)
    signal = jnp.stack(jax.tree.leaves(credit.signal)).sum(0)
    for role in roles:
      samples = self._judged.get(role.name)
      words = policy_inputs if samples is None else samples.words
      states[role.name], player_metrics = train(
        role, self._players[role.name],
        player_arrays(roles, self.params, policy_inputs),
        functools.partial(self._rows, role, signal, credit.mask), words,
        self._state.step, self._network, self._score(role),
      )  # fmt: skip
      metrics |= player_metrics
    metrics |= {
      f"reward/{name}": Mean.of(score, jnp.isfinite(score) & credit.mask)
      for name, score in self.scores.items()
    }
    return states, metrics
