"""Trains a reward model on preferences between images of one prompt.

Images are samples of the policy, renders and corrupted renders, and the detector
labels which of two is better, with a share of flipped labels; or they come from a
file of pairs. The model is tested on held-out prompts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import jobs, paths, processes, setup, tasks
from jaxreward.data import pipeline, preferences
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError, nearest
from jaxreward.evaluation import tables
from jaxreward.jobs import evaluate
from jaxreward.report import hardest
from jaxreward.reward_models import RewardModel
from jaxreward.setup import (
  checks,
  curation,
  data_checks,
  preference_data,
  prompt_encoding,
  reward_labels,
  reward_losses,
  reward_model,
  reward_optimizer,
  reward_starts,
  task_preferences,
  tracking,
  user_tests,
)
from jaxreward.setup.heldout import Heldout
from jaxreward.training import loop, state, step, weights, writers
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.types import Params

# Metrics that may end a run, the higher the better.
STOPPING = (
  "eval/pair_accuracy",
  "eval/pair_accuracy_strict",
  "eval/pair_log_likelihood",
)


def make_update(config: ConfigDict, loss_fn, tx, places, mesh):
  """(state, rows, frozen parameters) -> (state, metrics), jitted; see
  `preference_data.make_batch`."""
  options = config.train_reward
  batch_of = preference_data.make_batch(config, mesh)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
  def update(current, data, frozen=None):
    batch = batch_of(data, current.step)
    current, metrics = step.update(
      current, loss_fn, tx, jax.tree.map(lambda x: x[None, None], batch), frozen,
      ema_decay=options.ema_decay, ema_schedule="warmup",
    )  # fmt: skip
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
    return dataclasses.replace(current, step=current.step + 1), metrics

  return update


def _check_task(config: ConfigDict) -> None:
  if setup.make_task(config).preferences is None:
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": the detector, which says'
      " what of two pictures is better, here judges scenes alone; give pairs of"
      " your own in config.train_reward.source"
    )


def _check_words(config: ConfigDict, model: RewardModel) -> None:
  """Refuses a backbone that reads another task's words or pictures."""
  task = setup.make_task(config)
  language = reward_model.spoken(config.reward_model.backbone)
  if language and task.language and language != task.language:
    raise UserError(
      f'config.reward_model.backbone.language="{language}": the prompts are in'
      f' the words of the {task.language}; set it to "{task.language}"'
    )
  side = model.backbone.image_shape[0]
  if language and task.side and side != task.side:
    raise UserError(
      f"config.reward_model.backbone.image_size={side}: the task's pictures have"
      f" {task.side} pixels a side; set it to {task.side}"
    )


