"""Aligns a policy with rewards, online.

prompts -> rollout -> rewards -> composition -> advantage -> objective ->
optimizer, over and over; evaluated before, during and after on held-out
prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import (
  advantages,
  feeds,
  jobs,
  processes,
  setup,
  workdirs,
)
from jaxreward.data import pipeline
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError
from jaxreward.evaluation import hacking, intervals, silence, tables
from jaxreward.feeds import Plan
from jaxreward.jobs import evaluate
from jaxreward.numerics import Mean
from jaxreward.report import grids
from jaxreward.rewards import (
  Reward,
  applies_to,
  for_host,
  host_scores,
  jitted_scores,
  mask_inapplicable,
  places_of,
  probe_gradients,
  probe_images,
  require_one_with_errors,
  require_scores,
  score,
  stds_of,
  steps_of,
  values_of,
)
from jaxreward.setup import (
  adapters,
  align_methods,
  controls,
  credits,
  data_checks,
  encodings,
  evaluators,
  followers,
  late_labels,
  offline,
  plans,
  players,
  policy_users,
  prompt_encoding,
  real,
  references,
  row_scores,
  task_dataset,
  tracking,
  tuning,
  updates,
  videos,
)
from jaxreward.setup import rewards as reward_setup
from jaxreward.training import (
  async_rollout,
  faults,
  loop,
  state,
  utilization,
  weights,
  writers,
)
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.types import ArrayLike, Params, PromptBatch

Scores = Mapping[str, ArrayLike]
Row = Mapping[str, Any]

WARN_EVERY = 25  # steps between checks of the rewards' trends
SILENT = 10  # consecutive steps without a signal before a warning


def make_plan(config: ConfigDict, devices: int) -> Plan:
  """The plan of a run on so many devices."""
  if offline.origin(config) == "rollout":
    advantages.check_group_size(config.rollout.group)
  return plans.make_plan(config, devices, align_methods.run_feed(config))


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  setup.step_table(config, "eval")
  setup.make_steering(config, "eval")
  evaluators.bind(config)
  align_methods.bind_methods(config)
  policy = setup.make_policy(config)
  offline.check(config, policy)
  plan = make_plan(config, devices=1)
  if config.align.get("trained", ""):
    setup.make_trainable(config, policy)
  align_methods.try_methods(config, plan.table)
  prompt_encoding.bind(config, policy)
  adapters.check(config, policy)
  reward_setup.bind(config)
  if plan.feed.needs_scores:
    _refuse_host_rewards(config)
    _require_errors(config)
  late_labels.check(config)
  if offline.origin(config) != "rollout" and not plan.feed.needs_scores:
    return
  if not len(config.rewards):
    raise UserError("config.rewards is empty: there is nothing to learn from")
  roles = players.bind(config)
  players.validate(roles, policy)
  tuning.require_gradients(roles, plan.feed.needs_scores)
  player_weights = players.weights(roles)
  if not player_weights and not any(
    r.get("weight", 1.0) for r in config.rewards.values()
  ):
    raise UserError(
      f"config.rewards.{next(iter(config.rewards))}.weight=0, and no other has a"
      " weight: there is nothing to learn from"
    )


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  data_checks.require_weights(config)
  images, captions = offline.checked(config)
  if captions and processes.is_first():
    data_checks.warn_of_long(config, captions)
  return [
    *images,
    *data_checks.of_prompts(config, "train", "validation", "heldout"),
    *data_checks.of_rewards(config, workdir),
  ]


def make_updater(
  config, trainable, plan, weights_of, rewards=()
) -> updates.Updater:
  """The update's static parts, from the config."""
  objective, feed = align_methods.bind_objective(config)
  roles = players.bind(config)
  every_weight = weights_of | players.weights(roles)
  names = align_methods.apart(config, every_weight)
  loss = updates.Loss(
    trainable, plan, objective, align_methods.bind_regularizers(config, feed),
    tuple(rewards), weights_of | {r.name: r.weight for r in rewards}, names,
    roles,
  )  # fmt: skip
  return updates.Updater(
    **align_methods.bind_methods(config),
    loss=loss,
    weights=every_weight,
    seed=config.seed,
    ema_decay=config.ema.decay,
    rules=followers.bind(config, align_methods.keeps_old(objective, plan.feed)),
    combine=align_methods.bind_combine(config, len(names)),
    hold_policy=config.align.hold_policy,
    adaptive=align_methods.adaptive_weights(config),
  )


