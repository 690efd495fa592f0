"""Fine-tunes policies on your images with captions: `:MODEL`, `smoke`.

  python -m jaxreward.main --config=configs/finetune.py:sd35_medium \
    --config.data.dataset=photos --workdir=runs/tuned

The models are those of `align_public.py`, and `scenes`, the base policy of the scenes.
`smoke` trains small random weights on images that the task renders. Public models train
adapters of rank 16; `--config.lora.rank=0` trains all parameters. Times are
logit-normal as in Stable Diffusion 3, with the shift of each model's sampler.
docs/finetune.md describes the formats of datasets and the sizes of batches.
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib

PUBLIC = (
  "sd35_medium", "sd35_large", "flux_dev", "flux_schnell", "kontext", "qwen_image",
  "qwen_image_edit", "qwen_image_edit_2509", "qwen_image_edit_2511", "wan_t2v",
  "wan_i2v", "wan22_t2v", "wan22_i2v", "wan22_ti2v_5b", "z_image",
  "z_image_turbo", "klein_4b", "klein_9b", "klein_base_4b", "klein_base_9b",
  "klein_4b_edit", "klein_9b_edit", "klein_base_4b_edit", "klein_base_9b_edit",
)  # fmt: skip


def get_config(arg: str | None = None):
  """A model and a size."""
  given = config_lib.parse_arg(arg, model=("scenes", *PUBLIC), smoke=False)
  model, is_smoke = given["model"], given["smoke"]
  config = _scenes(is_smoke) if model == "scenes" else _public(model, is_smoke)
  config.job = "finetune"
  config.jobs = ("finetune",)
  config.objective = dict(name="flow_matching", weighting="uniform")
  config.regularizers = dict()
  config.align.density = dict(name="logit_normal")
  config.data.caption_drop = 0.1
  if is_smoke:
    config.finetune.update(steps=4, batch_size=4, drawn=10, validation=0.2)
    config.finetune.times = 2
    config.eval.every = 2
    config.checkpoint.every = 2
  return config


def _scenes(is_smoke: bool) -> ConfigDict:
  size = ":smoke" if is_smoke else ""
  config = config_lib.load_sibling(f"pretrain_scenes.py{size}", __file__)
  config.init.checkpoint = "" if is_smoke else "package:scenes_base"
  config.optimizer = dict(
    name="adamw", learning_rate=3e-4, schedule="cosine", final_scale=0.1,
    warmup_steps=0 if is_smoke else 20, clip_norm=1.0, weight_decay=0.0, b1=0.9,
    b2=0.99,
  )  # fmt: skip
  config.ema.decay = 0.99
  config.data.dataset = "scenes"
  config.finetune.update(steps=500, batch_size=64, drawn=512)
  config.eval.every, config.checkpoint.every = 100, 100
  return config


def _public(model: str, is_smoke: bool) -> ConfigDict:
  tiny = ",tiny" if is_smoke else ""
  config = config_lib.load_sibling(
    f"align_public.py:{model},objective=diffusion_nft{tiny}", __file__
  )
  config.rewards = dict()
  config.finetune.export_dtype = "bfloat16"
  config.lora.update(rank=4 if is_smoke else 16, alpha=16.0)
  config.optimizer.update(learning_rate=1e-4, schedule="constant")
  config.ema.decay = 0.0
  config.data.dataset = config.data.source if is_smoke else "dataset"
  config.data.source = ""  # samples of captions that are held out
  config.data.grammar = "free"
  config.finetune.update(
    steps=1000, batch_size=16, microbatch=0, validation=0.05
  )
  config.eval.update(samples=16, quick_samples=16, group=1, every=200)
  if is_smoke:
    config.eval.update(samples=2, quick_samples=2)
  return config
