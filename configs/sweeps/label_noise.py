"""Five losses at 0, 10, 20 and 40 % flipped labels, three seeds: 57 runs.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --sweep=configs/sweeps/label_noise.py --workdir=runs/label_noise
  python configs/sweeps/label_noise.py runs/label_noise

The second command prints held-out accuracy, mean and deviation over seeds, of the
runs that are there. Held-out labels are never flipped.
"""

import collections
import json
import pathlib
import statistics
import sys

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
SEEDS = (0, 1, 2)


def get_sweep():
  """One run per loss, share of flipped labels and seed."""
  for name, loss in LOSSES.items():
    for noise in NOISE if name != "smoothed" else NOISE[1:]:
      for seed in SEEDS:
        fields = {"train_reward.label_noise": noise, "seed": seed}
        yield {**loss(noise), **fields}


def name_of(config):
  """The loss of a run's config, as in `LOSSES`."""
  loss = config["train_reward"]["loss"]
  if loss["name"] == "bradley_terry":
    return "smoothed" if loss.get("label_noise") else "Bradley-Terry"
  return loss["name"]


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = collections.defaultdict(list)
  for path in sorted(pathlib.Path(folder).glob("*/evaluation.json")):
    config = json.loads((path.parent / "config.json").read_text())
    results = json.loads(path.read_text())["reward_model"]
    key = name_of(config), config["train_reward"]["label_noise"]
    cells[key].append(100 * results["accuracy"])
  shares = " | ".join(f"{100 * p:.0f} % flipped" for p in NOISE)
  lines = [f"| loss | {shares} |", "| --- " * (len(NOISE) + 1) + "|"]
  for name in LOSSES:
    row = [_cell(cells[name, noise]) for noise in NOISE]
    if name == "smoothed":
      row[0] = _cell(cells["Bradley-Terry", 0.0])  # the same run
    lines.append(f"| {name} | {' | '.join(row)} |")
  return "\n".join(lines)


def _cell(values):
  if not values:
    return "–"
  spread = statistics.stdev(values) if len(values) > 1 else 0.0
  return f"{statistics.mean(values):.1f} ± {spread:.1f} ({len(values)})"


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
