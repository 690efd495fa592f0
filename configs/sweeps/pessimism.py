"""What a reward model's doubt is worth, three seeds: 9 runs.

  python -m jaxreward.main --config=configs/quickstart.py \
    --sweep=configs/sweeps/pessimism.py --workdir=runs/pessimism
  python configs/sweeps/pessimism.py runs/pessimism

A small reward model learns from labels of which a fifth are flipped, and a policy is
aligned against it alone. The second command prints the model's calibration error and
the aligned policy's strict accuracy, by the detector, which nothing is trained on.
"""

import sys

from jaxreward.report import sweeps

LOSS, COMPOSITION = "train_reward.loss.name", "composition.name"
_GAUSSIAN = {
  "reward_model.head.name": "gaussian", LOSS: "expected_bradley_terry",
}  # fmt: skip
# Name -> fields.
SIGNALS = {
  "value": {},
  "Gaussian, mean": _GAUSSIAN,
  "Gaussian, mean less deviation": {**_GAUSSIAN, COMPOSITION: "lower_bound"},
}
FIELDS = {
  "rewards.detector": "none",
  "rewards.learned.fn": "learned",
  "heldout_rewards.learned": "none",
  "heldout_rewards.detector.fn": "detector",
  "train_reward.train_rows": 128,
  "train_reward.heldout_rows": 128,
  "train_reward.sampling.guidance_scales": "1.0,",
  "train_reward.label_noise": 0.2,
  "train_reward.steps": 80,
  "align.iterations": 40,
  "eval.every": 40,
  "eval.guidance_scales": "1.0,",
}


def runs():
  """(signal, entry) per signal and seed."""
  for name, signal in SIGNALS.items():
    for seed in (0, 1, 2):
      yield name, {**FIELDS, **signal, "seed": seed}


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Results of a run, by what they measure."""
  model = evaluation["reward_model"]
  return {
    "accuracy": model["accuracy"],
    "calibration error": model["calibration_error"],
  } | {
    f"strict {when}": evaluation[when]["guidance_scale=1.0"]["strict"]
    for when in ("before", "after")
  }


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers)
  columns = ("accuracy", "calibration error", "strict before", "strict after")
  rows = [
    [name, *(sweeps.percent(cells.get((name, c), [])) for c in columns)]
    for name in SIGNALS
  ]
  return sweeps.markdown(["signal", *columns], rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
