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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes, reward_models, rng, setup, tasks
from jaxreward.data import pipeline, preference_stream, preferences, tastes
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.preferences import PreferenceBatch, Preferences
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest
from jaxreward.evaluation import tables
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.jobs import evaluate
from jaxreward.numerics import Mean
from jaxreward.report import hardest
from jaxreward.reward_models import RewardModel, reads
from jaxreward.setup import (
  checks,
  curation,
  data_checks,
  kernels,
  players,
  preference_data,
  prompt_encoding,
  reward_model,
)
from jaxreward.setup.heldout import Heldout
from jaxreward.training import loop, optimizer, state, step, weights, writers
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.types import Array, Params, Policy

# Metrics that may end a run, the higher the better.
STOPPING = (
  "eval/pair_accuracy",
  "eval/pair_accuracy_strict",
  "eval/pair_log_likelihood",
)


def sample_policy(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  row_prompts: list[Prompt],
) -> Array:
  """uint8 [Q, S, H, W, C]: the policy's images at several guidance scales."""
  options = config.train_reward.sampling
  prompts = prompt_encoding.make_encode(config, policy)(
    setup.make_task(config).batch(row_prompts)
  )
  decoder = setup.load_decoder(config, policy)
  ids = preferences.row_ids(prompts)
  table = steppers.ode(schedule.timesteps(options.num_steps, options.shift))
  layout = rollout.make_layout(
    len(row_prompts), options.samples, options.microbatch, jax.device_count()
  )

  @functools.partial(jax.jit, static_argnames="scale")
  def draw(params, key, policy_inputs, ids, decoder, scale):
    sampler = Sampler(policy, table, layout, scale)
    latents = sampler.sample(params, key, policy_inputs, ids).latents[-1]
    return preferences.as_bytes(
      jnp.clip(sampler.pixels(latents, decoder), 0, 1)
    )

  images = [
    draw(
      params,
      rng.stream_key(config.seed, "preferences", number),
      prompts.words,
      ids,
      decoder,
      float(scale),
    )
    for number, scale in enumerate(options.guidance_scales)
  ]
  return jnp.concatenate(images, 1)


