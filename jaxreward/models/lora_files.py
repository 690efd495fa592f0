"""Adapters as a folder that PEFT and diffusers load.

`adapter_config.json` and `adapter_model.safetensors`, in the layout of
`PeftModel.save_pretrained`; diffusers reads the same folder:

  PeftModel.from_pretrained(transformer, folder)
  transformer.load_lora_adapter(
    folder, prefix="base_model.model", weight_name="adapter_model.safetensors"
  )
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.files import write_atomic
from jaxreward.models import convert, lora
from jaxreward.types import Params

_PREFIX = "base_model.model"


def save_adapter(
  folder: os.PathLike[str] | str,
  adapter: Params,
  rules: convert.Rules,
  *,
  alpha: float,
  dtype: Any = None,
) -> None:
  """Writes the adapters of a model whose table of public names is given.

  Args:
    folder: made if absent.
    adapter: the second tree of `lora.split`.
    rules: the architecture's table.
    alpha: scale, as in `lora.with_lora`.
    dtype: storage type, such as "bfloat16"; float32 if None.

  Raises:
    UserError: no adapter at all, no room, or an adapter of a layer that has
      another form in the public layout, such as a convolution.
  """
  pairs = list(_public_pairs(adapter, rules))
  if not pairs:
    raise UserError("there is no adapter to save; was lora.rank 0?")
  rank = pairs[0][1].shape[0]
  arrays = {}
  for name, a, b in pairs:
    arrays[f"{_PREFIX}.{name}.lora_A.weight"] = _stored(a, dtype)
    arrays[f"{_PREFIX}.{name}.lora_B.weight"] = _stored(b, dtype)
  names = "|".join(re.escape(name) for name, _, _ in pairs)
  config = {
    "peft_type": "LORA",
    "r": rank,
    "lora_alpha": alpha,
    "target_modules": f"({names})",
    "lora_dropout": 0.0,
    "bias": "none",
  }
  folder = pathlib.Path(folder)
  # Where diffusers looks for the scale.
  known = {f"{_PREFIX}.{k}": v for k, v in config.items() if k != "peft_type"}
  header = {"format": "pt", "lora_adapter_metadata": json.dumps(known)}
  data = safetensors.numpy.save(arrays, header)
  write_atomic(folder / "adapter_model.safetensors", data)
  write_atomic(folder / "adapter_config.json", json.dumps(config, indent=2))


def _public_pairs(
  adapter: Params, rules: convert.Rules
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(public layer, A [rank, in], B [out, rank]) of every adapted layer."""
  left = dict(_pairs(adapter, ""))
  for rule in rules:
    path = rule.ours.removesuffix("/kernel")
    if path not in left:
      continue
    if rule.form is not convert.LINEAR:
      raise UserError(
        f"the adapter of {path} has no counterpart in the public layout;"
        " choose lora.targets without it"
      )
    a, b = left.pop(path)
    stacked = rule.layers is not None
    for names, a_row, b_row in zip(
      rule.names(), a if stacked else [a], b if stacked else [b], strict=True
    ):
      # Layers that are one of ours share A, and each has its part of B.
      for name, part in zip(names, np.split(b_row.T, len(names)), strict=True):
        yield name.removesuffix(".weight"), a_row.T, part
  if left:
    raise UserError(f"the table has no layer {next(iter(left))}")


def _pairs(
  tree: Params, path: str
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
  for name, child in tree.items():
    if name == lora.NAME and set(child) == {"a", "b"}:
      yield path, (np.asarray(child["a"]), np.asarray(child["b"]))
    else:
      yield from _pairs(child, f"{path}/{name}" if path else name)


def _stored(x: np.ndarray, dtype: Any) -> np.ndarray:
  return np.asarray(x.astype(jax.numpy.dtype(dtype or "float32")), order="C")
