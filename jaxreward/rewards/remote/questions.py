"""Checklists: questions about an image, some of which rest on others.

A question may have parents, as of Davidsonian Scene Graphs (Cho et al. 2024,
https://arxiv.org/abs/2310.18235) and DPG-Bench: whether the dog is brown counts
only if there is a dog.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.errors import UserError, nearest, shown
from jaxreward.rewards.remote import answers, question_files
from jaxreward.rewards.remote.question_files import Question

Questions = Sequence[Question]

PACKAGE = "package:"
_ASSETS = pathlib.Path(__file__).parents[2] / "assets"
AGGREGATES, GATES = ("mean", "geometric"), ("hard", "soft", "off")
_HOLDS, _LEAST = 0.5, 1e-6
_LINE = '{"prompt": "a red circle", "questions": ["Is there a circle?"]}'


def form_of(question: Question) -> answers.Choice:
  """What an answer looks like."""
  return answers.Choice("answer", dict(question.answers))


def read_questions(path: str) -> dict[str, Questions]:
  """The questions of each prompt that has some.

  Args:
    path: a .jsonl file, such as that of the prompts, or a folder of them; its
      lines read {"prompt": "...", "questions": ["...", {"question": "...",
      "weight": 2, "parents": [1], "answers": {"yes": 1, "no": 0}}]}, parents
      counted from 1. Lines without questions are skipped. Or a file of a public
      benchmark, see `question_files`; or "package:portrait_edit_questions", those
      that come with the library.

  Raises:
    UserError: no file, no question, or an invalid line.
  """
  if path.startswith(PACKAGE):
    path = str(_ASSETS / f"{path.removeprefix(PACKAGE)}.jsonl")
  at = paths.find(path, "questions")
  entries = question_files.read(at)
  if entries is None:
    files = [at]
    if at.is_dir():
      files = sorted(p for p in at.iterdir() if p.name.endswith(".jsonl"))
    entries = [
      (f"questions: {where}", *_questions_of(row, f"questions: {where}"))
      for file in files
      for where, row in reading.rows(file, _LINE)
    ]
  questions: dict[str, Questions] = {}
  for where, text, row in entries:
    if row:
      ancestors(row, where)
      wordings.put(questions, text, tuple(row), where)
  if not questions:
    raise UserError(
      f'questions={shown(path, 100)}: no line has "questions"; one reads like'
      f" {_LINE}"
    )
  return questions


def _questions_of(row: dict[str, Any], where: str) -> tuple[str, Questions]:
  if "prompt" not in row:
    near = nearest("prompt", row)
    raise UserError(
      f'{where}: there is no key "prompt"{near}; a line reads like {_LINE}'
    )
  text = wordings.check_prompt(row["prompt"], where, '"prompt"')
  entries = row.get("questions", [])
  if not isinstance(entries, list):
    raise UserError(f"{where}: a line reads like {_LINE}")
  return " ".join(text.split()), [_question(q, where) for q in entries]


def _question(entry: Any, where: str) -> Question:
  is_record = isinstance(entry, dict)
  text = entry.get("question") if is_record else entry
  if not isinstance(text, str):
    raise UserError(f"{where}: a line reads like {_LINE}")
  wordings.check_prompt(text, where, "a question")
  question = Question(text.strip())
  if not is_record:
    return question
  weight = entry.get("weight", 1.0)
  if not _is_number(weight) or not 0 < weight < np.inf:
    raise UserError(
      f"{where}: the weight {shown(repr(weight), 40)}: it must be a number"
      " greater than 0"
    )
  parents = entry.get("parents", [])
  if not isinstance(parents, list) or not all(type(p) is int for p in parents):
    raise UserError(
      f"{where}: parents={shown(repr(parents), 40)}: a list of numbers of"
      " questions, from 1"
    )
  table = entry.get("answers", dict(question.answers))
  if not isinstance(table, Mapping) or any(
    answers.plain(word) != word or not word or not _is_number(v) or not 0 <= v <= 1
    for word, v in table.items()
  ) or not {0, 1} <= set(table.values()):  # fmt: skip
    raise UserError(
      f"{where}: answers={shown(repr(table), 60)}: words in lower case with"
      ' values from 0 to 1, both of them among these, as {"yes": 1, "no": 0}'
    )
  return Question(
    text.strip(), float(weight), tuple(p - 1 for p in parents),
    tuple((word, float(v)) for word, v in table.items()),
  )  # fmt: skip


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def ancestors(questions: Questions, where: str = "") -> Bool[np.ndarray, "Q Q"]:
  """Whether a question (row) rests on another (column), at any distance.

  Args:
    questions: of one prompt.
    where: they stand, for errors.

  Raises:
    UserError: a parent that there is not, or questions that rest on themselves.
  """
  count = len(questions)
  above = np.zeros((count, count), bool)
  for i, question in enumerate(questions):
    for parent in question.parents:
      if not 0 <= parent < count:
        raise UserError(
          f'{where}: "{shown(question.text)}" has the parent {parent + 1}, and'
          f" there are {count} questions"
        )
      above[i, parent] = True
  for _ in range(count.bit_length()):
    above |= (above[:, :, None] & above[None]).any(1)
  if above.diagonal().any():
    one = questions[int(above.diagonal().argmax())]
    raise UserError(
      f'{where}: "{shown(one.text)}" rests on itself; mend its parents'
    )
  return above


def graded(
  values: Float[Any, "... Q"],
  weights: Float[Any, "... Q"],
  above: Bool[Any, "... Q Q"],
  *,
  aggregate: str = "mean",
  gate: str = "hard",
  xp: Any = np,
) -> Float[Any, "..."]:
  """One number for the answers to a checklist, in [0, 1].

  Args:
    values: of the answers, in [0, 1].
    weights: of the questions, 0 for padding; not all of them 0.
    above: `ancestors`.
    aggregate: the weighted "mean", or the "geometric" one, in which the worst
      answers weigh most: GenEval 2 (Kamath et al. 2025,
      https://arxiv.org/abs/2512.16853) reports both as Soft-TIFA.
    gate: a question counts 0 where one that it rests on has less than 1/2
      ("hard", as for DPG-Bench), is multiplied by the values of all that it
      rests on ("soft"), or stands alone ("off").
    xp: the module of the arrays, `numpy` or `jax.numpy`.
  """
  if gate != "off":
    others = values[..., None, :]
    if gate == "hard":
      others = xp.where(others >= _HOLDS, 1.0, 0.0)
    values = values * xp.where(above, others, 1.0).prod(-1)
  share = weights / weights.sum(-1)[..., None]
  if aggregate == "mean":
    return (share * values).sum(-1)
  return xp.exp((share * xp.log(xp.maximum(values, _LEAST))).sum(-1))
