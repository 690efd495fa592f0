"""Diversity of the images of one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.numerics import safe_sqrt
from jaxreward.types import Array, ArrayLike


def pooling_matrix(size: int, cells: int) -> np.ndarray:
  """Weights float32 [cells, size] that average `size` pixels into cells.

  Cell i covers the interval [i, i + 1) * size / cells; a pixel counts by the
  length of its overlap, so `cells` need not divide `size`. Rows sum to 1.
  """
  edges = np.arange(cells + 1) * (size / cells)
  pixels = np.arange(size)
  upper = np.minimum(edges[1:, None], pixels + 1)
  lower = np.maximum(edges[:-1, None], pixels)
  overlap = np.maximum(upper - lower, 0.0)
  return (overlap * (cells / size)).astype(np.float32)


def average_pool(images: ArrayLike, cells: int) -> Array:
  """Area averages [..., cells, cells, C] of images [..., H, W, C]."""
  height, width = jnp.shape(images)[-3:-1]
  return jnp.einsum(
    "ih,...hwc,jw->...ijc",
    pooling_matrix(height, cells),
    jnp.asarray(images, jnp.float32),
    pooling_matrix(width, cells),
    precision=jax.lax.Precision.HIGHEST,
  )


def group_diversity(
  images: ArrayLike, mask: ArrayLike, *, cells: int = 9
) -> Array:
  """Mean pairwise distance between the images of a group.

  With z_i the image i averaged into cells x cells x C = K numbers,

    D = 2 / (n (n - 1)) * sum_{i < j} sqrt(mean_k (z_ik - z_jk)^2)

  over the n unmasked members. Averaging into cells suppresses pixel noise and
  keeps layout and colour. Squared distances come from the
  Gram matrix of the centred z, so memory is P G^2 + P G K, never P G^2 K;
  the float32 error of a squared distance is about 1e-7 of the group's spread.

  Args:
    images: [P, G, H, W, C], in [0, 1].
    mask: bool [P, G]; masked images may hold anything, NaN included.
    cells: number of cells along each side.

  Returns:
    float32 [P], in pixel units: 0 for identical images, at most 1 in [0, 1].
    A group with fewer than two unmasked members has no pair and gives 0;
    exclude it from averages (`pairs_exist`).
  """
  mask = jnp.asarray(mask, bool)
  images = jnp.where(mask[:, :, None, None, None], images, 0.0)
  z = average_pool(images, cells)
  z = z.reshape(*mask.shape, -1)
  count = jnp.sum(mask, axis=1)
  centre = jnp.sum(z, axis=1) / jnp.maximum(count, 1)[:, None]
  z = jnp.where(mask[:, :, None], z - centre[:, None], 0.0)
  gram = jnp.einsum("pik,pjk->pij", z, z, precision=jax.lax.Precision.HIGHEST)
  norm = jnp.diagonal(gram, axis1=1, axis2=2)
  squared = (norm[:, :, None] + norm[:, None, :] - 2 * gram) / z.shape[-1]
  members = mask.shape[1]
  pair = mask[:, :, None] & mask[:, None, :] & ~np.eye(members, dtype=bool)
  distance = safe_sqrt(jnp.where(pair, squared, 0.0))
  return jnp.sum(distance, axis=(1, 2)) / jnp.maximum(count * (count - 1), 1)


def pairs_exist(mask: ArrayLike) -> Array:
  """bool [P]: whether a group of `mask` [P, G] has two unmasked members."""
  return jnp.sum(jnp.asarray(mask, bool), axis=1) >= 2
