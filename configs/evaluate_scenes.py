"""Evaluates a policy: `--config.init.checkpoint=runs/x/policy.safetensors`."""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """The base config with the evaluate job; `:smoke` looks at a few."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "evaluate"
  config.eval.update(samples=960, guidance_scales=(1.0, 1.5, 2.0, 3.0, 4.0))
  if config_lib.parse_arg(arg, smoke=False)["smoke"]:
    config.eval.update(samples=24, group=2, num_steps=2, microbatch=24)
  return config
