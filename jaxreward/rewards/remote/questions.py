"""A user's checklist questions, read from files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.errors import UserError, nearest, shown

Weighted = Sequence[tuple[str, float]]

_LINE = '{"prompt": "a red circle", "questions": ["Is there a circle?"]}'


def read_questions(path: str) -> dict[str, Weighted]:
  """((question, weight), ...) of each prompt that has some.

  Args:
    path: a .jsonl file, such as that of the prompts, or a folder of them; its
      lines read {"prompt": "...", "questions": ["...", {"question": "...",
      "weight": 2}]}. Lines without questions are skipped.

  Raises:
    UserError: no file, no question, or an invalid line.
  """
  at = paths.find(path, "questions")
  files = [at]
  if at.is_dir():
    files = sorted(p for p in at.iterdir() if p.name.endswith(".jsonl"))
  questions: dict[str, Weighted] = {}
  for file in files:
    for where, row in reading.rows(file, _LINE):
      text, weighted = _questions_of(row, f"questions: {where}")
      if weighted:
        wordings.put(questions, text, weighted, f"questions: {where}")
  if not questions:
    raise UserError(
      f'questions={shown(path, 100)}: no line has "questions"; one reads like'
      f" {_LINE}"
    )
  return questions


def _questions_of(row: dict[str, Any], where: str) -> tuple[str, Weighted]:
  if "prompt" not in row:
    near = nearest("prompt", row)
    raise UserError(
      f'{where}: there is no key "prompt"{near}; a line reads like {_LINE}'
    )
  text = wordings.check_prompt(row["prompt"], where, '"prompt"')
  entries = row.get("questions", [])
  if not isinstance(entries, list):
    raise UserError(f"{where}: a line reads like {_LINE}")
  weighted = tuple(_question(q, where) for q in entries)
  return " ".join(text.split()), weighted


def _question(entry: Any, where: str) -> tuple[str, float]:
  """A question and its weight, 1 by default."""
  is_record = isinstance(entry, dict)
  text = entry.get("question") if is_record else entry
  weight = entry.get("weight", 1.0) if is_record else 1.0
  if not isinstance(text, str):
    raise UserError(f"{where}: a line reads like {_LINE}")
  wordings.check_prompt(text, where, "a question")
  number = isinstance(weight, int | float) and not isinstance(weight, bool)
  if not number or not 0 < weight < np.inf:
    raise UserError(
      f"{where}: the weight {shown(repr(weight), 40)}: it must be a number"
      " greater than 0"
    )
  return text.strip(), float(weight)
