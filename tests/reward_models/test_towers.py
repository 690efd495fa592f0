"""Every backbone under one contract; noise levels, sources and frames."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from jaxreward.errors import UserError
from jaxreward.models.policies import scene_dit, sd3, trunk
from jaxreward.models.vision import blip
from jaxreward.reward_models import BACKBONES, HEADS, RewardModel, inputs
from jaxreward.reward_models.towers import TINY_BLIP, noisy, trunk_of
from jaxreward.rewards import image_reward
from jaxreward.setup import reward_model
from jaxreward.training import weights
from tests.reward_models.test_backbones import IMAGES, awake
from tests.rewards import folders

TINY = {
  "scenes": dict(width=16, depth=1, heads=1, stem=8, text_layers=1),
  "policy": dict(width=16, depth=1, heads=1, text_layers=1),
  "stitched": dict(width=16, depth=1, first=1, heads=1, stem=8, text_layers=1),
} | {
  name: dict(size="tiny")
  for name in ("clip", "siglip", "dino", "blip", "qwen_vl")
}
# Source images and frames that are read apart, where a backbone takes them.
APART = {
  name: {} if name == "qwen_vl" else dict(context=True, frames="attention")
  for name in TINY
}
WORDS = np.array([[3, 11, 16, 0, 0, 0, 0, 0], [4, 12, 21, 7, 1, 0, 0, 0]])


def model_of(name, **how):
  backbone = BACKBONES[name](**TINY[name])
  return RewardModel(backbone, HEADS["scalar"](hidden=8), **how)


def drawn(model):
  """Parameters of which none is zero, without a program that draws them."""
  return folders.drawn(jax.eval_shape(model.init, jax.random.key(0)), scale=0.2)


def tokens_of(backbone):
  texts = ["a cat on a mat", "Zwölf Boxkämpfer"]
  return backbone.read(texts) if backbone.read else WORDS


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_keeps_the_contract(name):
  """Features have their names; scores follow pictures, words, and nothing else.

  With a source picture and frames of clips, all in one program.
  """
  model = model_of(name, **APART[name])
  backbone = model.backbone
  params = drawn(model)
  tokens = tokens_of(backbone)
  assert tokens.shape == (2, backbone.length)
  shapes = jax.eval_shape(backbone.features, params["backbone"], IMAGES, tokens)
  assert set(backbone.gives) <= {*shapes, "prompt"}
  for key in set(inputs.PER_IMAGE) & set(shapes):
    assert shapes[key].shape[:2] == (2, 3)

  clips = np.stack([IMAGES, IMAGES[:, ::-1], IMAGES[:, :, ::-1]], 2)
  source = IMAGES[:, 0, ::-1].copy()
  source[1] = np.nan

  @jax.jit
  def score(params, clips, tokens, source):
    source = source if model.context else None
    return model.score_groups(params, clips, tokens, context=source)[0]

  base = np.asarray(score(params, clips, tokens, source))
  assert base.shape == (2, 3) and np.isfinite(base).all()
  gap = lambda x: np.abs(np.asarray(x) - base)
  order = [2, 0, 1]  # of the group
  moved = score(params, clips[:, order], tokens, source)
  np.testing.assert_allclose(moved, base[:, order], atol=2e-5)
  assert gap(score(params, clips[..., ::-1], tokens, source)).min() > 1e-6
  assert gap(score(params, clips, tokens, source[..., ::-1])).min() < 1e-6
  if model.context:
    assert gap(score(params, clips, tokens, source + 0.2))[0].min() > 1e-6
  if name != "dino":  # which reads no word
    assert gap(score(params, clips, tokens[::-1], source)).min() > 1e-6


@pytest.mark.turns(2)
def test_words_reach_an_image_tower_through_cross_attention():
  backbone = BACKBONES["dino"](size="tiny")
  model = RewardModel(backbone, HEADS["cross"](width=8, hidden=4))
  params = drawn(model)
  tokens = tokens_of(backbone)
  score = jax.jit(lambda t: model.score_groups(params, IMAGES, t)[0])
  base = np.asarray(score(tokens))
  assert np.abs(score(tokens[::-1]) - base).min() > 1e-6
  # Padding is not read, nor the order of the words.
  flipped = np.where(tokens > 0, tokens, 0)
  count = (tokens > 0).sum(1).min()
  flipped[:, :count] = flipped[:, :count][:, ::-1]
  np.testing.assert_allclose(score(flipped), base, atol=1e-5)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_source_asks_an_image():
  """The query "context": invariant to the order of the source's tokens."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  features = {
    "joint": draw(2, 3, 4), "states": draw(2, 3, 5, 4),
    "context_states": draw(2, 6, 4), "context_mask": jnp.ones((2, 6), bool),
  }  # fmt: skip
  head = HEADS["cross"](query="context", width=4, hidden=0)
  params = awake(head.init(jax.random.key(0), features))
  value = head.outputs(params, features)["value"]
  turned = features | {"context_states": features["context_states"][:, ::-1]}
  again = head.outputs(params, turned)["value"]
  np.testing.assert_allclose(again, value, atol=1e-5)
  assert np.abs(head.outputs(params, features | {
    "context_states": features["context_states"][::-1]
  })["value"] - value).min() > 1e-5  # fmt: skip
  with pytest.raises(UserError, match="reads context_states"):
    RewardModel(BACKBONES["clip"](size="tiny"), head)