def _check_stopping(config: ConfigDict) -> None:
  options = config.train_reward
  stopping = options.early_stopping
  field = f"config.train_reward.early_stopping.patience={stopping.patience}"
  if stopping.patience < 0:
    raise UserError(f"{field}: it must be 0, for never, or more")
  if stopping.metric not in STOPPING:
    raise UserError(
      f'config.train_reward.early_stopping.metric="{stopping.metric}" is not'
      f" known{nearest(stopping.metric, STOPPING)}; there are"
      f" {', '.join(STOPPING)}"
    )
  for name in ("evaluate_every", "save_every"):
    if stopping.patience and not options[name]:
      raise UserError(
        f"{field}: the best step has to be looked for and saved; set"
        f" config.train_reward.{name}"
      )


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  options = config.train_reward
  if options.source in tasks.OWN:
    policy = setup.make_policy(config)
    prompt_encoding.bind(config, policy)
    _check_task(config)
    task_preferences.plan_of(config)
    if policy.takes_source:
      raise UserError(
        f'config.train_reward.source="{options.source}": the policy'
        f' "{config.model.name}"'
        " starts from pictures, and pairs are drawn from words alone; give pairs"
        " of your own in config.train_reward.source"
      )
  else:
    preference_data.options(config)
  model = reward_model.make(config)
  _check_words(config, model)
  if options.init_from_policy and model.backbone.from_policy is None:
    raise UserError(
      "config.train_reward.init_from_policy=true: config.reward_model.backbone"
      f'.name="{config.reward_model.backbone.name}" is another network than the'
      " policy; set it to false"
    )
  preference_data.check_frames(config)
  task_preferences.check_gallery(config)
  task_preferences.check_estimates(config)
  task_preferences.check_reference(config, model)
  reward_labels.check(config)
  user_tests.check(config)
  _check_stopping(config)
  curation.bind(config)
  reward_optimizer.make(config, model)
  reward_losses.check(config, model)
  checks.validate_options(
    functools.partial(
      preferences.preference_probabilities,
      label_noise=options.label_noise, margin=options.margin, ties=options.ties,
    ),
    jax.eval_shape(lambda: jax.random.key(0)),
    jax.ShapeDtypeStruct((2, 2), jnp.float32),
    field="train_reward",
  )  # fmt: skip


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  del workdir
  source = config.train_reward.source
  if source in tasks.OWN or config.train_reward.init_from_policy:
    data_checks.require_weights(config)
  if path := config.train_reward.init_from:
    reward_model.load(paths.find(path, "config.train_reward.init_from"))
  for spec in task_preferences.gallery(config):
    data_checks.require_weights(config, spec, task_preferences.GALLERY)
  if source not in tasks.OWN:
    model = reward_model.make(config)
    sides, rows = preference_data.load(config, model)
    reward_losses.require_labels(
      config, model, sides.train.rows, sides.heldout.rows
    )
    return rows
  return data_checks.of_prompts(config, "train", "validation", "heldout")


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Trains, tests and exports workdir/reward_model.safetensors."""
  options = config.train_reward
  mesh = setup.make_mesh(config)
  model = reward_model.make(config)
  tx = reward_optimizer.make(config, model)
  with jax.set_mesh(mesh):
    rows, heldout, base, counts = _data(config, workdir, model, mesh)
    watched, tested = heldout, heldout
    stopping = options.early_stopping
    if stopping.patience:
      watched, tested = heldout.halves(config.seed)
    batch_of = preference_data.make_batch(config, mesh)
    params, frozen = reward_starts.start(
      config, model, base, lambda: batch_of(rows(0), 0)
    )
    if frozen is not None:
      rules = model.sharding_rules
      frozen = setup.put(frozen, setup.shapes(frozen, rules, mesh))
    fresh = jax.jit(
      lambda p: state.create(p, tx, average=options.ema_decay > 0)
    )(params)
    placed = setup.shapes(fresh, model.sharding_rules, mesh, params)
    setup.log_placement(placed)
    fresh = setup.put(fresh, placed)
    places = jax.tree.map(lambda x: x.sharding, placed)
    loss_fn = reward_losses.preference_loss(config, model)
    update = make_update(config, loss_fn, tx, places, mesh)
    score = watched.scorer(model)
    export = jax.jit(model.export)
    timer = loop.Timer()
    categories = setup.make_task(config).categories

    def iterate(current, n):
      current, metrics = update(current, rows(n), frozen)
      timer("update", metrics)
      return current, metrics

    def quick_evaluation(current, n):
      results = reward_model.evaluate(
        watched.rows, score(export(current.averaged, frozen)), config.seed,
        categories,
      )  # fmt: skip
      shares = {"": results, "_strict": results["strict"]}
      row = {
        f"eval/pair_accuracy{name}": share["accuracy"]
        for name, share in shares.items()
        if share["n"]
      }
      if stopping.patience and results["n"]:
        row["eval/pair_log_likelihood"] = results["log_likelihood"]
      return row

    views = tracking.openers(config, workdir, "train_reward")
    with (
      writers.MetricsWriter(workdir, "train_reward", trackers=views) as writer,
      Checkpoints(
        workdir / "checkpoints" / "train_reward", keep=config.checkpoint.keep
      ) as checkpoints,
    ):
      job = loop.Loop(
        "train_reward", options.steps, iterate, writer, checkpoints,
        save_every=options.save_every, evaluate=quick_evaluation,
        evaluate_every=options.evaluate_every, evaluated=jobs.Refresh(workdir),
        shown=("loss", "pair_accuracy", "eval/pair_accuracy_strict"),
        timer=timer, grace=config.checkpoint.grace,
        profile=setup.profile_folder(config, workdir),
        best=stopping.metric if stopping.patience else config.checkpoint.best,
        patience=stopping.patience,
      )  # fmt: skip
      current, start, _ = loop.restore(job, fresh)
      current = loop.run(job, current, start)
    params_full = reward_model.fitted(
      model, export(current.averaged, frozen), rows,
      preference_data.make_batch(config, mesh), options.steps,
    )  # fmt: skip
    scores = tested.scorer(model)(params_full)
    of_users = user_tests.evaluate(config, model, params_full, tested.rows)
    temperature = None
    if stopping.patience:
      temperature = reward_model.temperature(
        watched.rows, score(params_full), config.seed
      )
  params_full = processes.fetch(params_full)
  finish(config, workdir, params_full, tested, scores, temperature)
  for name, numbers in (
    ("preferences", heldout.counts()),
    ("curation", counts),
    ("users", of_users),
  ):
    if numbers:
      evaluate.merge(workdir, {name: numbers})


def _data(config: ConfigDict, workdir: epath.Path, model: RewardModel, mesh):
  """(step -> rows for the update, held-out rows, the policy, curation)."""
  source = config.train_reward.source
  start = time.monotonic()
  policy, base = setup.make_policy(config), None
  if source in tasks.OWN or config.train_reward.init_from_policy:
    base = setup.load_params(config, policy)
  params = functools.partial(reward_starts.whole, config, model, base)
  if source not in tasks.OWN:
    rows, heldout, counts = _file(config, model, params, mesh)
    return rows, heldout, base, counts
  sides = task_preferences.scene_preferences(
    config, policy, base, model.backbone.read, workdir
  )
  train, heldout = jax.device_put(sides, mesh_lib.replicated(mesh))
  answers = int(jnp.isfinite(train.prob).sum()) // 2
  if not answers:
    raise UserError(
      "there is no training pair with an answer: every pair is a tie; lower"
      " config.train_reward.margin or give other pictures"
    )
  logging.info(
    "%d images of %d prompts, %d answered pairs, %d images held out; %.0f s",
    train.images.shape[0], train.tokens.shape[0], answers,
    heldout.images.shape[0], time.monotonic() - start,
  )  # fmt: skip
  reward_losses.require_labels(config, model, train)
  train, counts = curation.curated(config, model, params, train)
  train = jax.device_put(train, mesh_lib.replicated(mesh))
  texts = functools.partial(task_preferences.texts_of, config, model, heldout)
  return (lambda n: train), Heldout(heldout, texts=texts), base, counts


def _file(
  config: ConfigDict, model: RewardModel, params: Callable[[], Params], mesh
):
  """(step -> packed batch, held-out rows, curation) of `train_reward.source`."""
  sides, _ = preference_data.load(config, model)
  preference_data.log(config, sides)
  train, heldout = preference_data.stores(config, model, sides)
  rows, curation_counts = curation.curated(
    config,
    model,
    params,
    sides.train.rows,
    lambda index: train.stills(index)[0],
  )
  table = dataclasses.replace(sides.train, rows=rows)
  batches = preference_data.batches(config, table, train, mesh)
  place = pipeline.place_batch(mesh, local=True)

  def counts() -> dict[str, int]:
    return {**sides.counts, "broken_images": train.broken + heldout.broken}

  texts = lambda: sides.heldout.texts
  held = Heldout(sides.heldout.rows, heldout, counts, texts)
  return (lambda n: place(batches(n))), held, curation_counts


def finish(
  config: ConfigDict,
  workdir: epath.Path,
  params: Params,
  heldout: Heldout,
  scores: np.ndarray,
  temperature: float | None = None,
) -> None:
  """Writes the model, its record, its hardest pairs and its results.

  Args:
    config: of the run.
    workdir: of the run.
    params: all parameters.
    heldout: the rows of the test.
    scores: of their images.
    temperature: fitted to other rows; to these if None.
  """
  categories, rows = setup.make_task(config).categories, heldout.rows
  results = reward_model.evaluate(rows, scores, config.seed, categories)
  if temperature is None:
    temperature = results.get("temperature", 1.0)
  source, of_file = (
    np.asarray(rows.source),
    preferences.SOURCES.index("file"),
  )
  if source.ndim == 1:
    policy_scores = scores[:, np.isin(source, (0, of_file))]
  else:
    policy_scores = scores[np.isfinite(scores)]
  record = {
    "model": reward_model.record_of(config.reward_model),
    "mean": float(np.mean(policy_scores)),
    "std": float(np.std(policy_scores)),
    "temperature": temperature,
    "metrics": results,
    "config": json.loads(config_lib.to_json(config)),
  }
  weights.save_params(workdir / reward_model.MODEL_FILE, params)
  tables.write_json(workdir / reward_model.RECORD_FILE, record)
  evaluate.merge(workdir, {"reward_model": results})
  heldout.save_hardest(
    workdir / "grids" / hardest.FILE, scores, config.seed, temperature
  )
  strict = results["strict"]
  if strict["n"]:
    logging.info(
      "held-out pairs that differ in verdict: %.3f right (%.3f to %.3f, n %d)",
      strict["accuracy"], strict["low"], strict["high"], strict["n"],
    )  # fmt: skip
  logging.info(
    "all held-out pairs: %.3f right (%.3f to %.3f, n %d)",
    results["accuracy"] or float("nan"), results["low"], results["high"], results["n"],
  )  # fmt: skip
