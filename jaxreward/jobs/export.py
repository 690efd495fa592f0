"""Exports the policy of a checkpoint, or a reward model, in public formats.

A public architecture becomes a diffusers folder; adapters become a PEFT folder that
diffusers' pipelines load too, one per network (see `lora_files`); the policy of the
scenes becomes one file for `init.checkpoint`. A trained reward model becomes a folder
in its towers' public layout, `export.part="reward_model"`. Each has a model card,
README.md, and goes to the Hugging Face hub with `export.upload="user/name"`.
"""

from __future__ import annotations

from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxreward import files, processes, reading, setup
from jaxreward.errors import UserError
from jaxreward.evaluation import tables
from jaxreward.jobs import align
from jaxreward.models import convert, lora_files
from jaxreward.setup import (
  adapters,
  hub_upload,
  licences,
  model_cards,
  public_reward_models,
  reward_model,
)
from jaxreward.training import checkpoint, weights
from jaxreward.training import mesh as mesh_lib
from jaxreward.training.state import TrainState
from jaxreward.types import Params, Policy

STEPS = ("final", "best")
PARTS = ("policy", "reward_model")


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  if config.export.part not in PARTS:
    raise UserError(
      f'config.export.part="{config.export.part}": it is one of'
      f" {', '.join(PARTS)}"
    )
  licences.check(config)
  hub_upload.check(config)
  if config.export.part == "reward_model":
    return
  step = config.export.step
  if step not in STEPS and not step.isdigit():
    raise UserError(
      f'config.export.step="{step}": expected final, best or the number of a'
      " step"
    )
  if config.export.fuse and not config.lora.rank:
    raise UserError(
      "config.export.fuse=True: config.lora.rank=0, so there are no adapters to"
      " fuse; all parameters are exported anyway"
    )
  policy = setup.make_policy(config)
  if config.lora.rank and not config.export.fuse and not policy.layout:
    raise UserError(
      f'config.export.fuse=False: adapters of "{config.model.name}" have no'
      " public layout; set it to True"
    )
  if config.job == "export":  # the methods give the training state its shapes
    plan = align.make_plan(config, devices=1)
    align.make_updater(config, setup.make_trainable(config, policy), plan, {})
  if config.job == "pipeline":
    before = config.jobs[: config.jobs.index("export")]
    if "align" not in before:
      raise UserError(
        f"config.jobs={','.join(config.jobs)}: no align before export, which"
        " reads its checkpoints"
      )


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Writes workdir/export/STEP from a checkpoint of the job align."""
  check(config)
  if config.export.part == "reward_model":
    _run_reward_model(config, workdir)
    return
  options = config.export
  mesh = setup.make_mesh(config)
  policy = setup.make_policy(config)
  with jax.set_mesh(mesh):
    programs = _programs(config, mesh, policy)
    step, state = _restore(config, workdir, programs.state)
    trained = state.averaged if options.average else state.params
    if options.fuse:
      base = setup.put(setup.load_params(config, policy), programs.base)
      trained = jax.jit(programs.trainable.export)(trained, base)
    trained = processes.fetch(trained)
  folder = workdir / "export" / options.step
  if processes.is_first():
    write_whole(config, policy, folder, trained, step, workdir)
    logging.info("step %d is in %s", step, folder)
    if config.lora.rank and not options.fuse:
      below = [policy.parts[k] for k in trained] if policy.parts else [""]
      logging.info("FOLDER=%s: %s", folder, "; ".join(adapters.calls(below)))
    hub_upload.upload(config, folder, f"Step {step}")


def _run_reward_model(config: ConfigDict, workdir: epath.Path) -> None:
  """Writes workdir/export/reward_model from what train_reward has written."""
  path = workdir / reward_model.MODEL_FILE
  if not path.exists():
    raise UserError(
      f"--workdir={workdir} holds no {path.name} of the job train_reward, which"
      ' export.part="reward_model" reads'
    )
  loaded = reward_model.load(path)
  record = reading.record(workdir / reward_model.RECORD_FILE)
  dtype = config.export.dtype
  folder = workdir / "export" / "reward_model"
  if processes.is_first():
    with files.replaced_folder(folder) as new_folder:
      public_reward_models.write(
        new_folder, loaded.scorer, loaded.params,
        weights=public_reward_models.weights_of(record),
        dtype=None if dtype == "same" else dtype,
      )  # fmt: skip
      model_cards.write_reward_model(config, record, new_folder, workdir)
    logging.info("the reward model is in %s", folder)
    hub_upload.upload(config, folder, "Reward model")


def _programs(config: ConfigDict, mesh: Mesh, policy: Policy) -> align.Programs:
  """The programs of the run; only their shapes are used here."""
  like = jax.eval_shape(policy.init, jax.random.key(0))
  plan = align.make_plan(config, mesh_lib.round_up_to_devices(1, mesh))
  return align.make_programs(config, mesh, policy, like, plan, {})


def _restore(
  config: ConfigDict, workdir: epath.Path, like: TrainState
) -> tuple[int, TrainState]:
  """(step, state) of the checkpoint of `export.step`."""
  folder = workdir / "checkpoints" / "align"
  missing = UserError(
    f"--workdir={workdir} holds no checkpoint of the job align, which export reads"
  )
  if not folder.exists():
    raise missing
  which, keep = config.export.step, config.checkpoint.keep
  with checkpoint.Checkpoints(folder, keep=keep) as checkpoints:
    steps = processes.on_first(checkpoints.steps)
    if not steps:
      raise missing
    best = checkpoints.best() if which == "best" else None
    if which == "best" and best is None:
      raise UserError(
        "config.export.step=best: no checkpoint has a score; a run whose"
        " config.eval.every is not 0 gives them one"
      )
    step = best[1] if best else max(steps) if which == "final" else int(which)
    if step not in steps:
      raise UserError(
        f"config.export.step={which}: there is no checkpoint of step {step};"
        f" there are {', '.join(map(str, steps))}"
      )
    return step, checkpoints.restore(step, like)


def write_whole(
  config: ConfigDict,
  policy: Policy,
  folder: epath.Path,
  params: Params,
  step: int,
  workdir: epath.Path | None = None,
) -> None:
  """Writes the folder atomically; its card has the figures of `workdir`."""
  with files.replaced_folder(folder) as new_folder:
    _write(config, policy, new_folder, params)
    record: dict[str, Any] = {"step": step, "average": config.export.average}
    base_adapter = adapters.spec_of(config, adapters.BASE)
    if base_adapter and config.lora.rank and not config.export.fuse:
      record["on_top_of"] = base_adapter  # has to be loaded first
    tables.write_json(new_folder / "export.json", record)
    model_cards.write_policy(config, policy, new_folder, workdir, step)


def _write(
  config: ConfigDict, policy: Policy, folder: epath.Path, params: Params
) -> None:
  dtype_name = config.export.dtype
  dtype = None if dtype_name == "same" else dtype_name
  if not policy.layout:
    weights.save_params(folder / setup.POLICY_FILE, params, dtype=dtype)
    return
  for name, subfolder in (policy.parts or {"": ""}).items():
    if not name or name in params:  # there may be adapters of one network only
      part = params[name] if name else params
      _write_public(config, policy, folder / subfolder, part, dtype)


def _write_public(
  config: ConfigDict,
  policy: Policy,
  folder: epath.Path,
  params: Params,
  dtype: str | None,
) -> None:
  if config.lora.rank and not config.export.fuse:
    lora_files.save_adapter(
      folder, params, policy.layout, alpha=config.lora.alpha, dtype=dtype
    )
  else:
    convert.save_params(
      folder, params, policy.layout, config=policy.public_config, dtype=dtype
    )
