"""Collects a run's files into its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging
from etils import epath

from jaxreward import reading
from jaxreward.errors import UserError, shown
from jaxreward.report import hardest, summary
from jaxreward.report.environment import describe
from jaxreward.report.grids import (
  CARDS,
  STRIPS,
  VALIDATION,
  load_cards,
  make_cards,
)
from jaxreward.report.html import write_report
from jaxreward.report.series import alignment_rows

VALIDATION_NOTE = (
  "Images of validation prompts: before is the first evaluation of the run, after"
  " the newest."
)


def report_from_workdir(
  workdir: epath.PathLike,
  *,
  title: str | None = None,
  notes: tuple[str, ...] = (),
  environment: Mapping[str, Any] | None = None,
) -> epath.Path:
  """Reads the folder of a run and writes its report.html.

  Reads config.json, metrics.jsonl, timings.jsonl, evaluation.json,
  grids/cards.npz (until a job ends grids/validation.npz), grids/strips.npz
  and grids/hardest_pairs.npz, each if it exists. Damaged files are skipped with a
  note on the page.

  Args:
    workdir: of the run.
    title: of the page; None derives it from the config.
    notes: lines for the reader.
    environment: from `environment.describe`; None describes this process.

  Returns:
    The path of the page.
  """
  workdir = epath.Path(workdir)
  problems: list[str] = []
  config = read_json(workdir / "config.json", problems)
  evaluation = read_json(workdir / "evaluation.json", problems)
  metrics = read_jsonl(workdir / "metrics.jsonl", problems)
  timings = read_jsonl(workdir / "timings.jsonl", problems)
  grids = workdir / "grids"
  read = lambda path: make_cards(*load_cards(path))
  path = grids / CARDS
  if not path.exists() and (grids / VALIDATION).exists():
    path = grids / VALIDATION
    notes = (*notes, VALIDATION_NOTE)
  cards = _pictures(path, read, problems)
  strips = _pictures(grids / STRIPS, read, problems)
  pairs = _pictures(grids / hardest.FILE, hardest.load, problems)
  for problem in problems:
    logging.warning("report: %s", shown(problem, 250))
  path = workdir / "report.html"
  write_report(
    path,
    title=title or _title(config, evaluation),
    summary=summary.tiles(evaluation),
    cards=cards,
    strips=strips,
    hardest=pairs,
    curves=metrics,
    timings=timings,
    evaluation=evaluation,
    config=config,
    environment=describe() if environment is None else environment,
    notes=[*notes, *summary.data_notes(evaluation), *problems],
    warnings=summary.automatic_warnings(evaluation, alignment_rows(metrics)),
  )
  return path


def read_json(path: epath.Path, problems: list[str]) -> dict[str, Any]:
  """The object in a file; empty if missing, with a problem if damaged."""
  if not path.exists():
    return {}
  try:
    return reading.record(path)
  except UserError as error:
    problems.append(f"{path.name} could not be read and was left out: {error}")
    return {}


def read_jsonl(path: epath.Path, problems: list[str]) -> list[dict[str, Any]]:
  """The objects of a file, one per line.

  A truncated last line, from an interrupted run, is dropped silently; any other
  damaged line is reported by its number.
  """
  if not path.exists():
    return []
  try:
    text = path.read_bytes().decode("utf-8", errors="replace")
  except OSError as error:
    problems.append(f"{path.name} could not be read and was left out: {error}")
    return []
  rows = []
  lines = text.split("\n")
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif number < len(lines):
      problems.append(f"{path.name}, line {number}: no JSON object, left out")
  return rows


def _pictures(
  path: epath.Path,
  read: Callable[[epath.Path], list[dict[str, Any]]],
  problems: list[str],
) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  try:
    return read(path)
  except Exception as error:  # a damaged archive may raise anything
    problems.append(f"{path.name} could not be read and was left out: {error}")
    return []


def _title(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
  if evaluation.get("before") and evaluation.get("after"):
    return "Before and after alignment"
  titles = {
    "pretrain": "Pretraining run",
    "finetune": "Fine-tuning run",
    "train_reward": "Reward model run",
    "align": "Alignment run",
    "evaluate": "Evaluation",
  }
  return titles.get(str(config.get("job")), "Run report")
