"""An evaluation as plain text and as JSON.

An evaluation is a nested dict:

  {"before": {setting: numbers}, "after": {setting: numbers},
   "reward_model": {"accuracy", "low", "high", "n"}}

where a setting names how images were sampled, such as "guidance_scale=1.0",
and its numbers are {"strict", "n", "interval": [low, high], "kinds": {category:
{"accuracy", "n", "low", "high", "clusters"}}, "rewards": {name: mean}} and
further scalars. Every part may be missing. The interval of a category with one
cluster covers one meaning and says nothing about others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxreward.files import write_atomic

SCALARS = (
  ("strict", "strict accuracy"),
  ("mean_over_kinds", "mean over kinds"),
  ("diversity", "diversity"),
  ("kl", "KL to base"),
  ("texture", "texture"),
  ("out_of_range", "out of range"),
)
ONE_MEANING = "one meaning"
_NOT_ROWS = ("interval", "kinds", "rewards", "n", "failed")


def plain(value: Any) -> Any:
  """The value in JSON types: arrays become lists, NaN and inf null."""
  if isinstance(value, Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple, set, frozenset)):
    return [plain(v) for v in value]
  if value is None or isinstance(value, (bool, str, int)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if hasattr(value, "dtype"):
    return plain(np.asarray(value).astype(object).tolist())
  return str(value)


def to_json(value: Any, *, indent: int | None = 2) -> str:
  """Strict JSON text of a nested value (see `plain`)."""
  return json.dumps(
    plain(value), indent=indent, allow_nan=False, ensure_ascii=False
  )


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a file atomically: to a temporary file, then renamed."""
  write_atomic(path, text)


def write_json(path: epath.PathLike, value: Any) -> None:
  """Writes `to_json` to a file atomically."""
  write_text(path, to_json(value) + "\n")


