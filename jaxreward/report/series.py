"""Charts: their metrics, titles and captions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Chart:
  """One chart of the page.

  Attributes:
    name: short and stable, used in links.
    title: heading.
    caption: one sentence on how to read it.
    pattern: regular expression on the metric's bare name (`bare`); its group
      `label`, if it matched, names the line.
    labels: bare name -> name of the line.
    limits: fixed limits of the vertical axis; None leaves one free.
    log: logarithmic vertical axis if all values are positive.
  """

  name: str
  title: str
  caption: str
  pattern: str
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limits: tuple[float | None, float | None] = (None, None)
  log: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
  """One metric over steps: its label and finite points in order of steps."""

  label: str
  steps: np.ndarray
  values: np.ndarray


CHARTS = (
  Chart(
    "reward",
    "Trained and held-out reward",
    "The update sees the trained reward and never the held-out one: both"
    " should rise together, and a gap that opens is over-optimisation.",
    r"(reward|score)s?([/_](?P<label>.+))?|(?P<side>trained|heldout)_reward",
    {
      "trained_reward": "trained",
      "heldout_reward": "held out",
      "reward": "trained",
      "reward/trained": "trained",
      "reward/heldout": "held out",
    },
  ),
  Chart(
    "accuracy",
    "Accuracy by kind of prompt",
    "Share of images that show exactly what the prompt asks; a kind that"
    " falls while others rise was paid for by them.",
    r"(pair_|strict_)?(accuracy|strict)([/_](?P<label>.+))?",
    {"accuracy": "all", "strict": "all", "pair_accuracy": "held-out pairs"},
    (0.0, 1.0),
  ),
  Chart(
    "loss",
    "Loss",
    "What the optimiser minimises; in alignment it hovers near zero and says"
    " little, in pretraining and reward-model training it should fall.",
    r"loss([/_](?P<label>.+))?|(?P<name>.+)_loss",
  ),
  Chart(
    "calibration",
    "Calibration error",
    "Mean gap between the stated confidence and the share of right answers;"
    " nearer to zero is better.",
    r"(expected_)?calibration(_error)?|ece|brier",
    limits=(0.0, None),
  ),
  Chart(
    "kl",
    "KL to the reference",
    "Distance from the policy before alignment: a steady climb is the price of"
    " reward, a jump is a warning.",
    r"kl([/_](?P<label>.+))?",
    limits=(0.0, None),
  ),
  Chart(
    "diversity",
    "Diversity within groups",
    "Mean distance between images of one prompt; a fall towards zero means"
    " the policy repeats itself.",
    r"diversity",
    limits=(0.0, None),
  ),
  Chart(
    "clip",
    "Clip fraction, high and low",
    "Share of ratios held back by the clip, above and below one; a few per"
    " cent is usual, more means the steps are too large.",
    r"clip(_fraction)?([/_](?P<label>high|low))?",
    limits=(0.0, None),
  ),
  Chart(
    "grad_norm",
    "Gradient norm",
    "Global norm before clipping; spikes are single bad batches, a steady"
    " climb is instability.",
    r"(grad|gradient|global)_norm",
    limits=(0.0, None),
  ),
  Chart(
    "log_prob_gap",
    "Replay gap of log-probabilities",
    "Largest |Δ log p| of a sample when a stored rollout is replayed before any"
    " update, against what its ratio reads and against what the rollout stored:"
    " zero when sampler and trainer agree.",
    r"log_prob_gap|(?P<label>stored)_gap",
    limits=(0.0, None),
  ),
  Chart(
    "texture",
    "Texture",
    "Mean |Laplacian| where nothing should be drawn: a rise is a background"
    " pattern that the reward may not see.",
    r"texture",
    limits=(0.0, None),
  ),
  Chart(
    "edge_density",
    "Edge density",
    "Mean slope of brightness per pixel; it should stay near its start.",
    r"edge_density",
    limits=(0.0, None),
  ),
  Chart(
    "colour_entropy",
    "Colour entropy",
    "Bits in an image's colour histogram: a fall is fewer colours, a rise is"
    " noise.",
    r"colou?r_entropy",
    limits=(0.0, None),
  ),
  Chart(
    "brightness",
    "Brightness",
    "Mean luminance; drift means the policy found that light pays.",
    r"brightness",
    limits=(0.0, None),
  ),
  Chart(
    "out_of_range",
    "Values out of range",
    "Share of values outside [0, 1] before they are clipped for display.",
    r"out_of_range",
    limits=(0.0, None),
  ),
  Chart(
    "zero_variance",
    "Groups without a signal",
    "Share of groups whose rewards are all equal: they teach nothing, and near"
    " one the prompts are too easy or too hard.",
    r"zero_variance(_groups|_share)?",
    limits=(0.0, 1.0),
  ),
  Chart(
    "mfu",
    "Utilization of the chips",
    "Share of the matrix peak that a step reaches, its waits included;"
    " recomputed activations count as work.",
    r"mfu",
    limits=(0.0, None),
  ),
  Chart(
    "disagreement",
    "Detector disagreement",
    "Share of image pairs that trained and held-out reward rank in opposite"
    " order: 0 is agreement, 0.5 is chance.",
    r"(ranking_|detector_)?disagreement",
    limits=(0.0, 1.0),
  ),
)
PAIR_ACCURACY = dataclasses.replace(
  next(chart for chart in CHARTS if chart.name == "accuracy"),
  title="Pair accuracy",
  caption=(
    "Share of preference pairs that the reward model orders as the labels do;"
    " 0.5 is chance."
  ),
)
_PREFIX = re.compile(r"^(panel|train|rollout|align|update|metrics)/")
_EVALUATION = re.compile(r"^(eval|evaluation|validation|valid)/")
MEASURED = " (evaluation)"
NOT_METRICS = ("step", "job", "epoch", "iteration", "time", "seconds")


def bare(key: str) -> str:
  """A metric's name without its prefixes."""
  return _EVALUATION.sub("", _PREFIX.sub("", key))