def test_frames_are_averaged_or_attended():
  rng = np.random.default_rng(0)
  joint = rng.standard_normal((2, 3 * 4 + 1, 5)).astype(np.float32)
  raw = {"joint": joint, "logit": joint[..., 0], "states": joint[:, :, None, :]}
  raw = jax.tree.map(jnp.asarray, raw)
  frames = joint[:, :12].reshape(2, 3, 4, 5)
  found = inputs.over_frames(raw, 3, 4)
  np.testing.assert_allclose(found["joint"][:, :3], frames.mean(2), atol=1e-6)
  np.testing.assert_array_equal(found["joint"][:, 3], joint[:, 12])
  np.testing.assert_allclose(
    found["logit"][:, :3], frames[..., 0].mean(2), atol=1e-6
  )
  assert found["states"].shape == (2, 4, 4, 5)
  np.testing.assert_array_equal(found["states"][:, :3], frames)
  weights = rng.standard_normal(5)
  logit = frames.astype(np.float64) @ weights / 5**0.5
  share = np.exp(logit) / np.exp(logit).sum(-1, keepdims=True)
  found = inputs.over_frames(raw, 3, 4, weights.astype(np.float32))
  expected = (frames * share[..., None]).sum(2)
  np.testing.assert_allclose(found["joint"][:, :3], expected, atol=1e-5)
  same = inputs.over_frames(raw, 3, 4, np.zeros(5, np.float32))
  np.testing.assert_allclose(same["joint"][:, :3], frames.mean(2), atol=1e-6)


POLICIES = {
  "scene_dit": lambda: (
    scene_dit.make_policy(width=16, depth=2, heads=1, text_layers=1),
    jnp.asarray(WORDS),
  ),
  "sd3": lambda: (
    sd3.make_policy(size="tiny", latent_side=4, words=3, dtype="float32"),
    {"words": jnp.ones((2, 3, 24)), "pooled": jnp.ones((2, 20))},
  ),
}


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", POLICIES)
def test_last_states_are_those_that_make_the_velocity(name):
  policy, prompts = POLICIES[name]()
  params = jax.tree.map(jnp.asarray, drawn(policy))
  x = jax.random.normal(jax.random.key(1), (2, *policy.latent_shape))
  t = jnp.array([0.3, 0.8])

  @jax.jit
  def both(x, t):
    cond = policy.encode(params, prompts)
    states = trunk.last_states(policy, params, x, t, cond)
    return states, policy.velocity(params, x, t, cond)

  states, velocity = both(x, t)
  last = params[trunk.LAST]
  pixels = np.asarray(states) @ last["kernel"] + last["bias"]
  patch = round((pixels.shape[-1] // x.shape[-1]) ** 0.5)
  side = x.shape[1] // patch
  pixels = pixels.reshape(2, side, side, patch, patch, -1).swapaxes(2, 3)
  made = pixels.reshape(x.shape)
  if name == "scene_dit":
    made = scene_dit.velocity_from_x0(x, made, t)
  np.testing.assert_allclose(made, velocity, atol=2e-4)


def test_noise_is_shared_in_a_row_and_addressed_by_its_key():
  x = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 3))
  x[:, 1] = x[:, 0]
  keys = jax.random.split(jax.random.key(5), 2)
  drawn = inputs.Noise(keys=keys)
  x_t, t = map(np.asarray, noisy(jnp.asarray(x), drawn, (0.2, 0.6), 0.0))
  assert ((t >= 0.2) & (t <= 0.6)).all() and (t[:, :1] == t).all()
  assert t[0, 0] != t[1, 0]
  np.testing.assert_array_equal(x_t[:, 0], x_t[:, 1])
  level = t[..., None, None, None]
  eps = (x_t - (1 - level) * x) / level
  np.testing.assert_allclose(eps[:, 2], eps[:, 0], atol=1e-4)
  assert np.abs(eps[0, 0] - eps[1, 0]).max() > 0.1
  swapped, _ = noisy(jnp.asarray(x[::-1]), inputs.Noise(keys=keys[::-1]),
                     (0.2, 0.6), 0.0)  # fmt: skip
  np.testing.assert_array_equal(swapped[::-1], x_t)
  clean, t = noisy(jnp.asarray(x), inputs.CLEAN, (0.0, 1.0), 0.0)
  np.testing.assert_allclose(clean, x, rtol=1e-6)
  assert not t.any()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_policys_trunk_scores_noisy_latents_at_their_time():
  model = model_of("policy")
  params = drawn(model)
  time = jnp.array([0.3, 0.7])
  score = jax.jit(model.score_groups)
  latents = jax.jit(model.score_latents)
  base = score(params, IMAGES, WORDS, time=time)[0]
  x_t, t = noisy(
    jnp.asarray(2 * IMAGES - 1), inputs.Noise(time), (0.0, 1.0), 0.0
  )
  np.testing.assert_allclose(latents(params, x_t, WORDS, t)[0], base, atol=1e-5)
  other = latents(params, x_t, WORDS, t + 0.2)[0]
  assert np.abs(np.asarray(other - base)).min() > 1e-6
  with pytest.raises(UserError, match="clean images alone"):
    model_of("clip").score_latents({}, x_t, WORDS, t)
  with pytest.raises(UserError, match="times lie in"):
    trunk_of(scene_dit.make_policy(width=16, heads=1), 8, 0.5, 0.5)


