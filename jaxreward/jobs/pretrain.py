"""Trains a policy by flow matching on the images of a task."""

from __future__ import annotations

import dataclasses
import functools
import json
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
from jaxreward.errors import UserError
from jaxreward.evaluation import tables
from jaxreward.flow import path
from jaxreward.jobs import evaluate
from jaxreward.numerics import Mean
from jaxreward.report import environment
from jaxreward.setup import (
  data_checks,
  evaluators,
  prompt_encoding,
  tracking,
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


def flow_loss(policy: Policy, task: Task, seed: int, options: dict[str, float]):
  """Flow matching on a micro-batch of captions and image seeds.

  Images are rendered on the device from keys, so that only a few integers per
  sample come from the host. Editing tasks supply source and target images.
  """

  def loss_fn(params: Params, micro: dict[str, Any], frozen: Array):
    key = rng.stream_key(seed, "pretrain", frozen)
    rows = micro["seed"].shape[0]
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(micro["seed"])
    if "picture" in micro:
      images = micro["picture"]
    else:
      assert task.render
      images = task.render(rng.fold_each(keys, 0), micro["scene"])
    x0 = images * 2 - 1
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
  if setup.make_task(config).pretraining is None:
    raise UserError(
      f'config.data.grammar="{config.data.grammar}": the task draws no pictures'
      ' to pretrain on; take "scenes" or "edits"'
    )
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


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Pretrains, evaluates and exports workdir/policy.safetensors."""
  mesh = setup.make_mesh(config)
  rows = config.pretrain.batch_size
  if rows < 1 or rows != mesh_lib.round_up_to_devices(rows, mesh):
    raise UserError(
      f"config.pretrain.batch_size={rows} does not divide over the devices;"
      f" choose a multiple of {mesh_lib.round_up_to_devices(1, mesh)}"
    )
  policy = setup.make_policy(config)
  tx, _ = optimizer.make_optimizer(
    **config.optimizer.to_dict(), total_steps=config.pretrain.steps
  )
  prompts = setup.load_prompts(config, "train")
  task = setup.make_task(config)
  assert task.pretraining
  batches = task.pretraining(
    prompts,
    seed=config.seed,
    batch_size=config.pretrain.batch_size,
    kind_weights=config.data.kind_weights,
    steps=config.pretrain.steps,
    corruption=config.pretrain.caption_corruption,
  )
  options = config.pretrain.to_dict()
  loss_fn = flow_loss(policy, task, config.seed, options)
  evaluator = evaluate.make_evaluator(
    config, policy, {}, samples=config.eval.quick_samples, split="validation"
  )

  with jax.set_mesh(mesh):
    params = setup.load_params(config, policy)
    fresh = jax.jit(
      lambda p: state.create(p, tx, average=config.ema.decay > 0)
    )(params)
    placed = setup.shapes(fresh, policy.sharding_rules, mesh, params)
    setup.log_placement(placed)
    fresh = setup.put(fresh, placed)
    places = jax.tree.map(lambda x: x.sharding, placed)
    put = pipeline.place_batch(mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def update(current, micro):
      stacked = jax.tree.map(lambda x: x[None, None], micro)
      current, metrics = step.update(
        current, loss_fn, tx, stacked, current.step,
        ema_decay=config.ema.decay, ema_schedule="warmup",
      )  # fmt: skip
      metrics = jax.tree.map(lambda x: x.sum(0), metrics)
      return dataclasses.replace(current, step=current.step + 1), metrics

    timer = loop.Timer()

    def iterate(current, n):
      micro = timer("data", put(batches[n]))
      current, metrics = update(current, micro)
      timer("update", metrics)
      return current, metrics

    watch_images = evaluate.Watch(workdir, evaluator.data)

    def quick_evaluation(current, n):
      results, images, strict = evaluator(current.averaged)
      watch_images(n, images, strict)
      accuracies = {
        f"accuracy/{k}": v["accuracy"]
        for k, v in results.get("kinds", {}).items()
      }
      metrics = (("accuracy", "strict"), ("texture", "texture"))
      return accuracies | {
        f"eval/{n}": results[k] for n, k in metrics if k in results
      }

    views = tracking.openers(config, workdir, "pretrain")
    with (
      writers.MetricsWriter(workdir, "pretrain", trackers=views) as writer,
      Checkpoints(
        workdir / "checkpoints" / "pretrain", keep=config.checkpoint.keep
      ) as checkpoints,
    ):
      job = loop.Loop(
        "pretrain", config.pretrain.steps, iterate, writer, checkpoints,
        save_every=config.checkpoint.every, evaluate=quick_evaluation,
        evaluate_every=config.eval.every, evaluated=jobs.Refresh(workdir), shown=("loss", "eval/accuracy"),
        timer=timer, grace=config.checkpoint.grace,
        profile=setup.profile_folder(config, workdir), best=config.checkpoint.best,
      )  # fmt: skip
      current, start, _ = loop.restore(job, fresh)
      current = loop.run(job, current, start)

    exported = workdir / "policy.safetensors"
    average = processes.fetch(current.averaged)
    weights.save_params(exported, average, dtype=config.pretrain.export_dtype)
    processes.wait_for_all("export")
    # Evaluate the written weights, rounding included.
    written = weights.load_params(exported, jax.eval_shape(lambda: average))
    final = evaluate.make_evaluator(config, policy, {})
    results, _, _ = evaluate.at_scales(
      final, written, config.eval.guidance_scales
    )
  evaluation = evaluate.merge(workdir, {"policy": results})
  tables.write_json(workdir / "policy.json", manifest(config, workdir))
  logging.info("\n%s", tables.evaluation_table(evaluation))


def manifest(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
  """Provenance of policy.safetensors: command, seed, time, metrics, versions."""
  rows = writers.read_rows(workdir / writers.TIMINGS_FILE, "pretrain")
  parts = ("data", "update", "evaluate")
  seconds = sum(row.get(part, 0.0) for row in rows for part in parts)
  record = workdirs.read_record(workdir / evaluate.EVALUATION_FILE)
  return {
    "command": workdirs.read_command(workdir),
    "seed": config.seed,
    "steps": config.pretrain.steps,
    "seconds": round(seconds),
    "evaluation": record.get("policy", {}),
    "config": json.loads(config_lib.to_json(config)),
    "versions": environment.versions(),
  }
