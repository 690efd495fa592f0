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


def get_sweep():
  """One run per loss, share of flipped labels and seed."""
  for name, loss in LOSSES.items():
    for noise in NOISE if name != "smoothed" else NOISE[1:]:
      for seed in SEEDS:
        fields = {"train_reward.label_noise": noise, "seed": seed}
        yield {**SIZES, **loss(noise), **fields}


def name_of(config):
  """The loss of a run's config, as in `LOSSES`."""
  loss = config["train_reward"]["loss"]
  if loss["name"] == "bradley_terry":
    return "smoothed" if loss.get("label_noise") else "Bradley-Terry"
  return loss["name"]


def numbers(config, evaluation):
  """Held-out accuracy of a run, by its loss and share of flipped labels."""
  key = name_of(config), config["train_reward"]["label_noise"]
  yield key, evaluation["reward_model"]["accuracy"]


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, numbers)
  # The same run: there is nothing to smooth.
  cells["smoothed", 0.0] = cells.get(("Bradley-Terry", 0.0), [])
  head = ["loss", *(f"{100 * p:.0f} % flipped" for p in NOISE)]
  rows = [
    [name, *(sweeps.percent(cells.get((name, p), [])) for p in NOISE)]
    for name in LOSSES
  ]
  return sweeps.markdown(head, rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
