"""Adapters as a folder that PEFT, diffusers and others load.

`adapter_config.json` and `adapter_model.safetensors` are in the layout of
`PeftModel.save_pretrained`. `pytorch_lora_weights.safetensors` has the names of
diffusers' pipelines. Its second matrices are multiplied by alpha / rank, so
that it also works in programs that ignore alpha or assume another one:

  PeftModel.from_pretrained(transformer, folder)
  pipeline.load_lora_weights(folder)

Each of two networks has its own folder. diffusers maps names of the second
network to the first unless told where they go:

  pipeline.load_lora_weights(f"{folder}/transformer")
  pipeline.load_lora_weights(
    f"{folder}/transformer_2", load_into_transformer_2=True
  )
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.files import write_atomic
from jaxreward.models import convert, lora
from jaxreward.types import Params

PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"  # key of a header, where diffusers looks
PEFT_PREFIX = "base_model.model"
DIFFUSERS_PREFIX = "transformer"
Pairs = list[tuple[str, np.ndarray, np.ndarray]]


def save_adapter(
  folder: os.PathLike[str] | str,
  adapter: Params,
  rules: convert.Rules,
  *,
  alpha: float,
  dtype: Any = None,
) -> None:
  """Writes the adapters of a model, given its table of public names.

  Args:
    folder: created if absent.
    adapter: the second tree of `lora.split`.
    rules: the architecture's table.
    alpha: scale, as in `lora.with_lora`.
    dtype: storage type, such as "bfloat16"; float32 if None.

  Raises:
    UserError: no adapter, no space, values too large for the type, or an
      adapted layer that is not a matrix product in the public layout.
  """
  pairs = list(_public_pairs(adapter, rules))
  if not pairs:
    raise UserError("there is no adapter to save; was lora.rank 0?")
  rank = pairs[0][1].shape[0]
  scaled_pairs = [
    (name, a, b * np.float32(alpha / rank)) for name, a, b in pairs
  ]
  config = _config(pairs, rank, alpha)
  folder = pathlib.Path(folder)
  for file, prefix, pairs_of, its in (
    (PEFT_FILE, PEFT_PREFIX, pairs, config),
    (
      DIFFUSERS_FILE,
      DIFFUSERS_PREFIX,
      scaled_pairs,
      config | {"lora_alpha": rank},
    ),
  ):
    write_atomic(folder / file, _bytes(pairs_of, prefix, its, dtype))
  write_atomic(folder / PEFT_CONFIG, json.dumps(config, indent=2))


def _config(pairs: Pairs, rank: int, alpha: float) -> dict[str, Any]:
  names = "|".join(re.escape(name) for name, _, _ in pairs)
  return {
    "peft_type": "LORA",
    "r": rank,
    "lora_alpha": alpha,
    "target_modules": f"({names})",
    "lora_dropout": 0.0,
    "bias": "none",
  }


def _bytes(
  pairs: Pairs, prefix: str, config: dict[str, Any], dtype: Any
) -> bytes:
  """A safetensors file whose header holds the config, with the same prefix."""
  arrays = {}
  for name, a, b in pairs:
    for end, x in (("A", a), ("B", b)):
      key = f"{prefix}.{name}.lora_{end}.weight"
      arrays[key] = convert.stored(key, x, dtype or "float32")
  fields = {f"{prefix}.{k}": v for k, v in config.items() if k != "peft_type"}
  header = {"format": "pt", METADATA: json.dumps(fields)}
  return safetensors.numpy.save(arrays, header)


def _public_pairs(
  adapter: Params, rules: convert.Rules
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """(public layer, A [rank, in], B [out, rank]) of every adapted layer.

  For a convolution they are [rank, in, *window] and [out, rank, 1, ...].
  """
  pairs = dict(_pairs(adapter, ""))
  for rule in rules:
    path = rule.ours.removesuffix("/kernel")
    if path not in pairs:
      continue
    if rule.form in (convert.SAME, convert.CONV):
      raise UserError(
        f"the adapter of {path} has no counterpart in the public layout;"
        " choose lora.targets without it"
      )
    a, b = pairs.pop(path)
    is_stacked = rule.layers is not None
    for names, a_row, b_row in zip(
      rule.names(),
      a if is_stacked else [a],
      b if is_stacked else [b],
      strict=True,
    ):
      public_a = rule.form.to_public(a_row)
      window = (1,) * (public_a.ndim - 2)
      # Public layers fused in ours share A, and each has its part of B.
      for name, part in zip(names, np.split(b_row.T, len(names)), strict=True):
        yield (
          name.removesuffix(".weight"),
          public_a,
          part.reshape(*part.shape, *window),
        )
  if pairs:
    raise UserError(f"the table has no layer {next(iter(pairs))}")


def _pairs(
  tree: Params, path: str
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
  for name, child in tree.items():
    if name == lora.NAME and set(child) == {"a", "b"}:
      yield path, (np.asarray(child["a"]), np.asarray(child["b"]))
    else:
      yield from _pairs(child, f"{path}/{name}" if path else name)
