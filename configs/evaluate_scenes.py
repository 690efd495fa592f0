"""Evaluates a policy: `--config.init.checkpoint=runs/x/policy.safetensors`."""

from jaxreward import config as config_lib


def get_config():
  """The base config with the evaluate job and a finer sampler."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "evaluate"
  config.eval.update(samples=960, guidance_scales=(1.0, 1.5, 2.0, 3.0, 4.0))
  return config
