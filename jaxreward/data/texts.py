"""Texts as arrays of bytes, so that batches can carry them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxreward.types import ArrayLike

_STEP = 64  # lengths are rounded up to multiples, so that few shapes occur


def encode(
  texts: Sequence[str], rows: int | None = None
) -> UInt8[np.ndarray, "P N"]:
  """UTF-8 bytes [rows, N], padded with zeros; rows without a text are empty.

  Args:
    texts: without the NUL character.
    rows: at least the number of texts, its default.
  """
  data = [text.encode() for text in texts]
  longest = max((len(d) for d in data), default=0)
  table = np.zeros(
    (rows or len(data), max(-(-longest // _STEP), 1) * _STEP), np.uint8
  )
  for row, d in enumerate(data):
    table[row, : len(d)] = np.frombuffer(d, np.uint8)
  return table


def decode(text: UInt8[ArrayLike, "P N"]) -> list[str]:
  """Inverse of `encode`; a row of padding is the empty text."""
  return [bytes(row).rstrip(b"\0").decode() for row in np.asarray(text)]
