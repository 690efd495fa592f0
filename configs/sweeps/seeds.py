"""Three seeds of whatever the config is: `--sweep=configs/sweeps/seeds.py`."""


def get_sweep():
  """One override per run."""
  return [{"seed": seed} for seed in (0, 1, 2)]
