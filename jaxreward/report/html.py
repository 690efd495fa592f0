"""The page: one self-contained HTML file that needs no network."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from etils import epath

from jaxreward.evaluation.tables import (
  benchmark_rows,
  evaluation_rows,
  judged_rows,
  to_json,
  write_text,
)
from jaxreward.report import curves as charts
from jaxreward.report.grids import data_uri
from jaxreward.report.series import (
  Rows,
  alignment_rows,
  by_job,
  charts_of,
  left_over,
)
from jaxreward.report.summary import kind_rows, lead, panel_rows

TEMPLATE = Path(__file__).parent / "report.html.j2"
SHOWN_PER_KIND = 6  # visible cards, the others unfold
SHOWN_JSON = 200_000  # most characters of figures on the page
JOB_TITLES = {
  "pretrain": "Pretraining",
  "finetune": "Fine-tuning",
  "train_reward": "Reward model",
  "align": "Alignment",
}


def write_report(
  path: epath.PathLike,
  *,
  title: str,
  summary: Mapping[str, Any] | None = None,
  cards: Sequence[Mapping[str, Any]] = (),
  strips: Sequence[Mapping[str, Any]] = (),
  hardest: Sequence[Mapping[str, Any]] = (),
  curves: Rows = (),
  timings: Rows = (),
  evaluation: Mapping[str, Any] | None = None,
  config: Mapping[str, Any] | None = None,
  environment: Mapping[str, Any] | None = None,
  notes: Sequence[str] = (),
  warnings: Sequence[str] = (),
) -> None:
  """Writes the report of a run atomically.

  Every part may be missing; its section is then omitted.

  Args:
    path: of the HTML file.
    title: of the page.
    summary: key numbers, label -> text or {value, detail}.
    cards: from `grids.make_cards`.
    strips: the same; those of one "kind" are of one source, and make a row.
    hardest: from `hardest.load`.
    curves: rows of metrics.jsonl.
    timings: rows of timings.jsonl.
    evaluation: see `jaxreward.evaluation.tables`.
    config: the resolved config.
    environment: from `environment.describe`.
    notes: lines of information.
    warnings: lines that must not be overlooked.
  """
  evaluation = evaluation or {}
  figures = {
    "summary": summary or {},
    "evaluation": evaluation,
    "metrics": list(curves),
    "timings": list(timings),
  }
  text = to_json(figures)
  headings, rows = evaluation_rows(evaluation)
  page = render(
    title=title,
    lead=lead(evaluation),
    tiles=_tiles(summary or {}),
    kinds=_card_groups(cards, kind_rows(evaluation)),
    kind_rows=kind_rows(evaluation),
    strips=_card_rows(strips),
    jobs=job_sections(curves, timings, evaluation),
    panel=panel_rows(alignment_rows(curves)),
    headings=headings,
    evaluation_rows=rows,
    judged=judged_rows(evaluation),
    benchmark=benchmark_rows(evaluation),
    hardest=list(hardest),
    config=to_json(config) if config else "",
    environment=flat(environment or {}),
    notes=list(notes),
    warnings=list(warnings),
    figures=script_json(figures),
    figures_text=text if len(text) <= SHOWN_JSON else to_json(evaluation),
    figures_cut=len(text) > SHOWN_JSON,
    written=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
  )
  write_text(path, page)


def render(**parts: Any) -> str:
  """The page's text; values other than `Markup` are escaped."""
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  text = TEMPLATE.read_text(encoding="utf-8")
  return environment.from_string(text).render(**parts)


def script_json(value: Any) -> markupsafe.Markup:
  """JSON that cannot close its script element."""
  text = to_json(value, indent=None)
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return markupsafe.Markup(text)


def job_sections(
  curves: Rows, timings: Rows, evaluation: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """The charts of each job, in the order in which the jobs ran.

  Returns:
    {job, title, figures, others} per job with a chart; a figure is {name,
    title, caption, src}, and `others` are the metrics without a chart.
  """
  metrics, seconds = by_job(curves), by_job(timings)
  sections = []
  for job in dict.fromkeys([*metrics, *seconds]):
    rows = metrics.get(job, [])
    drawings = [(c, charts.draw(c, rows)) for c in charts_of(job)]
    figures = [
      _figure(c.name, c.title, c.caption, text) for c, text in drawings if text
    ]
    if job == "train_reward":
      figures += _reliability(evaluation)
    figures += _timing(seconds.get(job, []))
    extras = [
      _figure(line.label, line.label, "", charts.draw_lines([line]))
      for line in left_over(rows)
    ]
    title = JOB_TITLES.get(job, job.replace("_", " ").capitalize())
    section = {"job": job or "run", "title": title or "Run"}
    if figures or extras:
      sections.append(section | {"figures": figures, "others": extras})
  return sections


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
  """(name, text) of every leaf, nested names joined by a space."""
  leaves = []
  for key, value in tree.items():
    name = f"{prefix} {key}".strip().replace("_", " ")
    if isinstance(value, Mapping):
      leaves += flat(value, name)
    elif isinstance(value, (list, tuple)):
      leaves.append((name, ", ".join(str(v) for v in value) or "–"))
    else:
      leaves.append((name, "–" if value is None else str(value)))
  return leaves


def _figure(name: str, title: str, caption: str, text: str) -> dict[str, str]:
  src = data_uri(text.encode("utf-8"), "image/svg+xml")
  return {"name": name, "title": title, "caption": caption, "src": src}


def _timing(rows: Rows) -> list[dict[str, str]]:
  text = charts.draw_timings(rows)
  if text is None:
    return []
  caption = (
    "Where the time of a step goes; the first step of a program holds its"
    " compilation."
  )
  return [_figure("seconds", "Seconds per step", caption, text)]


def _reliability(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
  model = evaluation.get("reward_model") or {}
  text = charts.draw_reliability(model.get("calibration") or [])
  if text is None:
    return []
  caption = (
    "On the diagonal the model is right as often as it says; below it, it is"
    " too sure of itself."
  )
  return [_figure("reliability", "Calibration", caption, text)]


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
  tiles = []
  for label, tile in summary.items():
    tile = tile if isinstance(tile, Mapping) else {"value": tile}
    value, detail = str(tile.get("value", "–")), str(tile.get("detail", ""))
    tiles.append({"label": label, "value": value, "detail": detail})
  return tiles


def _card_rows(
  cards: Sequence[Mapping[str, Any]],
) -> list[list[Mapping[str, Any]]]:
  """Cards by their kind, in the order of appearance."""
  kinds = dict.fromkeys(card["kind"] for card in cards)
  return [[c for c in cards if c["kind"] == kind] for kind in kinds]


def _card_groups(
  cards: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Cards by category, in the order of the evaluation, then of appearance."""
  order = [row["kind"] for row in rows if row["kind"] != "all"]
  names = [str(card.get("kind") or "images") for card in cards]
  table = {row["kind"]: row for row in rows}
  groups = []
  for kind in dict.fromkeys([*(k for k in order if k in names), *names]):
    of_kind = [c for c, k in zip(cards, names, strict=True) if k == kind]
    group = {
      "name": kind,
      "shown": of_kind[:SHOWN_PER_KIND],
      "more": of_kind[SHOWN_PER_KIND:],
      "row": table.get(kind),
      "right": [
        sum(bool(c.get(k)) for c in of_kind) for k in ("ok_before", "ok_after")
      ],
      "judged": any(c.get("ok_after") is not None for c in of_kind),
    }
    groups.append(group)
  return groups
