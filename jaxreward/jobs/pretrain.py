"""Trains a policy by flow matching on the images of a task, or the autoencoder.

With `pretrain.part="autoencoder"` the autoencoder learns that a policy over latents
is then trained behind, with "judge" a vision-language judge answers to questions.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import jobs, processes, rng, setup, workdirs
from jaxreward.data import pipeline
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError, nearest
from jaxreward.evaluation import tables
from jaxreward.flow import path
from jaxreward.jobs import evaluate
from jaxreward.models.vlm import qwen_vl
from jaxreward.numerics import Mean
from jaxreward.report import environment
from jaxreward.setup import (
  autoencoding,
  data_checks,
  evaluators,
  judge,
  judge_verdicts,
  prompt_encoding,
  tracking,
  videos,
)
from jaxreward.tasks import Task
from jaxreward.training import (
  loop,
  optimizer,
  state,
  step,
  weights,
  writers,
)
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.types import Array, Params, Policy

PARTS = ("policy", "autoencoder", "judge")


def images_of(task: Task, keys: Array, micro: Mapping[str, Any]) -> Array:
  """Images [B, H, W, 3] of a micro-batch.

  They are rendered on the device from keys [B], so that only a few integers per
  sample come from the host. Editing tasks supply them.
  """
  if "picture" in micro:
    return micro["picture"]
  assert task.render
  return task.render(keys, micro["scene"])


def flow_loss(policy: Policy, task: Task, seed: int, options: dict[str, float]):
  """Flow matching on a micro-batch of captions and image seeds.

  The loss reads (step, parameters of the autoencoder or None).
  """

  def loss_fn(params: Params, micro: dict[str, Any], frozen: tuple):
    n, decoder = frozen
    key = rng.stream_key(seed, "pretrain", n)
    rows = micro["seed"].shape[0]
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(micro["seed"])
    images = images_of(task, rng.fold_each(keys, 0), micro)
    x0 = setup.to_latents(policy, images, decoder)
    noise = rng.normal_each(rng.fold_each(keys, 1), x0.shape[1:])
    t = path.logit_normal_times(
      jax.random.fold_in(key, 2), rows,
      mean=options["time_mean"], std=options["time_std"], shift=options["shift"],
    )  # fmt: skip
    dropped = jax.random.uniform(jax.random.fold_in(key, 3), (rows, 1))
    tokens = jnp.where(dropped < options["caption_drop"], 0, micro["caption"])
    x_t = path.interpolate(x0, noise, t)
    if "source" in micro:
      tokens = {"tokens": tokens, "source": micro["source"]}
    v = policy.velocity(params, x_t, t, policy.encode(params, tokens))
    return Mean.of(path.flow_matching_loss(v, x0, noise)), {}

  return loss_fn


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  part, task = config.pretrain.part, setup.make_task(config)
  if part not in PARTS:
    raise UserError(
      f'config.pretrain.part="{part}" is not known{nearest(part, PARTS)}; known:'
      f" {', '.join(PARTS)}"
    )
  policy = setup.make_policy(config)
  if config.eval.steering.name != "none":
    raise UserError(
      f'config.eval.steering.name="{config.eval.steering.name}": pretraining has'
      ' no rewards to steer by; use "none", and steer in the job evaluate'
    )
  prompt_encoding.bind(config, policy)
  if policy.prompts is not None:
    raise UserError(
      f'config.model.name="{config.model.name}" is trained on scenes by no job;'
      ' pretrain takes "scene_dit"'
    )
  if task.pretraining is None:
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": the task draws no pictures'
      ' to pretrain on; take "scenes" or "edits"'
    )
  if part == "autoencoder":
    _check_autoencoder(config, policy, task)
  if part == "judge":
    judge.require(config)
    judge_verdicts.rule_of(config)
  setup.step_table(config, "eval")
  evaluators.bind(config)
  optimizer.make_optimizer(
    **config.optimizer.to_dict(), total_steps=config.pretrain.steps
  )


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  del workdir
  data_checks.require_weights(config)
  return data_checks.of_prompts(config, "train", "validation", "heldout")


def _check_autoencoder(config: ConfigDict, policy: Policy, task: Task) -> None:
  """Tries both ways on shapes: an image of another size is refused here."""
  autoencoder = autoencoding.require(config, task)
  side = task.drawn_side
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  params = jax.eval_shape(autoencoder.init, jax.random.key(0))
  latents = jax.eval_shape(autoencoder.encode, params, image)
  jax.eval_shape(autoencoder.decode, params, latents)


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is trained.

  Attributes:
    load: () -> its parameters at step 0.
    sharding_rules: of them.
    loss: (parameters, micro-batch, (step, context)) -> Mean, metrics.
    quick: (parameters, step) -> {"eval/NAME": number} during training.
    final: exported parameters -> the entry of evaluation.json.
    context: parameters that the loss reads besides, on the mesh, or None.
    export: trained parameters -> those that are exported and evaluated.
    batch: step -> its batch; None for those of the task.
  """

  load: Callable[[], Params]
  sharding_rules: tuple
  loss: Callable[..., Any]
  quick: Callable[[Params, int], dict[str, float]]
  final: Callable[[Params], dict[str, Any]]
  context: Params | None = None
  export: Callable[[Params], Params] = lambda params: params
  batch: Callable[[int], Any] | None = None


