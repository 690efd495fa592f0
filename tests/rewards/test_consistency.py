"""Edits, sets of pictures and looks, by small towers from folders."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.models.vision import aesthetic, encoders
from jaxreward.rewards import fidelity, references, score
from tests.rewards import folders

pytest.importorskip("transformers")
pytestmark = pytest.mark.extras


def load(fn, weights, **options):
  """A published reward, by its weights."""
  return folders.load(fn, weights=weights, **options)


DINO = dict(
  model_type="dinov2", hidden_size=32, num_hidden_layers=2, mlp_ratio=2,
  num_attention_heads=2, image_size=28, patch_size=7,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return folders.clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
  from jaxreward.models import convert
  from jaxreward.models.vision import dino as towers

  folder = tmp_path_factory.mktemp("dino")
  (folder / "config.json").write_text(json.dumps(DINO))
  config = towers.config_of(DINO)
  params = folders.drawn(towers.shapes(config))
  named = convert.to_public(params, towers.rules_of(config))
  named["embeddings.mask_token"] = np.zeros((1, 32), np.float32)
  folders.save_tensors(folder / "model.safetensors", named)
  record = {
    "size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28},
    "resample": 3, "do_center_crop": True,
  }  # fmt: skip
  (folder / "preprocessor_config.json").write_text(json.dumps(record))
  return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  """(folder of references for two of three prompts, their pictures)."""
  folder = tmp_path_factory.mktemp("references")
  _, texts = folders.prompts(3)
  pictures = folders.pictures(3, 1, seed=5)[:, 0]
  lines = []
  for i, text in enumerate(texts[:2]):
    picture = (pictures[i] * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(folder / f"{i}.png")
    lines.append({"prompt": text, "image": f"{i}.png", "source": "a picture"})
  (folder / references.FILE).write_text("\n".join(map(json.dumps, lines)))
  return folder, pictures


def features(folder, images):
  found = encoders.load(str(folder), texts=False)
  return np.asarray(
    encoders.image_features(found.encoder, found.params, images)[0], np.float64
  )


def said(folder, texts):
  found = encoders.load(str(folder))
  ids = encoders.tokenizer(folder, folders.LENGTH)(texts)
  return np.asarray(
    encoders.text_features(found.encoder, found.params, ids), np.float64
  )


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_image_similarity_is_a_cosine(kind, given, clip, dino):
  weights = {"clip": clip, "dino": dino}[kind]
  folder, pictures = given
  batch, _ = folders.prompts(3)
  images = folders.pictures(3, 2)
  images[:, 0] = pictures
  reward = load(
    "image_similarity", weights, references=str(folder), image_size=40
  )
  found = np.asarray(score(reward, images, batch)[0]["mine"])
  seen, before = features(weights, images), features(weights, pictures)
  expected = np.einsum("pge,pe->pg", seen, before)
  np.testing.assert_allclose(found[:2], expected[:2], atol=1e-5)
  np.testing.assert_allclose(found[:2, 0], 1.0, atol=1e-5)
  assert np.isnan(found[2]).all()


def test_feature_distance_sees_where_things_are(given, dino):
  folder, pictures = given
  batch, _ = folders.prompts(3)
  images = np.stack([pictures, pictures[:, ::-1]], 1)
  reward = load("feature_distance", dino, references=str(folder), image_size=40)
  found = np.asarray(score(reward, images, batch)[0]["mine"])
  np.testing.assert_allclose(found[:2, 0], 0.0, atol=1e-5)
  assert (found[:2, 1] < -1e-3).all()
  target = np.concatenate([pictures[:2], np.full_like(pictures[:1], np.nan)])
  batch = dataclasses.replace(batch, target=target)
  tower = encoders.load(str(dino), texts=False)
  near = fidelity.feature_fidelity(
    jnp.asarray(images), batch, encoder=tower.encoder, params=tower.params
  )["feature_fidelity"]
  np.testing.assert_allclose(near[:2], found[:2], atol=1e-5)
  assert np.isnan(near[2]).all()


def test_feature_distance_needs_places(given, clip):
  folder, pictures = given
  batch, _ = folders.prompts(3)
  reward = load("feature_distance", clip, references=str(folder), image_size=40)
  with pytest.raises(UserError, match="use a DINO tower"):
    score(reward, pictures[:, None], batch)


def test_cross_image_is_the_mean_over_the_others(dino):
  batch, _ = folders.prompts()
  images = folders.pictures(2, 4)
  images[0, 3, 0, 0, 0] = np.nan
  images[1, 1:, 0, 0, 0] = np.nan
  found = score(load("cross_image", dino), images, batch)[0]["mine"]
  seen = features(dino, images)
  expected = np.full((2, 4), np.nan)
  for g in range(3):
    others = [h for h in range(3) if h != g]
    expected[0, g] = np.mean([seen[0, g] @ seen[0, h] for h in others])
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_edit_is_execution_and_preservation(given, clip):
  folder, pictures = given
  batch, texts = folders.prompts(3)
  images = folders.pictures(3, 2)
  images[:, 0] = pictures
  reward = load(
    "edit", clip, references=str(folder), image_size=40, preserve=0.25
  )
  found = np.asarray(score(reward, images, batch)[0]["mine"])
  seen, before = features(clip, images), features(clip, pictures)
  way = said(clip, texts) - said(clip, ["a picture"] * 3)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  move = seen[:, 1] - before
  execution = (unit(move) * unit(way)).sum(-1)
  kept = (seen[:, 1] * before).sum(-1)
  expected = 0.75 * execution + 0.25 * kept
  np.testing.assert_allclose(found[:2, 1], expected[:2], atol=1e-3)
  np.testing.assert_allclose(found[:2, 0], 0.25, atol=1e-3)
  assert np.isnan(found[2]).all()


def test_attributes_are_kept_by_the_same_picture(given, clip):
  folder, pictures = given
  batch, _ = folders.prompts(3)
  images = folders.pictures(3, 2)
  images[:, 0] = pictures
  names = ("a red circle", "two squares")
  reward = load(
    "attributes_kept", clip, references=str(folder), image_size=40,
    attributes=names,
  )  # fmt: skip
  found = np.asarray(score(reward, images, batch)[0]["mine"])
  change = features(clip, images) - features(clip, pictures)[:, None]
  expected = 1 - np.abs(change @ said(clip, list(names)).T).mean(-1)
  np.testing.assert_allclose(found[:2], expected[:2], atol=1e-5)
  np.testing.assert_allclose(found[:2, 0], 1.0, atol=1e-5)
  with pytest.raises(UserError, match="one or more texts"):
    load("attributes_kept", clip, references=str(folder), attributes="a circle")


@pytest.mark.parametrize("apart", [False, True])
def test_the_aesthetic_score(apart, clip, tmp_path):
  """Tower and head in one file, or the head in a file of its own."""
  from jaxreward.models import convert

  head = folders.drawn(aesthetic.shapes(16), scale=0.1)
  named = convert.to_public(head, aesthetic.RULES)
  batch, _ = folders.prompts()
  if apart:
    folders.save_tensors(tmp_path / "head.safetensors", named)
    reward = load("aesthetic", clip, head=str(tmp_path / "head.safetensors"))
  else:
    folders.clip_folder(tmp_path / "both", extra=named)
    reward = load("aesthetic", tmp_path / "both")
  assert "text" not in reward["mine"].context["params"]
  images = folders.pictures()
  found = score(reward, images, batch)[0]["mine"]
  x = features(clip, images)
  for n in (0, 2, 4, 6, 7):
    weight, bias = (named[f"layers.{n}.{k}"] for k in ("weight", "bias"))
    x = x @ weight.T.astype(np.float64) + bias
  np.testing.assert_allclose(found, x[..., 0], atol=1e-4)


def test_a_head_that_is_not_there(clip):
  with pytest.raises(UserError, match=r"it lacks layers\.0\.bias"):
    load("aesthetic", clip)
