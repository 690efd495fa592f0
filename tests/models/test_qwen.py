"""The text tower of Qwen2.5-VL and the prompts of Qwen-Image and its edits."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.text import qwen, qwen_layouts, qwen_prompts
from jaxreward.models.vision import (
  qwen_images,
  qwen_vision,
  qwen_vision_layouts,
)
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

TEXT = dict(
  hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=40, vocab_size=300,
  max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1,
  pad_token_id=0,
  rope_parameters={
    "rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4,
  },
)  # fmt: skip
VISION = dict(
  depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=48,
  patch_size=4, window_size=16, fullatt_block_indexes=[0],
)  # fmt: skip


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(transformers' model of both towers, its folder)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  config = transformers.Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=290,
    video_token_id=291, vision_start_token_id=292, vision_end_token_id=293,
  )  # fmt: skip
  model = peers.shake(transformers.Qwen2_5_VLForConditionalGeneration(config))
  folder = tmp_path_factory.mktemp("qwen")
  model.save_pretrained(folder)
  return model, folder


def letters(text, **options):
  """A tokenizer of bytes with the interface of transformers'."""
  ids = list(text.encode())[: options.get("max_length")]
  return {"input_ids": ids}


@pytest.mark.parity
def test_states_and_gradients_equal_the_peers(peer):
  import torch

  model, folder = peer
  config, params = qwen_layouts.load(folder)
  tokens = np.random.default_rng(0).integers(2, 280, (2, 20)).astype(np.int32)
  ids = torch.tensor(tokens, dtype=torch.long)
  theirs = model(ids, output_hidden_states=True).hidden_states[-1]
  net = qwen.QwenText(config)
  apply = lambda p: net.apply({"params": p}, tokens)
  peers.close(jax.jit(apply)(params), peers.numpy(theirs))
  slope = jax.jit(jax.grad(lambda p: jnp.sin(apply(p)).mean()))(params)
  model.zero_grad()
  theirs.sin().mean().backward()
  named = {
    n.replace("model.language_model.", "model."): peers.numpy(p.grad)
    for n, p in model.named_parameters()
    if p.grad is not None
  }
  expected = peers.from_public(named, qwen_layouts.rules_of(config), params)
  peers.close_trees(slope, expected)
  found = qwen.QwenText(config, jnp.bfloat16).apply(
    {"params": peers.half(params)}, tokens
  )
  peers.close(found, peers.numpy(theirs), 2e-2)


@pytest.mark.parity
@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_both_names_of_the_public_layout_round_trip(prefix, peer, tmp_path):
  from jaxreward.models import convert, hub
  from tests.rewards import folders

  _, folder = peer
  config, params = qwen_layouts.load(folder)
  named = convert.to_public(params, qwen_layouts.rules_of(config, prefix))
  named["lm_head.weight"] = np.zeros((300, 48), np.float32)
  named["visual.merger.ln_q.weight"] = np.zeros(3, np.float32)
  folders.save_tensors(tmp_path / "model.safetensors", named)
  text = (folder / "config.json").read_text()
  (tmp_path / "config.json").write_text(text)
  found, loaded = qwen_layouts.load(tmp_path)
  assert found == config
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  stored = hub.open_weights(folder)
  for name, value in convert.to_public(
    params, qwen_layouts.rules_of(config)
  ).items():
    other = name.replace("model.", "model.language_model.", 1)
    there = stored[name if name in stored else other]
    np.testing.assert_array_equal(value, there.read())


@pytest.mark.parity
def test_prompts_of_qwen_image_equal_the_pipelines(peer):
  import torch
  from diffusers import QwenImagePipeline

  model, folder = peer
  config, params = qwen_layouts.load(folder)
  texts = ["a red circle", "a much longer prompt with many words", ""]

  def padded(texts, max_length, **options):
    rows = [letters(t, max_length=max_length)["input_ids"] for t in texts]
    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
      ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1

    class Both(dict):
      input_ids, attention_mask = ids, mask
      to = lambda self, device: self

    return Both()

  pipeline = QwenImagePipeline(None, None, model, None, None)
  pipeline.tokenizer, pipeline.tokenizer_max_length = padded, 320
  assert pipeline.prompt_template_encode == qwen_prompts.TEMPLATE
  assert (
    pipeline.prompt_template_encode_start_idx == qwen_prompts.TEMPLATE_TOKENS
  )
  with torch.no_grad():
    theirs, _ = pipeline.encode_prompt(texts, device="cpu")
  ids, mask = qwen_prompts.tokenize(letters, texts, 320)
  found, kept = qwen_prompts.encode(config, params, ids, mask)
  longest = theirs.shape[1]
  assert longest == int(kept.sum(1).max())
  peers.close(found[:, :longest], peers.numpy(theirs))
  assert not np.asarray(found[:, longest:]).any()


