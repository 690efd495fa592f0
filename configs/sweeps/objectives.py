"""Methods against one another under one budget, three seeds, see configs/compare.py.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --config.train_reward.label_noise=0.2 --workdir=runs/proxy
  python -m jaxreward.main --config=configs/compare.py \
    --sweep=configs/sweeps/objectives.py --workdir=runs/objectives
  python configs/sweeps/objectives.py runs/objectives

The budget is one of network evaluations; a method that needs fewer of them makes more
iterations. The third command prints the reward that was trained on, accuracy on
held-out prompts by the detector, diversity, KL and texture.
"""

import sys

from jaxreward.report import sweeps

# Method -> evaluations of the network per sample and iteration, a backward pass
# counting as two: `python tests/benchmarks/methods_cost.py --count`. Beside it,
# fields that make a variant of it.
METHODS = {
  "flow_grpo": (24.3, {}),
  "flow_grpo, no KL": (20.3, {"regularizers.kl": "none"}),
  "diffusion_nft": (24.3, {}),
  "gardo": (24.3, {}),
  "refl": (19.9, {}),
  "alignprop": (35.6, {}),
  "awm": (28.4, {}),
  "crd": (28.4, {}),
  "curated_retraining": (24.3, {}),
  "d3po": (32.6, {}),
  "dancegrpo": (20.2, {}),
  "dgpo": (24.3, {}),
  "draft_k": (12.1, {}),
  "flow_dpo": (10.5, {}),
  "flow_dppo": (24.3, {}),
  "grpo_guard": (24.3, {}),
  "inpo": (15.5, {}),
  "mixgrpo": (14.1, {}),
  "prdp": (32.6, {}),
  "rankdpo": (24.3, {}),
  "rebel": (24.3, {}),
  "srpo": (32.0, {}),
  "tempflow_grpo": (24.3, {}),
}
SPENT = 60 * 24.3  # per sample of an iteration: sixty iterations of Flow-GRPO
SEEDS = (0, 1, 2)
COLUMNS = ("proxy", "strict", "diversity", "kl", "texture")


def iterations(name):
  """How many a method can afford."""
  return round(SPENT / METHODS[name][0])


def runs():
  """(method, seed) of every run."""
  return [(name, seed) for name in METHODS for seed in SEEDS]


def get_sweep():
  """One run per method and seed."""
  for name, seed in runs():
    count = iterations(name)
    method, _, _ = name.partition(",")
    yield {
      "config": f"configs/compare.py:{method}",
      "align.iterations": count,
      "eval.every": count,
      "checkpoint.every": count,
      "seed": seed,
      **METHODS[name][1],
    }


def cells(folder):
  """(method, column) -> values of the seeds; "before" is the base's."""
  values = {}
  evaluations = sweeps.of_entries(folder, len(runs()))
  for i, evaluation in evaluations.items():
    for when, name in (("before", "before"), ("after", runs()[i][0])):
      setting = evaluation[when]["guidance_scale=1.0"]
      row = setting | {
        "proxy": setting["rewards"]["proxy"],
        "kl": setting.get("kl", 0.0),
      }
      for column in COLUMNS:
        values.setdefault((name, column), []).append(row[column])
  return values


def table(folder):
  """The table in Markdown, best held-out accuracy first."""
  values = cells(folder)
  strict = lambda name: values.get((name, "strict"), [0.0])
  best = sorted(
    METHODS, key=lambda name: -sum(strict(name)) / len(strict(name))
  )
  rows = [
    [
      name,
      str(iterations(name)) if name in METHODS else "0",
      *(sweeps.mean(values.get((name, c), []), 4 if c == "texture" else 3)
        for c in COLUMNS),
    ]
    for name in ("before", *best)
  ]  # fmt: skip
  head = ["method", "iterations", "proxy", "strict accuracy", *COLUMNS[2:]]
  return sweeps.markdown(head, rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
