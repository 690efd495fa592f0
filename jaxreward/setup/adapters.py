"""Adapters that a run starts from: public files, or those of `export`.

`init.adapter` is added to the weights of `init.checkpoint` in every job; trained
parameters, reference and average then start from the sum. `lora.init` initialises
the trained adapters; the reference stays the policy without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jaxreward.errors import UserError, nearest, shown
from jaxreward.models import hub, lora, lora_read
from jaxreward.types import Params, Policy

BASE, TRAINED = "init.adapter", "lora.init"


def spec_of(config: ConfigDict, field: str) -> str:
  """The spec in a field of the config; empty if unset."""
  section, _, name = field.partition(".")
  return config[section].get(name, "") if section in config else ""


def check(config: ConfigDict, policy: Policy) -> None:
  """Reads the adapters that the config names, before anything is built.

  Raises:
    UserError: a file that is not an adapter of this policy, or `lora.init`
      without trained adapters.
  """
  if spec_of(config, BASE):
    _read(config, policy, BASE)
  if not spec_of(config, TRAINED):
    return
  if not config.lora.rank:
    raise UserError(
      f"config.{TRAINED}={spec_of(config, TRAINED)}: config.lora.rank=0 trains"
      f" no adapters; set it, or name the file in config.{BASE}"
    )
  options = {k: config.lora[k] for k in ("rank", "alpha", "targets")}
  adapted = lora.adapt_policy(policy, **options)
  shapes = lora.split(jax.eval_shape(adapted.init, jax.random.key(0)))[1]
  zeros = jax.tree.map(lambda x: np.broadcast_to(0.0, x.shape), shapes)
  _padded(config, policy, zeros)


def add(config: ConfigDict, policy: Policy, params: Params) -> Params:
  """The parameters with the adapter of `init.adapter`, if there is one."""
  if not spec_of(config, BASE):
    return params
  logging.info("adding the adapter %s", shown(spec_of(config, BASE), 200))
  return lora.add(params, _read(config, policy, BASE))


def start(
  config: ConfigDict, policy: Policy, init: Callable[..., Params]
) -> Params | None:
  """Where the trained adapters start; None for fresh ones.

  Args:
    config: of the run.
    policy: without adapters.
    init: gives the fresh ones, for any base.
  """
  if not spec_of(config, TRAINED):
    return None
  logging.info("adapters start from %s", shown(spec_of(config, TRAINED), 200))
  return _padded(config, policy, jax.jit(lambda: init(None))())


def _padded(config: ConfigDict, policy: Policy, fresh: Params) -> Params:
  adapter = _read(config, policy, TRAINED)
  try:
    return lora.pad(adapter, fresh, alpha=config.lora.alpha)
  except UserError as error:
    raise UserError(
      f"config.{TRAINED}={spec_of(config, TRAINED)}: {error}"
    ) from error


def _read(config: ConfigDict, policy: Policy, field: str) -> Params:
  spec = spec_of(config, field)
  try:
    return read(spec, policy)
  except UserError as error:
    raise UserError(f"config.{field}: {error}") from error


def read(spec: str, policy: Policy) -> Params:
  """The adapters of a policy that a spec names.

  Args:
    spec: of one network see `lora_read.read`. Of several a folder with a folder
      of each, as in their public pipeline, some of which may be missing, or
      "high=FILE,low=FILE".
    policy: without adapters.

  Returns:
    As the second tree of `lora.split`, alpha its rank.

  Raises:
    UserError: the file is not an adapter of this policy.
  """
  if not policy.layout or policy.public_config is None:
    raise UserError(
      f"{spec}: this policy has no public layout; adapters are those of SD3,"
      " FLUX, Qwen-Image, Wan and Z-Image"
    )
  like = jax.eval_shape(policy.init, jax.random.key(0))
  class_name = policy.public_config["_class_name"]
  if policy.parts is None:
    return lora_read.read(spec, policy.layout, like, class_name)
  return {
    name: lora_read.read(of, policy.layout, like[name], class_name)
    for name, of in _by_network(spec, policy.parts).items()
  }


def _by_network(spec: str, parts: Mapping[str, str]) -> dict[str, str]:
  """The adapter file of each network."""
  assignments = re.findall(r"(?:^|,)(\w+)=([^,]*)", spec)
  if assignments:
    for name, _ in assignments:
      if name not in parts:
        raise UserError(
          f"{shown(spec)}: there is no network {name}{nearest(name, parts)};"
          f" there are {', '.join(parts)}"
        )
    return dict(assignments)
  path = hub.resolve(spec)
  folders = {
    name: f"{spec}:{folder}"
    for name, folder in parts.items()
    if (path / folder).is_dir()
  }
  if not folders:
    names = ",".join(f"{name}=FILE" for name in parts)
    raise UserError(
      f"{spec}: of which of the networks {', '.join(parts)} is it? Write"
      f" {names}, or name a folder that holds {' or '.join(parts.values())}"
    )
  return folders


def calls(folders: Iterable[str]) -> list[str]:
  """Diffusers calls that load the exported files, for the log.

  Args:
    folders: below the export, "" for one network.
  """
  second = ", load_into_transformer_2=True"
  return [
    f'pipeline.load_lora_weights("FOLDER/{name}"'
    f"{second if name.endswith('_2') else ''})"
    for name in folders
  ]
