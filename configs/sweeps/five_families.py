"""Five families of rewards at once, three seeds: 3 runs.

  python -m jaxreward.main --config=configs/five_rewards.py \
    --sweep=configs/sweeps/five_families.py --workdir=runs/five_families
  python configs/sweeps/five_families.py runs/five_families

The second command prints what became of the measure of each family that nothing is
trained on, before and after, in the order of the rows of configs/five_rewards.py.
"""

import sys

from jaxreward.report import sweeps

SETTING = "guidance_scale=1.0"
# Family -> the held-out reward that measures it exactly.
MEASURES = {
  "alignment": "done",
  "consistency": "untouched",
  "identity": "recognised",
  "quality": "drawn",
  "fidelity": "rendered_equivalence",
}
WHEN = ("before", "after")


def runs():
  """(None, entry) per seed."""
  for seed in (0, 1, 2):
    yield None, {"seed": seed}


def get_sweep():
  return sweeps.entries(runs())


def numbers(evaluation):
  """Results of a run, by family and time; the gain is of each seed."""
  before, after = (evaluation[when][SETTING]["rewards"] for when in WHEN)
  return {
    f"{family} {what}": number
    for family, name in MEASURES.items()
    for what, number in (
      ("before", before[name]),
      ("after", after[name]),
      ("gain", after[name] - before[name]),
    )
  }


def table(folder):
  """The table in Markdown, from the runs in a folder."""
  cells = sweeps.cells(folder, runs(), numbers)
  columns = (*WHEN, "gain")
  rows = [
    [
      family,
      f"`{name}`",
      *(
        sweeps.percent(cells.get((None, f"{family} {c}"), [])) for c in columns
      ),
    ]
    for family, name in MEASURES.items()
  ]
  return sweeps.markdown(["family", "held out", *columns], rows)


if __name__ == "__main__":
  sys.stdout.write(table(sys.argv[1]) + "\n")
