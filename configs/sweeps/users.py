"""Models that know users beside a pooled one, on planted users, three seeds: 12 runs.

  python -m jaxreward.main --config=configs/recipes/pal_ideal_point.py \
    --sweep=configs/sweeps/users.py --workdir=runs/users
  python configs/sweeps/users.py runs/users

The second command prints held-out accuracy, mean and deviation over seeds: of users
that were trained on, and of new ones as the average user and after four of their rows.
"""

import sys

from jaxreward.report import sweeps

HEAD, LOSS = "reward_model.head", "train_reward.loss"
# Name -> fields.
MODELS = {
  "pooled": {f"{HEAD}.name": "scalar", f"{LOSS}.name": "bradley_terry"},
  "ideal_point": {f"{HEAD}.name": "ideal_point", f"{LOSS}.name": "hinge"},
  "personal": {f"{HEAD}.name": "personal", f"{LOSS}.name": "bradley_terry"},
  "latent": {f"{HEAD}.name": "latent", f"{LOSS}.name": "variational"},
}
USERS = {
  "known": "known users", "unseen": "new users", "adapted": "after four rows",
}  # fmt: skip
SIZES = {
  "train_reward.label_noise": 0.0,
  "train_reward.users.weight": 0.9,
  "train_reward.train_rows": 384,
  "train_reward.sampling.samples": 1,
  "train_reward.steps": 120,
}


def runs():
  """(model, entry) per model and seed."""
  for name, fields in MODELS.items():
    for seed in (0, 1, 2):
      yield name, {**SIZES, **fields, "seed": seed}


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Accuracies of a run, by whose answers they are."""
  return {
    users: share["accuracy"] for users, share in evaluation["users"].items()
  }


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers, last="users")
  rows = [
    [name, *(sweeps.percent(cells.get((name, u), [])) for u in USERS)]
    for name in MODELS
  ]
  return sweeps.markdown(["model", *USERS.values()], rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
