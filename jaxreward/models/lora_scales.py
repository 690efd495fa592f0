"""Scales of the layers of a public adapter, from the PEFT config."""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import safetensors

from jaxreward import reading
from jaxreward.errors import UserError, shown
from jaxreward.models import hub, lora_files, lora_names

# Fields of adapter_config.json that change the meaning of the matrices.
_OFF = {
  "use_dora": "DoRA",
  "lora_bias": "biases beside its matrices",
  "modules_to_save": "whole layers beside its matrices",
  "layer_replication": "layers repeated",
  "fan_in_fan_out": "matrices the other way round",
  "use_qalora": "QA-LoRA",
  "trainable_token_indices": "trained tokens",
  "target_parameters": "parameters that are no layers",
}
# Initializations that also modify the base weights.
_REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


def scales(
  path: pathlib.Path, spec: os.PathLike[str] | str
) -> Callable[[str, int], float] | None:
  """(layer, rank) -> scale, from the PEFT config beside or inside a file.

  Args:
    path: the file, or a folder with a single one.
    spec: the user's spelling, for errors.

  Returns:
    A function of the layer's name and rank, or None without a config.

  Raises:
    UserError: a config that does more than add low-rank products.
  """
  if path.name == lora_files.PEFT_FILE:
    name = lora_files.PEFT_CONFIG
    if not (path.parent / name).exists():
      raise UserError(f"{spec} lacks {name} beside {path.name}: rank and alpha")
    return _scales_of(hub.read_config(path, name), f"{spec}: {name}")
  config = _header(path, spec)
  if config is None:
    return None
  return _scales_of(config, f"{spec}: {lora_files.METADATA}")


def _header(
  path: pathlib.Path, spec: os.PathLike[str] | str
) -> dict[str, Any] | None:
  """Metadata that diffusers writes into a file, without the network's name."""
  if path.is_dir():
    path = next(iter(hub.open_weights(path).values())).file
  with safetensors.safe_open(path, "numpy") as file:
    text = (file.metadata() or {}).get(lora_files.METADATA)
  if text is None:
    return None
  where = f"{spec}: {lora_files.METADATA} of its header"
  record = reading.foreign_value(text, where)
  if not isinstance(record, dict):
    raise UserError(f"{where} is no JSON object")
  return {
    lora_names.stripped(str(name)): value for name, value in record.items()
  }


def _scales_of(
  config: Mapping[str, Any], of: str
) -> Callable[[str, int], float]:
  kind = config.get("peft_type", "LORA")
  if kind != "LORA":
    raise UserError(f"{of}: peft_type={shown(kind)}; expected LORA")
  for field, reason in _OFF.items():
    if config.get(field):
      raise UserError(f"{of}: {field} is on ({reason}), which is not supported")
  if config.get("bias", "none") != "none":
    raise hub.misfit(of, "bias", config["bias"], "none")
  start = str(config.get("init_lora_weights", "")).lower()
  if start.startswith(_REBASED):
    raise UserError(
      f"{of}: init_lora_weights={shown(start)} changes the base too, which is"
      " not supported; convert it to plain LoRA"
    )
  rank = hub.field(config, "r", int, of=of)
  alpha = hub.field(config, "lora_alpha", float, of=of)
  ranks = _patterns(config, "rank_pattern", of)
  alphas = _patterns(config, "alpha_pattern", of)

  def scale(name: str, file_rank: int) -> float:
    config_rank = _matching(ranks, name, rank)
    if file_rank != config_rank:
      raise UserError(
        f"{of}: the rank of {shown(name)} is {config_rank:g} there, and {file_rank} in"
        " the file"
      )
    root = math.sqrt(file_rank) if config.get("use_rslora") else file_rank
    return _matching(alphas, name, alpha) / root

  return scale


def _patterns(
  config: Mapping[str, Any], name: str, of: str
) -> list[tuple[re.Pattern[str], float]]:
  """Regexes of layers with their numbers, as PEFT matches them."""
  record = hub.field(config, name, dict, of=of, default={})
  patterns = []
  for pattern in record:
    value = hub.field(record, pattern, float, of=f"{of}: {name}")
    try:
      patterns.append((re.compile(rf"(.*\.)?({pattern})$"), value))
    except re.error as error:
      raise UserError(f"{of}: {name}: {shown(pattern)}: {error}") from error
  return patterns


def _matching(
  patterns: list[tuple[re.Pattern[str], float]], name: str, default: float
) -> float:
  return next((value for p, value in patterns if p.match(name)), default)
