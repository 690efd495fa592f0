"""A tiny random Qwen-Image pipeline, as diffusers runs it and as we do."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import torch

from jaxreward import setup
from jaxreward.flow import sampler, steppers
from jaxreward.models.autoencoders import video_vae
from jaxreward.models.policies import qwen_image
from jaxreward.models.text import qwen_prompts
from jaxreward.setup import prompt_encoding
from jaxreward.tasks import free
from tests import tiny
from tests.models import peers

SIDE = 32  # pixels, and 4 of latents
AREA = SIDE * SIDE
STEPS, SCALE = 5, 4.0
MARKS = (
  "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>",
  "<|vision_end|>",
)  # fmt: skip
PROMPTS = ("a red circle on a blue square", "three green stars")
NEGATIVE = "grey and dull"
LIMITS = {"shortest_edge": 64, "longest_edge": 4096}
SCHEDULER = dict(  # as Qwen-Image is published
  shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9,
  base_image_seq_len=256, max_image_seq_len=8192, shift_terminal=0.02,
  time_shift_type="exponential",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Parts:
  """Components of a pipeline and the folder that holds them."""

  folder: pathlib.Path
  transformer: Any
  vae: Any
  text_encoder: Any
  tokenizer: Any


def _tokenizer():
  """Words, signs, blanks and marks; each is one token."""
  import tokenizers
  import transformers

  split = tokenizers.Regex(r"\s|\w+|[^\w\s]+")
  cut = tokenizers.pre_tokenizers.Split(split, "isolated")
  texts = (
    qwen_prompts.TEMPLATE, qwen_prompts.PLUS_TEMPLATE, "Picture 1: 2:",
    *PROMPTS, NEGATIVE,
  )  # fmt: skip
  parts = {part for text in texts for part, _ in cut.pre_tokenize_str(text)}
  vocab = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted(parts)])}
  model = tokenizers.models.WordLevel(vocab, unk_token="<unk>")
  made = tokenizers.Tokenizer(model)
  made.pre_tokenizer = cut
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, pad_token="<pad>", padding_side="right"
  )
  fast.add_special_tokens({"additional_special_tokens": [*MARKS]})
  return fast


def _text_encoder(tokenizer):
  import transformers

  of = tokenizer.convert_tokens_to_ids
  text = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, intermediate_size=16, vocab_size=len(tokenizer),
    rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    rope_parameters={
      "rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4,
    },
  )  # fmt: skip
  vision = dict(
    hidden_size=16, depth=2, num_heads=2, intermediate_size=8,
    out_hidden_size=24, patch_size=4, window_size=16, fullatt_block_indexes=[1],
  )  # fmt: skip
  model = transformers.Qwen2_5_VLForConditionalGeneration(
    transformers.Qwen2_5_VLConfig(
      text_config=text,
      vision_config=vision,
      image_token_id=of("<|image_pad|>"),
      vision_start_token_id=of("<|vision_start|>"),
      vision_end_token_id=of("<|vision_end|>"),
      video_token_id=1,
    )
  )
  return peers.shaken(model, 1)


def build(folder, size="tiny") -> Parts:
  """Writes the components as `save_pretrained` does."""
  import diffusers

  config = dict(qwen_image.public_config(qwen_image.make_net(size)))
  config.pop("_class_name")
  transformer = diffusers.QwenImageTransformer2DModel(**config)
  transformer = peers.shaken(transformer, scale=0.15)
  with torch.no_grad():  # words matter
    for block in transformer.transformer_blocks:
      block.attn.add_v_proj.weight.mul_(8.0)
  net = video_vae.make_net("tiny")
  vae = diffusers.AutoencoderKLQwenImage(
    base_dim=net.width, z_dim=len(net.mean), dim_mult=list(net.multiples),
    num_res_blocks=net.layers, latents_mean=list(net.mean),
    latents_std=list(net.std),
  )  # fmt: skip
  vae = peers.shaken(vae, 2)
  tokenizer = _tokenizer()
  text_encoder = _text_encoder(tokenizer)
  for name, part in (
    ("transformer", transformer),
    ("vae", vae),
    ("text_encoder", text_encoder),
    ("tokenizer", tokenizer),
  ):
    part.save_pretrained(folder / name)
  (folder / "processor").mkdir()
  facts = {"size": LIMITS, "patch_size": 4}
  (folder / "processor" / "preprocessor_config.json").write_text(
    json.dumps(facts)
  )
  return Parts(folder, transformer, vae, text_encoder, tokenizer)


class Processor:
  """The public processor: pictures, and as many marks as they have tokens."""

  def __init__(self, tokenizer):
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

    kind = image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil
    self.images = kind(patch_size=4, size=LIMITS)
    self.tokenizer = tokenizer

  def __call__(self, text, images, padding, return_tensors):
    read = self.images(images=images, return_tensors="pt")
    counts = iter((read["image_grid_thw"].prod(1) // 4).tolist())
    pad = "<|image_pad|>"
    rows = []
    for one in text:
      first, *rest = one.split(pad)
      rows.append(first + "".join(pad * next(counts) + part for part in rest))
    found = self.tokenizer(rows, padding=True, return_tensors="pt")

    class Found(dict):
      to = lambda self, device: self

    return Found(
      read, input_ids=found["input_ids"], attention_mask=found["attention_mask"]
    )


def pipeline(parts: Parts, kind: str, monkeypatch, area: int = AREA):
  """The pipeline class of that name, for pictures to edit of so many pixels.

  The public ones bring them to a megapixel. The model was published
  with places from `get_rope_index`; transformers 5 computes them where it is
  told which tokens are a picture's.
  """
  import diffusers
  from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
  )

  made = dict(
    scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULER),
    vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer,
    transformer=parts.transformer,
  )  # fmt: skip
  if kind != "QwenImagePipeline":
    made["processor"] = None
    plain = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(
      pipeline_qwenimage_edit,
      "calculate_dimensions",
      lambda asked, ratio: plain(asked * area / 1024**2, ratio),
    )
    for name in ("CONDITION_IMAGE_SIZE", "VAE_IMAGE_SIZE"):
      monkeypatch.setattr(pipeline_qwenimage_edit_plus, name, area)
    pad = parts.text_encoder.config.image_token_id
    forward = type(parts.text_encoder).forward
    monkeypatch.setattr(
      parts.text_encoder,
      "forward",
      lambda input_ids, **given: forward(
        parts.text_encoder, input_ids,
        mm_token_type_ids=(input_ids == pad).int(), **given,
      ),
    )  # fmt: skip
  pipe = getattr(diffusers, kind)(**made)
  if "processor" in made:
    pipe.processor = Processor(parts.tokenizer)
  pipe.set_progress_bar_config(disable=True)
  return pipe


def noise(count: int) -> np.ndarray:
  return peers.draw(3, count, SIDE // 8, SIDE // 8, 4)


def theirs(pipe, start, **options) -> tuple[np.ndarray, np.ndarray]:
  """(latents [B, h, w, C], pictures [B, H, W, 3]) of one call."""
  b, h, w, c = start.shape
  packed = pipe._pack_latents(
    torch.tensor(start).permute(0, 3, 1, 2), b, c, h, w
  )
  last = {}

  def keep(pipe, i, t, kept):
    last.update(kept)
    return {}

  with torch.no_grad():
    images = pipe(
      latents=packed, height=8 * h, width=8 * w, num_inference_steps=STEPS,
      true_cfg_scale=SCALE, output_type="np", callback_on_step_end=keep,
      callback_on_step_end_tensor_inputs=["latents"], **options,
    ).images  # fmt: skip
  latents = pipe._unpack_latents(last["latents"], 8 * h, 8 * w, 8)
  return latents[:, :, 0].permute(0, 2, 3, 1).numpy(), np.asarray(images)


def job(parts: Parts, recipe: str, **more):
  """(config, policy, parameters, autoencoder's) of a recipe on the folder."""
  at = lambda name: f"{parts.folder}:{name}"
  config = tiny.load(
    f"align_public.py:{recipe},objective=flow_grpo,tiny",
    {
      "init.checkpoint": at("transformer"), "autoencoder.weights": at("vae"),
      "text_encoder.weights": parts.folder, "text_encoder.dtype": "float32",
      "model.words": 160, "eval.num_steps": STEPS,
    },
    more,
  )  # fmt: skip
  policy = setup.make_policy(config)
  params = setup.load_params(config, policy)
  return config, policy, params, setup.load_decoder(config, policy)


def prompts_of(texts, source=None):
  """A batch of prompts in any words, with one picture each if given."""
  batch = free.TASK.batch([free.parse(text) for text in texts])
  if source is None:
    return batch
  several = np.broadcast_to(source, (len(texts), *source.shape))
  return dataclasses.replace(batch, source=np.asarray(several))


def encoded(config, policy, decoder, batch):
  return prompt_encoding.make_encode(config, policy, decoder=decoder)(
    batch
  ).words


def ours(config, policy, params, decoder, both, start, monkeypatch):
  """(latents, pictures) by the job's own loop, from given noise."""
  from jaxreward.flow import guidance

  monkeypatch.setattr(sampler, "initial_noise", lambda *_: start)
  keys = jax.random.split(jax.random.key(0), len(start))
  times = setup.make_schedule(config).times(STEPS)

  @jax.jit
  def run(params, decoder, both):
    cond, uncond = guidance.conditioning(policy, params, both, SCALE)
    latents = tiny.sample_rows(
      policy, params, keys, cond, uncond, steppers.ode(times),
      guidance_scale=SCALE,
    ).latents[-1]  # fmt: skip
    return latents, policy.decode(latents, decoder)

  return run(params, decoder, both)


def picture(seed, height=SIDE, width=SIDE) -> np.ndarray:
  """Pixels of eight bits, uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
