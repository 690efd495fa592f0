"""Sums finished runs up: `python tests/benchmarks/figures.py runs/seeds/*`.

Prints, for every working directory given and for their mean, what the README
states: accuracy before (plain and with the best guidance) and after, position
prompts, texture, range, the reward model's accuracy, minutes and memory.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys


def read(workdir: pathlib.Path) -> dict[str, float]:
  """The figures of one run."""
  evaluation = json.loads((workdir / "evaluation.json").read_text())
  before, after = evaluation["before"], evaluation["after"]
  first = next(iter(before))
  best = max(before.values(), key=lambda found: found["strict"])
  marks = json.loads((workdir / "finished.json").read_text())
  rows = [
    json.loads(line)
    for line in (workdir / "timings.jsonl").read_text().splitlines()
  ]
  steps = [r for r in rows if r["job"] == "align"][5:]
  part = lambda name: statistics.median(r.get(name, 0.0) for r in steps)
  figures = {
    "strict before": before[first]["strict"],
    "strict before, best guidance": best["strict"],
    "strict after": after[first]["strict"],
    "strict after, best guidance": max(
      found["strict"] for found in after.values()
    ),
    "gain, low end of 95 %": evaluation["difference"]["low"],
    "position before": before[first]["kinds"]["position"]["accuracy"],
    "position after": after[first]["kinds"]["position"]["accuracy"],
    "texture, after / before": after[first]["texture"]
    / before[first]["texture"],
    "out of range after": after[first]["out_of_range"],
    "diversity before": before[first]["diversity"],
    "diversity after": after[first]["diversity"],
    "path KL to base, nats": after[first]["kl"],
    "seconds a step: sample": part("sample"),
    "seconds a step: reward": part("reward"),
    "seconds a step: update": part("update"),
    "minutes": sum(marks.values()) / 60,
  }
  model = evaluation.get("reward_model")
  if model:
    figures["reward model, strict pairs"] = model["strict"]["accuracy"]
    figures["reward model, strict pairs, low end"] = model["strict"]["low"]
  return figures


def main(paths: list[str]) -> None:
  """Prints a Markdown table, one column per run and one for the mean."""
  runs = {path: read(pathlib.Path(path)) for path in paths}
  names = list(next(iter(runs.values())))
  heads = [pathlib.Path(p).name for p in runs]
  print("| | " + " | ".join(heads) + " | mean |")
  print("| --- |" + " --- |" * (len(runs) + 1))
  for name in names:
    values = [found.get(name, float("nan")) for found in runs.values()]
    cells = [f"{v:.3f}" for v in (*values, statistics.fmean(values))]
    print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
  main(sys.argv[1:])
