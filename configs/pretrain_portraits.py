"""Trains a policy on portraits from scratch; it made `package:portraits_base`.

  python -m jaxreward.main --workdir=runs/portraits \
    --config=configs/pretrain_portraits.py

With `:latent` the policy works in the latents of a small autoencoder, as the public
ones do; `:autoencoder` trains the autoencoder, before the policy:

  python -m jaxreward.main --workdir=runs/portraits_autoencoder \
    --config=configs/pretrain_portraits.py:autoencoder
  python -m jaxreward.main --workdir=runs/portraits_latent \
    --config=configs/pretrain_portraits.py:latent

Some captions have one wrong attribute, as in web data, so that the policy can follow
prompts, but often does not.
"""

from jaxreward import config as config_lib

SPACES = ("pixels", "latent", "autoencoder")
AUTOENCODER = "runs/portraits_autoencoder/autoencoder.safetensors"


def get_config(arg: str | None = None):
  """`:latent` or `:autoencoder`; `,smoke` runs a few steps of a tiny model."""
  options = config_lib.parse_arg(arg, space=SPACES, smoke=False)
  smoke, space = options["smoke"], options["space"]
  size = ":smoke" if smoke else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portraits", grammar="portraits", kind_weights=(1, 3, 1, 3, 1)
  )
  if not smoke:
    config.pretrain.update(steps=900, batch_size=64, caption_corruption=0.25)
    config.eval.every = config.checkpoint.every = 450
  if space != "pixels":
    config.model.update(image_size=6, channels=16, patch=2)
    config.autoencoder = dict(name="patches")
    if smoke:
      config.autoencoder.update(width=16, heads=2, depth=1)
  if space == "latent" and not smoke:
    config.autoencoder.weights = AUTOENCODER
  if space == "autoencoder":
    config.pretrain.part = "autoencoder"
    config.pretrain.export_dtype = "float32"
    config.optimizer.update(name="adamw", learning_rate=2e-3)
  return config
