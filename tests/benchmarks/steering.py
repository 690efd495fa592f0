"""Steering at equal budgets: `python tests/benchmarks/steering.py`.

Evaluates the scenes' base policy by the job `evaluate`, steered by the detector's
graded score, and prints a table in Markdown. Rows of one budget cost about the
same number of network evaluations per image (pruning and beams 2 to 4 fewer of
40 or 80, a tree at most as many); methods that look on the way ask the reward
more often.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

from jaxreward import main

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "evaluate_scenes.py"
STEPS = 10
FK = dict(name="fk", first=3, every=2)
PRUNED = dict(name="pruned", looks=(1, 3, 5), keep=(0.4, 0.4, 0.5))
BEAMS = dict(name="lookahead_beams", branches=2, lookahead=1)
# name, sampler, particles, steering
ROWS = [
  ("plain", "ode", 1, dict(name="none")),
  ("plain", "cps", 1, dict(name="none")),
  *(
    row
    for n in (4, 8)
    for row in (
      ("best of N", "ode", n, dict(name="best_of_n")),
      ("best of N", "cps", n, dict(name="best_of_n")),
      ("FK, max, lambda 10", "cps", n, FK | dict(tilt=10.0)),
      (
        "FK, difference, lambda 10",
        "cps",
        n,
        FK | dict(tilt=10.0, potential="difference"),
      ),
      (
        "FK, difference, lambda 10, below half",
        "cps",
        n,
        FK | dict(tilt=10.0, potential="difference", threshold=0.5),
      ),
      ("pruned", "ode", 4 * n, PRUNED | dict(particles=4 * n)),
      (
        f"beams, {n // 4} of {n // 2} branches",
        "cps",
        n // 2,
        BEAMS | dict(beams=n // 4),
      ),
      ("tree, best", "cps", n, dict(name="tree", rollouts=n)),
    )
  ),
]


def evaluate(sampler: str, particles: int, steering: dict, samples: int):
  """The entry of evaluation.json at guidance scale 1."""
  options = dict(steering)
  if options["name"] in ("best_of_n", "fk"):
    options["particles"] = particles
  fields = {
    "eval.samples": samples, "eval.num_steps": STEPS,
    "eval.guidance_scales": "(1.0,)", "eval.sampler.name": sampler,
    **{f"eval.steering.{k}": v for k, v in options.items()},
  }  # fmt: skip
  with tempfile.TemporaryDirectory() as workdir:
    flags = [f"--config.{k}={v}" for k, v in fields.items()]
    code = main.main([f"--config={CONFIG}", f"--workdir={workdir}", *flags])
    if code:
      raise SystemExit(code)
    text = (pathlib.Path(workdir) / "evaluation.json").read_text()
  return json.loads(text)["policy"]["guidance_scale=1.0"]


def run() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--samples", type=int, default=480)
  samples = parser.parse_args().samples
  head = [
    "method", "sampler", "N", "network evaluations", "reward calls",
    "reward", "strictly right", "diversity",
  ]  # fmt: skip
  lines = [head, ["---"] * len(head)]
  for name, sampler, particles, steering in ROWS:
    result = evaluate(sampler, particles, steering, samples)
    low, high = result["interval"]
    lines.append(
      [
        name, sampler, str(particles),
        f"{result.get('network_evaluations', STEPS):.0f}",
        f"{result.get('reward_calls', 0):.0f}",
        f"{result['rewards']['detector']:.3f}",
        f"{100 * result['strict']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
        f"{result['diversity']:.3f}",
      ]
    )  # fmt: skip
  print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
  run()