@dataclasses.dataclass(frozen=True)
class Programs:
  """The jitted programs of a run on its mesh, built from shapes.

  Attributes:
    trainable: the policy and its trained part.
    base: shapes of the frozen parameters, with their shardings.
    state: shapes of the training state, with their shardings.
    create: (base, trained parameters or None for fresh) -> state at step 0.
    draw: (parameters, iteration, base, prompts, decoder) -> (trajectory,
      pixels, images), jitted.
    update: (state, base, trajectory, scores, prompts) -> (state, metrics),
      jitted; it donates the state.
    finish: (parameters, step, base, trajectory, prompts, decoder) -> images of
      the latents before a step, finished by the ODE; None without credit per
      step.
    encode: (images of files, decoder) -> trajectory, jitted.
    levels: see `advantages.Advantage`.
  """

  trainable: setup.Trainable
  base: Params
  state: state.TrainState
  create: Callable[..., state.TrainState]
  draw: Any
  update: Any
  finish: Any = None
  encode: Any = None
  levels: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
  """The programs and arrays of a run, on its mesh.

  Attributes:
    trainable: see `Programs`.
    base: frozen parameters of the plain policy.
    state: at step 0.
    draw: samples a batch.
    update: runs the optimizer steps of an iteration.
    finish: see `Programs`.
    encode: see `Programs`.
    has_drift: whether `draw` also takes the states of the players.
    levels: see `advantages.Advantage`.
  """

  trainable: setup.Trainable
  base: Params
  state: state.TrainState
  draw: Callable[..., Any]
  update: Callable[..., Any]
  finish: Callable[..., Any] | None = None
  encode: Any = None
  has_drift: bool = False
  levels: Callable[[Any], Any] | None = None

  def beside(self, current: state.TrainState) -> tuple[Any, Any]:
    """(states of the players, noise levels) that `draw` takes, or None."""
    states = current.players if self.has_drift else None
    levels = None if self.levels is None else self.levels(current.stats)
    return states, levels

  def sample(
    self,
    current: state.TrainState,
    base: Params,
    prompts: Any,
    decoder: Params | None = None,
  ):
    """Samples of the iteration that a state is about to run."""
    sampler_params = async_rollout.draw_params(current)
    return self.draw(
      sampler_params, current.step, base, prompts, decoder,
      *self.beside(current),
    )  # fmt: skip


