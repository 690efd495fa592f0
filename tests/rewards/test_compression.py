"""JPEG sizes: what Pillow writes, and what they say of a picture."""

import io

import numpy as np
from PIL import Image

from jaxreward import rewards
from jaxreward.tasks.scenes import grammar

PROMPTS = grammar.batch(grammar.prompts("train")[:1])


def pictures():
  """One flat, one noisy, one with a pixel that is not finite."""
  images = np.full((1, 3, 16, 24, 3), 0.25, np.float32)
  images[0, 1] = np.random.default_rng(0).random((16, 24, 3))
  images[0, 2, 3, 4, 0] = np.nan
  return images


def test_it_is_the_size_of_the_file():
  images = pictures()
  scores = rewards.REGISTRY["jpeg_incompressibility"](images, PROMPTS)
  (row,) = scores["jpeg_incompressibility"]
  for image, size in zip(images[0, :2], row, strict=False):
    file = io.BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(
      file, format="JPEG", quality=95
    )
    assert size == np.float32(len(file.getvalue()) / 1000)
  assert np.isnan(row[2])
  assert row[1] > row[0] > 0


def test_compressibility_turns_it_round():
  images = pictures()
  size = rewards.REGISTRY["jpeg_incompressibility"](images, PROMPTS)
  few = rewards.REGISTRY["jpeg_compressibility"](images, PROMPTS)
  np.testing.assert_array_equal(
    few["jpeg_compressibility"], -size["jpeg_incompressibility"] / 500
  )
