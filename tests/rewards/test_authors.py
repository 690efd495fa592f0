"""Published rewards against their authors' own code, on pictures of any shape.

See `authors` for where that code lies; without it these tests are skipped.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreward.models.vision import encoders, preprocess, words
from jaxreward.rewards import fidelity
from tests.rewards import authors, folders

pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SIDE = folders.SIDE
# Square, wide, tall, larger and smaller than the tower's pictures; the rests
# that are cut or padded are even and odd, and one where halves go up. None so
# tall that Pillow 13 resizes its rows first, which others did not.
SHAPES = [(40, 40), (30, 70), (34, 30), (15, 20), (20, 15), (35, 40)]
TEXTS = [
  "Wow!! A cat &amp;amp; a dog!",
  "a  caf\u00c3\u00a9,\n\tat \u201cnight\u201d",
  "plain words",
  "!",
]


def pillow(picture):
  return Image.fromarray((picture * 255).round().astype(np.uint8))


def prepared(given, images):
  """What `Preprocess` makes of pictures, channels first."""
  return np.asarray(given(images)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("shape", [*SHAPES, (75, 30)])
def test_hpsv2_pads_and_rounds_nothing(shape):
  transform = authors.hpsv2("transform").image_transform(
    SIDE, is_train=False, resize_longest_max=True
  )
  images = folders.pictures(1, 2, shape)[0]
  theirs = np.stack([transform(pillow(x)).numpy() for x in images])
  ours = preprocess.Preprocess((SIDE, SIDE), padded=True, levels=False)
  np.testing.assert_allclose(prepared(ours, images), theirs, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_reward_cuts_where_torchvision_does(shape):
  transform = authors.image_reward()["reward"]._transform(SIDE)
  images = folders.pictures(1, 2, shape)[0]
  theirs = np.stack([transform(pillow(x)).numpy() for x in images])
  ours = preprocess.Preprocess((SIDE, SIDE), SIDE, nearest=True)
  gap = np.abs(prepared(ours, images) - theirs) * 255 * 0.26
  assert gap.max() < 1.1 and (gap > 0.5).mean() < 0.02  # ties of halves


@pytest.mark.parametrize("fit", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_open_clip_fits_as_its_config_says(shape, fit):
  transform = authors.open_clip("transform").image_transform(
    SIDE, is_train=False, resize_mode=fit, interpolation="bilinear"
  )
  images = folders.pictures(1, 2, shape)[0]
  theirs = np.stack([transform(pillow(x)).numpy() for x in images])
  record = {"preprocess_cfg": {"resize_mode": fit, "interpolation": "bilinear"}}
  ours = preprocess.of_open_clip(
    record, preprocess.Preprocess((SIDE, SIDE), SIDE, nearest=True), "x"
  )
  gap = np.abs(prepared(ours, images) - theirs) * 255 * 0.26
  assert gap.max() < 1.1 and (gap > 0.5).mean() < 0.02


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_dinov3_resizes_without_rounding(shape):
  """As transformers does it: scaled, then resized by torchvision."""
  import torch

  functional = authors.torchvision()["torchvision.transforms.functional"]
  images = folders.pictures(1, 2, shape)[0]
  theirs = functional.resize(
    torch.tensor(images).permute(0, 3, 1, 2), [SIDE, SIDE],
    functional.InterpolationMode.BILINEAR, antialias=True,
  )  # fmt: skip
  ours = preprocess.Preprocess(
    (SIDE, SIDE), 0, "linear", (0.0,) * 3, (1.0,) * 3, levels=False
  )
  np.testing.assert_allclose(prepared(ours, images), theirs, atol=1e-5)


@pytest.fixture(scope="module")
def clip_tokens(tmp_path_factory):
  """CLIP's own vocabulary; texts are padded with "!", as Stable Diffusion's."""
  import transformers

  theirs = authors.hpsv2_tokenizer()._tokenizer
  marks = {
    "<start_of_text>": "<|startoftext|>",
    "<end_of_text>": "<|endoftext|>",
  }
  tokens = transformers.CLIPTokenizer(
    vocab={marks.get(w, w): i for w, i in theirs.encoder.items()},
    merges=list(theirs.bpe_ranks), pad_token="!",
  )  # fmt: skip
  folder = tmp_path_factory.mktemp("tokens")
  tokens.save_pretrained(folder)
  return folder


@pytest.fixture(scope="module")
def hps(tmp_path_factory, clip_tokens):
  """(HPSv2's own model, small; the folder that our reward reads)."""
  from tests.models import tower_peers

  text = dict(context_length=20, vocab_size=49408, width=32, heads=2, layers=2)
  vision = dict(
    image_size=SIDE, patch_size=7, width=32, head_width=16, layers=2
  )
  model = authors.hpsv2("model").CLIP(16, vision, text, output_dict=True)
  model = tower_peers.shake(model)
  folder = tmp_path_factory.mktemp("hps")
  for file in clip_tokens.iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  record = {"embed_dim": 16, "text_cfg": text, "vision_cfg": vision}
  (folder / "open_clip_config.json").write_text(
    json.dumps({"model_cfg": record})
  )
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  folders.save_tensors(folder / "open_clip_model.safetensors", state)
  return model, folder


def test_clips_texts_are_mended_and_keep_their_marks(clip_tokens):
  """Also what our tokenizers of transformers make of texts for HPSv2."""
  theirs = authors.hpsv2_tokenizer().tokenize(TEXTS, 20).numpy()
  ours = encoders.tokenizer(clip_tokens, 20, wording=words.clean, literal=True)(
    TEXTS
  )
  np.testing.assert_array_equal(ours, theirs)
  plain = encoders.tokenizer(clip_tokens, 20)(TEXTS)
  assert (plain[-1] != theirs[-1]).any()  # its "!" is read for padding


@pytest.mark.parametrize("shape", [(30, 70), (75, 30)])
def test_hpsv2_scores_equal_the_authors(shape, hps):
  import torch

  model, folder = hps
  tokens = authors.hpsv2_tokenizer()
  transform = authors.hpsv2("transform").image_transform(
    SIDE, is_train=False, resize_longest_max=True
  )
  images = folders.pictures(len(TEXTS), 2, shape)
  expected = np.zeros(images.shape[:2])
  with torch.no_grad():
    for p, g in np.ndindex(*expected.shape):
      pixels = transform(pillow(images[p, g]))[None]
      out = model(pixels, tokens.tokenize([TEXTS[p]], 20))
      expected[p, g] = out["image_features"] @ out["text_features"].T
  found = scores(folders.load("hps_v2", weights=folder), images)
  np.testing.assert_allclose(found, expected, atol=2e-6)
  assert np.std(expected) > 1e-2


def scores(rewards, images, texts=TEXTS):
  """Of the reward "mine" for any words."""
  reward = rewards["mine"]
  batch, _ = folders.prompts(len(images))
  given = {**reward.context, **reward.prepare(texts[: len(images)])}
  fn = jax.jit(lambda images, given: reward.fn(images, batch, **given))
  (found,) = fn(images, given).values()
  return np.asarray(found)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
  """(ImageReward's own class, small; the file of its state; its tokenizer)."""
  import transformers

  from tests.models import tower_peers

  model = tower_peers.shake(authors.small_image_reward(SIDE))
  folder = tmp_path_factory.mktemp("image_reward")
  folders.save_tokenizer(folder)
  model.blip.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  folders.save_tensors(folder / "model.safetensors", state)
  return model, folder


@pytest.mark.parametrize("shape", [(40, 40), (34, 30)])
def test_image_reward_loads_the_authors_state_and_equals_it(shape, judge):
  import torch

  model, folder = judge
  _, texts = folders.prompts(2)
  images = folders.pictures(2, 2, shape)
  expected = np.zeros((2, 2))
  with torch.no_grad():
    for p, g in np.ndindex(2, 2):
      expected[p, g] = model.score(texts[p], pillow(images[p, g]))
  found = scores(folders.load("image_reward", weights=folder), images, texts)
  assert np.std(expected) > 1e-2
  # A pixel in a hundred is one level of 256 away from Pillow's.
  np.testing.assert_allclose(found, expected, atol=2e-3 * np.std(expected))


def state_file(model, folder):
  file = folder / "weights.safetensors"
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  folders.save_tensors(file, state)
  return str(file)


def test_lpips_equals_the_authors(tmp_path):
  import torch

  torch.manual_seed(0)
  model = authors.lpips().LPIPS(
    net="alex", pretrained=False, pnet_rand=True, verbose=False
  )
  for line in model.lins:
    line.model[1].weight.data.abs_()
  loaded = fidelity.load_lpips(state_file(model, tmp_path), net="alex")
  a, b = np.random.default_rng(0).random((2, 1, 64, 95, 3)).astype(np.float32)
  move = lambda x: torch.tensor(x).permute(0, 3, 1, 2)
  with torch.no_grad():
    theirs = model(move(a), move(b), normalize=True)[:, 0, 0, 0]
  ours = jax.jit(loaded.static["distance"])(loaded.arrays["params"], a, b)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_dists_equals_the_authors_who_resize_large_pictures(tmp_path):
  import torch

  torch.manual_seed(0)
  model = authors.dists_without_weights()
  loaded = fidelity.load_dists(state_file(model, tmp_path))
  first, second = folders.pictures(2, 1, (260, 300))
  a, b = first[0], 1 - second[0] / 2
  pictures = [pillow(a), pillow(b)]
  move = lambda x: authors.dists().prepare_image(x, resize=True)
  with torch.no_grad():
    theirs = model(*map(move, pictures))
  a, b = (np.asarray(x, np.float32)[None] / 255 for x in pictures)
  ours = jax.jit(loaded.static["distance"])(loaded.arrays["params"], a, b)[0]
  np.testing.assert_allclose(ours, theirs, rtol=1e-3)
  assert float(ours) > 1e-2
