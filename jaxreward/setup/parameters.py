"""Parameters of policies and autoencoders: from files, or randomly initialised."""

from __future__ import annotations

import re

import jax
from absl import logging
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxreward import paths, rng
from jaxreward.errors import UserError, nearest, shown
from jaxreward.models import convert, fields, hub
from jaxreward.setup import adapters
from jaxreward.setup.placing import put, shapes
from jaxreward.training import weights
from jaxreward.types import Params, Policy

ASSETS = epath.Path(__file__).parent.parent / "assets"
POLICY_FILE = "policy.safetensors"  # what align and pretrain write
OWN_POLICY = "workdir:policy"


def put_decoder(
  config: ConfigDict, policy: Policy, mesh: Mesh
) -> Params | None:
  """`load_decoder` on the mesh, by the autoencoder's sharding rules."""
  params = load_decoder(config, policy)
  return None if params is None else put(params, decoder_shapes(policy, mesh))


def decoder_shapes(policy: Policy, mesh: Mesh) -> Params | None:
  """Shapes of the autoencoder's parameters, with their shardings."""
  if policy.decoder is None:
    return None
  like = jax.eval_shape(policy.decoder, jax.random.key(0))
  return shapes(like, policy.decoder_rules, mesh)


def load_decoder(config: ConfigDict, policy: Policy) -> Params | None:
  """Parameters of the autoencoder: from a checkpoint, or randomly initialised.

  Returns:
    NumPy arrays or fresh ones, on no mesh; None for a policy without one.
  """
  if policy.decoder is None:
    return None
  key = rng.stream_key(config.seed, "autoencoder")
  spec = config.autoencoder.get("weights", "")
  if not spec:
    return jax.jit(policy.decoder)(key)
  logging.info("autoencoder from %s", shown(spec, 200))
  like = jax.eval_shape(policy.decoder, key)
  if not policy.decoder_layout or _is_own(spec):
    return weights.load_params(
      paths.find(spec, "config.autoencoder.weights"), like
    )
  _check_config(spec, policy.decoder_fields, "autoencoder")
  return convert.load_params(spec, policy.decoder_layout, like)


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
    return paths.find(spec, f"config.{field}")
  name = spec.removeprefix("package:")
  path = ASSETS / f"{name}.safetensors"
  if not path.exists():
    shipped = [
      f"package:{p.stem}" for p in ASSETS.iterdir() if p.suffix == path.suffix
    ]
    raise UserError(
      f"config.{field}={spec} is not shipped{nearest(spec, shipped)}"
    )
  return path


def _own_policy(spec: str, field: str, workdir: epath.Path | None):
  """The policy in the working directory; if missing, an error names the job."""
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
  """Parameters of a policy: from a file, or randomly initialised.

  Args:
    config: of the run.
    policy: the architecture.
    spec: which file, see `checkpoint_path`; empty for `init.checkpoint` with
      the adapter of `init.adapter`.
    field: where the spec stands.
    workdir: see `checkpoint_path`.
  """
  if spec:
    return _load_plain(config, policy, spec, field, workdir)
  spec, field = config.init.checkpoint, "init.checkpoint"
  params = _load_plain(config, policy, spec, field, workdir)
  return adapters.add(config, policy, params)


def _load_plain(
  config: ConfigDict,
  policy: Policy,
  spec: str,
  field: str,
  workdir: epath.Path | None,
) -> Params:
  """See `load_params`; without adapters, and no other file for no spec."""
  key = rng.stream_key(config.seed, "init")
  if not spec:
    return jax.jit(policy.init)(key)
  like = jax.eval_shape(policy.init, key)
  logging.info("starting from %s", shown(spec, 200))
  if policy.layout and not _is_own(spec):
    return _load_public(spec, policy, like)
  path = checkpoint_path(spec, field, workdir)
  if not policy.optional and not policy.longer:
    return weights.load_params(path, like)
  fresh = jax.jit(policy.init)(key)
  parts = (
    matching(fresh, pattern) if pattern else None
    for pattern in (policy.optional, policy.longer)
  )
  return weights.load_params(path, like, *parts)


def _load_public(spec: str, policy: Policy, like: Params) -> Params:
  """A public checkpoint; of several networks, the folder with all of them."""

  def load(spec: str, like: Params) -> Params:
    _check_config(spec, policy.public_fields, "model")
    return convert.load_params(spec, policy.layout, like)

  if policy.parts is None:
    return load(spec, like)
  return {
    name: load(f"{spec}:{folder}", like[name])
    for name, folder in policy.parts.items()
  }


def _check_config(
  spec: str, public_fields: fields.Fields | None, field: str
) -> None:
  """Refuses weights whose `config.json` describes another network."""
  if public_fields is None:
    return
  record = hub.read_config(spec)
  fields.check(record, public_fields, of=f"{spec}: config.json")
  if not record:
    logging.info(
      "%s has no config.json: its flags are taken to be those of config.%s",
      shown(spec, 150), field,
    )  # fmt: skip


def matching(tree: Params, pattern: str) -> Params:
  """The leaves whose path matches the pattern, as a nested dict."""
  flat = traverse_util.flatten_dict(tree, sep="/")
  leaves = {name: x for name, x in flat.items() if re.search(pattern, name)}
  return traverse_util.unflatten_dict(leaves, sep="/")


def _is_own(spec: str) -> bool:
  """Whether a file is one that `weights.save_params` has written.

  Its names are paths; public names never hold a slash.
  """
  if spec.startswith(("package:", "workdir:")):
    return True
  is_file = spec.endswith(".safetensors") and paths.is_file(paths.expand(spec))
  return is_file and any("/" in name for name in hub.open_weights(spec))