def make_programs(
  config, mesh, policy, base, plan, weights_of, rewards=()
) -> Programs:
  """The programs of a run; traced and compiled on their first call.

  Args:
    config: of the run.
    mesh: has to be set where the programs are called or lowered.
    policy: the architecture.
    base: its parameters, or their shapes.
    plan: from `make_plan`.
    weights_of: weights of the rewards that are trained on.
    rewards: those that the loss differentiates.
  """
  trainable = setup.make_trainable(config, policy)
  updater = make_updater(config, trainable, plan, weights_of, rewards)
  sizes = advantages.Sizes(
    plan.prompts, plan.group, len(plan.table.t),
    functools.partial(setup.prompt_ids, config),
  )  # fmt: skip

  def create(base, start=None):
    trained = trainable.init(base) if start is None else start
    return state.create(
      trained, updater.tx,
      references=updater.rules, overlap=config.align.overlap,
      stats=updater.init_stats(sizes), gradients=len(updater.loss.names),
      players=players.create(
        updater.loss.roles, config.seed, policy, trained, len(plan.layout.mask)
      ),
      weights={k: adapt.least for k, adapt in updater.adaptive.items()},
      average=config.ema.decay > 0,
    )  # fmt: skip

  base = setup.shapes(base, trainable.plain.sharding_rules, mesh)
  fresh = jax.eval_shape(create, base)
  fresh = setup.shapes(
    fresh, trainable.policy.sharding_rules, mesh, params=fresh.params
  )
  fresh = fresh.replace(
    players=players.placed(
      updater.loss.roles, fresh.players, mesh, trainable.policy.sharding_rules
    )
  )
  places = jax.tree.map(lambda x: x.sharding, fresh)

  @jax.jit
  def draw(
    params, iteration, base, batch, decoder=None, states=None, levels=None
  ):
    trajectory, pixels = updates.sample(
      trainable.policy, trainable.merge(params, base), batch, plan,
      seed=config.seed, iteration=iteration, decoder=decoder,
      roles=updater.loss.roles, states=states, levels=levels,
    )  # fmt: skip
    return trajectory, pixels, jnp.clip(pixels, 0, 1)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
  def update(
    current, base, trajectory, scores, batch, contexts=None, decoder=None,
    step_scores=None, offered=None, late=None,
  ):  # fmt: skip
    return updates.update(
      updater, current, base, trajectory, scores, batch, contexts, decoder,
      step_scores, offered, late,
    )  # fmt: skip

  @jax.jit
  def finish(params, first, base, trajectory, batch, decoder=None):
    return updates.finish(
      trainable.policy, trainable.merge(params, base), trajectory, batch, plan,
      first=first, jumps=updater.advantage.jumps, decoder=decoder,
    )  # fmt: skip

  @jax.jit
  def encode(images, decoder=None):
    to_latents = offline.encoder(config, trainable.policy)
    return offline.samples(to_latents, images, plan, decoder)

  create = jax.jit(create, out_shardings=places)
  return Programs(
    trainable, base, fresh, create, draw, update,
    finish if updater.advantage.needs_steps else None, encode,
    updater.advantage.levels,
  )  # fmt: skip


def prepare(config, mesh, policy, base, plan, weights_of, rewards=()) -> Parts:
  """Makes the programs and places the arrays; call it under the mesh."""
  programs = make_programs(
    config, mesh, policy, base, plan, weights_of, rewards
  )
  setup.log_placement(programs.state, programs.base)
  base = setup.put(base, programs.base)
  start = adapters.start(config, policy, programs.trainable.init)
  initial_state = programs.create(base, start)
  return Parts(
    programs.trainable, base, initial_state, programs.draw, programs.update, programs.finish,
    programs.encode, plan.drift is not None, programs.levels,
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=2)
def _of_finite(
  scores: Scores, images, weights: tuple, prompts: PromptBatch
) -> tuple[Scores, Scores, Scores, dict[str, Any]]:
  """(scores, scores masked to 0 where inapplicable, applicability, failures).

  Scores of non-finite images are NaN: some rewards would give such an image a
  number, such as the detector, which sees black.
  """
  usable = jnp.isfinite(images).all((2, 3, 4))
  scores = {k: jnp.where(usable, v, jnp.nan) for k, v in scores.items()}
  weight_of = dict(weights)
  masked_scores, _ = mask_inapplicable(scores, weight_of, prompts)
  applies = {
    k: jnp.broadcast_to(
      applies_to(weight_of.get(k, 1.0), prompts), usable.shape
    )
    for k in scores
  }
  failed = {
    f"{faults.SCORES}{k}": jnp.sum(~jnp.isfinite(v))
    for k, v in masked_scores.items()
  }
  return (
    scores,
    masked_scores,
    applies,
    failed | {faults.PICTURES: jnp.sum(~usable)},
  )


