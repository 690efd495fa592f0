"""The mesh of a config, and the placement of arrays on it."""

from __future__ import annotations

import math
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import processes
from jaxreward.errors import UserError
from jaxreward.models import attention
from jaxreward.training import mesh as mesh_lib
from jaxreward.training import sharding, state
from jaxreward.types import Params


def make_mesh(config: ConfigDict) -> Mesh:
  """The mesh of `config.mesh` over all devices of the program."""
  if jax.process_count() != processes.count():
    raise UserError(
      f"config.processes.detect=False: this is one of {jax.process_count()}"
      " processes, which have to know of each other; set it to True"
    )
  form = config.model.get("attention", "plain")
  attention.require_platform(form, jax.default_backend())
  return mesh_lib.make_mesh(**config.mesh.to_dict())


def profile_folder(
  config: ConfigDict, workdir: epath.Path
) -> epath.Path | None:
  """Where `config.profile` puts a trace and a table; None without it."""
  return workdir / "profile" if config.profile else None


def shapes(tree: Any, rules, mesh: Mesh, params: Params | None = None) -> Any:
  """Shapes of arrays (or of shapes), with shardings by the rules.

  Args:
    tree: a training state, or parameters.
    rules: the architecture's table.
    mesh: where they will live.
    params: the part of the tree that the rules are for; all if None.
  """
  abstract = jax.eval_shape(lambda: tree)
  params = abstract if params is None else params
  shardings = sharding.state_shardings(abstract, rules, mesh, params=params)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract, shardings,
  )  # fmt: skip


def put(tree: Any, placed: Any) -> Any:
  """Copies arrays to the shardings of `shapes`; the copy may be donated."""
  copy = lambda x: jax.tree.map(lambda a: a + 0, x)
  places = jax.tree.map(lambda x: x.sharding, placed)
  return jax.jit(copy, out_shardings=places)(tree)


def parts_of(
  placed: state.TrainState, base: Params | None = None
) -> dict[str, Any]:
  """The parts of a state by readable names."""
  return {
    "parameters": placed.params,
    "optimizer": placed.opt_state,
    "average": placed.ema,
    "references": {k: v.params for k, v in placed.references.items()},
    "players": placed.players,
    "reference": base,
  }


def log_placement(placed: state.TrainState, base: Params | None = None) -> None:
  """Logs which device holds which part of a state and its reference."""
  parts = parts_of(placed, base)
  logging.info("largest arrays:\n%s", sharding.describe(parts, limit=6))


def batch_devices() -> int:
  """Number of shards of a batch on the current mesh; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(axis, 1) for axis in mesh_lib.BATCH_AXES)


def spread_rows(tree: Any) -> Any:
  """Shards the first axis of every leaf over the current mesh; call it in jit.

  Values computed row by row from these leaves are then sharded alike.
  """
  if batch_devices() == 1:
    return tree
  rows = PartitionSpec(mesh_lib.BATCH_AXES)
  return jax.lax.with_sharding_constraint(tree, rows)
