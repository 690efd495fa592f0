"""Corruptions of images with a known severity, nested: worse ones include less.

Each is a function of (images float [B, H, W, C] in [0, 1], severity in [0, 1],
generator) on the host; severity 0 leaves images unchanged, and a generator in the
same state gives the same noise and places at every severity.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

Images = Float[np.ndarray, "B H W C"]


def noise(
  images: Images, severity: float, generator: np.random.Generator
) -> Images:
  """Gaussian noise with a standard deviation of up to 0.4."""
  draw = generator.normal(size=images.shape).astype(images.dtype)
  return np.clip(images + 0.4 * severity * draw, 0, 1)


def blur(
  images: Images, severity: float, generator: np.random.Generator
) -> Images:
  """A Gaussian blur of up to a tenth of the side."""
  del generator
  sigma = 0.1 * severity * images.shape[1]
  if sigma == 0:
    return images
  return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def covered(
  images: Images, severity: float, generator: np.random.Generator
) -> Images:
  """A grey square of up to half the area, about one place in each image."""
  count, height, width, _ = images.shape
  centre = generator.uniform(0.35, 0.65, (2, count, 1, 1))
  half = 0.5 * np.sqrt(0.5 * severity)
  rows = np.abs((np.arange(height) + 0.5)[None, :, None] / height - centre[0])
  columns = np.abs((np.arange(width) + 0.5)[None, None] / width - centre[1])
  hidden = (rows < half) & (columns < half)
  return np.where(hidden[..., None], images.dtype.type(0.5), images)


def faded(
  images: Images, severity: float, generator: np.random.Generator
) -> Images:
  """Towards the mean colour of the image, at severity 1 by nine tenths."""
  del generator
  mean = images.mean((1, 2), keepdims=True)
  return images + 0.9 * severity * (mean - images)


KINDS = {"noise": noise, "blur": blur, "covered": covered, "faded": faded}


def steps(
  kind: str, images: Images, count: int, seed: int
) -> Float[np.ndarray, "B S H W C"]:
  """Images from clean to severity 1 in `count` equal steps, S = count + 1."""
  return np.stack(
    [
      KINDS[kind](images, i / count, np.random.default_rng(seed))
      for i in range(count + 1)
    ],
    1,
  )
