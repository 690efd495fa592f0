"""How well an image compresses as JPEG: a reward that needs no weights."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxreward.rewards.contract import declare
from jaxreward.types import ArrayLike, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Scores = dict[str, Float[np.ndarray, "P G"]]

QUALITY = 95


def kilobytes(images: Images) -> Float[np.ndarray, "P G"]:
  """Size of each image's JPEG in units of 1,000 bytes; NaN if not finite."""
  images = np.asarray(images)
  sizes = np.full(images.shape[:2], np.nan, np.float32)
  for index in np.ndindex(*sizes.shape):
    if np.isfinite(images[index]).all():
      pixels = np.round(np.clip(images[index], 0, 1) * 255).astype(np.uint8)
      buffer = io.BytesIO()
      Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
      sizes[index] = buffer.tell() / 1000
  return sizes


@declare(is_host=True)
def jpeg_incompressibility(images: Images, prompts: PromptBatch) -> Scores:
  """Kilobytes of the JPEG at quality 95.

  Black et al. 2023, https://arxiv.org/abs/2305.13301, section 5.1.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: unused.
  """
  del prompts
  return {"jpeg_incompressibility": kilobytes(images)}


@declare(is_host=True)
def jpeg_compressibility(images: Images, prompts: PromptBatch) -> Scores:
  """Kilobytes of the JPEG, negative and divided by 500 as Flow-GRPO does.

  Arguments as `jpeg_incompressibility`.
  """
  del prompts
  return {"jpeg_compressibility": -kilobytes(images) / 500}
