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


def get_sweep():
  """One run per signal and seed."""
  for signal in SIGNALS.values():
    for seed in (0, 1, 2):
      yield {**FIELDS, **signal, "seed": seed}


def name_of(config):
  """The signal of a run's config, as in `SIGNALS`."""
  if config["reward_model"]["head"]["name"] != "gaussian":
    return "value"
  is_bound = config["composition"]["name"] == "lower_bound"
  return f"Gaussian, mean{' less deviation' * is_bound}"


def numbers(config, evaluation):
  """Results of a run, by its signal and what they measure."""
  name, model = name_of(config), evaluation["reward_model"]
  yield (name, "accuracy"), model["accuracy"]
  yield (name, "calibration error"), model["calibration_error"]
  for when in ("before", "after"):
    setting = evaluation[when]["guidance_scale=1.0"]
    yield (name, f"strict {when}"), setting["strict"]


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, numbers)
  columns = ("accuracy", "calibration error", "strict before", "strict after")
  rows = [
    [name, *(sweeps.percent(cells.get((name, c), [])) for c in columns)]
    for name in SIGNALS
  ]
  return sweeps.markdown(["signal", *columns], rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
