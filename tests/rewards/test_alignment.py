"""Published text-image rewards: from a folder of weights to a score."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.models.vision import encoders, preprocess, words
from jaxreward.rewards import score
from jaxreward.setup import rewards as reward_setup
from jaxreward.training import mesh as mesh_lib
from tests import tiny
from tests.rewards import folders

pytest.importorskip("transformers")
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return folders.clip_folder(tmp_path_factory.mktemp("clip"))


def load(fn, weights, **options):
  """A published reward, by its weights."""
  return folders.load(fn, **{"weights": weights, **options})


@functools.cache
def peer_features(folder, size=(40, 40)):
  """(image features [P, G, E], text features [P, E], scale) by transformers."""
  torch = pytest.importorskip("torch")
  import transformers

  model = transformers.CLIPModel.from_pretrained(folder).eval()
  tokens = transformers.AutoTokenizer.from_pretrained(folder)
  side = folders.SIDE
  processor = transformers.CLIPImageProcessorPil(
    size={"shortest_edge": side}, crop_size={"height": side, "width": side}
  )
  _, texts = folders.prompts()
  pictures = folders.pictures(size=size)
  flat = (pictures.reshape(-1, *pictures.shape[2:]) * 255).round()
  flat = [Image.fromarray(x.astype(np.uint8)) for x in flat]
  with torch.no_grad():
    ids = tokens(texts, padding=True, return_tensors="pt")["input_ids"]
    pixels = processor(flat, return_tensors="pt")["pixel_values"]
    out = model(input_ids=ids, pixel_values=pixels)
  image = out.image_embeds.numpy().reshape(*pictures.shape[:2], -1)
  return image, out.text_embeds.numpy(), model.logit_scale.exp().item()


@pytest.mark.parity
@pytest.mark.parametrize(
  ("fn", "scaling", "size"),
  [
    ("clip_score", lambda cos, scale: scale * cos / 30, (40, 40)),
    (
      "clip_score_hessel",
      lambda cos, scale: 2.5 * np.maximum(cos, 0),
      (20, 20),
    ),
    ("pick_score", lambda cos, scale: scale * cos / 26, (60, 45)),
    ("pick_score", lambda cos, scale: scale * cos / 26, (30, 70)),
  ],
)
def test_scores_equal_the_peers(fn, scaling, size, folder):
  batch, _ = folders.prompts()
  image, text, scale = peer_features(folder, size)
  expected = scaling(np.einsum("pge,pe->pg", image, text), scale)
  found, failed = score(load(fn, folder), folders.pictures(size=size), batch)
  # A pixel in a thousand is one level of 256 away from Pillow's.
  np.testing.assert_allclose(found["mine"], expected, atol=5e-4)
  assert int(failed["mine"]) == 0
  assert np.std(expected) > 5e-3


@pytest.mark.parity
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_goal_baseline_projection(strength, folder):
  batch, _ = folders.prompts()
  image, text, _ = peer_features(folder)
  encoder = encoders.load(str(folder))
  ids = encoders.tokenizer(folder, folders.LENGTH)(["a picture"])
  base = encoders.text_features(encoder.encoder, encoder.params, ids)
  base, image, text = (
    np.asarray(x, np.float64) for x in (base[0], image, text)
  )
  expected = np.zeros(image.shape[:2])
  for p, g in np.ndindex(*expected.shape):
    way = (text[p] - base) / np.linalg.norm(text[p] - base)
    onto = base + way * (way @ (image[p, g] - base))
    mixed = strength * onto + (1 - strength) * image[p, g]
    expected[p, g] = 1 - 0.5 * np.sum((mixed - text[p]) ** 2)
  reward = load("clip_goal", folder, baseline="a picture", strength=strength)
  found, _ = score(reward, folders.pictures(), batch)
  np.testing.assert_allclose(found["mine"], expected, atol=1e-4)
  if strength == 0:
    cosine = np.einsum("pge,pe->pg", image, text)
    np.testing.assert_allclose(found["mine"], cosine, atol=1e-4)


def test_bfloat16_and_few_pictures_at_once(folder):
  batch, _ = folders.prompts()
  whole, _ = score(load("hps_v2", folder), folders.pictures(), batch)
  few = load("hps_v2", folder, microbatch=4)
  found, _ = score(few, folders.pictures(), batch)
  np.testing.assert_allclose(found["mine"], whole["mine"], atol=1e-6)
  half = load("hps_v2", folder, dtype="bfloat16")
  assert half["mine"].context["params"]["text"]["token"].dtype == jnp.bfloat16
  found, _ = score(half, folders.pictures(), batch)
  np.testing.assert_allclose(found["mine"], whole["mine"], atol=2e-2)


def test_a_picture_that_is_not_finite_fails_alone(folder):
  batch, _ = folders.prompts()
  images = folders.pictures()
  whole, _ = score(load("hps_v2", folder), images, batch)
  images[1, 2, 0, 0, 0] = np.nan
  found, failed = score(load("hps_v2", folder), images, batch)
  assert int(failed["mine"]) == 1
  kept = np.ones((2, 3), bool)
  kept[1, 2] = False
  np.testing.assert_array_equal(np.isfinite(found["mine"]), kept)
  np.testing.assert_allclose(
    np.asarray(found["mine"])[kept], np.asarray(whole["mine"])[kept], atol=1e-6
  )


def test_the_gradient_raises_the_score(folder):
  """Rounding to eight bits does not stop it."""
  batch, _ = folders.prompts()
  reward = load("hps_v2", folder)["mine"]
  context = {**reward.context, **reward.prepare(folders.prompts()[1])}
  total = jax.jit(lambda x: reward.fn(x, batch, **context)["hps_v2"].sum())
  images = 0.1 + 0.8 * folders.pictures()
  slope = jax.grad(total)(images)
  step = 0.05 * slope / jnp.abs(slope).max()
  assert total(images + step) > total(images) + 0.3 * jnp.sum(step * slope)


def test_weights_are_cut_over_the_mesh(folder, monkeypatch):
  many = lambda config: mesh_lib.make_mesh(2, 2, 2)
  batch, _ = folders.prompts()
  whole, _ = score(load("hps_v2", folder), folders.pictures(), batch)
  monkeypatch.setattr(setup, "make_mesh", many)
  reward = load("hps_v2", folder)
  stack = reward["mine"].context["params"]["vision"]["stack"]["layers"]
  kernel = stack["qkv"]["kernel"]
  assert math.prod(kernel.sharding.shard_shape(kernel.shape)) * 4 == kernel.size
  with jax.set_mesh(many(None)):
    found, _ = score(reward, folders.pictures(), batch)
  np.testing.assert_allclose(found["mine"], whole["mine"], atol=1e-5)


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"weights": "/nowhere/at/all"}, "no such file or folder"),
    ({"microbatches": 2}, 'did you mean "microbatch"'),
    ({"divisor": "x"}, "expected float"),
    ({"size": "vit_h"}, 'did you mean "vit_h_14"'),
    ({"encoder": 1}, "given by the program"),
  ],
)
def test_what_is_wrong_is_said_under_the_entrys_name(options, said, folder):
  with pytest.raises(UserError) as error:
    load("pick_score", **{"weights": folder, **options})
  assert "config.rewards.mine" in str(error.value)
  assert said in str(error.value)


def test_a_reward_without_weights_asks_for_them():
  config = tiny.load(
    "align_scenes.py:smoke", {"rewards.detector.fn": "pick_score"}
  )
  with pytest.raises(UserError, match='lacks "weights"'):
    reward_setup.bind(config)


def test_a_folder_without_a_tokenizer_says_what_to_put_there(folder, tmp_path):
  for name in ("config.json", "model.safetensors"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  with pytest.raises(UserError, match=r"tokenizer\.json"):
    load("pick_score", tmp_path)
  found = load("pick_score", tmp_path, tokenizer=str(folder))
  assert found["mine"].prepare(["a circle"])["text"].shape == (
    1,
    folders.LENGTH,
  )


def test_a_mark_in_a_prompt_is_read_as_text(tmp_path):
  """Also where it is the tokenizer's padding, as "!" is in some."""
  import transformers

  folders.save_tokenizer(tmp_path)
  tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)
  tokens.pad_token = "circle"
  tokens.save_pretrained(tmp_path)
  ids = lambda **options: encoders.tokenizer(tmp_path, 6, **options)(
    ["a circle"]
  )[0].tolist()
  at = folders.words().index
  text = [at(folders.BOS), at("a"), at("circle"), at(folders.EOS)]
  assert ids(literal=True) == [*text, at("circle"), at("circle")]
  assert ids(wording=lambda text: "a a")[2] == at("a")


