"""Samples images: `--config.data.source=prompts.txt` for prompts of your own."""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """The base config with the job `sample`; `:smoke` makes a few images."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "sample"
  if config_lib.parse_arg(arg, smoke=False)["smoke"]:
    config.sample.update(prompts=3, group=2, num_steps=2, microbatch=6)
  return config