def scene_preferences(
  config: ConfigDict,
  policy: Policy,
  params: Params,
  tokenize: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> tuple[Preferences, Preferences]:
  """Training and held-out preferences on prompts of `data.source`.

  Held-out labels are the detector's; training labels are flipped at the rate
  `train_reward.label_noise`.
  """
  options = config.train_reward
  prompts = functools.partial(setup.load_prompts, config)
  train = preferences.choose_rows(
    prompts("train"), options.train_rows, config.seed
  )
  others = prompts("validation") + prompts("heldout")
  heldout = preferences.choose_rows(others, options.heldout_rows, config.seed)
  row_prompts = train + heldout
  scales = options.sampling.guidance_scales
  logging.info(
    "drawing and judging images of %d prompts, %d each by the policy ...",
    len(row_prompts), options.sampling.samples * len(scales),
  )  # fmt: skip
  samples = sample_policy(config, policy, params, row_prompts)
  key = rng.stream_key(config.seed, "preference pictures")
  task = setup.make_task(config)
  assert task.preferences
  rows = task.preferences(
    key, row_prompts, samples, **options.pictures.to_dict()
  )
  if tokenize is not None:
    tokens = jnp.asarray(tokenize([prompt.text for prompt in row_prompts]))
    rows = dataclasses.replace(rows, tokens=tokens)
  per_row = rows.images.shape[0] // len(row_prompts)

  users = options.users

  def labelled(side: Preferences, number: int, noise: float) -> Preferences:
    if users.count:
      count = users.count + number * users.unseen
      side = tastes.planted(side, count, users.weight, config.seed)
    prob = preferences.preference_probabilities(
      rng.stream_key(config.seed, "preference labels", number),
      side.score,
      label_noise=noise,
      margin=options.margin,
      ties=options.ties,
    )
    return dataclasses.replace(side, prob=prob)

  split = len(train)
  train_rows = preferences.rows_between(rows, 0, split, per_row=per_row)
  heldout_rows = preferences.rows_between(
    rows, split, len(row_prompts), per_row=per_row
  )
  return labelled(train_rows, 0, options.label_noise), labelled(
    heldout_rows, 1, 0.0
  )


def preference_loss(config: ConfigDict, model: RewardModel):
  """The loss over all pairs of images in every row."""
  pair_loss, is_rated = _loss(config), _by_rating(config)

  def loss_fn(trained: Params, batch: PreferenceBatch, frozen: Params | None):
    rows = {"prob": batch.prob}
    for name in ("user", "keys", "mask", "context"):
      if (array := getattr(batch.details, name)) is not None:
        rows[name] = array
    outputs = model.outputs(trained, frozen, batch.images, batch.tokens, rows)
    arrays = reward_models.offers(model.head, outputs, batch)
    pair, answers = arrays["scores"], arrays["label_prob"]
    is_right = (pair[..., 0] > pair[..., 1]) == (answers > 0.5)
    has_answer = jnp.isfinite(answers) & (answers != 0.5)
    if is_rated:
      loss = pair_loss(outputs["value"], batch.rating, None)
    else:
      loss = pair_loss(**{name: arrays[name] for name in reads(pair_loss)})
    return loss, {"pair_accuracy": Mean.of(is_right, has_answer)}

  return loss_fn


def make_update(config: ConfigDict, loss_fn, tx, places, mesh):
  """(state, rows, frozen parameters) -> (state, metrics), jitted.

  The rows are all training rows, of which a batch is drawn, or a packed batch.
  """
  options = config.train_reward
  rows = mesh_lib.round_up_to_devices(options.rows, mesh)
  spread = PartitionSpec(mesh_lib.BATCH_AXES)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
  def update(current, data, frozen=None):
    key = rng.stream_key(config.seed, "preference batch", current.step)
    if isinstance(data, preference_stream.Packed):
      batch = preference_stream.unpacked(data, key)
    else:
      batch = preferences.draw_batch(
        data, key, rows=rows,
        group_size=min(options.pictures_per_row, data.members.shape[1]),
      )  # fmt: skip
      batch = preferences.keep_first(batch, options.rows)
    batch = jax.lax.with_sharding_constraint(batch, spread)
    current, metrics = step.update(
      current, loss_fn, tx, jax.tree.map(lambda x: x[None, None], batch), frozen,
      ema_decay=options.ema_decay, ema_schedule="warmup",
    )  # fmt: skip
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
    return dataclasses.replace(current, step=current.step + 1), metrics

  return update


def _whole(
  config: ConfigDict, model: RewardModel, base: Params | None
) -> Params:
  """All parameters at step 0."""
  params = model.start(rng.stream_key(config.seed, "reward model"))
  if base is not None and config.train_reward.init_from_policy:
    assert model.backbone.from_policy  # checked
    trunk = model.backbone.from_policy(params["backbone"], base)
    params = params | {"backbone": trunk}
  return params


def _start(
  config: ConfigDict, model: RewardModel, base: Params | None
) -> tuple[Params, Params | None]:
  """(trained parameters, frozen parameters) at step 0."""
  params = _whole(config, model, base)
  return model.split(rng.stream_key(config.seed, "adapters"), params)


def _optimizer(config: ConfigDict, model: RewardModel):
  tx, counts = _of_parts(config), config.train_reward.last_layers.to_dict()
  if not counts:
    return tx
  if model.train != "full":
    raise UserError(
      "config.train_reward.last_layers says which layers are trained, and"
      f' config.reward_model.train="{model.train}": set it to "full"'
    )

  def mask_of(params: Params) -> Params:
    tower = optimizer.last_layers(
      params["backbone"], counts, model.backbone.first
    )
    return {
      "backbone": tower,
      "head": jax.tree.map(jnp.ones_like, params["head"]),
    }

  jax.eval_shape(lambda key: mask_of(model.init(key)), jax.random.key(0))
  return optimizer.masked(tx, mask_of)


def _of_parts(config: ConfigDict):
  options = config.train_reward
  try:
    tx, _ = optimizer.make_optimizer(
      **options.optimizer.to_dict(), total_steps=options.steps
    )
  except UserError as error:
    raise UserError(f"config.train_reward.{error}") from error
  own = options.backbone_optimizer
  if own.name == "same":
    return optimizer.scaled(tx, {"backbone": options.backbone_rate})
  if options.backbone_rate != 1.0:
    raise UserError(
      f"config.train_reward.backbone_rate={options.backbone_rate}: the backbone"
      f' has an optimizer of its own, config.train_reward.backbone_optimizer.name="{own.name}";'
      " set its learning_rate"
    )
  field = "train_reward.backbone_optimizer"
  own_tx = players.optimizer_of(own.to_dict(), field, options.steps)
  return optimizer.by_part({"backbone": own_tx, "head": tx})


def _loss(config: ConfigDict):
  return config_lib.bind(
    config.train_reward.loss,
    reward_models.REGISTRY | kernels.group_losses(config),
    field="train_reward.loss",
    supplied=lambda fn: (*reads(fn), "implementation", "batch_axes"),
  )  # fmt: skip


def _by_rating(config: ConfigDict) -> bool:
  """Whether the loss reads ratings of images, not labels of pairs."""
  return config.train_reward.loss.name in kernels.group_losses(config)


def _check_task(config: ConfigDict) -> None:
  if setup.make_task(config).preferences is None:
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": the detector, which says'
      " what of two pictures is better, here judges scenes alone; give pairs of"
      " your own in config.train_reward.source"
    )


