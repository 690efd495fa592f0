"""Compiles the programs of a run for a TPU slice without having one.

config.topology names the slice, config.mesh its axes. Rollout, rewards and update
are those of the job align, or the update is that of train_reward, compiled on shapes. The report says whether they fit,
their flops, bytes and collectives, the bottleneck, and the best mesh.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import setup
from jaxreward.compilation import executables, report, topology
from jaxreward.compilation.report import MeshReport
from jaxreward.errors import UserError, nearest, one_line
from jaxreward.evaluation import tables
from jaxreward.jobs import align, train_reward
from jaxreward.rewards import scoring
from jaxreward.setup import (
  late_labels,
  offline,
  players,
  preference_data,
  prompt_encoding,
  reward_losses,
  reward_model,
  reward_optimizer,
  row_scores,
)
from jaxreward.setup import rewards as reward_setup
from jaxreward.training import async_rollout, sharding, state
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Policy, Trajectory

REPORT_FILE = "compile_check.json"
JOBS = {"align": align, "train_reward": train_reward}
Sizes = tuple[int, int, int]


def check(config: ConfigDict) -> None:
  """Validates the config, and starts JAX without a TPU."""
  slice_topology = topology.find(config.topology)
  topology.require(slice_topology)
  meshes(config, slice_topology.size)
  effort = config.compile_check.effort
  if not -1 <= effort <= 1:
    raise UserError(
      f"config.compile_check.effort={effort}: expected -1 (fast) to 1"
    )
  name = config.compile_check.job
  if name not in JOBS:
    raise UserError(
      f'config.compile_check.job="{name}" is not known{nearest(name, JOBS)}; there'
      f" are {', '.join(JOBS)}"
    )
  if name == "train_reward" and "reward_model" not in config:
    raise UserError(
      'config.compile_check.job="train_reward": the config has no reward_model;'
      " start from one that trains a reward model, such as"
      " configs/train_reward_scenes.py"
    )
  JOBS[name].check(config)


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Prints the table and writes workdir/compile_check.json.

  Args:
    config: of a run; any job's config holds one of align.
    workdir: for the report and trained reward models; nothing else in it is
      used.
  """
  slice_topology = topology.find(config.topology)
  devices = topology.devices(slice_topology)
  limit = config.compile_check.memory * topology.GIB
  limit = limit or (slice_topology.chip.memory if slice_topology.chip else 0.0)
  reports = []
  with executables.effort(config.compile_check.effort):
    for sizes in meshes(config, slice_topology.size):
      logging.info(
        "compiling for %s, %s ...", slice_topology.name, report.title(sizes)
      )
      reports.append(compile_mesh(config, workdir, devices, sizes))
  run_report = report.RunReport(
    slice_topology, limit, reports, effort=config.compile_check.effort,
    **_about(config),
  )  # fmt: skip
  sys.stdout.write(report.to_text(run_report))
  workdir.mkdir(parents=True, exist_ok=True)
  tables.write_json(workdir / REPORT_FILE, report.to_json(run_report))
  logging.info("the same as JSON: %s", workdir / REPORT_FILE)


def _about(config: ConfigDict) -> dict[str, Any]:
  """What the report says of the run; see `report.RunReport`."""
  if config.compile_check.job == "align":
    return dict(
      model=config.model.to_dict(), objective=config.objective.name,
      pictures=config.rollout.prompts * config.rollout.group,
      lora_rank=config.lora.rank, microbatch=config.rollout.microbatch,
    )  # fmt: skip
  model, options = config.reward_model, config.train_reward
  return dict(
    model=model.to_dict(), objective=options.loss.name,
    pictures=options.rows * options.pictures_per_row,
    lora_rank=model.rank if model.train == "lora" else 0,
    adapters='config.reward_model.train="lora"',
  )  # fmt: skip


def meshes(config: ConfigDict, devices: int) -> list[Sizes]:
  """The mesh of the config, then those of `compile_check.meshes`.

  Raises:
    UserError: sizes that do not match the number of devices.
  """
  config_sizes = config.mesh.to_dict()
  sizes = [mesh_lib.resolve(config_sizes, devices)]
  text = config.compile_check.meshes
  if text == "all":
    sizes += factorings(devices)
  for item in filter(None, text.split(",") if text != "all" else ()):
    if not re.fullmatch(r"\d+x\d+x\d+", item):
      raise UserError(
        f'config.compile_check.meshes="{text}": expected all, or sizes of data,'
        ' fsdp and tensor as in "16x1x1,4x4x1"'
      )
    sizes_of = dict(zip(mesh_lib.AXES, map(int, item.split("x")), strict=True))
    sizes.append(mesh_lib.resolve(sizes_of, devices))
  return list(dict.fromkeys(sizes))


