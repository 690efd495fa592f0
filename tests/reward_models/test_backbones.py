"""Backbones and heads: what they read, what they offer, what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.data import preferences
from jaxreward.errors import UserError
from jaxreward.models.vision import clip, clip_layouts, preprocess
from jaxreward.reward_models import BACKBONES, HEADS, RewardModel, offers
from jaxreward.reward_models.backbones import byte_tokens
from jaxreward.rewards import alignment
from jaxreward.training import sharding
from jaxreward.training.mesh import make_mesh
from tests.rewards import folders

IMAGES = np.random.default_rng(0).random((2, 3, 36, 36, 3)).astype(np.float32)
TEXTS = ["a cat on a mat", "Zwölf Boxkämpfer"]


def awake(params):
  """The same with every zero kernel drawn, so that everything matters."""

  def fill(path, x):
    key = jax.random.fold_in(jax.random.key(7), len(str(path)))
    return x if x.ndim < 2 or x.any() else 0.3 * jax.random.normal(key, x.shape)

  return jax.tree_util.tree_map_with_path(fill, params)


def make(head="scalar", **how):
  backbone = BACKBONES["clip"](size="tiny")
  return RewardModel(backbone, HEADS[head](), **how)


@pytest.mark.extras
def test_the_features_of_a_public_clip_are_its_published_path(tmp_path):
  pytest.importorskip("transformers")
  folder = str(folders.clip_folder(tmp_path / "clip"))
  backbone = BACKBONES["clip"](weights=folder)
  assert backbone.read and backbone.pretrained
  params = backbone.pretrained()
  images, (batch, texts) = folders.pictures(), folders.prompts()
  tokens = backbone.read(texts)
  found = backbone.features(params, images, tokens)
  config = clip_layouts.describe(folder)[0]
  side = config.vision.image
  flat = preprocess.Preprocess((side, side), side)(images.reshape(6, 40, 40, 3))
  text, image, scale = clip.ClipModel(config).apply(
    {"params": params}, tokens, flat
  )
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  image = unit(np.asarray(image)).reshape(2, 3, -1)
  np.testing.assert_allclose(found["image"], image, atol=2e-5)
  np.testing.assert_allclose(found["text"], unit(np.asarray(text)), atol=2e-5)
  logit = scale * np.einsum("pge,pe->pg", image, unit(np.asarray(text)))
  np.testing.assert_allclose(found["logit"], logit, atol=5e-4)
  loaded = alignment.load_pair(folder)
  score = alignment.clip_score(
    images, batch, text=tokens, **loaded.static, **loaded.arrays
  )["clip_score"]
  head = HEADS["similarity"](divisor=30.0)
  model = RewardModel(backbone, head)
  mine, _ = model.score_groups({"backbone": params, "head": {}}, images, tokens)
  np.testing.assert_array_equal(mine, score)


def test_bytes_are_told_apart_and_end_once():
  ids = byte_tokens(["ab", "B" * 99, ""], 8)
  assert ids.shape == (3, 8)
  np.testing.assert_array_equal(ids[0], [98, 99, 257, 0, 0, 0, 0, 0])
  assert list(ids[1]) == [99] * 7 + [257]
  assert ids[2, 0] == 257
  assert BACKBONES["clip"](size="tiny").read(TEXTS).max() < 258


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_both_parts_matter(name):
  model = RewardModel(BACKBONES[name](size="tiny"), HEADS["gaussian"]())
  params = awake(jax.jit(model.init)(jax.random.key(0)))
  tokens = model.backbone.read(TEXTS)
  score = jax.jit(model.score_groups)
  base, std = score(params, IMAGES, tokens)
  words, _ = score(params, IMAGES, tokens[::-1])
  moved, _ = score(params, IMAGES[..., ::-1], tokens)
  assert base.shape == std.shape == (2, 3)
  assert (std > 0.05).all() and (std < 20).all()
  for other in (words, moved):
    assert np.abs(np.asarray(other) - base).min() > 1e-5


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_fresh_gaussian_head_is_standard():
  model = make("gaussian")
  params = jax.jit(model.init)(jax.random.key(0))
  tokens = model.backbone.read(TEXTS)
  value, std = jax.jit(model.score_groups)(params, IMAGES, tokens)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_allclose(std, 1.0, rtol=1e-5)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("how", ["full", "frozen", "lora"])
def test_what_is_trained_and_what_is_whole(how):
  model = make(train=how, rank=2, alpha=4.0)
  params = awake(jax.jit(model.init)(jax.random.key(0)))
  tokens = model.backbone.read(TEXTS)
  trained, kept = model.split(jax.random.key(1), params)
  paths = jax.tree_util.tree_leaves_with_path(trained)
  names = ["/".join(k.key for k in path) for path, _ in paths]
  below = [name for name in names if name.startswith("backbone/")]
  assert bool(below) == (how != "frozen")
  assert all("/lora/" in name for name in below) == (how != "full")
  score, outputs = jax.jit(model.score_groups), jax.jit(model.outputs)
  value, _ = score(params, IMAGES, tokens)
  found = outputs(trained, kept, IMAGES, tokens)["value"]
  np.testing.assert_allclose(found, value, atol=1e-5)
  # Adapters that do something are in the exported kernels.
  moved = jax.tree.map(lambda x: x + 0.03 * jnp.ones_like(x), trained)
  there = outputs(moved, kept, IMAGES, tokens)["value"]
  whole = model.export(moved, kept)
  assert jax.tree.structure(whole) == jax.tree.structure(params)
  again, _ = score(whole, IMAGES, tokens)
  np.testing.assert_allclose(again, there, rtol=1e-4, atol=1e-4)
  assert np.abs(np.asarray(there - value)).min() > 1e-4


@pytest.mark.job
@pytest.mark.turns(3)
def test_no_gradient_of_a_frozen_tower_is_computed():
  """The compiler counts the towers' work once, not forth and back."""
  work = {}
  model = make()
  tokens = model.backbone.read(TEXTS)
  total = lambda t, k: model.outputs(t, k, IMAGES, tokens)["value"].sum()
  flops = lambda fn, *x: (
    jax.jit(fn).lower(*x).compile().cost_analysis()["flops"]
  )
  for how in ("full", "frozen"):
    params = jax.eval_shape(model.init, jax.random.key(0))
    trained, kept = params, None
    if how == "frozen":
      trained = {"head": params["head"]}
      kept = {"backbone": params["backbone"]}
    work[how] = flops(jax.grad(total), trained, kept)
  forward = flops(total, trained, kept)
  work = {how: count / forward for how, count in work.items()}
  assert work["frozen"] < 1.2 < 2 < work["full"]


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_has_one_sharding_rule(name):
  mesh = make_mesh(data=4, fsdp=2)
  whole = name in ("clip", "siglip", "dino", "blip", "qwen_vl")
  options = {"size": "tiny"} if whole else {}
  model = RewardModel(
    BACKBONES[name](**options), HEADS["scalar"](), train="lora", rank=2
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  trained = {"head": shapes["head"], "backbone": model.adapter_shapes()}
  for tree in (shapes, trained):  # one left out, or claimed twice, is an error
    specs = sharding.param_specs(tree, model.sharding_rules, mesh)
    assert specs["head"]["head_out"]["kernel"] == jax.P()


def test_offers_are_the_pairs_of_a_row():
  value = np.array([[1.0, 2.0, 4.0]])
  rating = np.array([[0.1, np.nan, 0.5]])
  prob = np.full((1, 3, 3), np.nan)
  prob[0, 0, 2] = 0.0
  rows = preferences.some_rows(1, 3).replace(prob=prob, rating=rating)
  arrays = {"value": value, "std": 2 * value}
  found = offers(HEADS["gaussian"](), arrays, rows)
  np.testing.assert_array_equal(found["scores"], [[[1, 2], [1, 4], [2, 4]]])
  np.testing.assert_array_equal(found["stds"], [[[2, 4], [2, 8], [4, 8]]])
  np.testing.assert_array_equal(found["label_prob"], [[np.nan, 0, np.nan]])
  np.testing.assert_array_equal(found["mask"], [[False, True, False]])
  np.testing.assert_allclose(found["strength"], [[np.nan, 0.4, np.nan]])


def test_parts_that_do_not_fit():
  with pytest.raises(UserError, match="cosine of a pair of towers"):
    RewardModel(BACKBONES["scenes"](), HEADS["similarity"]())
  with pytest.raises(UserError, match="one of full, frozen, lora"):
    make(train="half")
  with pytest.raises(UserError, match='size="big" is not known'):
    BACKBONES["siglip"](size="big")
  with pytest.raises(UserError, match="matches no dense layer"):
    make(train="lora", targets="nothing").adapter_shapes()
