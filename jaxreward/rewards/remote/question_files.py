"""Questions of public benchmarks, from their own files.

| benchmark | file |
| --- | --- |
| DPG-Bench | `dpg_bench.csv`: item_id, text, proposition_id, dependency, question_natural_language |
| GenEval 2 | `geneval2_data.jsonl`: prompt, vqa_list |
| OneIG-Bench | a folder with `OneIG-Bench.csv` and the folder `Q_D`, as in its repository |
| UniGenBench | csv: prompt_en, sub_dims_en |
| WISE | json: a list of Prompt, Explanation |

A file is known by its columns. Questions of WISE and UniGenBench, whose files
have none, are in words of this library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from jaxreward import reading
from jaxreward.data import wordings
from jaxreward.errors import UserError

YES_NO = (("yes", 1.0), ("no", 0.0))
_NUMBERS = (
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
  "nine", "ten",
)  # fmt: skip
_GRADES = (("0", 0.0), ("1", 0.5), ("2", 1.0))
_WISE = (
  (0.7, "How well does the picture show what is meant: {}."),
  (0.2, "How real does the picture look, by the laws of nature?"),
  (0.1, "How beautiful is the picture?"),
)
_DEGREES = " 0 is for not at all, 1 for in part, 2 for fully."
_ONEIG = {
  "anime": "Anime_Stylization", "human": "Portrait", "object": "General_Object",
}  # fmt: skip
_BELOW = ("", "Q_D", "scripts/alignment/Q_D")
_EXAMPLE = "that of the benchmark"


@dataclasses.dataclass(frozen=True)
class Question:
  """A question about an image.

  Attributes:
    text: what is asked.
    weight: within its prompt.
    parents: questions of the prompt that have to hold for it to count.
    answers: the words that there are, with values in [0, 1].
  """

  text: str
  weight: float = 1.0
  parents: tuple[int, ...] = ()
  answers: tuple[tuple[str, float], ...] = YES_NO


Entry = tuple[str, str, list[Question]]  # place, prompt, questions


def read(path: epath.Path) -> list[Entry] | None:
  """(place, prompt, questions) of a benchmark's file; None for other files.

  Raises:
    UserError: an invalid line.
  """
  if path.is_dir():
    table = path / "OneIG-Bench.csv"
    return _one_ig(path, table) if table.is_file() else None
  if path.suffix == ".json":
    return _wise(path)
  first = _first(path)
  readers = {
    ("text", "proposition_id", "question_natural_language"): _dpg,
    ("prompt_en", "sub_dims_en"): _unigen,
    ("prompt", "vqa_list"): _geneval_2,
  }
  for columns, reader in readers.items():
    if set(columns) <= set(first):
      return reader(reading.table(path, _EXAMPLE))
  return None


def _first(path: epath.Path) -> Mapping[str, Any]:
  """The first row, if it can be read."""
  if path.suffix not in (".csv", ".jsonl"):
    return {}
  for _, row in reading.table(path, _EXAMPLE, errors=True):
    return row if isinstance(row, dict) else {}
  return {}


def _prompt(row: Mapping[str, Any], name: str, where: str) -> str:
  text = wordings.check_prompt(row.get(name), where, f'"{name}"')
  return " ".join(text.split())


def _dpg(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Entry]:
  """Rows of one prompt follow each other; 0 is no parent."""
  entries: dict[str, tuple[str, str, dict[int, tuple[str, list[int]]]]] = {}
  for where, row in rows:
    number, parents = (
      _integers(row.get(name, ""), name, where)
      for name in ("proposition_id", "dependency")
    )
    text = wordings.check_prompt(
      row.get("question_natural_language"), where, "a question"
    )
    key = str(row.get("item_id", row.get("text")))
    _, _, listed = entries.setdefault(
      key, (where, _prompt(row, "text", where), {})
    )
    listed[number[0]] = text.strip(), parents
  return [
    (where, prompt, _linked(listed, where))
    for where, prompt, listed in entries.values()
  ]


def _linked(
  listed: Mapping[int, tuple[str, list[int]]], where: str
) -> list[Question]:
  """Questions by number, with numbers of parents, as a list.

  Some of OneIG-Bench name themselves.
  """
  places = {number: i for i, number in enumerate(listed)}
  questions = []
  for number, (text, parents) in listed.items():
    unknown = [p for p in parents if p and p not in places]
    if unknown:
      raise UserError(
        f"{where}: a question rests on number {unknown[0]}, which there is not"
      )
    of = tuple(places[p] for p in parents if p not in (0, number))
    questions.append(Question(text, parents=of))
  return questions


def _integers(value: Any, name: str, where: str) -> list[int]:
  try:
    return [int(part) for part in str(value).split(",")]
  except ValueError as error:
    raise UserError(f'{where}: "{name}" holds no numbers') from error


def _geneval_2(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Entry]:
  entries = []
  for where, row in rows:
    questions, pairs = [], row.get("vqa_list")
    for pair in pairs if isinstance(pairs, list) else [pairs]:
      try:
        text, answer = pair
        wordings.check_prompt(text, where, "a question")
        questions.append(Question(text, answers=_whether(answer.lower())))
      except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
          f'{where}: "vqa_list" holds {pair!r}; expected a question with yes, no'
          " or a number up to ten"
        ) from error
    entries.append((where, _prompt(row, "prompt", where), questions))
  return entries


def _whether(answer: str) -> tuple[tuple[str, float], ...]:
  """All answers of a kind, of which one is right; numbers as digits."""
  if answer in ("yes", "no"):
    return tuple((word, float(word == answer)) for word in ("yes", "no"))
  right = _NUMBERS.index(answer)
  return tuple((str(i), float(i == right)) for i in range(len(_NUMBERS)))


def _unigen(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Entry]:
  entries = []
  for where, row in rows:
    record = reading.parse(row["sub_dims_en"], where, "")
    points, words = (
      record.get(name) if isinstance(record, dict) else None
      for name in ("Testpoints", "Testpoint Description")
    )
    if not isinstance(points, list) or not isinstance(words, list):
      raise UserError(
        f'{where}: "sub_dims_en" has no "Testpoints" and "Testpoint Description"'
      )
    questions = [
      Question(
        f'Does the picture show this: "{description}"? It is about: {point}.'
      )
      for point, description in zip(points, words, strict=False)
    ]
    entries.append((where, _prompt(row, "prompt_en", where), questions))
  return entries


def _wise(path: epath.Path) -> list[Entry] | None:
  rows = reading.parse(reading.text(path), reading.name(path))
  is_wise = isinstance(rows, list) and all(
    isinstance(row, dict) and {"Prompt", "Explanation"} <= set(row)
    for row in rows
  )
  if not is_wise:
    return None
  entries = []
  for i, row in enumerate(rows):
    where = f"{reading.name(path)}, entry {i + 1}"
    meant = wordings.check_prompt(row["Explanation"], where, '"Explanation"')
    questions = [
      Question(
        words.format(meant.strip().rstrip(".")) + _DEGREES, weight, (), _GRADES
      )
      for weight, words in _WISE
    ]
    entries.append((where, _prompt(row, "Prompt", where), questions))
  return entries


def _object(path: epath.Path) -> dict[str, Any]:
  record = reading.parse(reading.text(path), reading.name(path))
  if not isinstance(record, dict):
    raise UserError(f"{reading.name(path)}: it holds no JSON object")
  return record


def _one_ig(folder: epath.Path, table: epath.Path) -> list[Entry]:
  prompts = {
    (row.get("category"), row.get("id")): (where, row)
    for where, row in reading.table(table, _EXAMPLE)
  }
  entries = []
  for stem, category in _ONEIG.items():
    places = [folder / below / f"{stem}.json" for below in _BELOW]
    for path in [place for place in places if place.is_file()][:1]:
      for number, entry in _object(path).items():
        where = f"{reading.name(path)}, {number}"
        try:
          texts, parents = (
            reading.parse(x, where) if isinstance(x, str) else x
            for x in (entry["question"], entry["dependency"])
          )
          listed = {int(k): (text, parents[k]) for k, text in texts.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
          raise UserError(
            f'{where}: expected "question" and "dependency", each by number'
          ) from error
        if (category, number) in prompts:
          at, row = prompts[category, number]
          prompt = _prompt(row, "prompt_en", at)
          entries.append((where, prompt, _linked(listed, where)))
  return entries
