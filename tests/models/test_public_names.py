"""Published rewards load what their authors save, and nothing else."""

import logging

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.vision import (
  aesthetic,
  blip,
  clip,
  clip_layouts,
  dino,
  iresnet,
  owlvit,
  perceptual,
  siglip,
)
from jaxreward.models.vision.tower import Size
from tests.models import public_names as public
from tests.rewards import authors, folders

SMALL = Size(32, 2, 2, 48)
CLIP = clip.Clip(
  clip.Text(SMALL, 20, 6, projection=32), clip.Vision(SMALL, 7, 28, 32)
)
BLIP = blip.Blip(SMALL, SMALL, 7, 28, 20, 10)
SIGLIP = siglip.Siglip(SMALL, SMALL, 20, 6, 7, 28)
V2 = dino.Dino(Size(32, 2, 2, 48, scaled=True), 7, 28)
V3 = dino.Dino(Size(32, 2, 2, 48, scaled=True, key_bias=False), 7, 28, 4, 100.0)
FACES = iresnet.IResNet((2, 1, 1, 2), (4, 4, 4, 4), 6)


def distance(model):
  import jax

  picture = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  return jax.eval_shape(model.init, jax.random.key(0), picture, picture)[
    "params"
  ]


# (shapes, table of public names)
MODELS = {
  "clip": lambda: (
    clip_layouts.shapes(CLIP), clip_layouts.rules_of(CLIP, "hf"),
  ),
  "open_clip": lambda: (
    clip_layouts.shapes(CLIP), clip_layouts.rules_of(CLIP, "open_clip"),
  ),
  "image_reward": lambda: (blip.shapes(BLIP), blip.rules_of(BLIP)),
  "siglip": lambda: (siglip.shapes(SIGLIP), siglip.rules_of(SIGLIP)),
  "dinov2": lambda: (dino.shapes(V2), dino.rules_of(V2)),
  "dinov3": lambda: (dino.shapes(V3), dino.rules_of(V3)),
  "owlvit": lambda: (owlvit.shapes(CLIP), owlvit.rules_of(CLIP)),
  "aesthetic": lambda: (aesthetic.shapes(8), aesthetic.RULES),
  "lpips_vgg": lambda: (
    distance(perceptual.Lpips("vgg")), perceptual.lpips_rules("vgg"),
  ),
  "lpips_alex": lambda: (
    distance(perceptual.Lpips("alex")), perceptual.lpips_rules("alex"),
  ),
  "dists": lambda: (distance(perceptual.Dists()), perceptual.dists_rules()),
  "iresnet": lambda: (iresnet.shapes(FACES, 16), iresnet.rules_of(FACES, 16)),
}  # fmt: skip


def test_every_model_has_both_lists():
  assert set(MODELS) == set(public.READ) == set(public.UNREAD)


@pytest.mark.turns(3)
@pytest.mark.parametrize("model", MODELS)
def test_the_table_reads_and_leaves_what_the_lists_say(model):
  shapes, rules = MODELS[model]()
  read = public.layers_as_one(convert.public_shapes(shapes, rules))
  assert read == public.spelt(public.READ[model])
  unread = {
    n for r in rules if not r.ours for names in r.names() for n in names
  }
  assert public.layers_as_one(unread) == public.spelt(public.UNREAD[model])
  assert not any(set("*?[") & set(name) for name in unread)


def test_extras_are_named_once_and_others_refused(tmp_path, caplog):
  shapes, rules = MODELS["image_reward"]()
  tensors = convert.to_public(folders.drawn(shapes), rules)
  for name in public.spelt(public.UNREAD["image_reward"]):
    tensors[name] = np.zeros(3)
  file = tmp_path / "weights.safetensors"
  folders.save_tensors(file, tensors)
  with caplog.at_level(logging.INFO, logger="absl"):
    convert.load_params(file, rules, shapes)
  lines = [line for line in caplog.messages if "not read" in line]
  assert len(lines) == 1 and "blip.vision_proj.weight" in lines[0]
  folders.save_tensors(file, tensors | {"blip.itm_head.weight": np.zeros(3)})
  with pytest.raises(UserError, match=r"besides blip\.itm_head\.weight"):
    convert.load_params(file, rules, shapes)


def saved_by_transformers(model, folder):
  """Names in the file that a class of transformers saves."""
  import safetensors
  import transformers

  tiny = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=2, image_size=28, patch_size=7,
  )  # fmt: skip
  words = dict(vocab_size=20, max_position_embeddings=6)
  pair = dict(text_config=tiny | words, vision_config=tiny)
  kind, config = {
    "clip": ("CLIP", pair),
    "siglip": ("Siglip", pair),
    "dinov2": ("Dinov2", tiny),
    "dinov3": ("DINOv3ViT", tiny | {"num_register_tokens": 4}),
    "owlvit": ("OwlViT", pair),
  }[model]
  made = getattr(transformers, f"{kind}Config")(**config)
  last = "ForObjectDetection" if model == "owlvit" else "Model"
  getattr(transformers, f"{kind}{last}")(made).save_pretrained(folder)
  with safetensors.safe_open(folder / "model.safetensors", "numpy") as file:
    return list(file.keys())


def saved_by_authors(model, folder):
  """Names in the state of the authors' own class."""
  import torch

  if model in ("clip", "siglip", "dinov2", "dinov3", "owlvit"):
    return saved_by_transformers(model, folder)
  if model == "open_clip":
    cfg = dict(width=32, layers=2)
    vision = cfg | dict(image_size=28, patch_size=7, head_width=16)
    text = cfg | dict(context_length=6, vocab_size=20, heads=2)
    made = authors.hpsv2("model").CLIP(16, vision, text)
  elif model == "image_reward":
    made = authors.small_image_reward()
  elif model == "aesthetic":
    made = authors.image_reward()["reward"].MLP(8)
  elif model == "dists":
    made = authors.dists_without_weights()
  else:
    with torch.device("meta"):
      made = authors.lpips().LPIPS(
        net=model[6:], pretrained=False, pnet_rand=True, verbose=False
      )
  return list(made.state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("model", [m for m in MODELS if m != "iresnet"])
def test_the_authors_save_these_names(model, tmp_path):
  pytest.importorskip("torch")
  names = public.layers_as_one(saved_by_authors(model, tmp_path))
  read = public.spelt(public.READ[model])
  assert read <= names
  assert names - read <= public.spelt(public.UNREAD[model])
