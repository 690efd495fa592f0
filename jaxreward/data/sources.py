"""Prompts from a user's own files.

A source is a file, or a folder:

- `*.txt`: one prompt per line; blank lines and lines that start with `#` are
  skipped, and the latter are counted in the log;
- `*.jsonl`: one object per line with the text under "prompt"; for tasks with
  images also "image", the source, and optionally "target", the exact answer,
  and "mask", white where the answer may differ, as file names relative to the
  folder; other keys are ignored. A prompt may start with `#`;
- a folder with `train.txt` or `train.jsonl` and, optionally, `validation.*` and
  `test.*` (the held-out prompts).

A split without a file is taken from the training file by meaning: all wordings
of one meaning go to one split, so that held-out prompts never occur in
training. Rows with images are identified by text and image. Duplicates are
dropped, because noise depends on the text and the image.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath

from jaxreward import paths, reading
from jaxreward.data import pictures, wordings
from jaxreward.data.prompts import SPLITS, Prompt, check_split
from jaxreward.errors import UserError, nearest, shown

Parse = Callable[[str], Prompt]  # UserError for unknown words

SUFFIXES = (".txt", ".jsonl")
# File names of each split in a folder, the usual one first.
FILES = {
  "train": ("train",),
  "validation": ("validation", "val"),
  "heldout": ("test", "heldout"),
}
_EXAMPLE = '{"prompt": "a red circle"}'


@dataclasses.dataclass(frozen=True)
class _Entry:
  prompt: Prompt
  where: str

  @property
  def meaning(self) -> str:
    return self.prompt.meaning


def _prompts(path: epath.Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
  """(place, prompt, row) of every line with a prompt.

  The row is empty for a .txt file.
  """
  if path.suffix == ".jsonl":
    for where, row in reading.rows(path, _EXAMPLE):
      if "prompt" not in row:
        near = nearest("prompt", row)
        raise UserError(f'{where}: there is no key "prompt"{near}')
      text = row["prompt"]
      if not isinstance(text, str):
        value = shown(json.dumps(text))
        raise UserError(f'{where}: "prompt" is {value}, which is not text')
      yield where, text, row
    return
  skipped = 0
  for where, text in reading.lines(path):
    if text.startswith("#"):
      skipped += 1
    else:
      yield where, text, {}
  if skipped:
    _tell(
      logging.INFO,
      "%s: %d lines that begin with # are taken for comments; a prompt that"
      " begins so goes into a .jsonl file",
      reading.name(path),
      skipped,
    )


@functools.cache
def _tell(level: int, text: str, *values: Any) -> None:
  """Logs a line once, even if a file is read several times."""
  logging.log(level, text, *values)


def _read_file(
  path: epath.Path, parse: Parse, with_pictures: bool
) -> list[_Entry]:
  """Prompts of a file, each once, in the order of the lines."""
  if path.suffix not in SUFFIXES:
    raise UserError(
      f"{reading.name(path)}: prompts are read from {' and '.join(SUFFIXES)} files"
    )
  if with_pictures and path.suffix != ".jsonl":
    raise UserError(
      f"{reading.name(path)}: the policy starts from pictures, which a .jsonl file names; a"
      ' line reads like {"prompt": "make it blue", "image": "a.png"}'
    )
  entries: dict[str, _Entry] = {}
  repeated, odd = 0, []
  for where, text, row in _prompts(path):
    wordings.check_prompt(text, where)
    odd += [(where, c) for c in wordings.controls(text)[:1]]
    files = (
      pictures.files_of(row, where, path.parent) if with_pictures else None
    )
    try:
      prompt = dataclasses.replace(parse(text), pictures=files)
    except UserError as error:
      raise UserError(f"{where}: {error}") from error
    repeated += prompt.key in entries
    entries.setdefault(prompt.key, _Entry(prompt, where))
  if not entries:
    raise UserError(f"{reading.name(path)}: there is no prompt in this file")
  if odd:
    _tell(
      logging.WARNING,
      "%d prompts hold characters that are no words, such as %s in %s",
      len(odd),
      ascii(odd[0][1]),
      odd[0][0],
    )
  if repeated:
    _tell(
      logging.INFO,
      "%s: %d repeated prompts are used once",
      reading.name(path),
      repeated,
    )
  return list(entries.values())


def _file_of(folder: epath.Path, split: str) -> epath.Path | None:
  names = [stem + suffix for stem in FILES[split] for suffix in SUFFIXES]
  candidates = [
    folder / name for name in names if paths.is_there(folder / name)
  ]
  if len(candidates) > 1:
    raise UserError(
      f"{reading.name(folder)}: {candidates[0].name} and {candidates[1].name} are the same split;"
      " keep one"
    )
  return candidates[0] if candidates else None


def _field(source: str) -> str:
  return f"data.source={shown(source, 100)}"


def _find_files(
  source: str, known: Sequence[str] = ()
) -> dict[str, epath.Path]:
  """Files of a source by split; "train" always exists."""
  path = epath.Path(paths.expand(source, "data.source"))
  if reason := paths.trouble(path):
    near = nearest(path.name, [*known, *paths.beside(path)])
    raise UserError(f"{_field(source)}: {reason}{near}")
  if not path.is_dir():
    return {"train": path}
  files = {split: _file_of(path, split) for split in SPLITS}
  if files["train"] is None:
    raise UserError(
      f"{_field(source)}: the folder holds neither train.txt nor train.jsonl"
    )
  return {split: file for split, file in files.items() if file is not None}


def _check_disjoint(by_split: dict[str, list[_Entry]]) -> None:
  """No meaning in two of the files."""
  owners: dict[str, tuple[str, _Entry]] = {}
  for split, entries in by_split.items():
    for entry in entries:
      other_split, other = owners.setdefault(entry.meaning, (split, entry))
      if other_split != split:
        raise UserError(
          f'{entry.where}: "{shown(entry.prompt.text)}" means the same as'
          f' "{shown(other.prompt.text)}" of another split ({other.where}); keep'
          " one"
        )


def _assign(
  entries: Sequence[_Entry], missing: Sequence[str], share: float
) -> dict[str, str]:
  """Split of every meaning of the training file, by hash, in each category.

  Meanings are ordered by the rank of their hash within their category, so that
  every split has about the same categories, and a file of at least three
  meanings gives at least one to each split.
  """
  by_category: dict[int, set[str]] = {}
  for entry in entries:
    by_category.setdefault(entry.prompt.category, set()).add(entry.meaning)
  ranked = []
  for names in by_category.values():
    ordered = sorted((zlib.crc32(n.encode()), n) for n in names)
    ranked += [
      ((rank + 0.5) / len(ordered), *key) for rank, key in enumerate(ordered)
    ]
  order = [name for _, _, name in sorted(ranked)]
  count = max(1, round(share * len(order))) if share else 0
  if len(order) <= len(missing):
    count = 0
  splits = dict.fromkeys(order, "train")
  for i, split in enumerate(missing):
    splits.update(dict.fromkeys(order[i * count : (i + 1) * count], split))
  return splits


def _read_all(
  source: str, parse: Parse, with_pictures: bool, known: Sequence[str]
) -> dict[str, list[_Entry]]:
  """All files of a source by split; `kinds` covers all of its rows."""
  by_split = {
    name: _read_file(path, parse, with_pictures)
    for name, path in _find_files(source, known).items()
  }
  rows = [e.prompt.pictures for entries in by_split.values() for e in entries]
  kinds = tuple(
    key for key in pictures.FIELDS if any(getattr(r, key, "") for r in rows)
  )

  def informed(entry: _Entry) -> _Entry:
    if entry.prompt.pictures is None:
      return entry
    files = dataclasses.replace(entry.prompt.pictures, kinds=kinds)
    prompt = dataclasses.replace(entry.prompt, pictures=files)
    return _Entry(prompt, entry.where)

  return {
    name: [informed(e) for e in entries] for name, entries in by_split.items()
  }


def load_prompts(
  source: str,
  split: str,
  parse: Parse,
  validation_share: float = 0.1,
  *,
  with_pictures: bool = False,
  known: Sequence[str] = (),
) -> tuple[Prompt, ...]:
  """Prompts of one split of a source.

  Args:
    source: the path of a .txt or .jsonl file, or of a folder.
    split: "train", "validation" or "heldout".
    parse: reads one prompt.
    validation_share: share of the training file's meanings, in [0, 0.5), that
      goes to each split without a file.
    with_pictures: rows of a file may name images.
    known: names of other sources, suggested if there is no such file.

  Returns:
    At least one prompt, each text once.

  Raises:
    UserError: the file, the line, the error and the fix."""
  check_split(split)
  if not 0 <= validation_share < 0.5:
    raise UserError(
      f"validation_share={validation_share}: it must lie in [0, 0.5)"
    )
  by_split = _read_all(source, parse, with_pictures, known)
  _check_disjoint(by_split)
  missing = [s for s in ("heldout", "validation") if s not in by_split]
  splits = _assign(by_split["train"], missing, validation_share)
  train = [e for e in by_split["train"] if splits[e.meaning] == split]
  selection = (
    by_split[split] if split != "train" and split in by_split else train
  )
  if not selection:
    name = FILES[split][0]
    raise UserError(
      f"{_field(source)}: {len(splits)} meanings and validation_share="
      f"{validation_share} leave nothing for the {split} split; give more"
      f" prompts, or a folder with train.txt and {name}.txt"
    )
  return tuple(dataclasses.replace(e.prompt, split=split) for e in selection)


def all_prompts(
  source: str,
  parse: Parse,
  *,
  with_pictures: bool = False,
  known: Sequence[str] = (),
) -> tuple[Prompt, ...]:
  """Every prompt of a user's file or folder, in order, whatever its split.

  The arguments are those of `load_prompts`.

  Raises:
    UserError: the file, the line, the error and the fix."""
  by_split = _read_all(source, parse, with_pictures, known)
  entries = itertools.chain.from_iterable(by_split.values())
  return tuple({e.prompt.key: e.prompt for e in entries}.values())
