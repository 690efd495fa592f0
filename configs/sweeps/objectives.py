"""Methods against one another under one budget, three seeds, see configs/compare.py.

  python -m jaxreward.main --config=configs/train_reward_scenes.py \
    --config.train_reward.label_noise=0.2 --workdir=runs/proxy
  python -m jaxreward.main --config=configs/compare.py \
    --sweep=configs/sweeps/objectives.py --workdir=runs/objectives
  python configs/sweeps/objectives.py runs/objectives

The budget is one of network evaluations; a method that needs fewer of them makes more
iterations. configs/sweeps/objectives_by_seconds.py gives all the same time instead. The
third command prints the reward that was trained on, accuracy on held-out prompts by the
detector, diversity, KL and texture.
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
  "tempflow_grpo": (72.7, {}),  # 36.4 of them finish what steps lead to
}
# CPU seconds of a rollout and an update of a method's miniature, and the evaluations
# of 64 samples in them: `python tests/benchmarks/methods_cost.py --methods=NAME`.
SECONDS = {
  "flow_grpo": (0.27, 12.5),
  "diffusion_nft": (0.22, 11.5),
  "awm": (0.35, 13.6),
  "dancegrpo": (0.22, 10.4),
  "dgpo": (0.21, 11.5),
  "draft_k": (0.13, 7.2),
  "flow_dpo": (0.12, 5.6),
  "grpo_guard": (0.31, 12.5),
  "mixgrpo": (0.14, 7.2),
  "srpo": (0.36, 15.2),
}
BUDGET = 60  # iterations of Flow-GRPO
SEEDS = (0, 1, 2)
COLUMNS = ("proxy", "strict", "diversity", "kl", "texture")


def evaluations(name):
  """Of the network, per sample of an iteration."""
  return METHODS[name][0]


def seconds(name):
  """Of one core, per sample of an iteration, where they have been measured."""
  spent, count = SECONDS[name]
  return evaluations(name) * spent / (64 * count)


def affordable(methods=tuple(METHODS), cost=evaluations):
  """Method -> iterations in the budget."""
  return {
    name: round(BUDGET * cost("flow_grpo") / cost(name)) for name in methods
  }


def runs(counts):
  """(method, entry) per method and seed."""
  for name, count in counts.items():
    method, _, _ = name.partition(",")
    for seed in SEEDS:
      yield (
        name,
        {
          "config": f"configs/compare.py:{method}",
          "align.iterations": count,
          "eval.every": count,
          "checkpoint.every": count,
          "seed": seed,
          **METHODS[name][1],
        },
      )


def get_sweep():
  return sweeps.entries(runs(affordable()))


def numbers(evaluation, when="after"):
  """What a method reached, or what it began with."""
  setting = evaluation[when]["guidance_scale=1.0"]
  more = {"proxy": setting["rewards"]["proxy"], "kl": setting.get("kl", 0.0)}
  return {c: (setting | more)[c] for c in COLUMNS}


def table(folder, counts):
  """The table in Markdown, best held-out accuracy first."""
  every = list(runs(counts))
  before = [("before", entry) for _, entry in every]
  first = lambda evaluation: numbers(evaluation, "before")
  cells = sweeps.cells(folder, every, numbers)
  cells |= sweeps.cells(folder, before, first)
  strict = lambda name: cells.get((name, "strict"), [0.0])
  best = sorted(counts, key=lambda name: -sum(strict(name)) / len(strict(name)))
  rows = [
    [
      name,
      str(counts.get(name, 0)),
      *(sweeps.mean(cells.get((name, c), []), 4 if c == "texture" else 3)
        for c in COLUMNS),
    ]
    for name in ("before", *best)
  ]  # fmt: skip
  head = ["method", "iterations", "proxy", "strict accuracy", *COLUMNS[2:]]
  return sweeps.markdown(head, rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1], affordable()) + "\n")
