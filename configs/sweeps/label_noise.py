"""Five losses at 0, 10, 20 and 40 % flipped labels, three seeds: 57 runs.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --sweep=configs/sweeps/label_noise.py --workdir=runs/label_noise
  python configs/sweeps/label_noise.py runs/label_noise

The second command prints held-out accuracy, mean and deviation over seeds, of the
runs that are there. Held-out labels are never flipped.
"""

import sys

from jaxreward.report import sweeps

LOSS = "train_reward.loss"
# Name -> the share of flipped labels -> fields.
LOSSES = {
  "Bradley-Terry": lambda p: {f"{LOSS}.name": "bradley_terry"},
  "smoothed": lambda p: {f"{LOSS}.label_noise": p},  # as much as there is
  "focal": lambda p: {f"{LOSS}.name": "focal"},
  "fidelity": lambda p: {
    f"{LOSS}.name": "fidelity", "reward_model.head.name": "gaussian",
  },
  "hinge": lambda p: {f"{LOSS}.name": "hinge"},
}  # fmt: skip
NOISE = (0.0, 0.1, 0.2, 0.4)
SIZES = {"train_reward.train_rows": 384, "train_reward.steps": 120}
SEEDS = (0, 1, 2)


def runs():
  """((loss, share of flipped labels), entry) per loss, share and seed."""
  for name, loss in LOSSES.items():
    for noise in NOISE if name != "smoothed" else NOISE[1:]:
      for seed in SEEDS:
        fields = {"train_reward.label_noise": noise, "seed": seed}
        yield (name, noise), {**SIZES, **loss(noise), **fields}


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Held-out accuracy of a run."""
  return {"accuracy": evaluation["reward_model"]["accuracy"]}


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers, last="reward_model")
  accuracies = {name: values for (name, _), values in cells.items()}
  # The same run: there is nothing to smooth.
  accuracies["smoothed", 0.0] = accuracies.get(("Bradley-Terry", 0.0), [])
  head = ["loss", *(f"{100 * p:.0f} % flipped" for p in NOISE)]
  rows = [
    [name, *(sweeps.percent(accuracies.get((name, p), [])) for p in NOISE)]
    for name in LOSSES
  ]
  return sweeps.markdown(head, rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