def _panel(
  task, images, measures, prompts, scores, rewards, heldout, update
) -> dict[str, Mean]:
  """The over-optimisation panel of one iteration; jitted by the caller.

  Images with a non-finite pixel are excluded.
  """
  usable = jnp.isfinite(images).all((2, 3, 4))
  mask = jnp.asarray(prompts.mask)[:, None] & usable
  masked_scores, weights_of = mask_inapplicable(scores, rewards, prompts)
  terms = [weights_of[name] * masked_scores[name] for name in rewards]
  trained = jnp.stack(terms).sum(0)
  panel = hacking.measure_panel(
    images, mask,
    trained=trained,
    heldout=scores.get(heldout),
    strict=measures.get("strict"), texture=measures.get("texture"),
    out_of_range=measures["out_of_range"],
    kl=update.get("kl"),
    clip_fraction_high=update.get("clip_fraction_high"),
    clip_fraction_low=update.get("clip_fraction_low"),
  )  # fmt: skip
  if "strict" not in measures:
    return panel.metrics()
  accuracies = {
    f"train/accuracy/{name}": Mean.of(
      measures["strict"], mask & (jnp.asarray(prompts.category) == i)[:, None]
    )
    for i, name in task.categories.items()
  }
  return panel.metrics() | accuracies


def _step_scores(
  finish: Callable[[int], ArrayLike],
  rewards: Mapping[str, Reward],
  final: Scores,
  batch: PromptBatch,
  steps: int,
) -> dict[str, jax.Array]:
  """Scores of every step's latents, and of the samples: {name: [P, G, T + 1]}.

  Args:
    finish: step -> images of its latents, finished by the ODE.
    rewards: the trained ones.
    final: their scores of the samples, [P, G].
    batch: P prompts.
    steps: T.
  """

  def scores_before(first: int) -> dict[str, jax.Array]:
    images = jnp.asarray(finish(first))
    usable = jnp.isfinite(images).all((2, 3, 4))
    scores = score(rewards, images, batch)[0]
    return {k: jnp.where(usable, v, jnp.nan) for k, v in scores.items()}

  if not rewards:
    return {}
  rows = [scores_before(first) for first in range(steps)]
  return {
    name: jnp.stack([*(row[name] for row in rows), final[name]], axis=-1)
    for name in final
  }


def differentiated_rewards(
  plan: Plan, rewards: Mapping[str, Reward], weights_of: Mapping[str, Any]
) -> dict[str, Reward]:
  """The rewards that the loss takes a gradient of; none for most feeds."""
  if not plan.feed.needs_scores:
    return {}
  return {name: rewards[name] for name, w in weights_of.items() if w != 0}


def _require_gradients(
  rewards: Mapping[str, Reward],
  shape: tuple[int, ...],
  batch: PromptBatch,
  slopes: Mapping[str, float],
) -> None:
  """Checks the gradient of every reward at noise images.

  Args:
    rewards: that the loss differentiates.
    shape: of an iteration's images, [P, G, H, W, C].
    batch: P prompts.
    slopes: what is known of some, see `probe_gradients`.

  Raises:
    UserError: a reward without a gradient, or with a non-finite one.
  """
  images = probe_images(shape)
  others = {k: r for k, r in rewards.items() if k not in slopes}
  slopes = dict(slopes) | probe_gradients(others, images, batch)
  for name, largest in slopes.items():
    if not 0 < largest < math.inf:
      complaint = "is zero" if largest == 0 else f"is {largest}"
      raise UserError(
        f"config.rewards.{name}: config.objective.name takes the reward's"
        f" gradient in the image, which {complaint} at an image of noise; take a"
        " differentiable reward, or an objective that reads scores alone"
      )


def _refuse_host_rewards(config: ConfigDict) -> None:
  """Refuses rewards on the host where their gradient is taken."""
  for name, entry in reward_setup.bind(config, ("rewards",)).items():
    if getattr(entry.fn, "is_host", False):
      raise UserError(
        f"config.rewards.{name}: it runs on the host and has no gradient, which"
        f' config.objective.name="{config.objective.name}" takes; use a reward'
        " in JAX"
      )


def _require_errors(config: ConfigDict) -> None:
  """Refuses rewards without errors where a method reads them."""
  names = {n for fn in align_methods.readers(config) for n in feeds.reads(fn)}
  if names & {"errors", "near_errors"}:
    entries = reward_setup.bind(config, ("rewards",)).items()
    gives = lambda fn: getattr(fn, "gives_errors", False)
    require_one_with_errors([k for k, entry in entries if gives(entry.fn)])


