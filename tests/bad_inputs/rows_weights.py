"""Weights of published rewards, and the records beside them."""

from __future__ import annotations

import functools
import json
import pathlib
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from jaxreward.models import convert, hub
from jaxreward.models.vision import clip, clip_layouts, encoders, words
from jaxreward.models.vision.tower import Size
from jaxreward.rewards import (
  alignment,
  fidelity,
  identity,
  image_reward,
  objects,
  quality,
)
from jaxreward.training import weights as own
from tests.bad_inputs.table import Content, Row

LAYERS = dict(
  hidden_size=8, intermediate_size=8, num_hidden_layers=1,
  num_attention_heads=1, hidden_act="gelu",
)  # fmt: skip
RECORD = {
  "model_type": "clip",
  "projection_dim": 4,
  "text_config": LAYERS | dict(
    vocab_size=9, max_position_embeddings=5, eos_token_id=2
  ),
  "vision_config": LAYERS | dict(image_size=14, patch_size=7),
}  # fmt: skip
OPEN_CLIP = {
  "embed_dim": 4,
  "text_cfg": dict(context_length=5, vocab_size=9, width=8, heads=1, layers=1),
  "vision_cfg": dict(image_size=14, patch_size=7, width=8, head_width=8,
                     layers=1),
}  # fmt: skip
FILE = "clip/model.safetensors"
CLASS = "vision_model.embeddings.class_embedding"
NORM = "text_model.final_layer_norm.weight"


