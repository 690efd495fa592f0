"""The vision tower of Qwen2.5-VL and how pictures reach it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.vision import (
  qwen_images,
  qwen_vision,
  qwen_vision_layouts,
)
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

VISION = dict(
  depth=3, hidden_size=32, intermediate_size=20, num_heads=2, out_hidden_size=24,
  patch_size=4, window_size=16, fullatt_block_indexes=[1],
)  # fmt: skip
# Pixels; 8 to a token and two tokens to a window's side.
EVEN, ODD, FLAT = (32, 48), (40, 56), (8, 72)
FACTS = 28, 56 * 56, 12845056


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(transformers' tower, the folder of a model that holds it)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  text = dict(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, intermediate_size=8, vocab_size=30,
  )  # fmt: skip
  config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=VISION)
  model = peers.shake(transformers.Qwen2_5_VLForConditionalGeneration(config))
  folder = tmp_path_factory.mktemp("qwen_vision")
  model.save_pretrained(folder)
  return model.model.visual, folder


def pictures(size, count=2):
  rng = np.random.default_rng(sum(size))
  return rng.standard_normal((count, *size, 3)).astype(np.float32)


def patches(images):
  """(pixels, grids) as the processor hands them to the peer."""
  import torch

  b, h, w, _ = images.shape
  x = images.transpose(0, 3, 1, 2)
  x = x.reshape(b, 3, h // 8, 2, 4, w // 8, 2, 4)
  x = np.broadcast_to(
    x.transpose(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None],
    (b, h // 8, w // 8, 2, 2, 3, 2, 4, 4),
  )
  grid = torch.tensor([[1, h // 4, w // 4]] * b)
  return torch.tensor(x.reshape(-1, 3 * 2 * 4 * 4)), grid


def theirs_of(tower, images):
  found = tower(*patches(images)).pooler_output
  return found.reshape(len(images), -1, found.shape[-1])


@pytest.mark.turns(3)
@pytest.mark.parity
@pytest.mark.parametrize("size", [EVEN, ODD, FLAT])
def test_tokens_and_gradients_equal_the_peers(peer, size):
  tower, folder = peer
  config, params = qwen_vision_layouts.load(folder)
  images = pictures(size)
  theirs = theirs_of(tower, images)
  net = qwen_vision.VisionTower(config)
  apply = lambda p: net.apply({"params": p}, images)[0]
  peers.close(jax.jit(apply)(params), peers.numpy(theirs))
  slope = jax.jit(jax.grad(lambda p: jnp.sin(apply(p)).mean()))(params)
  rules = qwen_vision_layouts.tower_rules(config, "")
  expected = peers.gradients(tower, theirs.sin().mean(), rules, params)
  peers.close_trees(slope, expected)
  low = qwen_vision.VisionTower(config, jnp.bfloat16)
  found = low.apply({"params": peers.half(params)}, images)[0]
  peers.close(found, peers.numpy(theirs), 2e-2)


@pytest.mark.parity
def test_the_peers_weights_come_back_to_the_bit(peer, tmp_path):
  _, folder = peer
  config, params = qwen_vision_layouts.load(folder)
  rules = qwen_vision_layouts.rules_of(config)
  back = convert.to_public(params, rules)
  from jaxreward.models import hub

  stored = hub.open_weights(folder)
  assert set(back) == {n for n in stored if n.startswith("visual.")}
  for name, array in back.items():
    np.testing.assert_array_equal(array, stored[name].read())
  new = {f"model.{n}": x for n, x in back.items()}
  new["model.language_model.norm.weight"] = np.zeros(3, np.float32)
  from tests.rewards import folders

  folders.save_tensors(tmp_path / "model.safetensors", new)
  text = (folder / "config.json").read_text()
  (tmp_path / "config.json").write_text(text)
  again = qwen_vision_layouts.load(tmp_path)
  assert again[0] == config
  jax.tree.map(np.testing.assert_array_equal, again[1], params)


@pytest.mark.parity
@pytest.mark.parametrize("rows", [1, 4, 5])
@pytest.mark.parametrize("columns", [2, 7])
def test_windows_are_the_peers(rows, columns):
  torch = pytest.importorskip("torch")
  vision_utils = pytest.importorskip("transformers.vision_utils")
  index, real = qwen_vision.windows(rows, columns, 2)
  theirs, ends = vision_utils.get_vision_window_index(
    torch.tensor([[1, 2 * rows, 2 * columns]]),
    spatial_merge_size=2, window_size=16, patch_size=4,
  )  # fmt: skip
  np.testing.assert_array_equal(index[real], theirs.numpy())
  assert [0, *np.cumsum(4 * real.sum(1))] == ends.tolist()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_window_sees_itself_alone_and_a_full_layer_everything():
  config = qwen_vision.Vision(16, 1, 2, 8, 6, 4, 2, 2, 16, ())
  images = pictures(ODD, 1)
  other = images.copy()
  other[:, :8, :8] += 1  # the first token
  for full, expected in ((), 4), ((0,), 35):
    net = qwen_vision.VisionTower(dataclasses.replace(config, full=full))
    params = net.init(jax.random.key(0), images)
    a, b = (net.apply(params, x)[0] for x in (images, other))
    moved = np.abs(a - b).max((0, 2)) > 1e-6
    assert moved.sum() == expected
    if not full:
      assert np.flatnonzero(moved).tolist() == [0, 1, 7, 8]


@pytest.mark.parity
def test_sizes_are_those_of_the_pipeline_and_the_processor():
  module = pytest.importorskip(
    "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit"
  )
  from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as pil

  rng = np.random.default_rng(0)
  for height, width in rng.integers(20, 3000, (200, 2)).tolist():
    for area, limits in ((1024**2, FACTS[1:]), (384**2, (3136, 80_000))):
      wide, high, _ = module.calculate_dimensions(area, width / height)
      made = qwen_images.ImageProcessor(area, 28, *limits)
      if max(high, wide) > 200 * max(1, min(high, wide)):
        continue
      first, last = made.sizes(height, width)
      assert first == (high, wide)
      expected = pil.smart_resize(
        high, wide, min_pixels=limits[0], max_pixels=limits[1]
      )
      assert last == expected
      assert math.prod(last) <= limits[1]


@pytest.mark.parity
@pytest.mark.parametrize("area", [64 * 64, None])
@pytest.mark.parametrize("size", [(36, 36), (50, 31)])
def test_pixels_are_those_of_the_pipeline_and_the_processor(size, area):
  pytest.importorskip("torch")
  from diffusers.image_processor import VaeImageProcessor
  from PIL import Image
  from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
  )

  rng = np.random.default_rng(1)
  pixels = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
  prepared = qwen_images.ImageProcessor(
    area=area, factor=8, least=64, most=10**6
  )
  (high, wide), _ = prepared.sizes(*size)
  every = [Image.fromarray(p) for p in pixels]
  if area:
    pipeline = VaeImageProcessor(vae_scale_factor=16)
    every = [pipeline.resize(image, high, wide) for image in every]
  reader = Qwen2VLImageProcessorPil(
    patch_size=4, size={"shortest_edge": 64, "longest_edge": 10**6}
  )
  theirs = reader(images=every, return_tensors="np")
  found = prepared(pixels.astype(np.float32) / 255)
  assert found.dtype == np.float32
  rows, grid = patches(found)
  np.testing.assert_array_equal(grid.numpy(), theirs["image_grid_thw"])
  config = qwen_vision.Vision(16, 1, 2, 8, 6, 4, window=0, full=())
  cut = qwen_vision.cut(config, found[:, None])
  np.testing.assert_array_equal(cut.pixels.reshape(rows.shape), rows)
  np.testing.assert_allclose(rows, theirs["pixel_values"], atol=2e-6)


def test_the_record_beside_the_weights_says_how_pictures_are_read():
  config = qwen_vision.SIZES["qwen2.5_vl_7b"]
  old = {"min_pixels": 10, "max_pixels": 20, "image_mean": [0, 0, 0]}
  found = qwen_images.processor_of(old, config, 99)
  assert (found.area, found.least, found.most) == (99, 10, 20)
  assert found.mean == (0, 0, 0) and found.factor == 28
  new = {"size": {"shortest_edge": 30, "longest_edge": 40}}
  found = qwen_images.processor_of(new, config)
  assert (found.least, found.most) == (30, 40)
  plain = qwen_images.processor_of({}, config)
  assert plain == qwen_images.ImageProcessor()


def test_a_square_picture_of_the_pipeline_has_1369_tokens():
  config = qwen_vision.SIZES["qwen2.5_vl_7b"]
  _, last = qwen_images.ImageProcessor(most=FACTS[2]).sizes(512, 512)
  assert last == (1036, 1036) and math.prod(config.grid(*last)) == 1369


def test_the_full_size_has_the_published_count():
  shapes = qwen_vision_layouts.shapes(qwen_vision.SIZES["qwen2.5_vl_7b"])
  # The whole model without its text tower and head, see test_qwen.
  assert peers.count(shapes) == 8_292_166_656 - 7_615_616_512


def test_every_parameter_has_a_rule_and_large_ones_are_split():
  shapes = qwen_vision_layouts.shapes(qwen_vision.SIZES["qwen2.5_vl_7b"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, qwen_vision.SHARDING_RULES, mesh)
  large = [
    spec
    for spec, leaf in zip(
      jax.tree.leaves(specs), jax.tree.leaves(shapes), strict=True
    )
    if leaf.size > 10**6
  ]
  assert large and all("fsdp" in str(spec) for spec in large)


@pytest.mark.parametrize(
  "area, says",
  [
    (100, "area=100 pixels: it is too long"),
    (1024**2, "area=1048576 pixels: it is too long"),
    (None, "10 x 9000 pixels is too long for the model"),
  ],
)
def test_pictures_that_cannot_be_read_are_refused(area, says):
  with pytest.raises(UserError, match=says):
    qwen_images.ImageProcessor(area).sizes(10, 9000)


def test_weights_without_the_tower_are_refused(tmp_path):
  from tests.rewards import folders

  folders.save_tensors(tmp_path / "model.safetensors", {"model.a": np.zeros(2)})
  (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
  with pytest.raises(UserError, match="describes no vision tower"):
    qwen_vision_layouts.load(tmp_path)
  (tmp_path / "config.json").write_text(
    '{"vision_config": {"depth": 1, "hidden_size": 8, "num_heads": 2,'
    ' "intermediate_size": 4, "out_hidden_size": 6}}'
  )
  with pytest.raises(UserError, match=r"holds no vision tower \(visual"):
    qwen_vision_layouts.load(tmp_path)
