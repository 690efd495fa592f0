"""Summary table of several reports.

python -m jaxreward.compilation.summary runs/pods/*/compile_check.json
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreward import paths, reading
from jaxreward.compilation.executables import gib
from jaxreward.compilation.report import number, table

HEADS = (
  "model", "objective", "trained", "slice", "mesh", "fits", "largest, GiB", "of",
  "flops of a step", "compute, s", "memory, s", "network, s", "wall", "step, s",
  "effort",
)  # fmt: skip


def row(report: Mapping[str, Any]) -> list[str]:
  """The first mesh of a report, its programs added up.

  Args:
    report: JSON of `compile_check`.
  """
  mesh = report["meshes"][0]
  programs = list(mesh["programs"].values())
  seconds = [p["seconds"] for p in programs if "seconds" in p]
  rank = report["lora_rank"]
  totals = ["?"] * 5
  if seconds and len(seconds) == len(programs):
    parts = {
      name: sum(s[name] for s in seconds)
      for name in ("compute", "memory", "network", "step")
    }
    walls = [parts[name] for name in ("compute", "memory", "network")]
    wall = ("compute", "memory", "network")[walls.index(max(walls))]
    totals = [*(f"{x:.3g}" for x in walls), wall, f"{parts['step']:.3g}"]
  most = max((p["memory"]["total"] for p in programs), default=0)
  return [
    report["model"].get("size", report["model"]["name"]),
    report.get("objective") or "?",
    f"LoRA {rank}" if rank else "all",
    report["topology"],
    " x ".join(str(size) for size in mesh["mesh"].values()),
    "yes" if mesh["fits"] else "no",
    gib(most) if most else "?",
    gib(report["memory_per_device"]),
    number(sum(p["counted_flops_all_devices"] for p in programs)),
    *totals,
    f"{report.get('compiler_effort', 0):g}",
  ]


def main(names: Sequence[str]) -> None:
  """Prints the table of the reports at these paths, in their order."""
  reports = [reading.record(paths.find(name)) for name in names]
  sys.stdout.write(table(HEADS, [row(report) for report in reports]) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
