"""What several jobs build first: policy, weights, mesh, placed arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import models, processes, rng
from jaxreward.errors import UserError, nearest
from jaxreward.models import lora
from jaxreward.training import mesh as mesh_lib
from jaxreward.training import sharding, weights
from jaxreward.types import Params, Policy

ASSETS = epath.Path(__file__).parent.parent / "assets"
POLICY_FILE = "policy.safetensors"  # what align and pretrain write
OWN_POLICY = "workdir:policy"


def make_policy(config: ConfigDict) -> Policy:
  """The architecture that `config.model` names."""
  return config_lib.bind(config.model, models.REGISTRY, field="model")()


def checkpoint_path(
  spec: str,
  field: str = "init.checkpoint",
  workdir: epath.Path | None = None,
) -> epath.Path:
  """The safetensors file that a config names.

  Args:
    spec: its path; "package:NAME" for one shipped with the package;
      "workdir:policy" for what an earlier job wrote into the working directory.
    field: where the spec stands, for errors.
    workdir: of a job that reads policies; None for one that writes them.
  """
  if spec.startswith("workdir:"):
    return _own_policy(spec, field, workdir)
  if not spec.startswith("package:"):
    path = epath.Path(spec)
    if not path.exists():
      raise UserError(f"config.{field}={spec}: there is no such file")
    return path
  name = spec.removeprefix("package:")
  path = ASSETS / f"{name}.safetensors"
  if not path.exists():
    known = [f"package:{p.stem}" for p in ASSETS.glob("*.safetensors")]
    raise UserError(
      f"config.{field}={spec} is not shipped{nearest(spec, known)}"
    )
  return path


def _own_policy(spec: str, field: str, workdir: epath.Path | None):
  """The policy of the working directory, or a line that says who makes it."""
  if spec != OWN_POLICY:
    raise UserError(
      f"config.{field}={spec} is not known{nearest(spec, [OWN_POLICY])}"
    )
  if workdir is None:
    raise UserError(
      f"config.{field}={spec}: this job does not start from a policy that its"
      " working directory holds; name a file or package:NAME"
    )
  path = workdir / POLICY_FILE
  if not path.exists():
    raise UserError(
      f"config.{field}={spec}: there is no {path} yet; put a job that writes it"
      " (align or pretrain) before this one in config.jobs, or name a file"
    )
  return path


def load_params(
  config: ConfigDict,
  policy: Policy,
  *,
  spec: str = "",
  field: str = "init.checkpoint",
  workdir: epath.Path | None = None,
) -> Params:
  """Parameters of a policy: from a file, or drawn from the seed.

  Args:
    config: of the run.
    policy: the architecture.
    spec: which file, see `checkpoint_path`; empty for `init.checkpoint`.
    field: where the spec stands.
    workdir: see `checkpoint_path`.
  """
  if not spec:
    spec, field = config.init.checkpoint, "init.checkpoint"
  key = rng.stream_key(config.seed, "init")
  if not spec:
    return jax.jit(policy.init)(key)
  like = jax.eval_shape(policy.init, key)
  path = checkpoint_path(spec, field, workdir)
  logging.info("starting from %s", spec)
  return weights.load_params(path, like)


def make_mesh(config: ConfigDict) -> Mesh:
  """The mesh of `config.mesh` over all devices of the program."""
  if jax.process_count() != processes.count():
    raise UserError(
      f"config.processes.detect=False: this is one of {jax.process_count()}"
      " processes, which have to know of each other; set it to True"
    )
  return mesh_lib.make_mesh(**config.mesh.to_dict())


def profile_folder(
  config: ConfigDict, workdir: epath.Path
) -> epath.Path | None:
  """Where `config.profile` puts a trace and a table; None without it."""
  return workdir / "profile" if config.profile else None


@dataclasses.dataclass(frozen=True)
class Trainable:
  """What of a policy is trained, and how it becomes whole.

  Attributes:
    policy: takes whole parameters (with adapters, if there are any).
    params: what is trained.
    base: frozen parameters of the plain policy; also the reference.
    plain: the policy without adapters, for the reference.
    whole: (trained, base) -> parameters that `policy` takes.
    export: (trained, base) -> parameters that `plain` takes.
  """

  policy: Policy
  params: Params
  base: Params
  plain: Policy
  whole: Callable[[Params, Params], Params]
  export: Callable[[Params, Params], Params]


def make_trainable(
  config: ConfigDict, policy: Policy, base: Params
) -> Trainable:
  """All parameters (`config.lora.rank` 0) or adapters of that rank."""
  if not config.lora.rank:
    whole = lambda trained, base: trained
    return Trainable(policy, base, base, policy, whole, whole)
  options = config.lora.to_dict()
  adapted = lora.adapt_policy(policy, **options)
  drawn = jax.jit(adapted.init)(rng.stream_key(config.seed, "lora"))
  adapter = lora.split(drawn)[1]

  def export(trained: Params, base: Params) -> Params:
    return lora.fuse(lora.merge(base, trained), alpha=options["alpha"])

  def whole(trained: Params, base: Params) -> Params:
    return lora.merge(base, trained)

  return Trainable(adapted, adapter, base, policy, whole, export)


def place(tree: Any, rules, mesh: Mesh, params: Params) -> tuple[Any, Any]:
  """(tree on the mesh, its shardings), by the architecture's table."""
  abstract = jax.eval_shape(lambda: tree)
  shardings = sharding.state_shardings(abstract, rules, mesh, params=params)
  # A copy, so that donating the result leaves the caller's arrays alone.
  placed = jax.jit(
    lambda x: jax.tree.map(lambda a: a + 0, x), out_shardings=shardings
  )(tree)
  return placed, shardings


def batch_devices() -> int:
  """Parts that the mesh in use cuts a batch into; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape.get(axis, 1) for axis in mesh_lib.BATCH_AXES)


def spread_rows(tree: Any) -> Any:
  """Cuts the first axis of every leaf over the mesh in use; call it in jit.

  What is computed row by row from these leaves is then cut alike.
  """
  if batch_devices() == 1:
    return tree
  rows = PartitionSpec(mesh_lib.BATCH_AXES)
  return jax.lax.with_sharding_constraint(tree, rows)
