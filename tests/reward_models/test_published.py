"""What published trainers do: their losses, frozen layers and public files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.vision import aesthetic, blip
from jaxreward.reward_models import (
  BACKBONES,
  HEADS,
  RewardModel,
  bradley_terry,
)
from jaxreward.setup import public_reward_models
from jaxreward.training import optimizer
from tests.reward_models.test_backbones import IMAGES
from tests.reward_models.test_towers import drawn, tokens_of


def test_pick_scores_loss_is_bradley_terry_of_logits():
  """Two-way cross entropy with soft labels; ties are less log 2 there."""
  logits = np.array([[21.0, 20.0], [18.0, 19.5], [20.0, 20.4]])
  labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
  log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  each = -(labels * log_prob).sum(1)
  found = bradley_terry(logits.astype(np.float32), labels[:, 0])
  np.testing.assert_allclose(found.total / found.weight, each.mean(), rtol=1e-5)
  each[2] += np.log(0.5)  # their shift, which has no gradient
  assert each[2] == pytest.approx(np.log(np.cosh(0.2)), abs=1e-9)


@pytest.mark.job
@pytest.mark.turns(3)
def test_last_layers_alone_are_trained():
  shapes = jax.eval_shape(
    BACKBONES["clip"](size="tiny").init, jax.random.key(0)
  )
  params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
  first = BACKBONES["clip"](size="tiny").first
  mask = optimizer.last_layers(params, {"text": 1, "vision": 0}, first)
  tx = optimizer.masked(
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    lambda _: mask,
  )
  grads = jax.tree.map(lambda x: np.full_like(x, 7.0), params)
  updates, _ = tx.update(grads, tx.init(params), params)
  text, vision = updates["text"], updates["vision"]
  for name in ("token", "position"):
    assert not np.any(text[name])
  kernel = np.asarray(text["stack"]["layers"]["qkv"]["kernel"])
  assert not kernel[0].any() and (kernel[1] < 0).all()
  assert not np.any(vision["stack"]["layers"]["up"]["kernel"])
  assert not np.any(vision["patches"]["embedding"]["kernel"])
  assert not np.any(vision["norm_in"]["scale"])
  for after in (text["norm"]["scale"], vision["projection"]["kernel"]):
    assert (np.asarray(after) < 0).all()
  # What is held counts for no norm.
  held = optax.tree.norm(jax.tree.map(lambda g, m: g * m, grads, mask))
  seen = optimizer.masked(optax.clip_by_global_norm(1.0), lambda _: mask)
  clipped, _ = seen.update(grads, seen.init(params), params)
  np.testing.assert_allclose(clipped["logit_scale"], 7 / held, rtol=1e-4)
  only = optimizer.last_layers(params, {}, first, frozen="^vision/")
  shares = {
    name: {float(x) for x in jax.tree.leaves(only[name])} for name in only
  }
  assert shares.pop("vision") == {0.0} and set().union(*shares.values()) == {
    1.0
  }
  for counts, words in (({"text": 3}, "has 2 layers"), ({"txt": 1}, "no such")):
    with pytest.raises(UserError, match=words):
      optimizer.last_layers(params, counts, first)


def test_parts_have_optimizers_of_their_own():
  params = {"backbone": {"a": jnp.ones(3)}, "head": {"b": jnp.ones(2)}}
  tx = optimizer.by_part({
    "head": optax.sgd(0.1),
    "backbone": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)),
  })  # fmt: skip
  grads = jax.tree.map(lambda x: 3.0 * x, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates["head"]["b"], -0.3, rtol=1e-6)
  np.testing.assert_allclose(updates["backbone"]["a"], -(3**-0.5), rtol=1e-6)


def written(name, head, folder, train="full"):
  """(model, parameters) written in the public layout into a folder."""
  model = RewardModel(BACKBONES[name](size="tiny"), HEADS[head](), train=train)
  params = jax.tree.map(jnp.asarray, drawn(model))
  public_reward_models.write(epath.Path(folder), model, params)
  return model, params


@pytest.mark.job
@pytest.mark.turns(3)
def test_files_have_the_published_names(tmp_path):
  _, params = written("blip", "layered", tmp_path / "ir")
  whole = {**params["backbone"], "head": params["head"]}
  config = BACKBONES["blip"](size="tiny").public
  assert config and config.stem == "ImageReward"
  stored = hub.open_weights(tmp_path / "ir/ImageReward.safetensors")
  from jaxreward.reward_models.towers import TINY_BLIP

  named = convert.to_public(whole, blip.rules_of(TINY_BLIP))
  assert set(stored) == set(named) and "mlp.layers.7.bias" in stored
  for key in ("mlp.layers.0.weight", "blip.visual_encoder.norm.weight"):
    np.testing.assert_array_equal(stored[key].read(), named[key])
  head = RewardModel(
    BACKBONES["clip"](size="tiny"), HEADS["layered"](reads="image")
  )
  public_reward_models.write(epath.Path(tmp_path / "aes"), head, drawn(head))
  back = convert.load_params(
    tmp_path / "aes/head.safetensors", aesthetic.RULES, aesthetic.shapes(16)
  )
  np.testing.assert_array_equal(
    back["layer_2"]["kernel"], drawn(head)["head"]["layer_2"]["kernel"]
  )
  with pytest.raises(UserError, match="no published layout"):
    written("clip", "scalar", tmp_path / "no")


@pytest.mark.parity
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_trained_pair_is_read_by_transformers(name, tmp_path):
  """The authors' own loader gives the same scores."""
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  model, params = written(name, "similarity", tmp_path)
  record = json.loads((tmp_path / "config.json").read_text())
  assert record["model_type"] == name
  theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
  assert (
    type(theirs).__name__
    == {"clip": "CLIPModel", "siglip": "SiglipModel"}[name]
  )
  from jaxreward.models.vision import encoders
  from jaxreward.reward_models import backbones

  drawn_of = {"clip": encoders.drawn_clip, "siglip": encoders.drawn_siglip}[
    name
  ]
  tiny = {"clip": backbones.TINY_CLIP, "siglip": backbones.TINY_SIGLIP}[name]
  prepared = drawn_of(tiny, "float32", 0).encoder.prepared
  tokens = tokens_of(model.backbone)
  pixels = np.asarray(prepared(IMAGES.reshape(-1, *IMAGES.shape[2:])))
  with torch.no_grad():
    out = theirs(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2),
    )
  logits = out.logits_per_text.reshape(2, 2, 3).numpy()  # text, row, image
  expected = np.stack([logits[0, 0], logits[1, 1]])
  found, _ = jax.jit(model.score_groups)(params, IMAGES, tokens)
  np.testing.assert_allclose(found, expected, atol=1e-5)
