"""Methods against one another in the same time: objectives.py, with another budget.

  python -m jaxreward.main --config=configs/compare.py \
    --sweep=configs/sweeps/objectives_by_seconds.py --workdir=runs/by_seconds
  python configs/sweeps/objectives_by_seconds.py runs/by_seconds

Of the methods whose seconds have been measured.
"""

import pathlib
import sys

from jaxreward import config as config_lib
from jaxreward.report import sweeps

_BESIDE = pathlib.Path(__file__).with_name("objectives.py")
objectives = config_lib.load_module(str(_BESIDE))
COUNTS = objectives.affordable(
  tuple(objectives.SECONDS), cost=objectives.seconds
)


def get_sweep():
  return sweeps.entries(objectives.runs(COUNTS))


if __name__ == "__main__":
  sys.stdout.write(objectives.table(sys.argv[1], COUNTS) + "\n")
