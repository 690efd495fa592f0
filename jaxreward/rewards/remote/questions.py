"""The questions of checklists, as users write them beside their prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from jaxreward.errors import UserError, one_line

Weighted = Sequence[tuple[str, float]]

_LINE = '{"prompt": "a red circle", "questions": ["Is there a circle?"]}'


def read_questions(path: str) -> dict[str, Weighted]:
  """((question, weight), ...) of each prompt that has some.

  Args:
    path: a .jsonl file, such as that of the prompts, or a folder of them; its
      lines read {"prompt": "...", "questions": ["...", {"question": "...",
      "weight": 2}]}. Lines without questions are skipped.

  Raises:
    UserError: nothing there, or a line that is wrong.
  """
  at = epath.Path(path).expanduser()
  files = sorted(at.glob("*.jsonl")) if at.is_dir() else [at]
  found: dict[str, Weighted] = {}
  for file in files:
    try:
      lines = file.read_text().split("\n")
    except (OSError, ValueError) as error:
      raise UserError(f"questions={path}: {one_line(error)}") from error
    for number, line in enumerate(lines, 1):
      if line.strip():
        found |= _questions_of(line, f"questions: {file}, line {number}")
  if not found:
    raise UserError(
      f'questions={path}: no line has "questions"; one reads like {_LINE}'
    )
  return found


def _questions_of(line: str, where: str) -> dict[str, Weighted]:
  try:
    row = json.loads(line)
    prompt, listed = " ".join(row["prompt"].split()), row.get("questions", [])
    pairs = [
      (q, 1.0) if isinstance(q, str) else (q["question"], q.get("weight", 1.0))
      for q in listed
    ]
    weighted = tuple((q.strip(), float(weight)) for q, weight in pairs)
    if not isinstance(listed, list) or not all(q for q, _ in weighted):
      raise ValueError("no list of questions")
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f"{where}: a line reads like {_LINE}") from error
  if not all(0 < weight < np.inf for _, weight in weighted):
    raise UserError(f"{where}: a weight must be greater than 0")
  return {prompt: weighted} if weighted else {}