SPECIAL = {
  "<|im_start|>": 286, "<|im_end|>": 287, "<|image_pad|>": 290,
  "<|vision_start|>": 292, "<|vision_end|>": 293,
}  # fmt: skip


def marked(text, **options):
  """A tokenizer of bytes and of the template's marks."""
  parts = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
  of = lambda part: [SPECIAL[part]] if part in SPECIAL else part.encode()
  ids = [i for part in parts for i in of(part)]
  return {"input_ids": ids[: options.get("max_length")]}


class Processor:
  """The public processor over `marked`, padded on the right."""

  def __init__(self, images):
    self.images = images

  def __call__(self, text, images, padding, return_tensors):
    import torch

    read = self.images(images=images, return_tensors="pt")
    counts = (read["image_grid_thw"].prod(1) // 4).tolist()
    rows = []
    for one, count in zip(text, counts, strict=True):
      pads = "<|image_pad|>" * count
      rows.append(marked(one.replace("<|image_pad|>", pads))["input_ids"])
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
      ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1

    class Found(dict):
      to = lambda self, device: self

    return Found(read, input_ids=ids, attention_mask=mask)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(36, 36), (24, 50)])
def test_prompts_of_qwen_image_edit_equal_the_pipelines(
  size, peer, monkeypatch
):
  """The whole of `encode_prompt`, from the instruction and the picture."""
  import torch
  from diffusers import QwenImageEditPipeline
  from diffusers.image_processor import VaeImageProcessor
  from PIL import Image
  from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
  )

  model, folder = peer
  config, text = qwen_layouts.load(folder)
  vision, tower = qwen_vision_layouts.load(folder)
  limits = {"shortest_edge": 64, "longest_edge": 1600}
  prepared = qwen_images.processor_of({"size": limits}, vision, 64 * 64)
  rng = np.random.default_rng(2)
  pixels = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
  (high, wide), last = prepared.sizes(*size)
  grid = vision.grid(*last)
  shown = [
    VaeImageProcessor(vae_scale_factor=16).resize(
      Image.fromarray(p), high, wide
    )
    for p in pixels
  ]
  pipeline = QwenImageEditPipeline(None, None, model, None, None, None)
  assert pipeline.prompt_template_encode == qwen_prompts.EDIT_TEMPLATE
  assert (
    pipeline.prompt_template_encode_start_idx
    == qwen_prompts.EDIT_TEMPLATE_TOKENS
  )
  pipeline.processor = Processor(
    Qwen2VLImageProcessorPil(patch_size=4, size=limits)
  )
  # The model was published with places from `get_rope_index`; transformers 5
  # computes them where it is told which tokens are a picture's.
  forward = model.forward
  monkeypatch.setattr(
    model,
    "forward",
    lambda input_ids, **given: forward(
      input_ids,
      mm_token_type_ids=(input_ids == config.pad).int(),
      **given,
    ),
  )
  texts = ["make it blue", "a much longer instruction with many words"]
  with torch.no_grad():
    theirs, mask = pipeline.encode_prompt(texts, shown, device="cpu")
  ids, ours, starts = qwen_prompts.tokenize_edit(
    marked, texts, 600, [math.prod(grid)], config.pad
  )
  found, kept = jax.jit(
    lambda p, x: qwen_prompts.encode_edit(
      config, vision, p, ids, ours, [x], starts=starts
    )
  )({"text": text, "vision": tower}, prepared(pixels / np.float32(255)))
  longest = theirs.shape[1]
  np.testing.assert_array_equal(kept[:, :longest], mask.numpy())
  peers.close(found[:, :longest], peers.numpy(theirs))
  assert not np.asarray(found[:, longest:]).any()
  with torch.no_grad():
    blind, _ = pipeline.encode_prompt(texts, shown[::-1], device="cpu")
  assert (blind - theirs).abs().max() > 1e-2  # the picture is seen


@pytest.mark.parity
@pytest.mark.parametrize(
  "grids", [[(5, 5)], [(3, 7)], [(7, 3)], [(3, 7), (2, 2), (7, 3)]]
)
def test_places_beside_pictures_are_the_peers(grids, peer):
  import torch

  model, _ = peer
  kinds, starts = [0] * 6, []
  for grid in grids:
    starts.append(len(kinds))
    kinds += [1] * math.prod(grid) + [0] * 9
  kinds = torch.tensor([kinds])
  theirs, _ = model.model.get_rope_index(
    kinds, kinds, torch.tensor([[1, 2 * h, 2 * w] for h, w in grids])
  )
  found = qwen.rope_places(kinds.shape[1], starts, grids)
  np.testing.assert_array_equal(found.T[:, None], theirs.numpy())


