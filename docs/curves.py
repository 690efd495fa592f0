"""Curves of methods, one PNG per page of docs/families: runs of a sweep.

  python docs/curves.py runs/curves [FOLDER]

The runs are those of configs/sweeps/curves.py, which says how they are made; lines
whose run is not there are left out. Policies over evaluations of the network, a
backward pass counting as two, reward models over optimizer steps.
"""

from __future__ import annotations

import io
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from jaxreward import config as config_lib
from jaxreward.report import canvas, curves, series

ROOT = pathlib.Path(__file__).resolve().parents[1]
sweep = config_lib.load_module(str(ROOT / "configs" / "sweeps" / "curves.py"))
# Job -> title of a panel -> metric.
PANELS = {
  "align": {
    "learned reward": "eval/reward/proxy",
    "strict accuracy, which is not trained on": "eval/accuracy",
  },
  "train_reward": {
    "accuracy on held-out pairs": "eval/pair_accuracy",
    "where one image is right, one wrong": "eval/pair_accuracy_strict",
  },
}
AXES = {"align": "million network evaluations", "train_reward": "steps"}
SIZE, DPI = (7.6, 3.1), 100  # inches, dots per inch
LARGEST = 7  # lines of a picture: as many colours


def unit(label: str, config: Mapping[str, Any]) -> float:
  """What a step of a run costs, on the horizontal axis.

  Lines that are not of `METHODS` are variants of Flow-GRPO.
  """
  if config["job"] != "align":
    return 1.0
  methods, rollout = sweep.objectives.METHODS, config["rollout"]
  samples = rollout["prompts"] * rollout["group"]
  return methods.get(label, methods["flow_grpo"])[0] * samples / 1e6


def lines(
  folder: pathlib.Path, page: str
) -> tuple[str, dict[str, list[series.Line]]]:
  """(job, title -> lines) of the runs that a sweep's folder holds."""
  entries, panels, job = sweep.get_sweep(), {}, ""
  for label, entry in sweep.PAGES[page].items():
    run = folder / str(entries.index(entry))
    if not (run / "metrics.jsonl").exists():
      continue
    config = json.loads((run / "config.json").read_text())
    rows = list(map(json.loads, (run / "metrics.jsonl").open()))
    job, step = config["job"], unit(label, config)
    for title, metric in PANELS[job].items():
      line = series.line_of(rows, metric, label)
      if line is not None:
        line = series.Line(label, line.steps * step, line.values)
        panels.setdefault(title, []).append(line)
  return job, panels


def draw(job: str, panels: Mapping[str, list[series.Line]]) -> bytes:
  """A PNG file of 64 colours: panels side by side under one legend."""
  with canvas.style(curves.STYLE):
    figure = canvas.Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    for axes, (title, each) in zip(
      figure.subplots(1, len(panels), squeeze=False)[0],
      panels.items(),
      strict=True,
    ):
      for i, line in enumerate(each[:LARGEST]):
        axes.plot(
          line.steps, line.values, label=line.label, marker="o", markersize=3,
          color=curves.COLOURS[i], linestyle=curves.DASHES[i % 4],
        )  # fmt: skip
      axes.set_title(title, fontsize=10)
      axes.set_xlabel(AXES[job])
      axes.grid(axis="y", color=curves.FAINT)
      axes.spines[["top", "right"]].set_visible(False)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
  image = Image.open(out).convert("RGB").quantize(64)
  image.save(out := io.BytesIO(), format="PNG", optimize=True)
  return out.getvalue()


def main(folder: pathlib.Path, to: pathlib.Path) -> None:
  """Writes the pictures, and says what belongs on which page."""
  for page in sweep.PAGES:
    job, panels = lines(folder, page)
    if panels:
      (to / f"{page}.png").write_bytes(draw(job, panels))
      names = ", ".join(line.label for line in next(iter(panels.values())))
      sys.stdout.write(f"families/{page}.md: ![{names}]({page}.png)\n")


if __name__ == "__main__":
  default = ROOT / "docs" / "families"
  main(*map(pathlib.Path, ([*sys.argv[1:], str(default)])[:2]))
