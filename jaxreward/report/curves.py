"""Charts of a run as SVG, without global plotting state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreward.report import canvas
from jaxreward.report.canvas import Axes, Figure, FigureCanvasSVG, MaxNLocator
from jaxreward.report.series import Chart, Line, Rows, is_number, lines_of

# Okabe and Ito's colours, distinct for colour-blind readers; dashes distinguish
# lines without colour.
COLOURS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#a3477f",
  "#b87f00",
  "#56b4e9",
  "#4d4d4d",
)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
INK = "#22272e"
FAINT = "#d9dde3"
SIZE = (4.3, 2.6)  # inches
LEGEND_WIDTH = 60  # characters
SMOOTH_FROM = 30  # points from which on a moving mean is added
STYLE = {
  "font.family": "sans-serif",
  "font.size": 10,
  "svg.fonttype": "path",
  "svg.hashsalt": "jaxreward",
  "path.simplify": True,
}


def draw(chart: Chart, rows: Rows) -> str | None:
  """The chart as SVG text; None if no row has a value for it."""
  lines = lines_of(chart, rows)
  return draw_lines(lines, chart.limits) if lines else None


def draw_lines(
  lines: Sequence[Line],
  limits: tuple[float | None, float | None] = (None, None),
) -> str:
  """Lines over steps as SVG text.

  A line of many points is faint, with its moving mean on top.
  """
  columns = _columns([line.label for line in lines])
  legend_rows = -(-len(lines) // columns) if len(lines) > 1 else 0
  with canvas.style(STYLE):
    figure, axes = _blank(legend_rows)
    for i, line in enumerate(lines):
      _line(axes, line, COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)])
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _limit(axes, lines, limits)
    if len(lines) > 1:
      _legend(axes, [line.label for line in lines])
    return svg(figure)


def draw_timings(rows: Rows) -> str | None:
  """Seconds per step, stacked by part, as SVG text; None without timings.

  The axis is clipped if compilation makes the first steps much longer than the
  others; a note states the longest.
  """
  parts = timing_parts(rows)
  if not parts:
    return None
  steps = np.arange(len(rows), dtype=float)
  for i, row in enumerate(rows):
    if is_number(row.get("step")):
      steps[i] = float(row["step"])
  table = np.array([_finite(row, part) for part in parts for row in rows])
  table = table.reshape(len(parts), len(rows))
  table, steps = table[:, np.argsort(steps)], np.sort(steps)
  with canvas.style(STYLE):
    figure, axes = _blank()
    names = [timing_label(part) for part in parts]
    axes.stackplot(
      steps, table, labels=names, colors=COLOURS, alpha=0.85, step="mid"
    )
    total = table.sum(axis=0)
    top = 1.4 * float(np.quantile(total, 0.9))
    if total.max() > top > 0:
      axes.set_ylim(0, top)
      note = f"longest {total.max():.1f} s, step {steps[total.argmax()]:.0f}"
      axes.annotate(
        note, (0.99, 0.97), xycoords="axes fraction", ha="right", va="top"
      )
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("seconds")
    _legend(axes, names)
    return svg(figure)


def draw_reliability(bins: Sequence[dict[str, Any]]) -> str | None:
  """Stated confidence against accuracy, as SVG text.

  Args:
    bins: {confidence, accuracy, n} each; bins without numbers are skipped.
  """
  points = [
    (b["confidence"], b["accuracy"], b.get("n", 1))
    for b in bins
    if is_number(b.get("confidence")) and is_number(b.get("accuracy"))
  ]
  if not points:
    return None
  confidence, accuracy, n = np.array(points, float).T
  with canvas.style(STYLE):
    figure, axes = _blank()
    axes.plot([0, 1], [0, 1], color="#8a929c", linewidth=1, label="perfect")
    axes.plot(confidence, accuracy, color=COLOURS[0], linewidth=1.5)
    area = 20 + 100 * n / max(n.max(), 1)
    axes.scatter(confidence, accuracy, area, color=COLOURS[0], label="measured")
    axes.set_xlabel("stated confidence")
    axes.set_ylabel("share right")
    _legend(axes, ["measured", "perfect"])
    return svg(figure)


def timing_parts(rows: Rows) -> list[str]:
  """Keys of the seconds of each part of a step, in order of appearance."""
  skip = ("step", "job", "total", "epoch", "iteration")
  parts = {
    key: None
    for row in rows
    for key, value in row.items()
    if is_number(value) and timing_label(key) not in skip
  }
  return list(parts)


def timing_label(key: str) -> str:
  """A part's name: "seconds/sample" and "sample_seconds" are "sample"."""
  for prefix in ("seconds/", "time/", "timing/", "seconds_"):
    key = key.removeprefix(prefix)
  return key.removesuffix("_seconds").removesuffix("_s").replace("_", " ")


