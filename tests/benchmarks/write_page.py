"""Measures all that `docs/benchmarks.md` shows, and writes the page.

  python tests/benchmarks/write_page.py

Takes about twenty minutes; nothing else should run. Needs the extra `parity`,
for PyTorch. `--dew-python INTERPRETER` adds the table beside Dew, with a Python
3.12 that has `dewml` and what jaxreward needs.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parent.parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("jax", "flax", "optax", "torch")
GROUPS = (4, 8, 16, 32)
STEPS = (5, 8, 16)  # of which the same four are trained
Figures = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--dew-python", default="", help="an interpreter with Dew"
  )
  flags = parser.parse_args(argv)
  parts = [
    heading(),
    against_pytorch(),
    beside_dew(flags.dew_python),
    operations(),
    devices(),
    growth("group", "Cost against group size", "members", GROUPS),
    growth("steps", "Cost against denoising steps", "steps", STEPS),
  ]
  PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  print(f"wrote {PAGE}")


def measure(
  script: str, *options: str, python: str = sys.executable
) -> tuple[str, Figures]:
  """(the command, the line of JSON that it ends with)."""
  words = [f"tests/benchmarks/{script}", *options]
  print(" ".join(words), flush=True)
  done = subprocess.run(
    [python, *words], cwd=ROOT, check=True, stdout=subprocess.PIPE,
    text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
  )  # fmt: skip
  return f"python {' '.join(words)}", json.loads(done.stdout.splitlines()[-1])


def heading() -> str:
  versions = [f"{p} {importlib.metadata.version(p)}" for p in PACKAGES]
  commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True,
    stdout=subprocess.PIPE, text=True,
  ).stdout.strip()  # fmt: skip
  return f"""# Benchmarks

Written by `python tests/benchmarks/write_page.py` on {datetime.date.today()} at commit
`{commit}`: {processor()}, {os.cpu_count()} cores; Python
{platform.python_version()}, {", ".join(versions)}. Medians of iterations that
take turns; smallest and largest in brackets. No accelerator was at hand: what a
pod would do is an estimate of the TPU compiler, on the page
[What fits where](compile_check.md)."""


def processor() -> str:
  about = pathlib.Path("/proc/cpuinfo")
  lines = about.read_text().splitlines() if about.exists() else []
  names = [x.partition(":")[2].strip() for x in lines if "model name" in x]
  return names[0] if names else platform.processor()


def milliseconds(figures: Figures, peer: str, part: str) -> str:
  row = figures[f"{peer}/{part}"]
  median, low, high = (row[k] * 1e3 for k in ("median", "min", "max"))
  return f"{median:.0f} ({low:.0f} to {high:.0f})"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
  lines = [head, ("---",) * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PARTS = ("rollout", "update", "iteration")
WARM = ("until warm, s", "memory, MiB")


def parts_of(figures: Figures, peer: str) -> tuple[str, ...]:
  warm = figures[f"{peer}/warm"]
  return (
    *(milliseconds(figures, peer, part) for part in PARTS),
    f"{warm['seconds']:.0f}",
    f"{warm['mebibytes']:.0f}",
  )


def against_pytorch() -> str:
  names = {
    "jaxreward": "jaxreward", "sealed": '`align.old_log_prob="sealed"`',
    "eager": "PyTorch", "compile": "`torch.compile`",
  }  # fmt: skip
  command, figures = measure(
    "grpo_iteration.py", "--pairs", "7", "--peers", *names
  )
  rows = [
    (
      name,
      *parts_of(figures, peer),
      f"{figures[f'{peer}/iteration']['ratio']:.2f}",
    )
    for peer, name in names.items()
  ]
  head = ("", *(f"{p}, ms" for p in PARTS), *WARM, "iteration to ours")
  return f"""## One Flow-GRPO iteration against PyTorch

The scene policy (`configs/align_scenes.py:flow_grpo`), {figures["samples"]} samples of
8 steps, 4 of them trained in two optimizer steps, with KL to the base; the same
weights, work and cores. `{command}`

{table(head, rows)}