def charts_of(job: str) -> list[Chart]:
  """The charts of a job; a reward model's accuracy is over pairs."""
  overrides = {"accuracy": PAIR_ACCURACY} if job == "train_reward" else {}
  return [overrides.get(chart.name, chart) for chart in CHARTS]


def line_of(rows: Rows, key: str, label: str) -> Line | None:
  """The finite values of a metric over steps; None without any."""
  steps, values = [], []
  for i, row in enumerate(rows):
    value = row.get(key)
    if is_number(value) and math.isfinite(value):
      step = row.get("step")
      steps.append(float(step) if is_number(step) else float(i))
      values.append(float(value))
  if not values:
    return None
  order = np.argsort(steps, kind="stable")
  return Line(label, np.array(steps)[order], np.array(values)[order])


def lines_of(chart: Chart, rows: Rows) -> list[Line]:
  """Every recorded metric of the chart, in order of appearance."""
  lines = []
  for key in metric_keys(rows):
    match = re.fullmatch(chart.pattern, bare(key))
    if match is None:
      continue
    line = line_of(rows, key, _label(chart, key, match))
    if line is not None:
      lines.append(line)
  if all(line.label.endswith(MEASURED) for line in lines):
    plain = lambda line: line.label.removesuffix(MEASURED)
    lines = [dataclasses.replace(line, label=plain(line)) for line in lines]
  return lines


def left_over(rows: Rows) -> list[Line]:
  """Every metric with values that is in no chart of `CHARTS`."""
  lines = []
  for key in metric_keys(rows):
    if any(re.fullmatch(chart.pattern, bare(key)) for chart in CHARTS):
      continue
    line = line_of(rows, key, key)
    if line is not None:
      lines.append(line)
  return lines


def metric_keys(rows: Rows) -> list[str]:
  """Names of all numeric metrics, in order of appearance."""
  keys = {k: None for row in rows for k, v in row.items() if is_number(v)}
  return [key for key in keys if key not in NOT_METRICS]


def is_number(value: Any) -> TypeGuard[float]:
  """A real number, not a boolean."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def by_job(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
  """Rows of each job, in order of appearance; rows without one under ""."""
  jobs: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    jobs.setdefault(str(row.get("job") or ""), []).append(row)
  return jobs


def alignment_rows(rows: Rows) -> Rows:
  """Rows of the last alignment job, which the panel covers."""
  earlier = ("pretrain", "finetune", "train_reward")
  jobs = [of for job, of in by_job(rows).items() if job not in earlier]
  return jobs[-1] if jobs else []


def history(rows: Rows, name: str) -> list[float | None]:
  """One value per row of the metric with this bare name; None where absent."""
  keys = [k for k in metric_keys(rows) if bare(k) == name]
  if not keys:
    return []
  return [row.get(keys[0]) for row in rows]


def _label(chart: Chart, key: str, match: re.Match[str]) -> str:
  name = bare(key)
  label = chart.labels.get(name)
  if label is None:
    groups = [g for g in match.groupdict().values() if g]
    label = (groups[0] if groups else name).replace("_", " ").replace("/", " ")
  is_evaluation = _EVALUATION.match(_PREFIX.sub("", key))
  return label + MEASURED if is_evaluation else label