def watched(
  evaluator: evaluate.Evaluator, workdir: epath.Path, frames: int = 1
) -> Callable[[Params, int], dict[str, float]]:
  """(parameters, step) -> metrics of images that the report shows."""
  watch_images = evaluate.Watch(workdir, evaluator.data, frames)

  def quick(params, n):
    results, images, strict = evaluator(params)
    watch_images(n, images, strict)
    accuracies = {
      f"accuracy/{k}": v["accuracy"]
      for k, v in results.get("kinds", {}).items()
    }
    metrics = (("accuracy", "strict"), ("texture", "texture"))
    return accuracies | {
      f"eval/{n}": results[k] for n, k in metrics if k in results
    }

  return quick


def _policy(
  config: ConfigDict, task: Task, mesh: Any, workdir: epath.Path
) -> Subject:
  policy = setup.make_policy(config)
  decoder = setup.put_decoder(config, policy, mesh)
  evaluator = evaluate.make_evaluator(
    config, policy, {}, samples=config.eval.quick_samples, split="validation",
    decoder=decoder,
  )  # fmt: skip

  def final(params):
    last = evaluate.make_evaluator(config, policy, {}, decoder=decoder)
    results, _, _ = evaluate.at_scales(
      last, params, config.eval.guidance_scales
    )
    return results

  return Subject(
    lambda: setup.load_params(config, policy),
    policy.sharding_rules,
    flow_loss(policy, task, config.seed, config.pretrain.to_dict()),
    watched(
      evaluator, workdir,
      config.video.frames if videos.is_video(policy) else 1,
    ), final, decoder,
  )  # fmt: skip


def _autoencoder(
  config: ConfigDict, task: Task, mesh: Any, workdir: epath.Path
) -> Subject:
  del mesh, workdir
  autoencoder, policy = (
    autoencoding.require(config, task), setup.make_policy(config),
  )  # fmt: skip

  def evaluator(split, samples):
    data = evaluate.evaluation_set(
      task, setup.load_prompts(config, split), samples, 1, config.eval.seed
    )
    return autoencoding.make_evaluator(
      autoencoder, task, data.batch, config.eval.seed
    )

  validate = evaluator("validation", config.eval.quick_samples)
  prefix = lambda results: {f"eval/{k}": v for k, v in results.items()}
  return Subject(
    lambda: setup.load_decoder(config, policy),
    autoencoder.sharding_rules,
    autoencoding.loss(
      autoencoder, config.seed, functools.partial(images_of, task),
      config.pretrain.moments,
    ),
    lambda params, n: prefix(validate(params)),
    lambda params: evaluator("heldout", config.eval.samples)(params),
  )  # fmt: skip


