"""Outputs of frozen encoders, made once and kept in a cache.

An entry is named by the encoder, its options and bytes of its weights, and by what it
has read.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxreward import processes
from jaxreward.data.encoding_cache import EncodingCache, key
from jaxreward.errors import UserError
from jaxreward.models import hub
from jaxreward.types import Policy

_FORMAT = 1  # of what entries hold; another one reads none of older runs
_SAMPLE = 1 << 16  # bytes of a file of weights at each of `_PLACES`
_PLACES = 16


def fingerprint(section: Any, seed: int, policy: Policy) -> str:
  """Identity of an encoder: its options, and bytes of its files of weights.

  Sixteen places of every file are read, not all of it. Random weights are known by
  the seed.

  Args:
    section: of the config.
    seed: of the run.
    policy: whose shapes of prompts it gives.
  """
  parts: list[Any] = [
    _FORMAT,
    json.dumps(section.to_dict(), sort_keys=True, default=str),
  ]
  spec = section.get("weights", "")
  if not spec:
    parts.append(seed)
  else:
    for path in _files(spec):
      parts.append((path.name, path.stat().st_size, _sampled(path)))
  shapes = jax.tree.map(lambda x: x.shape, policy.prompts)
  return key(*parts, str(shapes))


def _files(spec: str) -> list[pathlib.Path]:
  place = hub.resolve(spec)
  if place.is_file():
    return [place]
  ends = (".safetensors", ".json", ".txt", ".model", ".bin", ".pt", ".pth")
  return sorted(p for p in place.rglob("*") if p.suffix in ends and p.is_file())


def _sampled(path: pathlib.Path) -> str:
  digest, size = hashlib.blake2b(digest_size=16), path.stat().st_size
  with open(path, "rb") as file:
    for i in range(_PLACES):
      file.seek(i * max(size - _SAMPLE, 0) // (_PLACES - 1))
      digest.update(file.read(_SAMPLE))
  return digest.hexdigest()


def hash_of(x: np.ndarray) -> str:
  """Of an array's shape, type and numbers."""
  digest = hashlib.blake2b(f"{x.shape} {x.dtype}".encode(), digest_size=16)
  digest.update(np.ascontiguousarray(x).tobytes())
  return digest.hexdigest()


def entry_of(cache: EncodingCache, name: str) -> dict[str, np.ndarray]:
  """The arrays of an entry.

  Raises:
    UserError: it is gone or damaged; what is left of it is removed.
  """
  entry = cache.read(name)
  if entry is None:
    cache.discard(name)
    raise UserError(
      f"config.finetune.cache: the entry {name} of {cache.folder} is"
      " gone or damaged; start again, which encodes it anew"
    )
  return entry


def through(
  cache: EncodingCache,
  names: Sequence[str],
  encode: Callable[[list[int]], dict[str, Any]],
) -> dict[str, np.ndarray]:
  """Outputs of an encoder for N inputs, leaves [N, ...].

  Every process has to call it with the same names.

  Args:
    cache: what it lacks is encoded and written.
    names: of the entries, one per input; equal inputs have equal names.
    encode: numbers of K inputs -> leaves [K, ...].
  """
  numbers = {name: i for i, name in reversed([*enumerate(names)])}
  missing = processes.on_first(
    lambda: sorted(i for name, i in numbers.items() if not cache.has(name))
  )
  if missing:
    outputs = jax.device_get(encode(missing))
    for n, i in enumerate(missing):
      cache.write(names[i], jax.tree.map(lambda x, n=n: x[n], outputs))
    processes.wait_for_all("encodings")
  entries = [entry_of(cache, name) for name in names]
  return jax.tree.map(lambda *x: np.stack(x), *entries)