def settings(evaluation: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Columns of the evaluation table: (heading, numbers), before first."""
  columns = []
  for side in ("policy", "before", "after"):
    prefix = "" if side == "policy" else f"{side}, "
    for setting, numbers in (evaluation.get(side) or {}).items():
      if isinstance(numbers, Mapping):
        columns.append((prefix + setting_label(setting), dict(numbers)))
  return columns


def setting_label(setting: str) -> str:
  """A readable setting: "guidance_scale=3.0" -> "guidance 3"."""
  name, equals, value = setting.partition("=")
  try:
    value = f"{float(value):g}"
  except ValueError:
    pass
  name = name.replace("guidance_scale", "guidance").replace("_", " ")
  return f"{name} {value}" if equals else name


def evaluation_rows(
  evaluation: Mapping[str, Any],
) -> tuple[list[str], list[list[str]]]:
  """The evaluation as text cells.

  Returns:
    (headings, rows): the first cell of each is the name of the metric; metrics
    without a value have no row, missing values are "–".
  """
  columns = settings(evaluation)
  numbers = [n for _, n in columns]
  rows = [
    [
      label,
      *(
        _share_cell(n) if key == "strict" else cell(n.get(key)) for n in numbers
      ),
    ]
    for key, label in _scalar_rows(numbers)
  ]
  for kind in _union(numbers, "kinds"):
    cells = (_kind_cell((n.get("kinds") or {}).get(kind)) for n in numbers)
    note = f" ({ONE_MEANING})" if one_meaning(numbers, kind) else ""
    rows.append([kind + note, *cells])
  for name in _union(numbers, "rewards"):
    cells = (cell((n.get("rewards") or {}).get(name)) for n in numbers)
    rows.append([f"reward {name}", *cells])
  if numbers:
    rows.append(["images", *(cell(n.get("n")) for n in numbers)])
  return ["", *(heading for heading, _ in columns)], rows


def one_meaning(numbers: Sequence[Mapping[str, Any]], kind: str) -> bool:
  """Whether a setting's accuracy of a category covers only one meaning."""
  rows = ((n.get("kinds") or {}).get(kind) or {} for n in numbers)
  return any(row.get("clusters") == 1 for row in rows)


def evaluation_table(evaluation: Mapping[str, Any]) -> str:
  """The evaluation as aligned plain text, one column per setting."""
  headings, rows = evaluation_rows(evaluation)
  lines = [aligned([headings, *rows])] if rows else []
  model = evaluation.get("reward_model")
  if model:
    share = _kind_cell(model)
    lines.append(
      f"reward model pair accuracy {share}, n {cell(model.get('n'))}"
    )
  return "\n".join(lines)


# Label and path of the numbers that are reported of every judged reward.
JUDGED: tuple[tuple[str, tuple[str, ...]], ...] = (
  ("pair accuracy", ()),
  ("pairs", ("n",)),
  ("with ties", ("with_ties",)),
  ("one of four", ("best_of_4",)),
  ("ties score", ("ties",)),
  ("regret, best of 2", ("regret", "2")),
  ("regret, best of 4", ("regret", "4")),
  ("Spearman per prompt", ("spearman",)),
  ("Kendall per prompt", ("kendall",)),
  ("Spearman of models", ("models", "spearman")),
  ("STARC distance", ("starc",)),
  ("temperature", ("temperature",)),
  ("calibration error", ("calibration_error",)),
  ("with its temperature", ("calibration_error_scaled",)),
  ("same order, mirrored", ("mirrored", "order")),
  ("same order, reworded", ("reworded", "order")),
  ("near prompts, images", ("contrast", "images")),
  ("near prompts, prompts", ("contrast", "prompts")),
  ("accuracy inside", ("inside",)),
  ("inside less outside", ("gap",)),
  ("failed", ("failed",)),
)


def benchmark_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
  """Sides of a benchmark as text cells, headings first; empty for none."""
  results = evaluation.get("benchmark") or {}
  sides: Mapping[str, Any] = results.get("sides") or {}
  if not sides:
    return []
  lines = [["", *sides]]
  for reward in next(iter(sides.values()))["scores"]:
    of = [side["scores"][reward] for side in sides.values()]
    spans = [
      f"{cell(x['overall'])} [{cell(x['low'])}, {cell(x['high'])}]" for x in of
    ]
    lines.append([f"{reward}, overall", *spans])
    for name in of[0]["categories"]:
      cells = (cell(x["categories"].get(name)) for x in of)
      lines.append([f"{reward}, {name}", *cells])
    for key, label in (
      ("images", "all images"), ("prompts", "best of a prompt"),
      ("failed", "without a score"),
    ):  # fmt: skip
      lines.append([f"{reward}, {label}", *(cell(x[key]) for x in of)])
    gaps = (results.get("differences") or {}).get(reward) or {}
    if gaps:
      cells = [
        f"{cell(x[0])} [{cell(x[1])}, {cell(x[2])}]"
        for x in (gaps[name] for name in list(sides)[1:])
      ]
      lines.append([f"{reward}, less the first", "–", *cells])
  names = {k: 0 for side in sides.values() for k in side.get("features") or {}}
  for name in names:
    cells = (
      cell((side.get("features") or {}).get(name)) for side in sides.values()
    )
    lines.append([name.replace("_", " "), *cells])
  return lines


def judged_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
  """The judged rewards side by side as text cells, headings first.

  Rows without a value are left out; empty if no reward was judged.
  """
  judged = evaluation.get("judged") or {}
  rewards: Mapping[str, Any] = judged.get("rewards") or {}
  if not rewards:
    return []
  lines = list(JUDGED)
  lines[2:2] = [
    (f"pair accuracy, {aspect}", ("answers", aspect))
    for aspect in _union([*rewards.values()], "answers")
  ]
  for kind in _union([*rewards.values()], "corrupted"):
    lines.append((f"{kind}: lower each step", ("corrupted", kind, "monotone")))
  for aspect in _union([*rewards.values()], "probes"):
    lines.append((f"probe of {aspect}", ("probes", aspect)))
  rows = [["", *rewards]]
  for label, path in lines:
    cells = [_cell_at(result, path) for result in rewards.values()]
    if any(c != "–" for c in cells):
      rows.append([label, *cells])
  differences = judged.get("differences") or {}
  if differences:
    first = next(iter(rewards))
    cells = [_difference(differences.get(name)) for name in rewards]
    rows.append([f"accuracy less that of {first}", *cells])
  return rows


def _cell_at(result: Any, path: Sequence[str]) -> str:
  for key in path:
    result = (result or {}).get(key)
  return _kind_cell(result) if isinstance(result, Mapping) else cell(result)


def _difference(row: Mapping[str, Any] | None) -> str:
  row = row or {}
  return _bounded_cell(row.get("value"), row.get("low"), row.get("high"))


def aligned(rows: Sequence[Sequence[str]]) -> str:
  """Padded columns: the first left-aligned, the others right-aligned."""
  widths = [max(len(c) for c in column) for column in zip(*rows, strict=True)]
  pad = lambda i, text: (
    text.ljust(widths[i]) if i == 0 else text.rjust(widths[i])
  )
  lines = ("  ".join(pad(i, c) for i, c in enumerate(row)) for row in rows)
  return "\n".join(line.rstrip() for line in lines)


def cell(value: Any) -> str:
  """One readable number; "–" if missing or not finite.

  Integers unchanged, three decimals from 0.1 on, three digits below.
  """
  if value is None or isinstance(value, str):
    return value or "–"
  if isinstance(value, int):
    return f"{value}"
  number = float(value)
  if not math.isfinite(number):
    return "–"
  plain_size = number == 0 or 0.1 <= abs(number) < 1e5
  return f"{number:.3f}" if plain_size else f"{number:.3g}"


def _share_cell(numbers: Mapping[str, Any]) -> str:
  low, high = numbers.get("interval") or (None, None)
  return _bounded_cell(numbers.get("strict"), low, high)


def _kind_cell(row: Mapping[str, Any] | None) -> str:
  row = row or {}
  return _bounded_cell(row.get("accuracy"), row.get("low"), row.get("high"))


def _bounded_cell(value: Any, low: Any, high: Any) -> str:
  """ ".613 [.568, .656]"; "–" without a value."""
  if value is None:
    return "–"
  text = cell(float(value))
  if low is None or high is None:
    return text
  return f"{text} [{cell(float(low))}, {cell(float(high))}]"


def _scalar_rows(numbers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
  """(key, label) of every scalar of a setting, known ones first."""
  keys: dict[str, None] = {}
  for n in numbers:
    for key, value in n.items():
      if isinstance(value, (int, float)) and key not in _NOT_ROWS:
        keys[key] = None
  listed = [(key, label) for key, label in SCALARS if key in keys]
  names = {key for key, _ in SCALARS}
  return listed + [(k, k.replace("_", " ")) for k in keys if k not in names]


def _union(numbers: Sequence[Mapping[str, Any]], part: str) -> list[str]:
  """Names under `part` in any setting, in order of appearance."""
  return list(dict.fromkeys(k for n in numbers for k in n.get(part) or {}))
