"""GRPO steps of public models' shapes on TPU slices, for the job compile_check.

`:sd35_medium` (default), `:sd35_large` or `:flux_dev`, each with all parameters
trained or, with `,lora`, adapters on a bfloat16 base. Sampling, group and
guidance are Flow-GRPO's (Liu et al. 2025, arXiv 2505.05470) at 512 pixels.

  python -m jaxreward.main --config=configs/pods.py:sd35_large,lora \
    --config.topology=v5e-16
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib

MODELS = {
  "sd35_medium": dict(name="sd3", size="sd35_medium", words=333),
  "sd35_large": dict(name="sd3", size="sd35_large", words=333),
  "flux_dev": dict(name="flux", size="flux_dev", words=512),
}
FSDP = {"sd35_medium": 1, "sd35_large": 4, "flux_dev": 4}  # beside adapters


def brightness(images, prompts):
  """Stands for a reward, at no cost: it needs no weights to be compiled."""
  del prompts
  return images.mean((2, 3, 4))


def get_config(arg: str | None = None):
  """The model's name, and `lora`, separated by commas."""
  given = config_lib.parse_arg(arg, model=tuple(MODELS), lora=False)
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "compile_check"
  config.model = ConfigDict(
    MODELS[given["model"]]
    | dict(
      latent_side=64,
      remat="full",
      unroll=1,
      dtype="bfloat16",
      attention="auto",
      param_dtype="bfloat16" if given["lora"] else "float32",
    )
  )
  config.init.checkpoint = ""
  # Encoded prompts are made elsewhere, and no detector judges such pictures.
  config.text_encoder = dict(name="noise")
  config.data.grammar = "free"
  rank = 32 if given["lora"] else 0
  config.lora = dict(
    rank=rank, alpha=64.0, targets="(image|text|own|all)_(q|k|v|out)$", init=""
  )
  is_flux = given["model"] == "flux_dev"
  config.rollout.update(
    prompts=32,
    group=24,
    microbatch=64,  # rounded up to whole pictures per device
    num_steps=6 if is_flux else 10,
    shift=3.0,
    # FLUX was distilled: the network takes its scale as an input.
    guidance_scale=1.0 if is_flux else 4.5,
    sampler=dict(name="flow_sde", noise_level=0.7),
  )
  config.objective = dict(name="flow_grpo", clip_range=1e-4)
  config.regularizers.kl = dict(fn="step_kl", weight=0.04)
  config.align.updates = 1
  config.rewards = dict(brightness=dict(fn=f"{__file__}:brightness"))
  config.kernels.implementation = "auto"
  # A frozen base is cut no further than it must be to fit: over 16 devices its
  # products are so narrow that they run at a third of the peak.
  fsdp = FSDP[given["model"]] if given["lora"] else 16
  config.mesh = dict(data=-1, fsdp=fsdp, tensor=1)
  return config