@functools.cache
def tensors() -> Mapping[str, np.ndarray]:
  """A small CLIP by its names in transformers, zeros all of it."""
  size = Size(8, 1, 1, 8)
  towers = clip.Clip(
    clip.Text(size, 9, 5, projection=4), clip.Vision(size, 7, 14, 4)
  )
  shapes = convert.public_shapes(
    clip_layouts.shapes(towers), clip_layouts.rules_of(towers, "hf")
  )
  return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _packed(dtype: str) -> bytes:
  """Eight values of a type of one byte."""
  header = {"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + bytes(8)


def saved(arrays: Mapping[str, Any]) -> Content:
  return safetensors.numpy.save({n: np.asarray(x) for n, x in arrays.items()})


def changed(**changes: Any) -> Content:
  """The CLIP's file with tensors changed, added or, where None, left out.

  "__" in a name stands for a dot.
  """

  def write(path: pathlib.Path) -> None:
    named = {n.replace("__", "."): x for n, x in changes.items()}
    whole = {**tensors(), **named}
    path.write_bytes(saved({n: x for n, x in whole.items() if x is not None}))

  return write


def raw(header: Mapping[str, Any], size: int) -> bytes:
  """A safetensors file whose header is given."""
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + bytes(size)


def folder(
  weights: Content | None = None, **records: Any
) -> dict[str, Content]:
  """The CLIP's folder; a record that is None is not there."""
  given = {"config": RECORD, **records}
  files = {
    f"clip/{name}.json": json.dumps(record)
    for name, record in given.items()
    if record is not None
  }
  return {FILE: changed() if weights is None else weights} | files


def vision(path: pathlib.Path) -> None:
  """The file of the image tower alone."""
  kept = {n: x for n, x in tensors().items() if n.startswith("vis")}
  path.write_bytes(saved(kept))


def load(place: str = "clip", **options: Any) -> Callable[[pathlib.Path], Any]:
  return lambda here: encoders.load(str(here / place), **options)


def pair(name: str, says: tuple[str, ...], weights: Content, **options: Any):
  """A row on the CLIP's file."""
  return Row(name, says, folder(weights), call=load(**options))


def config(name: str, says: tuple[str, ...], **changes: Any) -> Row:
  """A row on its config.json."""
  record = {k: v for k, v in (RECORD | changes).items() if v != ...}
  return Row(name, says, folder(config=record), call=load())


def index(places: Any, **shards: Content) -> dict[str, Content]:
  """A folder of shards with its index."""
  record = json.dumps({"metadata": {}, "weight_map": places})
  files = {f"clip/{n}.safetensors": shard for n, shard in shards.items()}
  return files | {
    "clip/config.json": json.dumps(RECORD),
    "clip/model.safetensors.index.json": record,
  }


def nan(dtype: Any = np.float32, value: float = np.nan) -> np.ndarray:
  found = np.zeros(8, dtype)
  found[3] = value
  return found


FLOAT8 = {CLASS: {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}
LINES = {f"lin{i}.model.1.weight": np.ones((1, 4, 1, 1)) for i in range(5)}
HEAD = {
  f"layers.{n}.{part}": np.zeros(shape, np.float32)
  for n, before, after in (
    (0, 4, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1)
  )
  for part, shape in (("weight", (after, before)), ("bias", (after,)))
}  # fmt: skip

ROWS = [
  # The file of tensors.
  pair("name too many", ("clip does not fit", "besides adapter.weight"),
       changed(adapter__weight=np.zeros(3))),
  pair("name missing", ("clip does not fit", f"lacks {NORM}"),
       changed(text_model__final_layer_norm__weight=None)),
  pair("name spelt differently", (f"lacks {NORM}", "did you mean"),
       changed(text_model__final_layer_norm__weight=None,
               text_model__final_layernorm__weight=np.zeros(8, np.float32))),
  pair("wrong shape", (f"{CLASS} is F32[7], expected float[8]",),
       changed(vision_model__embeddings__class_embedding=np.zeros(
         7, np.float32))),
  pair("whole numbers for floats", (f"{CLASS} is I64[8]",),
       changed(vision_model__embeddings__class_embedding=np.zeros(8, int))),
  pair("NaN", (FILE, f"{CLASS} holds a value that is not finite"),
       changed(vision_model__embeddings__class_embedding=nan())),
  pair("infinity", (FILE, f"{CLASS} holds a value that is not finite"),
       changed(vision_model__embeddings__class_embedding=nan(
         ml_dtypes.bfloat16, -np.inf))),
  pair("NaN in half", (FILE, f"{CLASS} holds a value that is not finite"),
       changed(vision_model__embeddings__class_embedding=nan(np.float16))),
  Row("quantised", (CLASS, "F8_E4M3, which is not read"),
      {FILE: raw(FLOAT8, 8)},
      call=lambda here: hub.open_weights(here / FILE)[CLASS].read()),
  pair("empty file", ("cannot read", FILE, "download complete?"), b""),
  pair("text", ("cannot read", FILE), "not weights at all, but some words"),
  pair("page of HTML", (FILE, "it is a web page"), "<!doctype html><html>404"),
  pair("pointer of Git LFS", (FILE, "a pointer of Git LFS", "git lfs pull"),
       "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n"),
  pair("cut short", ("cannot read", FILE, "download complete?"),
       lambda path: path.write_bytes(saved(tensors())[:-40])),
  pair("cut in the header", ("cannot read", FILE),
       lambda path: path.write_bytes(saved(tensors())[:100])),
  pair("header of 2**63 bytes", ("cannot read", FILE), b"\xff" * 7 + b"\x7f{}"),
  pair("header that is no JSON", ("cannot read", FILE),
       struct.pack("<Q", 9) + b"{'a': 1} "),
  # Folders and names.
  Row("no such folder", ("clip: no such file or folder",), call=load()),
  Row("empty folder", ("clip holds no *.safetensors",),
      {"clip/config.json": json.dumps(RECORD)}, call=load()),
  Row("pickle in a folder", ("cannot read", "pytorch_model.bin"),
      {"clip/pytorch_model.bin": b"x", "clip/config.json": json.dumps(RECORD)},
      call=load()),
  Row("pickle by name", ("cannot read", "HPS_v2.1_compressed.pt"),
      {"HPS_v2.1_compressed.pt": b"x"},
      call=load("HPS_v2.1_compressed.pt", size="vit_h_14")),
  Row("two checkpoints", ("several checkpoints", "b.safetensors"),
      {"clip/a.safetensors": changed(), "clip/b.safetensors": changed(),
       "clip/config.json": json.dumps(RECORD)}, call=load()),
  Row("shard missing", ("lacks 1 of 1 shards: a.safetensors",),
      index({CLASS: "a.safetensors"}), call=load()),
  Row("shard without its tensor", ("does not hold x, which",),
      index({"x": "a.safetensors"}, a=changed()), call=load()),
  Row("index of another form", ("weight_map=[1]; expected an object",),
      index([1]), call=load()),
  Row("index that names no file", (f"weight_map.{CLASS}=3",),
      index({CLASS: 3}), call=load()),
  # Records beside them.
  Row("no config", ("has no config.json", "size=vit_b_32"),
      folder(config=None), call=load()),
  Row("config that is no JSON", ("cannot read", "config.json"),
      folder() | {"clip/config.json": "{'model_type': 'clip'}"}, call=load()),
  Row("config that is a list", ("config.json holds [1]",),
      folder(config=[1]), call=load()),
  config("another architecture", ('describes a "bert", not a CLIP',),
         model_type="bert"),
  config("text tower alone", ("text_config", "is not known"), model_type="clip_text_model"),
  config("field that is text", ('projection_dim="4"; expected a whole',),
         projection_dim="4"),
  config("unknown activation", ("hidden_act=swish2 is not known",),
         text_config=LAYERS | {"hidden_act": "swish2"}),
  config("width that fits no tensor", ("does not fit", "expected float"),
         vision_config=LAYERS | dict(
           hidden_size=16, image_size=14, patch_size=7)),
  config("part that is null", ("text_config=[]; expected an object",),
         text_config=[]),
  *(
    Row(f"open_clip with {name}", (f"{part}: {name}={json.dumps(value)}",),
        {"clip/open_clip_model.safetensors": saved(
           {"visual.conv1.weight": np.zeros((1, 3, 7, 7))}),
         "clip/open_clip_config.json": json.dumps(
           {"model_cfg": OPEN_CLIP | {part: OPEN_CLIP[part] | {name: value}}})},
        call=load())
    for part, name, value in (
      ("text_cfg", "no_causal_mask", True), ("text_cfg", "pool_type", "last"),
      ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}),
      ("vision_cfg", "final_ln_after_pool", True),
      ("vision_cfg", "act_kwargs", {"approximate": "tanh"}),
    )
  ),
  Row("preprocessor of another size", ("makes pictures of (28, 28)",),
      folder(preprocessor_config={"crop_size": 28}), call=load()),
  Row("preprocessor without means", ("image_mean=0.5; expected three numbers",),
      folder(preprocessor_config={"image_mean": 0.5}), call=load()),
  Row("size that is not known", ('did you mean "vit_h_14"',), folder(),
      call=load(size="vit_h14")),
  Row("type that is not known", ("dtype=float16: known are",), folder(),
      call=load(dtype="float16")),
  # One row for every other kind of reward.
  Row("CLIP for ImageReward", ("no ImageReward: it lacks blip.",), folder(),
      call=lambda here: image_reward.load_image_reward(str(here / "clip"))),
  Row("CLIP for faces", ("no IResNet: it lacks layer1.0.conv1.weight",),
      folder(), call=lambda here: identity.load_faces(str(here / "clip"))),
  Row("CLIP for OWL-ViT", ('clip: config.json describes a "clip", not an',),
      folder(), call=lambda here: objects.load_objects(str(here / "clip"))),
  Row("OWL-ViT without its config", ("clip has no config.json",),
      folder(config=None),
      call=lambda here: objects.load_objects(str(here / "clip"))),
  Row("LPIPS without its tower", ("does not fit", "lacks net.slice1.0.bias"),
      {"lpips.safetensors": saved(LINES)},
      call=lambda here: fidelity.load_lpips(
        str(here / "lpips.safetensors"), net="alex")),
  Row("LPIPS of another network", ("net=squeeze: known are vgg, alex",),
      {"lpips.safetensors": saved(LINES)},
      call=lambda here: fidelity.load_lpips(
        str(here / "lpips.safetensors"), net="squeeze")),
  Row("DISTS without its tower", ("does not fit", "it lacks"),
      {"dists.safetensors": saved({"alpha": np.zeros((1, 1475, 1, 1))})},
      call=lambda here: fidelity.load_dists(str(here / "dists.safetensors"))),
  Row("DISTS of no edge", ("edge=-1: it is a length",),
      call=lambda here: fidelity.load_dists("x", edge=-1)),
  Row("head for another tower", ("layers.0.weight is F32[1024, 9]",),
      folder() | {"head.safetensors": saved(
        HEAD | {"layers.0.weight": np.zeros((1024, 9), np.float32)})},
      call=lambda here: quality.load_aesthetic(
        str(here / "clip"), head=str(here / "head.safetensors"))),
  Row("pair without texts", ("lacks a tower of CLIP",),
      folder(
        config=RECORD["vision_config"] | {
          "model_type": "clip_vision_model", "projection_dim": 4},
        weights=vision),
      call=lambda here: alignment.load_pair(str(here / "clip"))),
  Row("model of ours with NaN", ("reward.safetensors: a holds a value that",),
      {"reward.safetensors": saved({"a": nan()})},
      call=lambda here: own.load_params(
        here / "reward.safetensors", {"a": np.zeros(8, np.float32)})),
  Row("model of ours in FP8",
      ("reward.safetensors: a is stored as F8_E4M3", "F64, F32, F16, BF16"),
      {"reward.safetensors": _packed("F8_E4M3")},
      call=lambda here: own.load_params(
        here / "reward.safetensors", {"a": np.zeros(8, np.float32)})),
  *(
    Row(f"config.{field} in FP8", ("is stored as F8_E5M2", "F32"),
        {"fp8.safetensors": _packed("F8_E5M2")},
        overrides={field: "{here}/fp8.safetensors"})
    for field in ("init.checkpoint",)
  ),
  Row("ftfy not installed", ('pip install "jaxreward[text]"',),
      prepare=lambda here, patch: patch.setitem(
        sys.modules, "ftfy", None),
      call=lambda here: words.cleaner()),
  # As people meet them.
  Row("reward of a folder that is not there",
      ("config.rewards.mine", "nowhere: no such file or folder"),
      overrides={"rewards.mine.fn": "pick_score",
                 "rewards.mine.weights": "{here}/nowhere"}),
  Row("reward with spoilt weights",
      ("config.rewards.mine", CLASS, "not finite"),
      folder(changed(vision_model__embeddings__class_embedding=nan())),
      overrides={"rewards.mine.fn": "pick_score",
                 "rewards.mine.weights": "{here}/clip"}),
]  # fmt: skip
