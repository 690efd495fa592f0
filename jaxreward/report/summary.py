"""Sentences, key numbers and tables at the top of the page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from jaxreward.evaluation import silence
from jaxreward.evaluation.divergence import divergence_warning
from jaxreward.evaluation.tables import (
  ONE_MEANING,
  cell,
  one_meaning,
  setting_label,
)
from jaxreward.report.series import CHARTS, Rows, bare, history, metric_keys

TEXTURE_LIMIT = 1.5  # ratio to the base above which a background is suspicious
OUT_OF_RANGE_LIMIT = 0.02  # share of values
PLAIN = "guidance_scale=1.0"

Evaluation = Mapping[str, Any]


def percent(share: Any, digits: int = 1) -> str:
  """A share as "61.3 %"; "–" if missing."""
  if share is None or not math.isfinite(share):
    return "–"
  return f"{100 * share:.{digits}f} %"


def common_setting(evaluation: Evaluation) -> str | None:
  """The setting to compare at: no guidance, else the first shared one."""
  before = evaluation.get("before") or {}
  after = evaluation.get("after") or {}
  shared = [k for k in before if k in after] or [*after, *before]
  shared = shared or [*(evaluation.get("policy") or {})]
  return PLAIN if PLAIN in shared else next(iter(shared), None)


def numbers_at(
  evaluation: Evaluation, side: str, setting: str | None
) -> Mapping[str, Any]:
  """The numbers of one side at one setting; empty if there are none."""
  return (evaluation.get(side) or {}).get(setting) or {}


def best_base(evaluation: Evaluation) -> tuple[str, Mapping[str, Any]] | None:
  """The setting at which the policy before alignment is most accurate."""
  before = evaluation.get("before") or {}
  candidates = {k: n for k, n in before.items() if n and _real(n.get("strict"))}
  if not candidates:
    return None
  setting = max(candidates, key=lambda k: candidates[k]["strict"])
  return setting, candidates[setting]


def lead(evaluation: Evaluation) -> str:
  """One sentence with the result; empty if nothing was evaluated."""
  setting = common_setting(evaluation)
  before = numbers_at(evaluation, "before", setting)
  after = numbers_at(evaluation, "after", setting)
  sampling = _sampling_text(setting)
  if _real(before.get("strict")) and _real(after.get("strict")):
    return (
      f"Of {after.get('n', '–')} held-out images sampled {sampling},"
      f" {percent(after['strict'])} show exactly what their prompt asks;"
      f" before alignment it was {percent(before['strict'])}."
    )
  single = numbers_at(evaluation, "policy", setting)
  for numbers in (after, before, single):
    if _real(numbers.get("strict")):
      return (
        f"Of {numbers.get('n', '–')} held-out images sampled {sampling},"
        f" {percent(numbers['strict'])} show exactly what their prompt asks."
      )
  model = evaluation.get("reward_model") or {}
  if _real(model.get("accuracy")):
    return (
      f"The reward model orders {percent(model['accuracy'])} of"
      f" {model.get('n', '–')} held-out pairs as the labels do."
    )
  return ""


def tiles(evaluation: Evaluation) -> dict[str, dict[str, str]]:
  """The key numbers: label -> {value, detail}."""
  setting = common_setting(evaluation)
  before = numbers_at(evaluation, "before", setting)
  after = numbers_at(evaluation, "after", setting)
  single = {} if before or after else numbers_at(evaluation, "policy", setting)
  table = {
    "Held-out accuracy": _accuracy_tile(
      before, after or single, setting, evaluation
    ),
    "Base with its best guidance": _best_tile(evaluation, after),
    "Texture against the base": _ratio_tile(
      before, after, "texture", f"up to {TEXTURE_LIMIT} × counts as clean"
    ),
    "Diversity against the base": _ratio_tile(
      before, after, "diversity", "within groups; 1 × means as varied as before"
    ),
    "Reward model": _model_tile(evaluation.get("reward_model") or {}),
  }
  return {label: tile for label, tile in table.items() if tile}


def kind_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
  """Accuracy of each category before and after, for the table and its bars.

  Returns:
    {kind, note, before, after, guided: texts, change: text, marks: [{side,
    left, low, width}] in per cent of the axis}; the last row is the total.
  """
  setting = common_setting(evaluation)
  sides = {s: numbers_at(evaluation, s, setting) for s in ("before", "after")}
  best = best_base(evaluation)
  guided = best[1] if best and best[0] != setting else {}
  categories = [k for n in sides.values() for k in n.get("kinds") or {}]
  rows = [
    _kind_row(
      kind,
      {s: (n.get("kinds") or {}).get(kind) for s, n in sides.items()},
      (guided.get("kinds") or {}).get(kind),
    )
    for kind in dict.fromkeys(categories)
  ]
  overall = {s: _overall(n) for s, n in sides.items()}
  if any(overall.values()):
    rows.append(_kind_row("all", overall, _overall(guided)))
  for row in rows:
    is_single = one_meaning([*sides.values()], row["kind"])
    row["note"] = ONE_MEANING if is_single else ""
  return rows


def panel_rows(rows: Rows) -> list[dict[str, str]]:
  """First and last tenth of every panel metric, with its meaning."""
  charts = {c.name: c for c in CHARTS if c.name not in ("loss", "calibration")}
  table = []
  for key in metric_keys(rows):
    name = bare(key)
    chart = charts.get(_panel_chart(name) or "")
    series = [row.get(key) for row in rows]
    values = np.array([v for v in series if _real(v)])
    if chart is None or values.size == 0:
      continue
    tenth = max(1, values.size // 10)
    first, last = values[:tenth].mean(), values[-tenth:].mean()
    table.append(
      {
        "name": _readable(name),
        "first": cell(float(first)),
        "last": cell(float(last)),
        "change": f"{last - first:+.3g}".replace("-", "−"),
        "meaning": chart.caption,
      }
    )
  for above, row in reversed(list(itertools.pairwise(table))):
    if row["meaning"] == above["meaning"]:
      row["meaning"] = ""
  return table


_LEFT_OUT = ("malformed", "unlabeled", "unsure")


def data_notes(evaluation: Evaluation) -> list[str]:
  """What became of the rows of preferences, and of their labels."""
  lines = []
  counts: Any = evaluation.get("preferences")
  if isinstance(counts, Mapping):
    left_out = [
      f"{counts[name]} {name}" for name in _LEFT_OUT if counts.get(name)
    ]
    tail = (
      f", left out: {', '.join(left_out)}" if left_out else ", none left out"
    )
    if broken := counts.get("broken_images"):
      tail += f"; images that cannot be read: {broken}"
    lines.append(f"Preferences: {counts.get('rows')} rows{tail}.")
  curation: Any = evaluation.get("curation")
  if isinstance(curation, Mapping):
    selection = [
      f"{curation.get(name)} {name}" for name in ("kept", "turned", "softened")
    ]
    lines.append(
      f"Curated labels: of {curation.get('pairs')} pairs {', '.join(selection)}."
    )
  return lines


def automatic_warnings(evaluation: Evaluation, rows: Rows) -> list[str]:
  """Warnings that a reader should not overlook."""
  setting = common_setting(evaluation)
  before = numbers_at(evaluation, "before", setting)
  after = numbers_at(evaluation, "after", setting)
  lines = [_parting(rows), silence.summary(rows)]
  ratio = _ratio(before, after, "texture")
  if ratio is not None and ratio > TEXTURE_LIMIT:
    lines.append(
      f"Background texture is {ratio:.2f} times that of the base (limit"
      f" {TEXTURE_LIMIT}): look for a pattern that the reward does not see."
    )
  outside: Any = after.get("out_of_range")
  if _real(outside) and outside > OUT_OF_RANGE_LIMIT:
    lines.append(
      f"{percent(outside)} of the values after alignment lie outside [0, 1]"
      f" and are clipped (limit {percent(OUT_OF_RANGE_LIMIT)})."
    )
  best = best_base(evaluation)
  if best and _real(after.get("strict")):
    if after["strict"] < best[1]["strict"] and best[0] != setting:
      lines.append(
        f"The base reaches {percent(best[1]['strict'])} with"
        f" {setting_label(best[0])}, more than the aligned policy's"
        f" {percent(after['strict'])} {_sampling_text(setting)}."
      )
  return [line for line in lines if line]


def _parting(rows: Rows) -> str | None:
  for pair in (
    ("trained_reward", "heldout_reward"),
    ("reward/trained", "reward/heldout"),
  ):
    trained, heldout = (history(rows, name) for name in pair)
    if trained and heldout:
      return divergence_warning(trained, heldout)
  return None


def _readable(name: str) -> str:
  """A readable name of a metric."""
  names = {"kl": "KL", "heldout_reward": "held-out reward"}
  return names.get(name, name.replace("_", " ").replace("/", ", "))


def _panel_chart(name: str) -> str | None:
  if name in ("trained_reward", "heldout_reward"):
    return "reward"
  if name in ("reward/trained", "reward/heldout"):
    return "reward"
  names = {
    "accuracy": "accuracy",
    "strict": "accuracy",
    "clip_fraction_high": "clip",
    "clip_fraction_low": "clip",
    "zero_variance_groups": "zero_variance",
    "zero_variance_share": "zero_variance",
  }
  others = [
    c.name for c in CHARTS if c.name not in ("reward", "accuracy", "clip")
  ]
  return names.get(name, name if name in others else None)


def _accuracy_tile(before, after, setting, evaluation) -> dict[str, str] | None:
  values = [n.get("strict") for n in (before, after)]
  valid = [n for n in (before, after) if _real(n.get("strict"))]
  if not valid:
    return None
  details = [f"{_sampling_text(setting)}, n = {valid[-1].get('n', '–')}"]
  ranges = [_range(n.get("interval")) for n in valid]
  if all(ranges):
    details.append("95 % intervals " + " and ".join(ranges))
  difference = evaluation.get("difference") or {}
  if _real(difference.get("value")):
    ends = _range((difference.get("low"), difference.get("high")))
    details.append(f"paired gain {percent(difference['value'])} ({ends})")
  text = " → ".join(percent(v) for v in values if _real(v))
  return {"value": text, "detail": "; ".join(details)}


def _best_tile(evaluation, after) -> dict[str, str] | None:
  best = best_base(evaluation)
  if best is None:
    return None
  setting, numbers = best
  detail = f"before alignment, {_sampling_text(setting)}"
  if _real(after.get("strict")):
    gap = 100 * (after["strict"] - numbers["strict"])
    side = "above" if gap >= 0 else "below"
    detail += f"; the aligned policy is {abs(gap):.1f} points {side}"
  return {"value": percent(numbers["strict"]), "detail": detail}


def _ratio_tile(before, after, key: str, detail: str) -> dict[str, str] | None:
  ratio = _ratio(before, after, key)
  if ratio is None:
    return None
  values = f"{cell(float(before[key]))} → {cell(float(after[key]))}"
  return {"value": f"{ratio:.2f} ×", "detail": f"{values}; {detail}"}


def _model_tile(model: Mapping[str, Any]) -> dict[str, str] | None:
  if not _real(model.get("accuracy")):
    return None
  detail = f"of held-out pairs ordered right, n = {model.get('n', '–')}"
  ends = _range((model.get("low"), model.get("high")))
  if ends:
    detail += f"; 95 % interval {ends}"
  return {"value": percent(model["accuracy"]), "detail": detail}


def _kind_row(kind: str, sides, guided) -> dict[str, Any]:
  values = {s: (row or {}).get("accuracy") for s, row in sides.items()}
  change = "–"
  first, last = values["before"], values["after"]
  if _real(first) and _real(last):
    points = 100 * (last - first)
    change = f"{points:+.1f}".replace("-", "−")
  return {
    "kind": kind,
    "before": percent(values["before"]),
    "guided": percent((guided or {}).get("accuracy")),
    "after": percent(values["after"]),
    "change": change,
    "n": max((row or {}).get("n") or 0 for row in sides.values()),
    "marks": [_mark(s, row) for s, row in sides.items() if _real(values[s])],
  }


def _mark(side: str, row: Mapping[str, Any]) -> dict[str, Any]:
  centre = 100 * row["accuracy"]
  low = 100 * row["low"] if _real(row.get("low")) else centre
  high = 100 * row["high"] if _real(row.get("high")) else centre
  where = {"left": centre, "low": low, "width": high - low}
  return {"side": side, **{k: f"{v:.2f}" for k, v in where.items()}}


def _overall(numbers: Mapping[str, Any]) -> dict[str, Any] | None:
  if not _real(numbers.get("strict")):
    return None
  low, high = numbers.get("interval") or (None, None)
  row = {"accuracy": numbers["strict"], "low": low, "high": high}
  return row | {"n": numbers.get("n")}


def _ratio(before, after, key: str) -> float | None:
  first, last = before.get(key), after.get(key)
  if not (_real(first) and _real(last)) or first <= 0:
    return None
  return last / first


def _sampling_text(setting: str | None) -> str:
  if setting is None or setting == PLAIN:
    return "without guidance"
  return f"with {setting_label(setting)}"


def _range(ends: Sequence[Any] | None) -> str:
  """ "52.1–60.3" in per cent; empty if a bound is missing."""
  if not ends or not all(_real(e) for e in ends):
    return ""
  return "–".join(f"{100 * e:.1f}" for e in ends).replace("–-", "–−")


def _real(value: Any) -> TypeGuard[float]:
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return number and math.isfinite(value)
