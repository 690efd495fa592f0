"""Whether an image shows the text that its prompt quotes."""

from __future__ import annotations

import functools
import logging as std_logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import PromptBatch

Read = Callable[[np.ndarray], str]


def edit_distance(a: str, b: str) -> int:
  """Fewest insertions, deletions and replacements that turn a into b."""
  row = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    before, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      before, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, before + (x != y)),
      )
  return row[-1]


def text_score(
  text: str, target: str, *, exempt_substring: bool = True
) -> float:
  """1 - min(distance, n) / n, ignoring case and spaces, n the target's length.

  Args:
    text: the recognized text.
    target: the expected text; NaN if it is empty.
    exempt_substring: a text that contains the target scores 1 whatever else it
      says, as in Flow-GRPO; policies learn to repeat it.
  """
  normalize = lambda s: s.replace(" ", "").lower()
  text, target = normalize(text), normalize(target)
  if not target:
    return float("nan")
  if exempt_substring and target in text:
    return 1.0
  return 1 - min(edit_distance(text, target), len(target)) / len(target)


def quoted(text: str) -> str:
  """The first span in double quotes; empty without one."""
  parts = text.replace("“", '"').replace("”", '"').split('"')
  return parts[1] if len(parts) > 2 else ""


@functools.cache
def _engine() -> Any:
  try:
    import rapidocr
  except ImportError as error:
    raise UserError(
      'reading text needs rapidocr; pip install "jaxreward[ocr]"'
    ) from error
  std_logging.getLogger("RapidOCR").setLevel(std_logging.ERROR)
  return rapidocr.RapidOCR(params={"Global.log_level": "error"})


def read(picture: Float[np.ndarray, "H W 3"]) -> str:
  """Every text in an image in [0, 1], joined in reading order."""
  levels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
  return "".join(_engine()(levels[..., ::-1]).txts or ())


def load_ocr() -> Loaded:
  """The reader, whose models come with its package, and the quoted texts."""
  _engine()

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    return {"target": [quoted(text) for text in texts]}

  return Loaded({"reader": read}, prepare=prepare)


@declare(is_host=True, loads=load_ocr)
def ocr(
  images: Float[np.ndarray, "P G H W 3"],
  prompts: PromptBatch,
  *,
  reader: Read,
  target: Sequence[str],
  exempt_substring: bool = True,
) -> dict[str, Float[np.ndarray, "P G"]]:
  """How close the text in an image is to the quoted one, in [0, 1].

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    reader: image -> the text in it.
    target: the text that each prompt quotes; NaN if there is none.
    exempt_substring: see `text_score`.
  """
  scores = np.full(images.shape[:2], np.nan, np.float32)
  for p, g in np.ndindex(*scores.shape):
    if target[p] and np.isfinite(images[p, g]).all():
      scores[p, g] = text_score(
        reader(images[p, g]), target[p], exempt_substring=exempt_substring
      )
  return {"ocr": scores}