def factorings(count: int) -> list[Sizes]:
  """Every (data, fsdp, tensor) whose product is `count`."""
  parts = [n for n in range(1, count + 1) if count % n == 0]
  return [
    (count // (fsdp * tensor), fsdp, tensor)
    for tensor, fsdp in itertools.product(parts, parts)
    if count % (fsdp * tensor) == 0
  ]


def compile_mesh(
  config: ConfigDict,
  workdir: epath.Path,
  devices: Sequence[jax.Device],
  sizes: Sizes,
) -> MeshReport:
  """The programs of the run on one mesh, or why they do not compile."""
  try:
    mesh = mesh_lib.make_mesh(*sizes, devices=devices)
    if config.compile_check.job == "train_reward":
      return _compile_training(config, mesh, sizes)
    return _compile(config, workdir, mesh, sizes)
  except (UserError, NotImplementedError) as error:
    reason = str(error) if isinstance(error, UserError) else one_line(error)
    return MeshReport(sizes, refused=reason)


def _compile_training(
  config: ConfigDict, mesh: Mesh, sizes: Sizes
) -> MeshReport:
  """Compiles the update of the job train_reward on rows of files."""
  model = reward_model.make(config)
  tx = reward_optimizer.make(config, model)
  key = jax.eval_shape(lambda: jax.random.key(0))
  trained, frozen = jax.eval_shape(model.split, key, model.param_shapes)
  fresh = jax.eval_shape(
    lambda p: state.create(p, tx, average=config.train_reward.ema_decay > 0),
    trained,
  )
  placed = setup.shapes(fresh, model.sharding_rules, mesh, trained)
  if frozen is not None:
    frozen = setup.shapes(frozen, model.sharding_rules, mesh)
  places = jax.tree.map(lambda x: x.sharding, placed)
  loss_fn = reward_losses.preference_loss(config, model)
  update = train_reward.make_update(config, loss_fn, tx, places, mesh)
  rows = preference_data.abstract(config, model, mesh)
  with jax.set_mesh(mesh):
    program = executables.build(
      update.trace(placed, rows, frozen), dict(mesh.shape),
      sharding.device_bytes((placed, rows, frozen)),
    )  # fmt: skip
  parts = {"trained": placed, "frozen": frozen, "rows": rows}
  return MeshReport(
    sizes, {"update": program}, placement=sharding.describe(parts, limit=8),
    state_bytes=sharding.device_bytes((placed, frozen)),
  )  # fmt: skip


def _compile(
  config: ConfigDict, workdir: epath.Path, mesh: Mesh, sizes: Sizes
) -> MeshReport:
  """Traces and compiles in the order of an iteration of the job align."""
  policy = setup.make_policy(config)
  absent: dict[str, str] = {}
  rewards = reward_setup.abstract(config, workdir, mesh, absent)
  for reason in absent.values():
    logging.warning("not counted: %s", reason)
  weights_of = {k: r.weight for k, r in rewards.items() if k in config.rewards}
  plan = align.make_plan(config, mesh_lib.round_up_to_devices(1, mesh))
  differentiated = align.differentiated_rewards(plan, rewards, weights_of)
  if plan.origin != "rollout":
    weights_of, rewards = dict(offline.WEIGHTS), differentiated
  base = jax.eval_shape(policy.init, jax.random.key(0))
  run_programs = align.make_programs(
    config, mesh, policy, base, plan, weights_of, differentiated.values()
  )
  batch = prompt_shapes(config, policy, mesh)
  context = _placed(scoring.contexts_of(rewards, batch), mesh)
  decoder = setup.decoder_shapes(policy, mesh)
  resident = (run_programs.state, run_programs.base, context, batch, decoder)
  live_bytes = sharding.device_bytes(resident)
  axes = dict(mesh.shape)
  programs: dict[str, executables.Report] = {}

  def build(name: str, program: Any, *arguments: Any) -> Any:
    logging.info("  %s ...", name)
    # Nothing may be computed here: the mesh's devices cannot run programs.
    with jax.set_mesh(mesh):
      traced = program(*arguments)
      programs[name] = executables.build(traced, axes, live_bytes)
    return programs[name].result

  if plan.origin == "rollout":
    outputs = build(
      "rollout",
      run_programs.draw.trace,
      async_rollout.draw_params(run_programs.state),
      run_programs.state.step,
      run_programs.base,
      batch,
      decoder,
    )
  else:
    rows = _replicated(offline.image_shapes(config, policy, plan), mesh)
    outputs = (
      build("encode", run_programs.encode.trace, rows, decoder),
      rows,
      rows,
    )
  trajectory, pixels, images = _with_places(outputs, mesh)
  # With overlap, two more iterations of samples are in memory.
  extra_batches = 2 if config.align.overlap else 0
  live_bytes += (1 + extra_batches) * sharding.device_bytes(
    (trajectory, pixels, images)
  )
  results: dict[str, Any] = {}
  if plan.origin == "rollout":
    measure = jax.jit(setup.make_task(config).measure)
    measures = build("detector", measure.trace, images, pixels, batch)
    if any(not reward.is_host for reward in rewards.values()):
      results = build(
        "rewards", scoring.trace, rewards, images, batch, measures
      )
      results = {k: v for k, v in results.items() if k in weights_of}
  scores = _replicated(
    {k: jax.ShapeDtypeStruct(images.shape[:2], np.float32) for k in weights_of},
    mesh,
  )
  loss_contexts = {name: context[name] for name in differentiated} or None
  step_scores = None
  if run_programs.finish is not None:
    build(
      "finish", run_programs.finish.trace, async_rollout.draw_params(run_programs.state), run_programs.state.step,
      run_programs.base, trajectory, batch, decoder,
    )  # fmt: skip
    steps = len(plan.table.t) + 1
    step_scores = _replicated(
      {
        k: jax.ShapeDtypeStruct((*images.shape[:2], steps), np.float32)
        for k in weights_of
      },
      mesh,
    )
  # Rewards that are absent, or run on the host, may say how unsure they are.
  unknown = {k: v for k, v in scores.items() if k not in results}
  stds = unknown | _replicated(scoring.stds_of(results), mesh)
  places = _replicated(scoring.places_of(results), mesh)
  labels = _replicated(jax.ShapeDtypeStruct(images.shape[:2], np.float32), mesh)
  build(
    "update", run_programs.update.trace, run_programs.state, run_programs.base, trajectory, scores,
    batch, loss_contexts, decoder, step_scores,
    {"stds": stds, "references": scores, "places": places},
    late_labels.shapes(players.bind(config), images, batch, labels),
  )  # fmt: skip
  parts = setup.parts_of(run_programs.state, run_programs.base)
  parts |= {"reward models": context, "autoencoder": decoder}
  return MeshReport(
    sizes, programs, placement=sharding.describe(parts, limit=8),
    left_out=tuple(absent),
    state_bytes=sharding.device_bytes((run_programs.state, run_programs.base)),
  )  # fmt: skip


def prompt_shapes(config: ConfigDict, policy: Policy, mesh: Mesh) -> Any:
  """Shapes of an iteration's prompts, replicated."""
  batch = setup.prompt_batches(config)(0)
  if offline.has_users(config) or row_scores.names(config):
    user = np.zeros((len(batch.ids), policy.user), np.float32)
    batch = dataclasses.replace(batch, user=user)
  shapes = prompt_encoding.abstract(
    batch, policy, with_pictures=prompt_encoding.reads_pictures(config)
  )
  return _replicated(shapes, mesh)


def _replicated(tree: Any, mesh: Mesh) -> Any:
  place = mesh_lib.replicated(mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
  )


def _placed(tree: Any, mesh: Mesh) -> Any:
  """Shapes of a tree; leaves without a sharding are replicated."""
  replicated = mesh_lib.replicated(mesh)

  def shape(x: Any) -> jax.ShapeDtypeStruct:
    place = getattr(x, "sharding", None)
    place = place if isinstance(place, NamedSharding) else replicated
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  return jax.tree.map(shape, tree)


def _with_places(outputs: tuple[Trajectory, Any, Any], mesh: Mesh) -> Any:
  """The outputs of a rollout; if it did not compile, with sharded rows."""
  if all(x.sharding is not None for x in jax.tree.leaves(outputs)):
    return outputs
  trajectory, pixels, images = outputs
  spread = lambda axis: NamedSharding(
    mesh, PartitionSpec(*[None] * axis, mesh_lib.BATCH_AXES)
  )
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  rows = {"prompt_index", "member", "mask"}
  placed = {
    field.name: jax.tree.map(
      lambda x, n=field.name: place(x, spread(0 if n in rows else 1)),
      getattr(trajectory, field.name),
    )
    for field in dataclasses.fields(trajectory)
  }
  replicated = _replicated((pixels, images), mesh)
  return (Trajectory(**placed), *replicated)
