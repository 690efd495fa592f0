"""From preferences to a judge to a policy, with three defences, three seeds: 18 runs.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --sweep=configs/sweeps/judges.py --workdir=runs/judges
  python -m jaxreward.main --config=configs/align_scenes.py \
    --sweep=configs/sweeps/judge_circle.py --workdir=runs/judge_circle
  python configs/sweeps/judge_circle.py runs/judge_circle

A policy is aligned with a judge alone, as it ships or after it has learned from
preferences; the detector, which nothing is trained on, says what that was worth. The
third command prints the table of docs/judge_circle.md.
"""

import pathlib
import sys

from jaxreward import config as config_lib
from jaxreward.report import sweeps

judges = config_lib.load_module(
  str(pathlib.Path(__file__).with_name("judges.py"))
)
_SHIPPED = {"weights": "package:judge", "length": 64}
_PAIRS = {"fn": "vlm_pairwise", "pairs": "random", "opponents": 2, **_SHIPPED}
# Reward -> fields; "learned" is the judge that was trained with the run's seed.
REWARDS = {
  "yes": {"fn": "vlm_pointwise", **_SHIPPED},
  "one_order": {**_PAIRS, "swap": False},
  "both_orders": _PAIRS,
}
# Variant -> (rewards, fields).
VARIANTS = {
  "as shipped, yes or no": (("yes",), {}),
  "as shipped, pairs in one order": (("one_order",), {}),
  "as shipped, pairs in both orders": (("both_orders",), {}),
  "trained": (("learned",), {}),
  "trained, mean less deviation": (
    ("learned",),
    {"composition.name": "lower_bound"},
  ),
  "trained, and yes or no": (
    ("learned", "yes"),
    {"composition.name": "advantage_sum", "advantage.std": "none"},
  ),
}
FIELDS = {
  "rewards.detector": "none",
  "heldout_rewards.detector.fn": "detector",
  "rollout.group": 8,
  "align.iterations": 100,
  "eval.every": 50,
  "eval.guidance_scales": "1.0,",
}


def runs():
  """(variant, entry) per variant and seed."""
  for variant, (names, fields) in VARIANTS.items():
    for seed in judges.SEEDS:
      entry = {**FIELDS, **fields, "seed": seed}
      for name in names:
        for key, value in REWARDS.get(name, {}).items():
          entry[f"rewards.{name}.{key}"] = value
      section = "rewards" if "learned" in names else "heldout_rewards"
      entry[f"{section}.learned.fn"] = "learned"
      entry[f"{section}.learned.weights"] = judges.file_of(seed)
      yield variant, entry


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Results of a run, by what they measure."""
  columns = {}
  for when in ("before", "after"):
    policy = evaluation[when]["guidance_scale=1.0"]
    columns |= {
      f"judge {when}": policy["rewards"]["learned"],
      f"right {when}": policy["strict"],
      f"diversity {when}": policy["diversity"],
      f"texture {when}": policy["texture"],
    }
  return columns


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers)
  digits = {"judge": 2, "right": 2, "diversity": 3, "texture": 4}
  columns = list(dict.fromkeys(column for _, column in cells))
  rows = [
    [
      variant,
      *(
        sweeps.mean(cells.get((variant, c), []), digits[c.split()[0]])
        for c in columns
      ),
    ]
    for variant in VARIANTS
  ]
  return sweeps.markdown(["the reward", *columns], rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
