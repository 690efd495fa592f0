"""Reward models as assessors and as objectives: 4 runs, one per model.

  python -m jaxreward.main --config=configs/recipes/assess_vs_optimise_probe.py \
    --sweep=configs/sweeps/assess_vs_optimise.py --workdir=runs/assess
  python configs/sweeps/assess_vs_optimise.py runs/assess

The second command prints each model's rank correlation with held-out ratings and the
strict accuracy of the policy that followed its gradient, and how far the two orders
are apart: 0 the same order, 2 the opposite one.
"""

import sys

from jaxreward.evaluation.reward_models import pairs
from jaxreward.report import sweeps

TRAIN, BACKBONE = "train_reward", "reward_model.backbone.name"
# Name -> fields.
MODELS = {
  "scenes": {},
  "scenes, few rows": {f"{TRAIN}.train_rows": 48},
  "scenes, flipped": {f"{TRAIN}.label_noise": 0.4},
  "policy": {BACKBONE: "policy"},
}
SIZES = {
  f"{TRAIN}.steps": 120,
  "align.iterations": 40,
  "eval.every": 40,
  "eval.guidance_scales": "1.0,",
}


def runs():
  """(model, entry) per reward model."""
  for name, fields in MODELS.items():
    yield name, {**SIZES, **fields}


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """What a run's model knows, and what its policy reaches."""
  return {
    "knows": evaluation["judged"]["rewards"]["learned"]["spearman"],
    "reaches": evaluation["after"]["guidance_scale=1.0"]["strict"],
  }


def table(folder):
  """The table in Markdown and the asymmetry, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers, last="judged")
  rows = [
    [
      name,
      *(sweeps.percent(cells.get((name, c), [])) for c in ("knows", "reaches")),
    ]
    for name in MODELS
  ]
  lines = sweeps.markdown(["model", "rank correlation", "strict after"], rows)
  sides = [
    {name: sum(x) / len(x) for (name, c), x in cells.items() if c == column}
    for column in ("knows", "reaches")
  ]
  if len(sides[0]) < 2:
    return lines
  return f"{lines}\n\nAsymmetry: {pairs.asymmetry(*sides)['asymmetry']:.2f}"


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