@pytest.mark.parity
def test_gradients_through_both_towers_equal_the_peers(peer):
  import torch

  from tests.models import test_qwen_vision as one

  model, folder = peer
  config, text = qwen_layouts.load(folder)
  vision, tower = qwen_vision_layouts.load(folder)
  images = one.pictures((24, 40), 2)
  rng = np.random.default_rng(3)
  tokens = rng.integers(2, 280, (2, 30)).astype(np.int32)
  tokens[:, 4:19] = config.pad
  pixels, grid = one.patches(images)
  ids = torch.tensor(tokens, dtype=torch.long)
  theirs = model(
    ids, pixel_values=pixels, image_grid_thw=grid, output_hidden_states=True,
    mm_token_type_ids=(ids == config.pad).int(),
  ).hidden_states[-1]  # fmt: skip
  source = np.full(tokens.shape, -1)
  source[:, 4:19] = np.arange(30).reshape(2, 15)
  places = qwen.rope_places(30, (4,), [(3, 5)])[None]

  def apply(p, dtype=jnp.float32):
    net = qwen_vision.VisionTower(vision)
    features = net.apply({"params": p["vision"]}, images)[0]
    shown = qwen.Images(features.reshape(30, -1), source)
    net = qwen.QwenText(config, dtype)
    return net.apply({"params": p["text"]}, tokens, places, shown)

  params = {"text": text, "vision": tower}
  peers.close(jax.jit(apply)(params), peers.numpy(theirs))
  slope = jax.jit(jax.grad(lambda p: jnp.sin(apply(p)).mean()))(params)
  model.zero_grad()
  theirs.sin().mean().backward()
  named = {
    n.replace("model.language_model.", "model.").replace("model.v", "v"): g
    for n, g in (
      (n, peers.numpy(p.grad))
      for n, p in model.named_parameters()
      if p.grad is not None
    )
  }
  expected = {
    "text": peers.from_public(named, qwen_layouts.rules_of(config), text),
    "vision": peers.from_public(
      named, qwen_vision_layouts.rules_of(vision), tower
    ),
  }
  peers.close_trees(slope, expected)
  half = apply({"text": peers.half(text), "vision": tower}, jnp.bfloat16)
  peers.close(half, peers.numpy(theirs), 2e-2)


def test_long_instructions_are_cut_and_the_picture_is_not():
  ids, mask, (start,) = qwen_prompts.tokenize_edit(
    marked, ["a", "b" * 900], 520, [30], 290
  )
  assert ids.shape == (2, 584) and mask[1].all() and not mask[0].all()
  assert (ids == 290).sum(1).tolist() == [30, 30]
  assert (ids[:, start : start + 30] == 290).all()
  assert ids[0, start - 1] == 292 and ids[0, start + 30] == 293
  with pytest.raises(UserError, match=r"model.words=520: the picture.* 250 of"):
    qwen_prompts.tokenize_edit(marked, ["a"], 520, [250], 290)


def test_the_full_size_has_the_published_count():
  config = qwen.SIZES["qwen2.5_vl_7b"]
  head = config.vocabulary * config.width  # of the language model
  assert peers.count(qwen_layouts.shapes(config)) + head == 7_615_616_512


def test_the_message_about_room_for_words_names_what_suffices():
  with pytest.raises(UserError, match=r"set it to (\d+) and as") as caught:
    qwen_prompts.tokenize_edit(marked, ["a"], 400, [250], 290)
  least = int(re.search(r"set it to (\d+)", str(caught.value)).group(1))
  ids, mask, _ = qwen_prompts.tokenize_edit(marked, ["a"], least, [250], 290)
  assert mask.all() and ids[0, -1] == ord("\n")
  with pytest.raises(UserError):
    qwen_prompts.tokenize_edit(marked, ["a"], least - 1, [250], 290)


def test_every_parameter_has_one_sharding_rule():
  shapes = qwen_layouts.shapes(qwen.SIZES["qwen2.5_vl_7b"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, qwen.SHARDING_RULES, mesh)
  assert tuple(specs["layers"]["kv"]["kernel"]) == (None, "fsdp", "tensor")


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match='describes a "qwen2"'):
    qwen_layouts.config_of({"model_type": "qwen2"})
