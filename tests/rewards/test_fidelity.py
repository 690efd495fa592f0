"""Full-reference measures against float64, and references by prompt."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.models.vision import preprocess
from jaxreward.rewards import fidelity, references, score
from tests.rewards import folders


def pair(shape=(3, 40, 33, 3), seed=0):
  rng = np.random.default_rng(seed)
  a = rng.random(shape)
  return a, np.clip(a + 0.1 * rng.standard_normal(shape), 0, 1)


def gaussian_mean(x):
  """Windowed mean in float64, without what reaches over the border."""
  at = np.arange(11) - 5
  line = np.exp(-(at**2) / 4.5)
  line /= line.sum()
  for axis in (0, 1):
    x = scipy.ndimage.correlate1d(x, line, axis)
  return x[5:-5, 5:-5]


def ssim_parts(a, b):
  """(SSIM, contrast) of one channel in float64."""
  ma, mb = gaussian_mean(a), gaussian_mean(b)
  va = gaussian_mean(a * a) - ma**2
  vb = gaussian_mean(b * b) - mb**2
  both = gaussian_mean(a * b) - ma * mb
  c1, c2 = 0.01**2, 0.03**2
  contrast = (2 * both + c2) / (va + vb + c2)
  mean = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
  return (mean * contrast).mean(), contrast.mean()


def test_psnr():
  a, b = pair()
  expected = 10 * np.log10(1 / ((a - b) ** 2).mean((1, 2, 3)))
  np.testing.assert_allclose(fidelity.psnr(a, b), expected, rtol=1e-5)
  np.testing.assert_allclose(fidelity.psnr(a, a), 100.0, rtol=1e-6)


def test_ssim():
  a, b = pair()
  expected = [
    np.mean([ssim_parts(x[..., c], y[..., c])[0] for c in range(3)])
    for x, y in zip(a, b, strict=True)
  ]
  found = jax.jit(fidelity.ssim)(a, b)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  np.testing.assert_allclose(fidelity.ssim(a, a), 1.0, atol=1e-6)


def test_multi_scale_ssim():
  a, b = pair((1, 181, 176, 3))
  weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
  expected = []
  for c in range(3):
    x, y, total = a[0, ..., c], b[0, ..., c], 1.0
    for i, weight in enumerate(weights):
      whole, contrast = ssim_parts(x, y)
      total *= max(whole if i == 4 else contrast, 0) ** weight
      h, w = x.shape[0] // 2, x.shape[1] // 2
      halve = lambda v, h=h, w=w: (
        v[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
      )
      x, y = halve(x), halve(y)
    expected.append(total)
  found = jax.jit(fidelity.ms_ssim)(a, b)
  np.testing.assert_allclose(found[0], np.mean(expected), atol=2e-5)


@pytest.mark.parametrize(
  ("measure", "side"), [(fidelity.ssim, 10), (fidelity.ms_ssim, 175)]
)
def test_pictures_that_are_too_small(measure, side):
  x = jnp.zeros((1, side, side, 3))
  with pytest.raises(UserError, match=f"{side} x {side}"):
    measure(x, x)


@pytest.mark.turns(2)
@pytest.mark.parametrize("measure", [fidelity.psnr, fidelity.ssim])
def test_slopes_are_finite_differences(measure):
  a, b = (jnp.asarray(x, jnp.float32) for x in pair((1, 14, 14, 3)))
  way = np.random.default_rng(1).standard_normal(a.shape).astype(np.float32)
  slope = jnp.sum(jax.grad(lambda x: measure(x, b)[0])(a) * way)
  h = 1e-3
  change = (measure(a + h * way, b) - measure(a - h * way, b))[0] / (2 * h)
  np.testing.assert_allclose(slope, change, rtol=2e-2)


def sobel(x):
  """Length of the Sobel gradient in float64."""
  grey = x @ [0.299, 0.587, 0.114]
  dx = scipy.ndimage.correlate(grey, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
  dy = scipy.ndimage.correlate(grey, [[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
  return np.sqrt(dx**2 + dy**2)[1:-1, 1:-1]


def test_edges():
  a, _ = pair()
  found = fidelity.CONDITIONS["edges"](jnp.asarray(a))[..., 0]
  np.testing.assert_allclose(found, [sobel(x) / 4 for x in a], atol=1e-3)


@pytest.fixture
def folder(tmp_path):
  """Two prompts have a picture of their own; gives folder and pictures."""
  _, texts = folders.prompts(3)
  pictures = folders.pictures(3, 1, (40, 40), seed=5)[:, 0]
  lines = []
  for i, text in enumerate(texts[:2]):
    picture = (pictures[i] * 255).round().astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / f"{i}.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[:20] = 255
    Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
    lines.append({"prompt": text, "image": f"{i}.png", "mask": f"{i}_mask.png"})
  text = "\n".join(json.dumps(line) for line in lines)
  (tmp_path / references.FILE).write_text(text + "\n\n")
  return tmp_path, pictures


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("fn", "options", "own"),
  [
    ("psnr", {}, 100.0),
    ("ssim", {}, 1.0),
    ("condition_cycle", {"condition": "edges"}, 1.0),
    ("condition_cycle", {"condition": "grey"}, 1.0),
    ("condition_cycle", {"condition": "layout"}, 1.0),
    ("rendered_equivalence", {}, 1.0),
  ],
)
def test_the_reference_itself_scores_best(fn, options, own, folder):
  folder, pictures = folder
  batch, _ = folders.prompts(3)
  loaded = folders.load(fn, references=folder, image_size=40, **options)
  noisy = np.clip(pictures + 0.1, 0, 1)
  images = np.stack([pictures, noisy, pictures[[1, 0, 2]]], 1)
  images[0, 2, 3, 3, 0] = np.nan
  found, failed = score(loaded, images, batch)
  found = np.asarray(found["mine"])
  assert int(failed["mine"]) == 4  # a broken one, and a prompt without
  assert np.isnan(found[2]).all() and np.isnan(found[0, 2])
  np.testing.assert_allclose(found[:2, 0], own, atol=1e-5)
  assert (found[:2, 1] < own).all() and found[1, 2] < own


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("size", "rows", "columns"),
  [((60, 60), slice(40), slice(40)), ((60, 20), slice(40), slice(13, 26)),
   ((20, 40), slice(10, 30), slice(40))],
)  # fmt: skip
def test_of_a_reference_of_another_shape_the_middle_counts(
  folder, size, rows, columns
):
  """It is resized, and never stretched."""
  folder, pictures = folder
  batch, _ = folders.prompts(3)
  loaded = folders.load("psnr", references=folder, image_size=40)
  part = jnp.asarray(pictures)[:, rows, columns]
  found, _ = score(loaded, preprocess.resize(part, size)[:, None], batch)
  np.testing.assert_allclose(np.asarray(found["mine"])[:2, 0], 100.0, rtol=1e-6)


def test_references_keep_their_shape_if_they_all_have_one(tmp_path):
  batch, texts = folders.prompts(2)
  pictures = folders.pictures(2, 1, (40, 60))[:, 0]
  lines = []
  for i, text in enumerate(texts):
    Image.fromarray((pictures[i] * 255).round().astype(np.uint8)).save(
      tmp_path / f"{i}.png"
    )
    lines.append({"prompt": text, "image": f"{i}.png"})
  write = lambda: (tmp_path / references.FILE).write_text(
    "\n".join(map(json.dumps, lines))
  )
  write()
  loaded = folders.load("psnr", references=tmp_path, image_size=40)
  found, _ = score(loaded, pictures[:, None], batch)
  np.testing.assert_allclose(found["mine"], 100.0)
  shape = lambda **options: (
    references.images_of(str(tmp_path), "image", 20, **options)(texts)[
      "reference"
    ].shape
  )
  assert shape() == (2, 1, 20, 30, 3)
  assert shape(square=True) == (2, 1, 20, 20, 3)
  Image.new("RGB", (30, 30)).save(tmp_path / "1.png")
  assert shape() == (2, 1, 20, 20, 3)  # of several shapes, squares


def test_the_background_counts_and_the_rest_does_not(folder):
  folder, pictures = folder
  batch, _ = folders.prompts(3)
  loaded = folders.load("background", references=folder, image_size=40)
  images = np.stack([pictures] * 3, 1)
  images[:, 1, :20] = 0.0  # where it may change
  images[:, 2, 20:] = np.clip(images[:, 2, 20:] + 0.25, 0, 1)
  change = np.abs(images[:, 2, 20:] - pictures[:, 20:]).mean((1, 2, 3))
  found, _ = score(loaded, images, batch)
  found = np.asarray(found["mine"])
  np.testing.assert_allclose(found[:2, :2], 1.0, atol=1e-6)
  np.testing.assert_allclose(found[:2, 2], 1 - change[:2], atol=1e-5)
  assert np.isnan(found[2]).all()


@pytest.mark.parametrize(
  ("text", "said"),
  [
    (None, "no such file"),
    ("{", ", line 1: `{` is not JSON"),
    ('{"image": "a.png"}', ', line 1: expected a JSON object with "prompt"'),
    ('{"prompt": "a"}\n{"prompt": "a"}', ', line 2: "a" appears twice'),
    ('{"prompt": "a", "image": ["b", "c"]}', "has 2 image, at most 1"),
    ('{"prompt": "a", "image": "b.png"}', "b.png: No such file"),
    (
      '{"prompt": "a", "faces": "b.png"}',
      'no line of references.jsonl has "image"',
    ),
  ],
)
def test_bad_references(text, said, tmp_path):
  if text is not None:
    (tmp_path / references.FILE).write_text(text)
  with pytest.raises(UserError) as error:
    folders.load("psnr", references=tmp_path)
  assert said in str(error.value)
  assert "config.rewards.mine" in str(error.value)
