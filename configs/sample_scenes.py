"""Draws pictures: `--config.data.source=prompts.txt` for prompts of your own."""

from jaxreward import config as config_lib


def get_config():
  """The base config with the sample job."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "sample"
  return config