def _trained(scores: Scores, weights_of: Mapping[str, Any]) -> Scores:
  """The scores that are trained on, one per reward."""
  for name in weights_of:
    several = [k for k in scores if k.startswith(f"{name}/")]
    if name not in scores:
      raise UserError(
        f"config.rewards.{name}: the reward returned several scores"
        f" ({', '.join(several)}); one that is trained on returns one"
      )
  return {name: scores[name] for name in weights_of}


def _chosen(arrays: Scores, names: Iterable[str]) -> dict[str, Any]:
  return {name: arrays[name] for name in names if name in arrays}


class Watch:
  """Checks every row: stops on wrong ratios, warns of diverging rewards.

  Attributes:
    bound: largest `log_prob_gap`, and `stored_gap` where ratios read it.
    history: the rows so far; those of a resumed run go in first.
    patience: consecutive steps without a signal before a warning.
    reads_stored: whether ratios compare with log-probabilities of the rollout.
  """

  def __init__(
    self,
    bound: float,
    history: Iterable[Row] = (),
    patience: int = SILENT,
    reads_stored: bool = True,
  ):
    self.bound, self.patience = bound, patience
    self.reads_stored = reads_stored
    self.history = list(history)

  def __call__(self, n: int, row: Row) -> None:
    # A gap that is not finite belongs to an update that was skipped.
    gap = row.get("log_prob_gap", 0.0)
    if self.reads_stored:
      gap = max(gap, row.get("stored_gap", 0.0))
    if gap > self.bound:
      raise UserError(
        f"align: at step {n} the update's log-probabilities differ from the"
        f" rollout's by {gap:.3g} before any update, more than"
        f" config.align.log_prob_gap_bound={self.bound:g}: ratios would be"
        " wrong"
      )
    self.history.append(dict(row))
    if message := silence.warning(self.history, self.patience):
      logging.warning("step %d: %s", n, message)
    if n % WARN_EVERY == 0:
      self._warn(n)

  def _warn(self, n: int) -> None:
    """Warns when trained and held-out reward diverge."""
    trained, heldout = (
      [r.get(f"panel/{side}_reward") for r in self.history]
      for side in ("trained", "heldout")
    )
    message = hacking.divergence_warning(trained, heldout)
    if message:
      logging.warning("step %d: %s", n, message)


def _shown(is_drawn: bool) -> tuple[str, ...]:
  """Metrics of the progress line."""
  first = ("reward", "panel/accuracy") if is_drawn else ("loss",)
  return (*first, "eval/accuracy")