def test_texts_are_mended():
  pytest.importorskip("ftfy")
  mend = words.cleaner()
  assert mend("  A caf\u00c3\u00a9 \n&amp;amp; \u201cBar\u201d!") == (
    'a caf\u00e9 & "bar"!'
  )
  assert mend("a red circle, two squares") == "a red circle, two squares"


def test_words_before_prompts_are_read(folder):
  _, texts = folders.prompts()
  ids = lambda **options: load("clip_score_hessel", folder, **options)[
    "mine"
  ].prepare(texts)["text"]
  assert (ids(prefix="picture ")[:, 2:] == ids()[:, 1:-1]).all()
  assert (ids() != ids(prefix="picture ")).any()


def pillow(x, size, method):
  """Pillow's resize of one picture of eight bits."""
  picture = Image.fromarray((x * 255).round().astype(np.uint8))
  return np.asarray(picture.resize(size[::-1], method), np.float32) / 255


@pytest.mark.parametrize(
  "size", [(36, 36), (64, 48), (37, 225), (224, 224), (300, 250)]
)
@pytest.mark.parametrize("method", ["cubic", "linear"])
def test_resizing_is_pillows(size, method):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, (1, *size, 3)).astype(np.float32) / 255
  number = {
    "cubic": Image.Resampling.BICUBIC,
    "linear": Image.Resampling.BILINEAR,
  }
  found = preprocess.resize(jnp.asarray(x), (64, 56), method)[0]
  expected = pillow(x[0], (64, 56), number[method])
  gap = np.abs(np.asarray(found) - expected) * 255
  assert gap.max() < 1.01
  assert (gap > 0.5).mean() < 0.03  # ties of halves


