"""Aligns a policy on portraits: attributes in the image compared with the prompt.

  python -m jaxreward.main --workdir=runs/portraits_aligned \
    --config=configs/portraits.py

The reward is the graded share of the attributes that a prompt names. Held out are
`right`, whether all of them are right and nothing else is in the image, and the image
quality, `drawn`. Prompts describe one or two people; held-out ones are combinations, and
in the category "reworded" sentences, that no training prompt has.

`:latent` aligns a policy over the latents of an autoencoder; train both with
configs/pretrain_portraits.py first (docs/portraits.md).
"""

from jaxreward import config as config_lib

OBJECTIVES = ("diffusion_nft", "flow_grpo")
LATENT = "runs/portraits_latent/policy.safetensors"
AUTOENCODER = "runs/portraits_autoencoder/autoencoder.safetensors"


def get_config(arg: str | None = None):
  """`:flow_grpo` for that objective, `,latent`, `,smoke` for a few iterations."""
  options = config_lib.parse_arg(
    arg, objective=OBJECTIVES, latent=False, smoke=False
  )
  size = ",smoke" if options["smoke"] else ""
  spec = f"align_scenes.py:{options['objective']}{size}"
  config = config_lib.load_sibling(spec, __file__)
  config.model.update(image_size=48, patch=12, language="portraits")
  config.data.update(
    source="portraits", grammar="portraits", kind_weights=(1, 3, 2, 4, 1)
  )
  config.rewards = dict(attributes=dict(fn="attributes", weight=1.0))
  config.heldout_rewards = dict(
    right=dict(fn="right", weight=1.0), drawn=dict(fn="drawn", weight=1.0)
  )
  if config.align.iterations < 10:  # smoke
    config.eval.guidance_scales = (1.0,)
    config.model.update(depth=2, width=64, unroll=1)
    config.init.checkpoint = ""
  else:
    config.init.checkpoint = "package:portraits_base"
    config.align.iterations = 100
  if options["latent"]:
    config.model.update(image_size=6, channels=16, patch=2)
    config.autoencoder = dict(name="patches")
    if options["smoke"]:
      config.autoencoder.update(width=16, heads=2, depth=1)
    else:
      config.autoencoder.weights = AUTOENCODER
      config.init.checkpoint = LATENT
  return config
