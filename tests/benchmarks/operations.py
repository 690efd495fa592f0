"""Shows where one Flow-GRPO iteration spends its time, by operation.

  python tests/benchmarks/operations.py

The iteration is that of `grpo_iteration.py`. Times are of the programs'
operations, summed over threads and iterations; a fusion goes by the operation
that its name starts with.
"""

from __future__ import annotations

import argparse
import collections
import glob
import json
import re
import tempfile

import grpo_iteration
import jax


def main(argv=None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--iterations", type=int, default=3)
  parser.add_argument("--top", type=int, default=16, help="rows of a table")
  flags = parser.parse_args(argv)
  work = grpo_iteration.parse(["--peer=jaxreward"])
  rollout, update = grpo_iteration.make_jaxreward(work)
  for _ in range(work.warmup):
    update(rollout())
  samples = rollout()  # an update does not donate them
  seconds_of = {
    "rollout": profile(rollout, flags.iterations),
    "update": profile(lambda: update(samples), flags.iterations),
  }
  for part, seconds in seconds_of.items():
    total = sum(seconds.values())
    print(f"\n{part}: {total * 1e3:.0f} ms of work in an iteration")
    for name, time in seconds.most_common(flags.top):
      print(f"  {name:32s}{time * 1e3:9.1f} ms{100 * time / total:7.1f} %")
  print("\n" + json.dumps(seconds_of))


def profile(run, iterations: int) -> collections.Counter[str]:
  """Seconds of an iteration by kind of operation."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(iterations):
        run()
    (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
    data = jax.profiler.ProfileData.from_file(path)
  seconds: collections.Counter[str] = collections.Counter()
  for plane in data.planes:
    for line in plane.lines:
      for event in line.events:
        if kind := kind_of(event):
          seconds[kind] += event.duration_ns / 1e9 / iterations
  return seconds


def kind_of(event) -> str:
  """The kind of an operation of a program; empty for anything else."""
  stats = dict(event.stats)
  if "hlo_op" not in stats:
    return ""
  return re.sub(r"[.\d]+$", "", str(stats["hlo_op"]))


if __name__ == "__main__":
  main()