def _check_ratings(config: ConfigDict) -> None:
  options = config.train_reward
  if options.label_noise and options.source in tasks.OWN:
    raise UserError(
      f'config.train_reward.loss.name="{options.loss.name}" compares ratings,'
      " which have no answers to flip: set"
      f" config.train_reward.label_noise={options.label_noise} to 0, or use"
      ' "bradley_terry"'
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
  options, shape = config.train_reward, jax.ShapeDtypeStruct
  if options.source in tasks.OWN:
    policy = setup.make_policy(config)
    prompt_encoding.bind(config, policy)
    _check_task(config)
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
  if options.init_from_policy and model.backbone.from_policy is None:
    raise UserError(
      "config.train_reward.init_from_policy=true: config.reward_model.backbone"
      f'.name="{config.reward_model.backbone.name}" is another network than the'
      " policy; set it to false"
    )
  tastes.check(options.users.count, options.users.unseen)
  _check_stopping(config)
  curation.bind(config)
  _optimizer(config, model)
  kernels.implementation(config)
  labels, prefix = shape((2,), jnp.float32), "config.train_reward."
  if _by_rating(config):
    _check_ratings(config)
    labels, prefix = shape((2, 2), jnp.float32), f"{prefix}loss."
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.kernels.implementation = "xla"
  if _by_rating(config):
    checks.validate_options(
      lambda scores, labels: _loss(plain)(scores, labels, None),
      shape((2, 2), jnp.float32), labels,
      field="train_reward.loss", prefix=prefix,
    )  # fmt: skip
  else:
    _try_loss(plain, model)
  checks.validate_options(
    functools.partial(
      preferences.preference_probabilities,
      label_noise=options.label_noise, margin=options.margin, ties=options.ties,
    ),
    jax.eval_shape(lambda: jax.random.key(0)), shape((2, 2), jnp.float32),
    field="train_reward",
  )  # fmt: skip


def _aspects_of(outputs: Any) -> int:
  """Aspects in the data for which a head with these outputs is made."""
  for name in ("criteria", "aspect_scores"):
    if name in outputs:
      return outputs[name].shape[-1]
  return 2


def _require_labels(
  config: ConfigDict,
  model: RewardModel,
  train: Preferences,
  heldout: Preferences | None = None,
) -> None:
  """Refuses data without what the model or the loss reads."""
  _require_ratings(config, train)
  if model.context and train.context is None and heldout is not None:
    raise UserError(
      "config.reward_model.context=true: no row of"
      f" {config.train_reward.source} has a source image; set it to false, or"
      " name the column in config.data.layout.columns.source"
    )
  head = f'config.reward_model.head.name="{config.reward_model.head.name}"'
  users = model.head.users
  if users is not None and train.user is None:
    raise UserError(
      f"{head} tells users apart, and no row of"
      f" {config.train_reward.source} names one; set"
      " config.train_reward.users.count, or take another head"
    )
  if users and train.user is not None:
    count = int(np.asarray(train.user).max()) + 1
    if count > users:
      raise UserError(
        f"config.reward_model.head.users={users}: the rows have {count} users"
      )
    _require_known(config, head, heldout)
  wanted = set(reads(_loss(config)))
  aspects, what = train.aspects, "ratings of aspects"
  if wanted & set(reward_models.ANSWERS):
    aspects, what = train.aspect_prob, "answers per aspect"
  elif not wanted & set(reward_models.ASPECTS):
    return
  name = f'config.train_reward.loss.name="{config.train_reward.loss.name}"'
  if aspects is None:
    raise UserError(
      f"{name} reads {what}, and {config.train_reward.source} has none"
    )
  count, wanted = jnp.shape(aspects)[-1], _aspects_of(model.output_shapes(2, 3))
  if count != wanted:
    raise UserError(
      f"{head} has {wanted} aspects, and {config.train_reward.source} has"
      f" {count}: {', '.join(train.aspect_names)}"
    )


def _require_ratings(config: ConfigDict, train: Preferences) -> None:
  options = config.train_reward
  name = f'config.train_reward.loss.name="{options.loss.name}"'
  wanted = set(reads(_loss(config)))
  is_rated = bool(np.isfinite(np.asarray(train.score)).any())
  if (wanted & set(reward_models.RATED) or _by_rating(config)) and not is_rated:
    raise UserError(
      f"{name} reads ratings, and {options.source} holds answers to pairs alone:"
      ' use "bradley_terry", or name the column in'
      " config.data.layout.columns.rating"
    )
  has_answer = bool(np.isfinite(np.asarray(train.prob)).any())
  if wanted & {"label_prob", "row_prob"} and not has_answer:
    raise UserError(
      f"{name} reads answers to pairs, and {options.source} has none; name the"
      " column in config.data.layout.columns.label"
    )


def _require_known(
  config: ConfigDict, head: str, heldout: Preferences | None
) -> None:
  """Refuses held-out rows of users that training never sees."""
  if heldout is None or heldout.user is None or not config.train_reward.heldout:
    return
  if (np.asarray(heldout.user) < 0).all():
    raise UserError(
      f"{head} tells users apart, and no user of"
      f" config.train_reward.heldout={config.train_reward.heldout} is in"
      f" {config.train_reward.source}"
    )


def _try_loss(config: ConfigDict, model: RewardModel) -> None:
  """Lets a loss check its options and the arrays it reads."""
  name = f'config.train_reward.loss.name="{config.train_reward.loss.name}"'
  loss, offers = _loss(config), reward_models.names(model.head)
  for argument in reads(loss):
    if argument not in offers:
      raise UserError(
        f'{name} reads "{argument}", which config.reward_model.head.name='
        f'"{config.reward_model.head.name}" does not give; there are'
        f" {', '.join(offers)}"
      )
  outputs = model.output_shapes(2, 3)
  arrays = jax.eval_shape(
    functools.partial(reward_models.offers, model.head),
    outputs, preferences.some_rows(2, 3, _aspects_of(outputs)),
  )  # fmt: skip
  checks.validate_options(
    lambda arrays: loss(**arrays), {n: arrays[n] for n in reads(loss)},
    field="train_reward.loss", prefix="config.train_reward.",
  )  # fmt: skip


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  del workdir
  source = config.train_reward.source
  if source in tasks.OWN or config.train_reward.init_from_policy:
    data_checks.require_weights(config)
  if source not in tasks.OWN:
    model = reward_model.make(config)
    sides, rows = preference_data.load(config, model)
    _require_labels(config, model, sides.train.rows, sides.heldout.rows)
    return rows
  return data_checks.of_prompts(config, "train", "validation", "heldout")


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Trains, tests and exports workdir/reward_model.safetensors."""
  options = config.train_reward
  mesh = setup.make_mesh(config)
  model = reward_model.make(config)
  tx = _optimizer(config, model)
  with jax.set_mesh(mesh):
    rows, heldout, base, counts = _data(config, model, mesh)
    watched, tested = heldout, heldout
    stopping = options.early_stopping
    if stopping.patience:
      watched, tested = heldout.halves(config.seed)
    params, frozen = _start(config, model, base)
    if frozen is not None:
      rules = model.sharding_rules
      frozen = setup.put(frozen, setup.shapes(frozen, rules, mesh))
    fresh = jax.jit(lambda p: state.create(p, tx))(params)
    placed = setup.shapes(fresh, model.sharding_rules, mesh, params)
    setup.log_placement(placed)
    fresh = setup.put(fresh, placed)
    places = jax.tree.map(lambda x: x.sharding, placed)
    loss_fn = preference_loss(config, model)
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
        watched.rows, score(export(current.ema, frozen)), config.seed,
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

    with (
      writers.MetricsWriter(workdir, "train_reward") as writer,
      Checkpoints(
        workdir / "checkpoints" / "train_reward", keep=config.checkpoint.keep
      ) as checkpoints,
    ):
      job = loop.Loop(
        "train_reward", options.steps, iterate, writer, checkpoints,
        save_every=options.save_every, evaluate=quick_evaluation,
        evaluate_every=options.evaluate_every,
        shown=("loss", "pair_accuracy", "eval/pair_accuracy_strict"),
        timer=timer, grace=config.checkpoint.grace,
        profile=setup.profile_folder(config, workdir),
        best=stopping.metric if stopping.patience else config.checkpoint.best,
        patience=stopping.patience,
      )  # fmt: skip
      current, start, _ = loop.restore(job, fresh)
      current = loop.run(job, current, start)
    params_full = export(current.ema, frozen)
    scores = tested.scorer(model)(params_full)
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
  ):
    if numbers:
      evaluate.merge(workdir, {name: numbers})


def _data(config: ConfigDict, model: RewardModel, mesh):
  """(step -> rows for the update, held-out rows, the policy, curation)."""
  source = config.train_reward.source
  start = time.monotonic()
  policy, base = setup.make_policy(config), None
  if source in tasks.OWN or config.train_reward.init_from_policy:
    base = setup.load_params(config, policy)
  params = functools.partial(_whole, config, model, base)
  if source not in tasks.OWN:
    rows, heldout, counts = _file(config, model, params, mesh)
    return rows, heldout, base, counts
  sides = scene_preferences(config, policy, base, model.backbone.read)
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
  _require_labels(config, model, train)
  train, counts = curation.curated(config, model, params, train)
  train = jax.device_put(train, mesh_lib.replicated(mesh))
  texts = functools.partial(_texts, config, model, heldout)
  return (lambda n: train), Heldout(heldout, texts=texts), base, counts


def _texts(
  config: ConfigDict, model: RewardModel, rows: Preferences
) -> list[str]:
  """Held-out prompts of a task, from their tokens; empty where unknown."""
  prompts = [
    p for s in ("validation", "heldout") for p in setup.load_prompts(config, s)
  ]
  texts = [prompt.text for prompt in prompts]
  if model.backbone.read is None:
    tokens = setup.make_task(config).batch(prompts).tokens
  else:
    tokens = model.backbone.read(texts)
  text_of = {bytes(np.asarray(row, np.int32)): text for row, text in
             zip(np.asarray(tokens), texts, strict=True)}  # fmt: skip
  rows_of = np.asarray(rows.tokens, np.int32)
  return [text_of.get(bytes(row), "") for row in rows_of]


def _file(
  config: ConfigDict, model: RewardModel, params: Callable[[], Params], mesh
):
  """(step -> packed batch, held-out rows, curation) of `train_reward.source`."""
  sides, _ = preference_data.load(config, model)
  preference_data.log(config, sides)
  train, heldout = preference_data.stores(config, model, sides)
  rows, curation_counts = curation.curated(
    config, model, params, sides.train.rows, lambda index: train.take(index)[0]
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
