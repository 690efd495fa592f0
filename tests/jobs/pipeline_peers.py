"""Public pipelines of diffusers with small random parts, and runs of ours."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from PIL import Image

from jaxreward import setup
from jaxreward.flow import sampler
from jaxreward.jobs import sample
from jaxreward.models.policies import flux, sd3, wan
from jaxreward.setup import prompt_encoding
from tests import tiny
from tests.models import peers, tower_peers
from tests.models import test_text_encoder as towers
from tests.rewards import folders

TEXTS = ["a red circle", "two squares and a blue cross"]
NEGATIVE = "three red squares"
WIDTH = towers.T5["d_model"]
CLIP, T5 = towers.LENGTH, towers.T5_LENGTH  # tokens of a text
# What a tiny size takes of the text towers here.
FIELDS = {
  sd3: dict(text_width=WIDTH, pooled_width=12 + 20),
  flux: dict(text_width=WIDTH, pooled_width=24, double=1, single=1),
  wan: dict(text_width=WIDTH, depth=1),
}


def widen(monkeypatch, module, size="tiny"):
  """Makes a tiny size fit the text towers."""
  fields = module.SIZES[size] | FIELDS[module]
  monkeypatch.setitem(module.SIZES, size, fields)


def built(kind, module, size="tiny", seed=0):
  """A model of diffusers with the architecture of a size of ours."""
  config = module.public_config(module.make_net(size))
  del config["_class_name"]
  return peers.shaken(kind(**config), seed)


def tokens(folder, length, pad=None):
  """A tokenizer of the scenes' words, written to the folder and read back.

  Padding is a token of its own: text that holds it is split there, as with the
  "!" of SD3's second tokenizer.
  """
  read = transformers.AutoTokenizer.from_pretrained
  folders.save_tokenizer(folder)
  if pad:
    found = read(folder)
    found.pad_token = pad
    found.save_pretrained(folder)
  return read(folder, model_max_length=length)


def save(folder, parts):
  """Writes the parts as `save_pretrained` of a pipeline does; gives them."""
  for name, part in parts.items():
    part.save_pretrained(folder / name)
  return parts


def vision():
  """An image encoder with 256 places, and its processor."""
  config = transformers.CLIPVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, image_size=32, patch_size=2, hidden_act="gelu",
  )  # fmt: skip
  size = {"height": 32, "width": 32}
  return {
    "image_encoder": tower_peers.shake(transformers.CLIPVisionModel(config)),
    "image_processor": transformers.CLIPImageProcessor(
      size={"shortest_edge": 32}, crop_size=size
    ),
  }


def write_prompts(folder, texts, side=0):
  """A file of prompts, with pictures if they have a side; (path, pictures)."""
  if not side:
    path = folder / "prompts.txt"
    path.write_text("\n".join(texts))
    return path, None
  rng, rows, images = np.random.default_rng(5), [], []
  for i, text in enumerate(texts):
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    images.append(Image.fromarray(pixels))
    images[-1].save(folder / f"{i}.png")
    rows.append(json.dumps({"prompt": text, "image": f"{i}.png"}))
  path = folder / "train.jsonl"
  path.write_text("\n".join(rows))
  return path, images


def config_of(model, folder, source, encoder, **changes):
  """The tiny recipe of a model with the parts of the folder."""
  return tiny.load(
    f"align_public.py:{model},tiny",
    {
      "init.checkpoint": f"{folder}:transformer",
      "autoencoder.weights": f"{folder}:vae",
      "text_encoder.name": encoder, "text_encoder.weights": folder,
      "text_encoder.dtype": "float32", "data.source": source,
      "data.grammar": "free", "data.negative_prompt": NEGATIVE,
      "sample.prompts": 2, "sample.group": 1,
    },
    changes,
  )  # fmt: skip


def noise(config, rows):
  """First noise, [B, ...], as ours and as theirs."""
  shape = setup.make_policy(config).latent_shape
  draw = np.random.default_rng(0).standard_normal((rows, *shape))
  draw = draw.astype(np.float32)
  return draw, torch.tensor(draw).movedim(-1, 1)


def ours(config, start, monkeypatch):
  """(latents, images) of the job `sample`, from the given noise."""
  policy = setup.make_policy(config)
  params = setup.load_params(config, policy)
  decoder = setup.load_decoder(config, policy)
  prompts = setup.load_prompts(config, None)
  task = setup.make_task(config)
  batch = task.batch(prompts, side=setup.picture_side(policy))
  batch = prompt_encoding.make_encode(config, policy, decoder=decoder)(batch)
  monkeypatch.setattr(sampler, "initial_noise", lambda *_: jnp.asarray(start))
  draw = jax.jit(lambda *given: sample.pictures_of(config, policy, *given))
  return jax.device_get(draw(params, batch, decoder))


def theirs(pipe, start, texts, *, negative=True, **options):
  """(latents after the last step, what the pipeline returns)."""
  last = {}
  if negative:
    options["negative_prompt"] = [NEGATIVE] * len(texts)
  pipe.set_progress_bar_config(disable=True)

  def keep(pipe, i, t, found):
    last.update(found)
    return found

  out = pipe(
    prompt=texts, latents=start, output_type="np", callback_on_step_end=keep,
    return_dict=False, **options,
  )[0]  # fmt: skip
  return last["latents"], np.asarray(out)