def _judge(
  config: ConfigDict, task: Task, mesh: Any, workdir: epath.Path
) -> Subject:
  del task
  for name, count in judge.counts_of(config).items():
    pairs = count // 2
    if pairs != mesh_lib.round_up_to_devices(pairs, mesh):
      raise UserError(
        f"config.judge.images.{name}: {pairs} pairs of images per step do not divide"
        " over the devices; change it, or config.pretrain.batch_size"
      )
  of, rule = judge.tasks_of(config), judge_verdicts.rule_of(config)
  reader, params = judge.make_reader(config)
  if params is None:
    params = judge.init(config, reader)
  seed = config.eval.seed

  def verdicts_of(split, samples):
    if rule is None:
      return lambda params: {}
    return judge_verdicts.make_evaluator(config, reader, of, split, samples)

  def evaluator(split, samples):
    return judge.make_evaluator(reader, of, split, samples, seed)

  validate = evaluator("validation", config.eval.quick_samples)
  verdicts = verdicts_of("validation", config.eval.quick_samples)

  def final(params):
    results = evaluator("heldout", config.eval.samples)(params)
    if rule is not None:
      results["verdicts"] = verdicts_of("heldout", config.eval.samples)(params)
    (workdir / "judge").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)  # a workdir may be in a bucket
      judge.save(folder, reader, params, config.pretrain.export_dtype)
      for file in folder.iterdir():
        (workdir / "judge" / file.name).write_bytes(file.read_bytes())
      results["fooled"] = {
        n: judge.fooled(name, t, "heldout", config.eval.samples // 4, seed)
        for n, t in of.items()
      }
    return results

  subject = Subject(
    lambda: params,
    qwen_vl.SHARDING_RULES,
    judge.loss(reader, of, config.seed),
    lambda params, n: (
      judge.metrics(validate(params)) | judge_verdicts.metrics(verdicts(params))
    ),
    final,
    batch=judge.batches(config, reader, "train"),
  )
  if rule is None:
    return subject
  placed = setup.shapes(params, subject.sharding_rules, mesh)
  return dataclasses.replace(
    subject,
    loss=judge_verdicts.loss(config, reader, of, rule),
    context=setup.put(params, placed),
    batch=judge_verdicts.batches(config, reader, "train"),
  )


def require_batch(field: str, rows: int, mesh: Any) -> None:
  """Refuses a batch that does not divide over the devices."""
  if rows < 1 or rows != mesh_lib.round_up_to_devices(rows, mesh):
    raise UserError(
      f"config.{field}={rows} does not divide over the devices;"
      f" choose a multiple of {mesh_lib.round_up_to_devices(1, mesh)}"
    )


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Trains, evaluates and exports workdir/PART.safetensors."""
  mesh = setup.make_mesh(config)
  require_batch("pretrain.batch_size", config.pretrain.batch_size, mesh)
  task = setup.make_task(config)
  assert task.pretraining
  part = config.pretrain.part
  make = {"policy": _policy, "autoencoder": _autoencoder, "judge": _judge}
  subject = make[part](config, task, mesh, workdir)
  batch = subject.batch
  if batch is None:
    batch = task.pretraining(
      setup.load_prompts(config, "train"),
      seed=config.seed,
      batch_size=config.pretrain.batch_size,
      kind_weights=config.data.kind_weights,
      steps=config.pretrain.steps,
      corruption=config.pretrain.caption_corruption,
    ).__getitem__
  put = pipeline.place_batch(mesh)
  with jax.set_mesh(mesh):
    fit(config, workdir, mesh, subject, lambda n: put(batch(n)), part=part)
  tables.write_json(workdir / f"{part}.json", manifest(config, workdir))


def fit(
  config: ConfigDict,
  workdir: epath.Path,
  mesh: Any,
  subject: Subject,
  batches: Callable[[int], Any],
  *,
  part: str,
  job: str = "pretrain",
  parts: int = 1,
) -> state.TrainState:
  """Trains on batches, evaluates and exports workdir/PART.safetensors.

  Call it under the mesh.

  Args:
    config: of the run; the section of the job has `steps` and `export_dtype`.
    workdir: of the run.
    mesh: of the devices.
    subject: what is trained.
    batches: step -> its batch on the mesh, leaves [B, ...].
    part: name of what is exported.
    job: its name, in records.
    parts: micro-batches of a batch, whose gradients are added up.

  Returns:
    The last state.
  """
  section = config[job]
  tx, _ = optimizer.make_optimizer(
    **config.optimizer.to_dict(), total_steps=section.steps
  )
  params = subject.load()
  fresh = jax.jit(lambda p: state.create(p, tx, average=config.ema.decay > 0))(
    params
  )
  layout = setup.shapes(fresh, subject.sharding_rules, mesh, params)
  setup.log_placement(layout)
  fresh = setup.put(fresh, layout)
  del params
  places = jax.tree.map(lambda x: x.sharding, layout)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
  def update(current, batch, context):
    # Rows stay on their devices: a micro-batch has every `parts`-th of them.
    split = lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)[None]
    current, metrics = step.update(
      current, subject.loss, tx, jax.tree.map(split, batch),
      (current.step, context),
      ema_decay=config.ema.decay, ema_schedule="warmup",
    )  # fmt: skip
    metrics = jax.tree.map(lambda x: x.sum(0), metrics)
    return dataclasses.replace(current, step=current.step + 1), metrics

  timer = loop.Timer()

  def iterate(current, n):
    micro = timer("data", batches(n))
    current, metrics = update(current, micro, subject.context)
    timer("update", metrics)
    return current, metrics

  views = tracking.openers(config, workdir, job)
  with (
    writers.MetricsWriter(workdir, job, trackers=views) as writer,
    Checkpoints(
      workdir / "checkpoints" / job, keep=config.checkpoint.keep
    ) as checkpoints,
  ):
    work = loop.Loop(
      job, section.steps, iterate, writer, checkpoints,
      save_every=config.checkpoint.every,
      evaluate=lambda current, n: subject.quick(current.averaged, n),
      evaluate_every=config.eval.every, evaluated=jobs.Refresh(workdir),
      shown=("loss", "eval/loss", "eval/accuracy", "eval/psnr"),
      timer=timer, grace=config.checkpoint.grace,
      profile=setup.profile_folder(config, workdir), best=config.checkpoint.best,
    )  # fmt: skip
    current, start, _ = loop.restore(work, fresh)
    current = loop.run(work, current, start)

  file = workdir / f"{part}.safetensors"
  average = processes.fetch(subject.export(current.averaged))
  weights.save_params(file, average, dtype=section.export_dtype)
  processes.wait_for_all("export")
  # Evaluate the written weights, rounding included.
  params = weights.load_params(file, jax.eval_shape(lambda: average))
  evaluation = evaluate.merge(workdir, {part: subject.final(params)})
  logging.info("\n%s", tables.evaluation_table(evaluation))
  return current


def manifest(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
  """Provenance of what was trained: command, seed, time, metrics, versions."""
  rows = writers.read_rows(workdir / writers.TIMINGS_FILE, "pretrain")
  parts = ("data", "update", "evaluate")
  seconds = sum(row.get(part, 0.0) for row in rows for part in parts)
  record = workdirs.read_record(workdir / evaluate.EVALUATION_FILE)
  return {
    "command": workdirs.read_command(workdir),
    "seed": config.seed,
    "steps": config.pretrain.steps,
    "seconds": round(seconds),
    "evaluation": record.get(config.pretrain.part, {}),
    "config": json.loads(config_lib.to_json(config)),
    "versions": environment.versions(),
  }