def test_a_trunk_starts_from_the_first_blocks_of_a_policy():
  deep = scene_dit.make_policy(width=16, depth=3, heads=1, text_layers=1)
  theirs = drawn(deep)
  backbone = BACKBONES["policy"](**TINY["policy"])
  assert backbone.from_policy
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  mine = backbone.from_policy(shapes, theirs)
  first = jax.tree.map(lambda x: x[:1], theirs["blocks"])
  jax.tree.map(np.testing.assert_array_equal, mine["blocks"], first)
  np.testing.assert_array_equal(mine["place"], theirs["place"])


@pytest.mark.turns(2)
def test_blip_with_five_layers_is_image_reward():
  params = folders.drawn(blip.shapes(TINY_BLIP), scale=0.3)
  backbone = BACKBONES["blip"](size="tiny", microbatch=2)
  model = RewardModel(backbone, HEADS["layered"]())
  tokens = tokens_of(backbone)
  prepare = lambda texts: {"text": tokens, "mask": tokens > 0}
  loaded = image_reward.loaded(TINY_BLIP, params, prepare, "float32", 0)
  theirs = image_reward.image_reward(
    IMAGES, folders.prompts()[0], params=params, **loaded.static, **prepare([])
  )["image_reward"]  # fmt: skip
  whole = {
    "backbone": {k: params[k] for k in ("vision", "text")},
    "head": params["head"],
  }
  mine, _ = jax.jit(model.score_groups)(whole, IMAGES, tokens)
  mine = (mine - image_reward.MEAN) / image_reward.STD
  np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
  drawn = model.head.init(jax.random.key(0), {"joint": jnp.zeros((1, 1, 768))})
  assert 0.9 < float(drawn["layer_0"]["kernel"].std()) * 769 < 1.1


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_is_saved_and_read_back_as_a_reward(name, tmp_path):
  section = ConfigDict(
    dict(
      backbone=dict(name=name, **TINY[name]),
      head=dict(name="scalar", hidden=8),
      train="full", rank=1, alpha=1.0, targets="out$",
      **{"context": False, "frames": "mean", **APART[name]},
    )
  )  # fmt: skip
  config = ConfigDict(dict(reward_model=section))
  model = reward_model.make(config)
  params = drawn(model)
  path = epath.Path(tmp_path) / reward_model.MODEL_FILE
  weights.save_params(path, params)
  record = dict(model=reward_model.record_of(section), mean=0.5, std=2.0)
  (tmp_path / reward_model.RECORD_FILE).write_text(json.dumps(record))
  loaded = reward_model.load(path)
  assert loaded.scorer.context == section.context
  assert loaded.scorer.frames == section.frames
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  words = "scenes" if name in ("scenes", "policy", "stitched") else None
  assert reward_model.language_of(path) == words
  plain = reward_model.record_of(ConfigDict(dict(section, context=False)))
  assert "context" not in plain
  assert plain.get("frames", "mean") == section.frames
