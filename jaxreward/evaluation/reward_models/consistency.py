"""What should leave a score's order unchanged, and what should lower it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from jaxreward.types import ArrayLike


def contrast(scores: Float[ArrayLike, "K 2 2"]) -> dict[str, np.ndarray]:
  """Consistency on pairs of prompts that differ a little.

  After Shen et al. 2023, https://arxiv.org/abs/2309.16155, who contrast
  instructions to language models. For each prompt the right image should be
  above the other prompt's, and for each image its own prompt above the other; equal
  scores are wrong.

  Args:
    scores: [k, i, j], of prompt i with the image of prompt j.

  Returns:
    "images": [K], the share of prompts that rank the images right, "prompts":
    of images that rank the prompts right, and "prompts_centered": the same after
    each prompt's mean was taken off, which an offset per prompt does not change.
  """
  scores = np.asarray(scores, np.float64)
  own = np.stack([scores[:, 0, 0], scores[:, 1, 1]], -1)
  image = np.stack([scores[:, 0, 1], scores[:, 1, 0]], -1)
  centered = scores - scores.mean(2, keepdims=True)
  own_centered = np.stack([centered[:, 0, 0], centered[:, 1, 1]], -1)
  other_centered = np.stack([centered[:, 1, 0], centered[:, 0, 1]], -1)
  return {
    "images": (own > image).mean(-1),
    # The other prompt with the same image: transposed places.
    "prompts": (own > image[:, ::-1]).mean(-1),
    "prompts_centered": (own_centered > other_centered).mean(-1),
  }


def same_order(
  scores: Float[ArrayLike, "Q N"], others: Float[ArrayLike, "Q N"]
) -> Float[np.ndarray, "Q"]:
  """Share of each row's pairs of images that both scores order alike.

  Of pairs that the first orders; NaN for a row without one. Used for rewordings
  of the prompt, mirrored images and judging in the other order.
  """
  signs = [_signs(x) for x in (scores, others)]
  valid = np.isfinite(signs[0]) & np.isfinite(signs[1]) & (signs[0] != 0)
  agree = ((signs[0] == signs[1]) & valid).sum(-1)
  count = valid.sum(-1)
  return np.where(count > 0, agree / np.maximum(count, 1), np.nan)


def _signs(scores: ArrayLike) -> np.ndarray:
  """Sign of the difference of every two images of a row, [Q, pairs]."""
  x = np.asarray(scores, np.float64)
  first, second = np.triu_indices(x.shape[-1], 1)
  with np.errstate(invalid="ignore"):
    return np.sign(x[:, first] - x[:, second])


def relative_shift(
  scores: Float[ArrayLike, "Q N"], others: Float[ArrayLike, "Q N"]
) -> Float[np.ndarray, "Q"]:
  """Mean |change| of a row's scores, in standard deviations within prompts.

  0 for a score that does not change; NaN for a row without a finite score.
  """
  a, b = np.asarray(scores, np.float64), np.asarray(others, np.float64)
  change = np.abs(np.where(np.isfinite(a - b), a - b, np.nan))
  finite = np.where(np.isfinite(a), a, np.nan)
  deviation = finite - _row_mean(finite)
  spread = np.sqrt(np.nanmean(deviation**2)) if deviation.size else np.nan
  if not spread > 0:
    spread = np.nan
  return _row_mean(change)[:, 0] / spread


def _row_mean(x: np.ndarray) -> np.ndarray:
  """Mean over the finite entries of each row, [Q, 1]; NaN without one."""
  count = np.isfinite(x).sum(-1, keepdims=True)
  total = np.nansum(x, -1, keepdims=True)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def sensitivity(scores: Float[ArrayLike, "Q S"]) -> dict[str, np.ndarray]:
  """How scores follow a corruption whose severity is known.

  Args:
    scores: of one image from clean (first) to worst (last); a score that is not
      finite counts as not lower.

  Returns:
    float64 [Q]: "monotone", the share of steps in severity that lower the
    score; "always", 1 where all do; "noticed", 1 where the worst is below the
    clean one.
  """
  x = np.asarray(scores, np.float64)
  with np.errstate(invalid="ignore"):
    lower = x[:, 1:] < x[:, :-1]
    noticed = x[:, -1] < x[:, 0]
  return {
    "monotone": lower.mean(-1),
    "always": lower.all(-1).astype(float),
    "noticed": noticed.astype(float),
  }