def test_a_preprocessor_config_is_followed():
  default = preprocess.Preprocess((224, 224), 224)
  clip = {
    "crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 30},
    "resample": 2, "do_center_crop": True, "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
  }  # fmt: skip
  assert preprocess.of_record(clip, default) == preprocess.Preprocess(
    (24, 24), 30, "linear", (0.5,) * 3, (0.25,) * 3
  )
  old = {"crop_size": 24, "size": 30, "do_center_crop": True, "resample": 3}
  assert preprocess.of_record(old, default) == preprocess.Preprocess(
    (24, 24), 30
  )
  whole = {"size": {"height": 20, "width": 30}, "do_center_crop": False}
  assert preprocess.of_record(whole, default) == preprocess.Preprocess((20, 30))
  silent = {"resample": None, "crop_size": None, "image_mean": None}
  for record in ({}, silent):
    assert preprocess.of_record(record, default) == default


def test_open_clips_config_says_how_pictures_fit():
  default = preprocess.Preprocess((24, 24), 24)
  of = lambda **cfg: preprocess.of_open_clip(
    {"preprocess_cfg": cfg}, default, "x"
  )
  assert of() == preprocess.of_open_clip({}, default, "x") == default
  assert of(resize_mode="squash", mean=[0.5] * 3).edge == 0
  assert of(resize_mode="longest").padded and not of().padded
  assert of(interpolation="bilinear").method == "linear"
  with pytest.raises(UserError, match='preprocess_cfg: resize_mode="fit"'):
    of(resize_mode="fit")


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"crop_size": {"shortest_edge": 224}},
     'crop_size={"shortest_edge": 224}; expected pixels or {"height": pixels'),
    ({"crop_size": 0}, "crop_size=0; expected pixels or"),
    ({"size": [224]}, 'size=[224]; expected pixels or {"shortest_edge": pixels'),
    ({"do_center_crop": False, "size": {"height": 224}},
     'size={"height": 224}; expected pixels or {"height": pixels, "width"'),
    ({"resample": "cubic"}, 'resample="cubic"; expected a number'),
    ({"image_mean": 0.5}, "image_mean=0.5; expected three numbers"),
    ({"image_std": [0.5, "a", 1]}, 'image_std=[0.5, "a", 1]; expected three'),
  ],
)  # fmt: skip
def test_a_preprocessor_config_of_another_form_names_the_field(
  record, said, tmp_path
):
  (tmp_path / "preprocessor_config.json").write_text(json.dumps(record))
  with pytest.raises(UserError) as error:
    preprocess.read(str(tmp_path), preprocess.Preprocess((224, 224), 224))
  start = f"{tmp_path}: preprocessor_config.json: "
  assert str(error.value).startswith(start + said)


def test_a_config_that_is_no_object_is_refused(tmp_path):
  (tmp_path / "config.json").write_text("[1]")
  with pytest.raises(UserError, match=r"config.json holds \[1\]"):
    encoders.load(str(tmp_path))