def _best(config: ConfigDict, heldout: str | None) -> str:
  """The metric that marks the best checkpoint; the held-out reward's if any."""
  if config.checkpoint.best or heldout is None:
    return config.checkpoint.best
  return f"eval/reward/{heldout}"


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Aligns `config.init.checkpoint`, writes weights, evaluation and grids."""
  check(config)
  mesh = setup.make_mesh(config)
  policy = setup.make_policy(config)
  plan = make_plan(config, mesh_lib.round_up_to_devices(1, mesh))
  batches = setup.prompt_batches(config)
  if offline.draws_files(config, policy):
    config = task_dataset.write(config, policy, workdir)
  files = offline.batches(config)
  rewards = reward_setup.load(config, workdir, mesh=mesh)
  files = row_scores.conditioned(config, files, rewards)
  weights_of = {k: r.weight for k, r in rewards.items() if k in config.rewards}
  differentiated = differentiated_rewards(plan, rewards, weights_of)
  words = controls.words_of(config)
  controls.require(words, differentiated)
  if files is not None:
    weights_of = offline.WEIGHTS
  every_weight = tuple((k, r.weight) for k, r in rewards.items())
  heldout = next((k for k in rewards if k not in weights_of), None)
  if heldout is None:
    logging.info(
      "nothing is held out, so over-optimisation cannot be seen; a reward under"
      " config.heldout_rewards is watched and not trained on"
    )

  with jax.set_mesh(mesh):
    decoder = setup.put_decoder(config, policy, mesh)
    cache, latents_of = offline.encoding_cache(config, policy, workdir), None
    if cache is not None:
      encoders = encodings.Encoders(config, policy, mesh, decoder)
      latents_of = encodings.latents_of(encoders, cache)
    encode = prompt_encoding.make_encode(
      config, policy, mesh, decoder, cache=cache
    )
    base = setup.load_params(config, policy)
    players.require_references(players.bind(config), config, batches)
    real.require(plan, config, batches)
    parts = prepare(
      config, mesh, policy, base, plan, weights_of, differentiated.values()
    )
    trainable, base = parts.trainable, parts.base
    meter = utilization.Utilization(list(mesh.devices.flat))
    parts = dataclasses.replace(
      parts, draw=meter.watch(parts.draw), update=meter.watch(parts.update),
      finish=meter.watch(parts.finish),
    )  # fmt: skip
    put = pipeline.place_batch(mesh, replicated=True)

    task = setup.make_task(config)
    measure = jax.jit(task.measure)

    @jax.jit
    def panel(images, measures, batch, scores, update_metrics):
      return _panel(
        task,
        images,
        measures,
        batch,
        scores,
        weights_of,
        heldout,
        update_metrics,
      )

    reference_scores = None
    if references.are_wanted(config):
      untrained = jax.tree.map(jnp.copy, async_rollout.draw_params(parts.state))
      reference_scores = references.References(
        lambda batch: parts.draw(
          untrained, jnp.int32(references.ITERATION), base, batch, decoder
        )[2][:, : plan.group - plan.real],
        {name: rewards[name] for name in weights_of},
      )  # fmt: skip

    timer = loop.Timer()
    advantage = align_methods.bind_advantage(config)
    if differentiated or "stds" in advantage.names:
      first = put(encode(batches(0) if files is None else files(0).prompts))
      images = offline.image_shapes(config, policy, plan)
      if files is None:
        _, _, images = jax.eval_shape(
          parts.draw, async_rollout.draw_params(parts.state), jnp.int32(0),
          base, first, decoder,
        )  # fmt: skip
      slopes = tuning.require_effect(
        players.bind(config), parts.state.players, differentiated,
        images.shape, first,
      )  # fmt: skip
      _require_gradients(differentiated, images.shape, first, slopes)
      if files is None:
        trained = {name: rewards[name] for name in weights_of}
        credits.require_stds(advantage, trained, images, first)

    def draw(params, n, current):
      """The device work of iteration n that needs nothing from the host."""
      batch = put(encode(batches(n)))
      trajectory, pixels, images = parts.draw(
        params,
        jnp.int32(n),
        base,
        batch,
        decoder,
        *parts.beside(current),
      )
      # Measured once, for rewards of the detector and for the panel.
      measures = measure(images, pixels, batch)
      results = jitted_scores(rewards, images, batch, measures)
      host_images = for_host(rewards, images)
      return batch, trajectory, images, host_images, measures, results

    samples = async_rollout.Samples(draw, config.align.iterations)
    roles = players.bind(config)
    judges = late_labels.Judges(
      roles, late_labels.load(config, workdir, roles, mesh),
      lambda n: put(encode(batches(n))), plan, config.align.iterations, mesh,
    )  # fmt: skip

    def iterate(current, n):
      rollout_data = samples.of(current, n)
      batch, trajectory, images, host_images, measures, results = rollout_data
      timer("data", batch)
      timer("sample", (trajectory, images))
      labels_due = judges(n, images, batch)
      timer("detect", measures)
      results = results | host_scores(rewards, host_images, batch)
      scores = values_of(results)
      scores, masked_scores, applies, failures = timer(
        "reward", _of_finite(scores, images, every_weight, batch.plain)
      )
      if failures[faults.PICTURES] == images.shape[0] * images.shape[1]:
        raise UserError(
          f"align: no picture of step {n + 1} is finite; the velocities of"
          f" config.init.checkpoint={config.init.checkpoint} are not"
        )
      usable = _trained(scores, weights_of)
      for name in usable:
        require_scores({name: masked_scores[name]}, applies[name])
      require_scores(
        {
          " and ".join(usable): jnp.stack(
            [masked_scores[k] for k in usable]
          ).sum(0)
        },
        functools.reduce(jnp.logical_or, (applies[name] for name in usable)),
      )
      step_scores = None
      if parts.finish is not None:
        sampler_params = current.sampler_params
        if sampler_params is None:
          sampler_params = async_rollout.draw_params(current)
        finish_from = lambda first: parts.finish(
          sampler_params, jnp.int32(first), base, trajectory, batch, decoder
        )
        reported_steps = _chosen(steps_of(results), usable)
        other_scores = {
          k: v for k, v in usable.items() if k not in reported_steps
        }
        trained = {name: rewards[name] for name in other_scores}
        step_scores = reported_steps | timer(
          "finish",
          _step_scores(
            finish_from, trained, other_scores, batch, len(plan.table.t)
          ),
        )
      contexts = None
      if plan.feed.needs_scores:
        contexts = controls.contexts(differentiated, batch, words)
      offered = {
        "stds": _chosen(stds_of(results), usable),
        "places": _chosen(places_of(results), usable),
      }
      if reference_scores is not None:
        offered["references"] = timer("reference", put(reference_scores(batch)))
      late = None if labels_due is None else timer("judge", labels_due())
      current, metrics = parts.update(
        current, base, trajectory, usable, batch, contexts, decoder,
        step_scores, offered, late,
      )  # fmt: skip
      timer("update", metrics)
      signs = timer("panel", panel(images, measures, batch, scores, metrics))
      reward_means = {
        f"reward/{k}": Mean.of(v, jnp.isfinite(v) & applies[k])
        for k, v in scores.items()
      }
      samples.begin_next(current, n + 1)
      return current, {**metrics, **signs, **reward_means, **failures}

    next_rows: dict[int, offline.RowBatch] = {}

    def learn(current, n):
      """As `iterate`, on rows of files: no sampling and no rewards."""
      assert files is not None
      rows = next_rows.pop(n) if n in next_rows else files(n)
      batch = put(encode(rows.prompts))
      images = rows.images
      if latents_of is not None:
        images = latents_of(np.asarray(images))
      trajectory = parts.encode(put(images), decoder)
      timer("data", trajectory)
      contexts = None
      if plan.feed.needs_scores:
        contexts = controls.contexts(differentiated, batch, words)
      current, metrics = parts.update(
        current, base, trajectory, {offline.SCORE: put(rows.scores)}, batch,
        contexts, decoder,
      )  # fmt: skip
      if n + 1 < config.align.iterations:  # while the devices learn
        next_rows[n + 1] = files(n + 1)
      timer("update", metrics)
      return current, metrics

    evaluator = evaluate.make_evaluator(
      config, trainable.policy, rewards, samples=config.eval.quick_samples,
      split="validation", encode=encode, decoder=decoder,
    )  # fmt: skip

    frames = config.video.frames if videos.is_video(trainable.plain) else 1
    watch_images = evaluate.Watch(workdir, evaluator.data, frames)

    def quick_evaluation(current, n):
      params = trainable.merge(current.averaged, base)
      numbers = evaluator.row(params, functools.partial(watch_images, n))
      return numbers | {"eval/kl": final.kl(params)}

    final = Final(config, workdir, trainable, rewards, base, encode, decoder)
    final.before()
    views = tracking.openers(config, workdir, "align")
    with (
      writers.MetricsWriter(
        workdir, "align", order=config.jobs, trackers=views
      ) as writer,
      Checkpoints(
        workdir / "checkpoints" / "align", keep=config.checkpoint.keep
      ) as checkpoints,
      judges,
    ):
      late = config.align.overlap  # ratios are not 1 then, and should not be
      watch = Watch(
        math.inf if late else config.align.log_prob_gap_bound,
        patience=min(SILENT, config.align.iterations),
        reads_stored=plan.old_log_prob == "stored",
      )
      job = loop.Loop(
        "align", config.align.iterations, iterate if files is None else learn,
        writer, checkpoints,
        save_every=config.checkpoint.every, evaluate=quick_evaluation,
        evaluate_every=config.eval.every, evaluated=jobs.Refresh(workdir), check=watch, timer=timer,
        shown=_shown(files is None),
        best=_best(config, heldout), grace=config.checkpoint.grace,
        profile=setup.profile_folder(config, workdir), utilization=meter,
      )  # fmt: skip
      current, start, _ = loop.restore(job, parts.state)
      judges.resume(current, start)
      watch.history += writers.read_rows(
        workdir / writers.METRICS_FILE, "align"
      )
      current = loop.run(job, current, start)
    final.after(current)


class Final:
  """The full evaluations before and after, and the files they write."""

  def __init__(
    self, config, workdir, trainable, rewards, base, encode, decoder
  ):
    self.config, self.workdir, self.base = config, workdir, base
    self.trainable, self.encode, self.rewards = trainable, encode, rewards
    self.evaluator = evaluate.make_evaluator(
      config, trainable.plain, rewards, encode=encode, decoder=decoder
    )
    self.images_file = workdir / "grids" / "before.npz"

  def before(self) -> None:
    """Evaluates the base policy, once per run."""
    if processes.on_first(self._is_done_before):
      return
    results, images, strict = evaluate.at_scales(
      self.evaluator, self.base, self.config.eval.guidance_scales,
      name="base policy",
    )  # fmt: skip
    evaluate.save_images(self.images_file, images, strict)
    evaluate.merge(self.workdir, {"before": results})

  def _is_done_before(self) -> bool:
    record = workdirs.read_record(self.workdir / evaluate.EVALUATION_FILE)
    return "before" in record and self.images_file.exists()

  def after(self, current: state.TrainState) -> None:
    """Evaluates the aligned policy; writes weights and grids."""
    trainable, config = self.trainable, self.config
    params = trainable.merge(current.averaged, self.base)
    evaluator = dataclasses.replace(self.evaluator, policy=trainable.policy)
    results, images, strict = evaluate.at_scales(
      evaluator, params, config.eval.guidance_scales, name="aligned policy"
    )
    evaluate.add_kl(results, self.kl(params))
    images_before, strict_before = evaluate.load_images(self.images_file)
    data = self.evaluator.data
    entries: dict[str, Any] = {"after": results}
    if np.isfinite(strict).any():
      gain = intervals.paired_bootstrap(
        strict_before.reshape(-1), strict.reshape(-1),
        clusters=data.meanings, strata=data.kinds,
      )  # fmt: skip
      entries["difference"] = gain._asdict()
    tested = policy_users.evaluate(
      config, trainable.plain, trainable.export(current.averaged, self.base),
      self.base,
    )  # fmt: skip
    if tested:
      entries["policy_users"] = tested
    by_request = row_scores.evaluate(
      config, trainable.plain, trainable.export(current.averaged, self.base),
      self.rewards,
    )  # fmt: skip
    if by_request:
      entries["scores_asked_for"] = by_request
    strips = evaluate.save_strips(
      self.workdir, (self.evaluator, self.base), (evaluator, params),
      config.eval.guidance_scales[0],
    )  # fmt: skip
    if strips:
      entries["strips"] = strips
    evaluation = evaluate.merge(self.workdir, entries)
    weights.save_params(
      self.workdir / setup.POLICY_FILE,
      processes.fetch(trainable.export(current.averaged, self.base)),
    )
    texts, rows = evaluate.cards(
      data, images_before, strict_before, images, strict
    )
    beside = {name: getattr(data.batch, name) for name in grids.BESIDE}
    grids.save_cards(
      self.workdir / "grids" / "cards.npz",
      images_before[rows, 0], images[rows, 0], texts,
      {k: None if x is None else x[rows] for k, x in beside.items()},
      config.video.frames if videos.is_video(trainable.plain) else 1,
    )  # fmt: skip
    logging.info("\n%s", tables.evaluation_table(evaluation))

  def kl(self, params) -> float:
    """Path KL to the base, in nats; see `evaluate.path_kl`."""
    return float(self._path_kl(params, self.base))

  @functools.cached_property
  def _path_kl(self):
    return evaluate.base_kl(
      self.config,
      self.trainable.policy,
      self.trainable.plain,
      self.evaluator.data,
      self.encode,
    )
