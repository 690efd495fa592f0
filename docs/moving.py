"""What rewards see of moving scenes: the tables of docs/motion.md.

python docs/moving.py
"""

from __future__ import annotations

import sys

import jax
import numpy as np

from jaxreward.rewards import bodies, motion
from jaxreward.tasks.motion import judge, paths, prompts, render

N = 400
say = lambda line: sys.stdout.write(f"{line}\n")
EACH = 12  # videos of each motion
FAULTS = ("as drawn", "jump", "change")  # 0, prompts.JUMPS, prompts.CHANGES


@jax.jit
def _exact(keys, batch):
  videos = render.render_prompts(keys, batch)
  return judge.groups(videos[:, None], batch)


@jax.jit
def _published(keys, batch):
  videos = render.render_prompts(keys, batch)[:, None]
  return motion.executable(videos, None), bodies.feasible(videos, None)


def _batch(chosen, fault):
  batch = prompts.batch(chosen)
  batch.extras.fault[:] = fault
  return batch, jax.random.split(jax.random.key(fault), len(chosen))


def main() -> None:
  """Prints both tables."""
  rng = np.random.default_rng(0)
  every = prompts.all_prompts()
  chosen = [every[i] for i in rng.choice(len(every), N)]
  say("| | `moved` | `possible` |\n| --- | --- | --- |")
  for fault, name in enumerate(FAULTS):
    batch, keys = _batch(chosen, fault)
    parts = _exact(keys, batch)
    say(
      f"| {name} | {float(parts['strict'].mean()):.3f}"
      f" | {float(parts['possible'].mean()):.3f} |"
    )
  singles = [p for p in every if len(p.items) == 1]
  chosen = []
  for number in range(len(paths.MOTIONS)):
    of = [p for p in singles if p.items[0][2] == number]
    chosen += [of[i] for i in rng.choice(len(of), EACH)]
  say("\n| | `executable` | `feasible` |\n| --- | --- | --- |")
  for fault, name in enumerate(FAULTS):
    batch, keys = _batch(chosen, fault)
    scores = [np.asarray(x).reshape(-1, EACH) for x in _published(keys, batch)]
    say(f"| {name} | {scores[0].mean():.2f} | {scores[1].mean():.2f} |")
    for number, motion_name in enumerate(paths.MOTIONS if not fault else ()):
      means = (x[number].mean() for x in scores)
      say(f"| {motion_name} | {' | '.join(f'{x:.2f}' for x in means)} |")


if __name__ == "__main__":
  main()