Until warm: imports, compilation without a cache of programs, and two iterations;
memory is the most that the process has held."""


def beside_dew(python: str) -> str:
  """A section; without an interpreter it says that nothing was measured."""
  title = "## One Flow-GRPO iteration beside Dew\n\n"
  if not python:
    return f"{title}Not measured here: `--dew-python` of this page's command."
  names = {
    "jaxreward": "jaxreward", "sealed": '`align.old_log_prob="sealed"`',
    "dew": "Dew, words frozen", "dew_words": "Dew, words trained",
  }  # fmt: skip
  command, figures = measure(
    "grpo_iteration.py", "--pairs", "7", "--peers", *names, python=python
  )
  packages = ("jax", "flax", "optax", "dewml")
  source = (
    "from importlib.metadata import version\n"
    f"print(', '.join(f'{{p}} {{version(p)}}' for p in {packages}))"
  )
  versions = subprocess.run(
    [python, "-c", source], check=True, stdout=subprocess.PIPE, text=True
  ).stdout.strip()
  rows = [
    (
      name,
      *parts_of(figures, peer),
      f"{figures[f'{peer}/iteration']['ratio']:.2f}",
    )
    for peer, name in names.items()
  ]
  head = ("", *(f"{p}, ms" for p in PARTS), *WARM, "iteration to ours")
  return f"""{title}[Dew](https://dewml.dev) is another JAX library. Its own
rollout, objective and trainer's step (`dew.objectives.rl.flow`), on our network with
our weights, {figures["samples"]} samples of 8 steps, 4 of them trained in two optimizer
steps with KL, float32, one device on two cores; all with {versions}. Its trained
transitions are ours within 3e-7 (`python tests/benchmarks/dew_peer.py`). `{command}`

{table(head, rows)}

What differs: Dew takes conditions from frozen encoders, so in its first row no word is
trained, and words are encoded once per rollout and once per optimizer step; in its
second row its model trains and encodes them at every step and transition, for every
sample, where ours encodes them once per prompt. Its rollout draws noise in all steps (ours:
in those that are trained) and hands the trajectory to the host, where it computes
advantages. It compiles one optimizer step, ours the update. It keeps the reference in
the place of averaged parameters, ours keeps both. The network and its gradients are
ours in all rows, so that this says nothing of Dew's own models."""


def operations() -> str:
  command, figures = measure("operations.py")
  parts = []
  for part, seconds in figures.items():
    total = sum(seconds.values())
    most = sorted(seconds.items(), key=lambda item: -item[1])[:8]
    rows = [(f"`{k}`", f"{100 * s / total:.0f} %") for k, s in most]
    parts.append(f"{table((part, 'share of work'), rows)}")
  return (
    f"## Where the time goes\n\nBy kind of operation; `ynn_fusion` are"
    f" products with what is fused to them. `{command}`\n\n"
    + "\n\n".join(parts)
  )


def devices() -> str:
  peers = {"jaxreward": 1, "mesh2x1": 2, "mesh4x1": 4, "mesh8x1": 8}
  command, figures = measure(
    "grpo_iteration.py", "--pairs", "3", "--peers", *peers
  )
  rows = [
    (
      str(count),
      *parts_of(figures, peer),
      f"{figures[f'{peer}/iteration']['ratio']:.2f}",
    )
    for peer, count in peers.items()
  ]
  head = ("devices", *(f"{p}, ms" for p in PARTS), *WARM, "to one")
  return f"""## Virtual devices on the same two cores

What a mesh costs where it cannot gain anything. `{command}`

{table(head, rows)}"""


def growth(option: str, title: str, unit: str, values: tuple[int, ...]) -> str:
  rows, command = [], ""
  for value in values:
    command, figures = measure(
      "grpo_iteration.py", "--pairs", "3", "--peers", "jaxreward",
      f"--{option}", str(value),
    )  # fmt: skip
    each = figures["jaxreward/iteration"]["median"] / value * 1e3
    rows.append((str(value), *parts_of(figures, "jaxreward"), f"{each:.1f}"))
  head = (unit, *(f"{p}, ms" for p in PARTS), *WARM, f"ms per {unit}")
  return f"""## {title}

`{command}` and others.

{table(head, rows)}"""


if __name__ == "__main__":
  main()
