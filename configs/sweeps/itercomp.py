"""Three rounds of a reward model and the policy it aligns: 3 runs, one after another.

  python -m jaxreward.main --config=configs/recipes/itercomp.py \
    --sweep=configs/sweeps/itercomp.py --workdir=runs/itercomp
  python configs/sweeps/itercomp.py runs/itercomp

Each round starts from the policy of the last, and its reward model also learns from
images of all policies before; the folder has to be runs/itercomp. The second command
prints what the rounds come to, by the detector.
"""

import sys

from jaxreward.report import sweeps

ROUNDS = 3
BASE = "package:scenes_base"


def policy_of(number):
  """What a round writes."""
  return f"runs/itercomp/{number}/policy.safetensors"


def runs():
  """(round, entry) per round."""
  for number in range(ROUNDS):
    policies = [BASE, *(policy_of(i) for i in range(number))]
    yield (
      number,
      {
        "init.checkpoint": policies[-1],
        "train_reward.sampling.gallery": "".join(
          f"{p}," for p in policies[:-1]
        ),
        "eval.guidance_scales": "1.0,",
      },
    )


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Results of a round."""
  return {"model": evaluation["reward_model"]["accuracy"]} | {
    when: evaluation[when]["guidance_scale=1.0"]["strict"]
    for when in ("before", "after")
  }


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers)
  rows = [
    [str(n + 1), *(sweeps.percent(cells.get((n, c), []))
                   for c in ("model", "before", "after"))]
    for n in range(ROUNDS)
  ]  # fmt: skip
  return sweeps.markdown(
    ["round", "model's accuracy", "strict before", "strict after"], rows
  )


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
