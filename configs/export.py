"""Writes the policy of a run for other programs: `--workdir=runs/x`.

  python -m jaxreward.main --config=configs/export.py --workdir=runs/x \
    --config.export.step=best
"""

from jaxreward import config as config_lib


def get_config():
  """The base config with the export job; the rest is that of the run."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "export"
  return config
