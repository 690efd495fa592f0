"""Aligns public policies: `:MODEL`, `objective=NAME`, `tiny`.

  python -m jaxreward.main --workdir=runs/sd35 \
    --config=configs/align_public.py:sd35_medium,objective=flow_grpo \
    --config.data.source=prompts.txt

`tiny` runs the same programs with small random weights on a CPU. Prompts,
group, steps, guidance, noise, clip range, KL, adapters, optimizer and optimizer
steps per iteration are those that the authors publish for 512 pixels; the
sampling times are those of each model's public pipeline, whose solver draws for
evaluation and sampling: UniPC for Wan, Euler's method for all others. Flow-GRPO: Liu et al.
(2025), arXiv 2505.05470. DiffusionNFT: Zheng et al. (2025), arXiv 2509.16117, who
publish for SD3.5: the other models take the same. Z-Image and FLUX.2 klein take those of
FLUX with the noise of SD3.5. Where this differs: averages
follow each optimizer step, not every eighth.

The KL has the form of the sampler's authors (docs/defaults.md). With
`rollout.sampler.name=cps` that is the one of their SD3 and FLUX programs;
those for Qwen-Image and Kontext take `regularizers.kl.form=exact`.

`wan_i2v` makes videos that start from a picture, with the settings of
`wan_t2v`: `data.source` names pictures as below, cut to the video's shape.
`wan22_t2v` and `wan22_i2v` have two networks, for times near noise and near the
video; adapters go to both, or with `lora.targets` such as "^low/.*_(q|k|v)$" to
one. `wan22_ti2v_5b` starts from a picture too, and from words alone with
`model.takes_source=False` and prompts without pictures. Their sampling times
and guidance are those of the authors' own programs.

`kontext`, `qwen_image_edit` and the klein models with `_edit`, such as
`klein_4b_edit`, edit images: `data.source` is a .jsonl file whose rows name one, {"prompt": "make it blue", "image": "a.png"}. Similarity to
the source and agreement with the words are weighed as by Flow-GRPO's authors,
who count objects for the latter (`objects` with its `facts`). Pictures are
edited at the policy's own square size. The text encoder of `qwen_image_edit`
sees them too, at `text_encoder.area` pixels, a megapixel if left out as in the
public pipeline; `model.words` counts the picture's tokens. The Plus form,
`qwen_image_edit_2509` and `qwen_image_edit_2511`, is trained on one picture a
prompt.
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib

SD35 = "stabilityai/stable-diffusion-3.5-"
FLUX = "black-forest-labs/FLUX.1-"
FLUX2 = "black-forest-labs/FLUX.2-"
Z_IMAGE = "Tongyi-MAI/Z-Image"
KLEIN = dict(
  text_encoder="flux2_klein",
  autoencoder="flux2",
  side=32,
  noise=0.7,
  kl=0.0,
  times=dict(shift=1.0, schedule=dict(name="flux2")),
)
KLEIN_STEPS = dict(steps=4, eval_steps=4, guidance=1.0)  # distilled
KLEIN_BASE_STEPS = dict(steps=10, eval_steps=50, guidance=4.0)
CLIP = "openai/clip-vit-large-patch14"
# Sampling times as the schedulers of the public pipelines have them.
SD35_TIMES = dict(shift=3.0, schedule=dict(name="constant", grid="trained"))
FLUX_TIMES = dict(
  shift=1.0, schedule=dict(name="dynamic", base_shift=0.5, max_shift=1.15)
)
QWEN_TIMES = dict(
  shift=1.0,
  schedule=dict(
    name="dynamic", base_shift=0.5, max_shift=0.9, max_tokens=8192,
    terminal=0.02,
  ),
)  # fmt: skip
QWEN_PLUS = dict(
  text_encoder="qwen_image_edit_plus", autoencoder="wan21", steps=10,
  eval_steps=40, guidance=4.0, noise=1.0, times=QWEN_TIMES, group=16,
  prompts=32, kl=0.0, ema=0.0, similarity=0.2,
)  # fmt: skip
# Steps, guidance and noise level of the rollout differ by model.
MODELS = {
  "sd35_medium": dict(
    model=dict(name="sd3", size="sd35_medium"), weights=f"{SD35}medium",
    autoencoder="sd3", steps=10, eval_steps=40, guidance=4.5, noise=0.7,
    times=SD35_TIMES,
  ),
  "sd35_large": dict(
    model=dict(name="sd3", size="sd35_large"), weights=f"{SD35}large",
    autoencoder="sd3", steps=10, eval_steps=40, guidance=4.5, noise=0.7,
    times=SD35_TIMES,
  ),
  # FLUX was distilled: the network takes its guidance as an input.
  "flux_dev": dict(
    model=dict(name="flux", size="flux_dev", guidance=3.5),
    weights=f"{FLUX}dev",
    autoencoder="flux", steps=6, eval_steps=28, guidance=1.0, noise=0.9,
    times=FLUX_TIMES, kl=0.0,
  ),
  "flux_schnell": dict(
    model=dict(name="flux", size="flux_schnell", words=256),
    weights=f"{FLUX}schnell",
    autoencoder="flux", steps=4, eval_steps=4, guidance=1.0, noise=0.9,
    times=dict(shift=1.0), kl=0.0,
  ),
  "qwen_image": dict(
    model=dict(name="qwen_image", size="qwen_image"), weights="Qwen/Qwen-Image",
    autoencoder="wan21", steps=10, eval_steps=50, guidance=4.0, noise=1.2,
    times=QWEN_TIMES, group=16, prompts=32, kl=0.0, ema=0.0, window=2,
  ),
  # The public pipeline adds 4 (c - u) to c, which is a scale of 5.
  "z_image": dict(
    model=dict(name="z_image", size="z_image"), weights=Z_IMAGE,
    autoencoder="flux", steps=10, eval_steps=50, guidance=5.0, noise=0.7,
    times=dict(shift=6.0), kl=0.0,
  ),
  # Distilled: without guidance.
  "z_image_turbo": dict(
    model=dict(name="z_image", size="z_image_turbo"),
    weights=f"{Z_IMAGE}-Turbo",
    autoencoder="flux", steps=8, eval_steps=8, guidance=1.0, noise=0.7,
    times=dict(shift=3.0), kl=0.0,
  ),
  "klein_4b": dict(
    model=dict(name="flux2", size="klein_4b"),
    weights=f"{FLUX2}klein-4B", **KLEIN, **KLEIN_STEPS,
  ),
  "klein_9b": dict(
    model=dict(name="flux2", size="klein_9b"),
    weights=f"{FLUX2}klein-9B", **KLEIN, **KLEIN_STEPS,
  ),
  "klein_base_4b": dict(
    model=dict(name="flux2", size="klein_4b"),
    weights=f"{FLUX2}klein-base-4B", **KLEIN, **KLEIN_BASE_STEPS,
  ),
  "klein_base_9b": dict(
    model=dict(name="flux2", size="klein_9b"),
    weights=f"{FLUX2}klein-base-9B", **KLEIN, **KLEIN_BASE_STEPS,
  ),
  # 33 frames of 240 x 416 pixels.
  "wan_t2v": dict(
    model=dict(
      name="wan", size="wan21_1b", frames=9, latent_height=30, latent_width=52
    ),
    weights="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    autoencoder="wan21", steps=20, eval_steps=50, guidance=4.5, noise=1.0,
    times=dict(shift=3.0, schedule=dict(name="constant", grid="unipc")),
  ),
  "wan_i2v": dict(
    model=dict(
      name="wan", size="wan21_i2v_14b", frames=9, latent_height=30,
      latent_width=52,
    ),
    weights="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", image_encoder="clip",
    autoencoder="wan21", steps=20, eval_steps=50, guidance=4.5, noise=1.0,
    times=dict(shift=3.0, schedule=dict(name="constant", grid="unipc")),
  ),
  # Two networks, from the boundary up and below it.
  "wan22_t2v": dict(
    model=dict(
      name="wan", size="wan22_t2v_14b", boundary=0.875, low_guidance=3.0,
      frames=9, latent_height=30, latent_width=52,
    ),
    weights="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    autoencoder="wan21", steps=20, eval_steps=40, guidance=4.0, noise=1.0,
    times=dict(shift=12.0, schedule=dict(name="constant", grid="unipc")),
  ),
  "wan22_i2v": dict(
    model=dict(
      name="wan", size="wan22_i2v_14b", boundary=0.9, frames=9,
      latent_height=30, latent_width=52,
    ),
    weights="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    tiny_size="tiny22_i2v", has_pictures=True,
    autoencoder="wan21", steps=20, eval_steps=40, guidance=3.5, noise=1.0,
    times=dict(shift=5.0, schedule=dict(name="constant", grid="unipc")),
  ),
  # 33 frames of 256 x 448 pixels: a latent pixel has 16 of them.
  "wan22_ti2v_5b": dict(
    model=dict(
      name="wan", size="wan22_5b", takes_source=True, frames=9,
      latent_height=16, latent_width=28,
    ),
    weights="Wan-AI/Wan2.2-TI2V-5B-Diffusers", tiny_coder="tiny22",
    autoencoder="wan22", steps=20, eval_steps=50, guidance=5.0, noise=1.0,
    times=dict(shift=5.0, schedule=dict(name="constant", grid="unipc")),
  ),
  "kontext": dict(
    model=dict(
      name="flux", size="flux_kontext", guidance=2.5, takes_source=True
    ),
    weights=f"{FLUX}Kontext-dev",
    autoencoder="flux", steps=6, eval_steps=28, guidance=1.0, noise=0.9,
    times=FLUX_TIMES, group=21, kl=0.0, similarity=0.5,
  ),
  "qwen_image_edit": dict(
    # Its text encoder looks at the picture too: 1371 places before the words.
    model=dict(
      name="qwen_image", size="qwen_image_edit", takes_source=True, words=1536
    ),
    weights="Qwen/Qwen-Image-Edit", text_encoder="qwen_image_edit",
    autoencoder="wan21", steps=10, eval_steps=50, guidance=4.0, noise=1.0,
    times=QWEN_TIMES, group=16, prompts=32, kl=0.0, ema=0.0, similarity=0.2,
  ),
  # Its text encoder looks at the picture in 196 places.
  "qwen_image_edit_2509": dict(
    model=dict(
      name="qwen_image", size="qwen_image_edit", takes_source=True, words=512
    ),
    weights="Qwen/Qwen-Image-Edit-2509", **QWEN_PLUS,
  ),
  "qwen_image_edit_2511": dict(
    model=dict(
      name="qwen_image", size="qwen_image_edit_2511", takes_source=True,
      words=512,
    ),
    weights="Qwen/Qwen-Image-Edit-2511", tiny_size="tiny_2511", **QWEN_PLUS,
  ),
}  # fmt: skip
# The same weights edit: the source image is tokens beside those that are drawn.
MODELS |= {
  f"{name}_edit": entry
  | dict(model=entry["model"] | dict(takes_source=True), similarity=0.5)
  for name, entry in MODELS.items()
  if name.startswith("klein")
}
OBJECTIVES = ("flow_grpo", "diffusion_nft")


def get_config(arg: str | None = None):
  """A model, an objective and a size."""
  given = config_lib.parse_arg(
    arg, model=tuple(MODELS), objective=OBJECTIVES, tiny=False
  )
  chosen = MODELS[given["model"]]
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "align"
  is_video = "frames" in chosen["model"]
  config.model = ConfigDict(
    chosen["model"]
    | ({} if is_video else dict(latent_side=chosen.get("side", 64)))
    | dict(remat="full", dtype="bfloat16", attention="auto")
    | dict(param_dtype="bfloat16")  # frozen; the adapters are float32
  )
  config.init.checkpoint = chosen["weights"]
  if "boundary" not in chosen["model"]:
    config.init.checkpoint += ":transformer"
  config.autoencoder = dict(
    name=_coder(chosen["autoencoder"]),
    size=chosen["autoencoder"], weights=f"{chosen['weights']}:vae",
    dtype="bfloat16",
  )  # fmt: skip
  config.text_encoder = dict(
    name=chosen.get("text_encoder", chosen["model"]["name"]),
    weights=chosen["weights"],
  )
  if "image_encoder" in chosen:
    config.image_encoder = dict(
      name=chosen["image_encoder"], weights=chosen["weights"]
    )
  config.lora = dict(
    rank=32,
    alpha=64.0,
    init="",
    targets="(image|text|own|all)_(q|k|v|out|qkv_up)$",
  )
  has_pictures = (
    "image_encoder" in chosen
    or "takes_source" in chosen["model"]
    or "has_pictures" in chosen
  )
  source = "train.jsonl" if has_pictures else "prompts.txt"
  config.data.update(source=source, grammar="free")
  config.rollout.update(
    prompts=chosen.get("prompts", 48), group=chosen.get("group", 24),
    microbatch=8, num_steps=chosen["steps"], **chosen["times"],
  )  # fmt: skip
  config.optimizer.update(
    learning_rate=3e-4, schedule="constant", warmup_steps=0, clip_norm=1.0,
    weight_decay=1e-4, b1=0.9, b2=0.999,
  )  # fmt: skip
  config.ema.decay = chosen.get("ema", 0.9)
  config.advantage = dict(name="group", std="batch", clip=5.0)
  config.align.iterations = 1000
  if given["objective"] == "flow_grpo":
    config.rollout.guidance_scale = chosen["guidance"]
    config.rollout.sampler = dict(name="flow_sde", noise_level=chosen["noise"])
    config.objective = dict(name="flow_grpo", clip_range=1e-4)
    if chosen.get("kl", 0.01):
      config.regularizers.kl = dict(fn="step_kl", weight=0.01, form="authors")
    config.align.update(updates=2, split="samples")
    if "window" in chosen:
      config.rollout.window_size = chosen["window"]
      config.rollout.window_move = dict(name="drawn", first=0, last=5)
  else:
    config.objective = dict(
      name="diffusion_nft", beta=1.0, old_decay=0.5, old_rate=1e-3
    )
    config.regularizers.kl = dict(fn="velocity_distance", weight=1e-4)
    config.rollout.sampler = dict(name="dpmpp_2m")
    config.align.update(times=9, updates=1)
  config.rewards = dict(jpeg=dict(fn="jpeg_compressibility", weight=1.0))
  if "similarity" in chosen:
    _edit(config, chosen["similarity"])
  config.eval.update(
    samples=512, quick_samples=128, group=4, num_steps=chosen["eval_steps"],
    guidance_scales=(config.rollout.guidance_scale,), every=50, microbatch=8,
  )  # fmt: skip
  config.eval.checkpoint = "workdir:policy"
  config.sample.update(
    num_steps=chosen["eval_steps"], microbatch=8, scale=1,
    guidance_scale=config.rollout.guidance_scale,
  )  # fmt: skip
  # A base of 5 GB fits beside its adapters anywhere: see docs/compile_check.md.
  is_small = chosen["model"]["size"] == "sd35_medium"
  config.mesh = dict(
    data=-1 if is_small else 1, fsdp=1 if is_small else -1, tensor=1
  )
  config.topology = "v6e-64"  # docs/compile_check.md has its figures
  if is_video:
    _make_videos(config)
  if given["tiny"]:
    _shrink(config, has_pictures, chosen)
  return config


def _coder(size: str) -> str:
  """The autoencoder that has that size."""
  return "wan" if size.startswith("wan") else {"flux2": "flux2"}.get(size, "kl")


def _make_videos(config: ConfigDict) -> None:
  """What Flow-GRPO publishes for Wan 2.1, and less at once."""
  config.autoencoder.name = "wan_video"
  config.lora.targets = "(self|cross|vision)_(q|k|v|out)$"
  config.rollout.update(prompts=32, group=4, microbatch=2)
  config.optimizer.learning_rate = 1e-4
  config.advantage.std = "group"
  config.eval.update(samples=128, quick_samples=32, microbatch=2)
  config.sample.microbatch = 2
  config.eval.sampler = dict(name="unipc")  # as in the public pipelines
  config.sample.sampler = dict(name="unipc")
  if config.objective.name == "flow_grpo":
    config.rollout.sampler = dict(name="linear_sde")
    config.objective.clip_range = 1e-3
    config.regularizers.kl = dict(fn="step_kl", weight=0.004)


def _edit(config: ConfigDict, similarity: float) -> None:
  """Pictures to edit, and rewards that look at them."""
  config.rewards = dict(
    similarity=dict(fn="image_similarity", weights=CLIP, weight=similarity),
    words=dict(fn="clip_score", weights=CLIP, weight=1 - similarity),
  )


def _shrink(config: ConfigDict, has_pictures: bool, chosen: dict) -> None:
  """Small random weights and pictures of 36 pixels, as the scenes have."""
  config.model.update(
    size=chosen.get("tiny_size", "tiny"),
    remat="none",
    dtype="float32",
    param_dtype="float32",
  )
  config.model.words = 6
  if "boundary" in config.model:
    # Of three steps the first two are trained: one by each network.
    config.model.boundary = 0.95
    config.rollout.shift = 5.0
  config.init.checkpoint = ""
  coder = config.autoencoder.name
  config.autoencoder = dict(name=coder, size=chosen.get("tiny_coder", "tiny"))
  # Wan's autoencoders have eight pixels to a latent, or 16.
  if coder == "wan_video":
    side = 2 if config.autoencoder.size == "tiny22" else 4
    config.model.update(frames=2, latent_height=side, latent_width=side)
  else:
    config.model.latent_side = {"wan": 4, "flux2": 9}.get(coder, 18)
  config.text_encoder = dict(name="noise")
  if config.image_encoder.name != "none":
    config.model.size = "tiny_i2v"
    config.image_encoder = dict(name="noise")
  config.lora.rank = 4
  source = "scenes"
  if has_pictures:
    source = "edits"
    config.rewards = dict(kept=dict(fn="condition_cycle", condition="layout"))
  # Of 32 pixels, or of 36.
  grammar = "free" if coder.startswith("wan") else source
  config.data.update(source=source, grammar=grammar)
  config.rollout.update(prompts=3, group=4, microbatch=12, num_steps=3)
  if config.rollout.window_size:
    config.rollout.window_size, config.rollout.window_move.last = 1, 0
  config.align.iterations = 2
  if config.objective.name == "diffusion_nft":
    config.align.times = 2
  config.eval.update(
    samples=12, quick_samples=12, group=2, num_steps=2, every=2, microbatch=12
  )
  config.sample.update(prompts=3, group=2, num_steps=2, microbatch=12)
  config.checkpoint.every = 2
