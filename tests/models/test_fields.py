"""Every field of a public config is read, fixed, unread on purpose or refused."""

import dataclasses
import functools
import inspect

import pytest

from jaxreward.errors import UserError
from jaxreward.models import fields
from jaxreward.models.autoencoders import flux2_vae, vae, video_vae
from jaxreward.models.policies import (
  flux,
  flux2,
  qwen_image,
  sd3,
  wan,
  z_image,
)
from jaxreward.models.text import qwen_layouts, t5
from jaxreward.models.vision import (
  clip_layouts,
  dino,
  owlvit,
  qwen_vision_layouts,
  siglip,
)

NETWORKS = {
  "SD3Transformer2DModel": [(sd3, size) for size in sd3.SIZES],
  "FluxTransformer2DModel": [(flux, size) for size in flux.SIZES],
  "QwenImageTransformer2DModel": [(qwen_image, s) for s in qwen_image.SIZES],
  "WanTransformer3DModel": [(wan, size) for size in wan.SIZES],
  "ZImageTransformer2DModel": [(z_image, size) for size in z_image.SIZES],
  "Flux2Transformer2DModel": [(flux2, size) for size in flux2.SIZES],
  "AutoencoderKLFlux2": [(flux2_vae, size) for size in flux2_vae.SIZES],
  "AutoencoderKL": [(vae, size) for size in vae.SIZES],
  "AutoencoderKLWan": [(video_vae, size) for size in video_vae.SIZES],
  "AutoencoderKLQwenImage": [(video_vae, "wan21")],
}
CASES = [
  (kind, module, size) for kind, rows in NETWORKS.items() for module, size in rows
]  # fmt: skip


def whole(kind, module, size):
  """(what diffusers writes of the network, what is known of it)."""
  diffusers = pytest.importorskip("diffusers")
  net = module.make_net(size)
  made = inspect.signature(getattr(diffusers, kind).__init__).parameters
  plain = {k: p.default for k, p in made.items() if k != "self"}
  given = {k: v for k, v in module.public_config(net).items() if k in plain}
  return plain | given | {"_class_name": kind}, module.public_fields(net)


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "module", "size"), CASES)
def test_a_network_knows_every_field_of_its_class(kind, module, size):
  record, known = whole(kind, module, size)
  fields.check(record, known, of="config.json")
  names = {*known.read, *known.fixed, *known.unread}
  assert {n for n in record if not n.startswith("_")} <= names
  for name, value in record.items():
    if isinstance(value, bool) and name not in known.unread:
      with pytest.raises(UserError, match=f"config.json: {name}="):
        fields.check(record | {name: not value}, known, of="config.json")
  for other in ({"causal_condition": True}, {"layers": [1]}, {"a": "b"}):
    with pytest.raises(UserError, match=next(iter(other))):
      fields.check(record | other, known, of="config.json")
  fields.check(record | {"causal": False, "b": None}, known, of="config.json")


def _of_qwen(record):
  language = qwen_layouts.config_of(record, tuple(qwen_layouts.MODELS))
  return language, qwen_vision_layouts.config_of(record)


TOWERS = {
  "CLIPConfig": clip_layouts._of_hf,
  "CLIPTextConfig": clip_layouts._of_hf,
  "CLIPVisionConfig": clip_layouts._of_hf,
  "SiglipConfig": siglip.config_of,
  "Siglip2Config": siglip.config_of,
  "Dinov2Config": dino.config_of,
  "Dinov2WithRegistersConfig": dino.config_of,
  "DINOv3ViTConfig": dino.config_of,
  "OwlViTConfig": owlvit.config_of,
  "T5Config": t5.config_of,
  "UMT5Config": t5.config_of,
  "Qwen2VLConfig": _of_qwen,
  "Qwen2_5_VLConfig": _of_qwen,
  "Qwen3VLConfig": _of_qwen,
}


def parts_of(record):
  """The record itself and the configs of its parts, by path."""
  inner = [k for k, v in record.items() if k.endswith("_config") and v]
  return [(), *((name,) for name in inner)]


def moved(record, path, **changes):
  if not path:
    return record | changes
  return record | {path[0]: record[path[0]] | changes}


@pytest.mark.parity
@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_knows_every_field_of_its_config(kind):
  transformers = pytest.importorskip("transformers")
  options = {"feed_forward_proj": "gated-gelu"} if kind == "T5Config" else {}
  record = getattr(transformers, kind)(**options).to_dict()
  read = TOWERS[kind]
  found = read(record)
  for path in parts_of(record):
    part = functools.reduce(lambda d, k: d[k], path, record)
    for name, value in part.items():
      if isinstance(value, bool) and name not in fields.TRANSFORMERS:
        other = moved(record, path, **{name: not value})
        try:
          assert read(other) != found or name in UNREAD, name
        except UserError as error:
          assert name in str(error)
    for name in ("is_causal_twice", "quantization_config"):
      with pytest.raises(UserError, match=f"{name}=true is not known"):
        read(moved(record, path, **{name: True}))


# Of feature maps, decoders and masked pictures, none of which is read.
UNREAD = (
  "apply_layernorm", "reshape_hidden_states", "use_mask_token",
  "scale_decoder_outputs", "is_encoder_decoder",
)  # fmt: skip


def test_open_clip_knows_its_fields():
  record = {
    "model_cfg": {
      "embed_dim": 8, "quick_gelu": True, "custom_text": True,
      "vision_cfg": {
        "image_size": 8, "layers": 1, "width": 64, "patch_size": 4,
      },
      "text_cfg": {"width": 64, "layers": 1, "heads": 8},
    },
  }  # fmt: skip
  clip_layouts._of_open_clip(record)
  cfg = record["model_cfg"]
  for part, name in (("vision_cfg", "no_ln_pre"), ("text_cfg", "embed_cls")):
    other = {"model_cfg": cfg | {part: cfg[part] | {name: True}}}
    with pytest.raises(UserError, match=f"{part}: {name}=true is not known"):
      clip_layouts._of_open_clip(other)


def test_values_are_compared_as_they_are_meant():
  known = fields.Fields(
    read=("a",), fixed={"b": (True,), "c": (1.5, None), "d": ((1, 2),)},
    unread=("e",), absent={"b": False},
  )  # fmt: skip
  check = functools.partial(fields.check, known=known, of="x")
  check({})
  check({"a": 3, "b": True, "c": 1.5 + 1e-9, "d": [1, 2], "e": True, "_f": 1})
  for bad in ({"b": 1}, {"c": 1.6}, {"d": [2, 1]}, {"d": [1, 2, 3]}):
    with pytest.raises(UserError):
      check({"b": True} | bad)
  with pytest.raises(
    UserError, match=r"b=false; expected true \(it is not there"
  ):
    check({"a": 1})
  many = fields.like(
    {"b": True, "z": 0}, dataclasses.replace(known, unread=("z",))
  )
  assert many.fixed["b"] == (True, True) and "z" not in many.fixed