def svg(figure: Figure) -> str:
  """The figure as SVG text; equal figures give equal bytes."""
  out = io.StringIO()
  FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
  return out.getvalue()


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
  """Centered moving mean over `width` values, fewer at the ends, [N]."""
  half = width // 2
  total = np.concatenate([[0.0], np.cumsum(values)])
  index = np.arange(values.size)
  low = np.maximum(index - half, 0)
  high = np.minimum(index + half + 1, values.size)
  return (total[high] - total[low]) / (high - low)


def _blank(legend_rows: int = 1) -> tuple[Figure, Axes]:
  """A figure with plain axes, taller if its legend has many rows."""
  width, height = SIZE
  height += 0.18 * max(legend_rows - 1, 0)
  figure = Figure(figsize=(width, height), layout="constrained")
  figure.patch.set_alpha(0.0)
  axes = figure.add_subplot()
  axes.patch.set_alpha(0.0)
  axes.grid(axis="y", color=FAINT, linewidth=0.8)
  axes.set_axisbelow(True)
  for side in ("top", "right", "left"):
    axes.spines[side].set_visible(False)
  axes.spines["bottom"].set_color("#8a929c")
  axes.tick_params(colors=INK, length=0, labelsize=9)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.yaxis.set_major_locator(MaxNLocator(5))
  axes.xaxis.label.set_color(INK)
  axes.yaxis.label.set_color(INK)
  return figure, axes


def _line(axes, line: Line, colour: str, dash) -> None:
  is_dense = line.values.size >= SMOOTH_FROM
  if is_dense:
    axes.plot(line.steps, line.values, color=colour, alpha=0.25, linewidth=0.8)
  values = line.values
  if is_dense:
    values = moving_mean(values, max(5, values.size // 15))
  marker = "o" if line.values.size < 12 else None
  axes.plot(
    line.steps,
    values,
    color=colour,
    linestyle=dash,
    linewidth=2.0,
    marker=marker,
    markersize=4,
    label=line.label,
  )


def _limit(axes, lines: Sequence[Line], limits) -> None:
  """Sets fixed limits with a margin; all-zero lines keep zero at the bottom."""
  low, high = limits
  top = max(float(line.values.max()) for line in lines)
  bottom = min(float(line.values.min()) for line in lines)
  if low is not None and bottom >= low:
    end = high if high is not None and top <= high else None
    end = end if end is not None else top
    end = end if end > low else low + 1.0
    air = 0.03 * (end - low)
    axes.set_ylim(low - air, end + 3 * air)
  elif top == bottom:
    axes.set_ylim(bottom - max(abs(bottom), 1) / 2, top + max(abs(top), 1) / 2)


def _legend(axes, labels: Sequence[str]) -> None:
  """A legend above the axes, in rows that fit."""
  axes.legend(
    loc="lower left",
    bbox_to_anchor=(0.0, 1.0),
    ncols=_columns(labels),
    frameon=False,
    fontsize=9,
    handlelength=1.9,
    columnspacing=1.2,
    borderaxespad=0.1,
    labelcolor=INK,
  )


def _columns(labels: Sequence[str]) -> int:
  """Legend columns that fit the width of the figure."""
  longest = max(len(label) for label in labels)
  return max(1, min(len(labels), 4, LEGEND_WIDTH // (longest + 6)))


def _finite(row, part: str) -> float:
  value = row.get(part)
  return float(value) if is_number(value) and np.isfinite(value) else 0.0
