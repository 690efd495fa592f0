"""Prompts of public benchmarks, and folders of images that were made for them.

| benchmark | file of prompts | images of a prompt |
| --- | --- | --- |
| GenEval | jsonl: prompt, tag, include | `00000/samples/0000.png` |
| GenEval 2 | jsonl: prompt, vqa_list, atom_count | `0.png` |
| DPG-Bench | csv: item_id, text | `ITEM_ID.png` |
| UniGenBench | csv: index, prompt_en | `INDEX_0.png` |
| OneIG-Bench | csv: category, id, prompt_en | `anime/MODEL/ID.webp` |
| WISE | json: Prompt, prompt_id, Category | `PROMPT_ID.png` |
| T2I-CompBench | txt, a prompt a line | `samples/PROMPT_000000.png` |
| any | jsonl or csv: prompt, and possibly key and category | any of these |

A file is known by its columns. GenEval's folders tell their prompts themselves, in
`metadata.jsonl`, which goes before their numbers. A number after the last `_` counts
images of one prompt. Prompts of the same words share evenly, in their order, the images
that are named by words alone. A grid of several pictures in one file is one image, but
for `grid.*`, which is none, as is what lies beside a folder `samples`. Names of
T2I-CompBench, UniGenBench and OneIG-Bench are `unverified`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.errors import UserError, shown

EVERY = "all"  # the category of prompts without one
METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_EXAMPLE = '{"prompt": "a red circle"}'
_COUNTED = re.compile(r"(.+)_\d+")
_ONEIG = {
  "Anime_Stylization": "anime", "Portrait": "human", "General_Object": "object",
  "Text_Rendering": "text", "Knowledge_Reasoning": "reasoning",
  "Multilingualism": "multilingualism",
}  # fmt: skip
# Columns that a layout is known by -> columns of prompt, key and category.
LAYOUTS: Mapping[tuple[str, ...], tuple[str, str, str]] = {
  ("prompt", "tag", "include"): ("prompt", "", "tag"),
  ("prompt", "vqa_list"): ("prompt", "", "atom_count"),
  ("item_id", "text"): ("text", "item_id", ""),
  ("category", "id", "prompt_en"): ("prompt_en", "id", "category"),
  ("index", "prompt_en"): ("prompt_en", "index", ""),
  ("Prompt", "prompt_id"): ("Prompt", "prompt_id", "Category"),
  ("prompt",): ("prompt", "key", "category"),
}


@dataclasses.dataclass(frozen=True)
class Item:
  """A prompt of a benchmark.

  Attributes:
    prompt: its words.
    category: within which scores are averaged.
    key: by which images are named; its number from 0 if it has no other.
    place: of its row, for errors.
    row: as the file has it.
  """

  prompt: str
  category: str
  key: str
  place: str
  row: Mapping[str, Any] = dataclasses.field(repr=False)


def read(path: str, field: str = "") -> list[Item]:
  """The prompts of a file, or of a folder as GenEval has it.

  Raises:
    UserError: the file, its row, and what is wrong there.
  """
  at = paths.find(path, f"config.{field}")
  if at.is_dir():
    rows = _of_folder(at)
  elif at.suffix == ".txt":
    rows = [
      (where, {"prompt": text})
      for where, text in reading.lines(at)
      if not text.startswith("#")
    ]
  elif at.suffix == ".json":
    rows = _of_list(at)
  else:
    rows = list(reading.table(at, _EXAMPLE))
  items: dict[str, Item] = {}
  for where, row in rows:
    item = _item(row, where, len(items))
    items.setdefault(item.key, item)  # rows of one prompt may be several
  if not items:
    raise UserError(f"{reading.name(at)}: there is no prompt in it")
  return list(items.values())


def _of_folder(folder: epath.Path) -> list[tuple[str, dict[str, Any]]]:
  rows = []
  for path in sorted(folder.glob(f"*/{METADATA}")):
    for where, row in reading.rows(path, _EXAMPLE):
      rows.append((where, {"key": path.parent.name} | row))
  if not rows:
    raise UserError(
      f"{reading.name(folder)}: no folder 00000 with {METADATA} is in it; name"
      " the benchmark's file of prompts"
    )
  return rows


def _of_list(path: epath.Path) -> list[tuple[str, dict[str, Any]]]:
  rows = reading.parse(reading.text(path), reading.name(path))
  if not (isinstance(rows, list) and all(isinstance(r, dict) for r in rows)):
    raise UserError(f"{reading.name(path)}: expected a list of JSON objects")
  name = reading.name(path)
  return [(f"{name}, entry {i + 1}", row) for i, row in enumerate(rows)]


def _item(row: Mapping[str, Any], where: str, number: int) -> Item:
  names = next((v for k, v in LAYOUTS.items() if set(k) <= set(row)), None)
  if names is None:
    raise UserError(
      f'{where}: there is no "prompt", nor the columns of a benchmark that is'
      " known (docs/evaluate.md)"
    )
  prompt, key, category = names
  text = wordings.check_prompt(row[prompt], where, f'"{prompt}"')
  cell = lambda column: str("" if row.get(column) is None else row[column])
  name = cell("key") or (key and cell(key)) or str(number)
  kind = (category and cell(category)) or EVERY
  if key == "id" and kind in _ONEIG and not cell("key"):
    name = f"{_ONEIG[kind]}/{name}"
  return Item(" ".join(text.split()), kind, name, where, row)


def _names(path: epath.Path, folder: epath.Path) -> list[str]:
  """Keys or prompts that an image may be named after, the likeliest first."""
  parents = [p.name for p in path.parents]
  parents = parents[: len(path.relative_to(folder).parts) - 1]
  if len(parents) > 1 and parents[0] == "samples" and parents[1].isdigit():
    return [parents[1], str(int(parents[1]))]
  stems = [path.stem]
  if match := _COUNTED.fullmatch(path.stem):
    stems.append(match[1])
  within = [f"{p}/{s}" for s in stems for p in parents]
  numbers = [str(int(s)) for s in stems if s.isdigit()]
  return [*within, *stems, *numbers, *parents[:2]]


def _record(folder: epath.Path) -> Item | None:
  """What `metadata.jsonl` of a folder as GenEval has it says, if it is there."""
  path = folder / METADATA
  if not (folder.name.isdigit() and path.exists()):
    return None
  for where, row in reading.rows(path, _EXAMPLE):
    return _item({"key": folder.name} | row, where, 0)
  return None


def find_images(folder: str, items: Sequence[Item], field: str = "") -> list:
  """Files of each prompt, in the order of their names.

  Raises:
    UserError: no such folder, or a prompt without an image.
  """
  at = paths.find(folder, f"config.{field}")
  keys = {item.key: i for i, item in enumerate(items)}
  alike: dict[str, list[int]] = {}  # rows of the same words
  for i, item in enumerate(items):
    alike.setdefault(item.prompt, []).append(i)
  files: list[list[str]] = [[] for _ in items]
  by_words: dict[str, list[str]] = {prompt: [] for prompt in alike}
  record_of = functools.cache(_record)
  for path in every_image(at):
    names = _names(path, at)
    if path.parent.name == "samples" and (of := record_of(path.parents[1])):
      rows = alike.get(of.prompt, [])
      names = [n for n in (of.key, *names) if keys.get(n) in rows]
      names = names or [of.prompt]
    name = next((n for n in names if n in keys or n in alike), None)
    if name in keys:
      files[keys[name]].append(str(path))
    elif name is not None:
      by_words[name].append(str(path))
  for prompt, rows in alike.items():
    shared, n = by_words[prompt], len(rows)
    for k, i in enumerate(rows):
      files[i] += shared[k * len(shared) // n : (k + 1) * len(shared) // n]
  for item, paths_of in zip(items, files, strict=True):
    if not paths_of:
      raise UserError(
        f"config.{field}={shown(folder, 60)}: no image of {item.place},"
        f' "{shown(item.prompt)}", is in it; it may be {item.key}.png, or'
        f" {item.key}/samples/0000.png (docs/evaluate.md)"
      )
  return files


def every_image(folder: epath.Path) -> list[epath.Path]:
  """Images up to four folders deep, in the order of their names.

  Of a folder with images in `samples` those alone; no `grid.*`.
  """
  levels = ["/".join("*" * depth) for depth in range(1, 5)]
  every = (p for level in levels for p in folder.glob(level))
  images = sorted(p for p in every if p.suffix.lower() in SUFFIXES)
  roots = {p.parents[1] for p in images if p.parent.name == "samples"}
  return [p for p in images if p.parent not in roots and p.stem != "grid"]
