"""Weights of several rewards, learned from comparisons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxreward.evaluation.reward_models import pairs
from jaxreward.evaluation.reward_models.judge import Labels
from jaxreward.types import ArrayLike

SIGNS = ("none", "any", "positive")  # of the weights
# No reward of a config can have these names.
FITTED, EQUAL = "fitted weights", "equal weights"


def fit(
  d: Float[ArrayLike, "M K"], *, positive: bool = False, ridge: float = 1e-3
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
  """(w, units) of K rewards: sum_k w_k units_k r_k agrees with M comparisons.

  Least mean -log sigmoid(w . (units d)) + ridge / 2 |w|^2, with units one over the
  root mean square of each column. A reward on chosen features instead of images
  (Nath et al. 2024, https://arxiv.org/abs/2402.15473), here linear; its features,
  layers and penalty are unverified.

  Args:
    d: scores of the preferred image less those of the other; comparisons with a
      score that is not finite are left out.
    positive: no weight below 0 (not of the paper).
    ridge: of the penalty.

  Returns:
    Both 0 for a reward that never differs, and without a comparison.
  """
  from scipy import optimize  # half a second, which other jobs do not wait for

  d = np.asarray(d, np.float64)
  d = d[np.isfinite(d).all(-1)]
  start = np.zeros(d.shape[-1])
  if not len(d):
    return start, start
  size = np.sqrt(np.square(d).mean(0))
  units = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 0.0)
  z = d * units

  def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
    margin = z @ w
    slope = -0.5 * (1 - np.tanh(margin / 2))
    value = np.logaddexp(0, -margin).mean() + ridge / 2 * w @ w
    return value, z.T @ slope / len(z) + ridge * w

  result = optimize.minimize(
    loss, start, jac=True, method="L-BFGS-B",
    bounds=[(0.0 if positive else None, None)] * len(start),
    options={"gtol": 1e-9, "ftol": 1e-15, "maxiter": 1000},
  )  # fmt: skip
  return result.x, units


def combined(
  labels: Labels,
  scores: Mapping[str, Float[ArrayLike, "Q N"]],
  *,
  positive: bool = False,
) -> tuple[dict[str, Float[np.ndarray, "Q N"]], dict[str, float]]:
  """Sums of scores with fitted and with equal weights, and the fitted weights.

  Each half of the prompts is scored with weights and units of the other half.

  Args:
    labels: of Q rows; ties say nothing here.
    scores: of the rewards; not finite where one failed.
    positive: see `fit`.

  Returns:
    ({`FITTED`, `EQUAL`: sums}, {reward: the weight of its raw score, fitted to all
    rows}).
  """
  values = np.stack([np.asarray(x, np.float64) for x in scores.values()], -1)
  table = pairs.labeled(labels.prob)
  d = np.stack([pairs.differences(x, table) for x in scores.values()], -1)
  decided = table.answer != 0
  d = (d * table.answer[:, None])[decided]
  index = np.unique(labels.prompt, return_inverse=True)[1].reshape(-1)
  is_odd = index % 2 == 1
  of_pair = is_odd[table.row[decided]]
  sums = {name: np.zeros(values.shape[:2]) for name in (FITTED, EQUAL)}
  for side in (False, True):
    w, units = fit(d[of_pair != side], positive=positive)
    rows = is_odd == side
    sums[FITTED][rows] = values[rows] @ (w * units)
    sums[EQUAL][rows] = values[rows] @ units
  w, units = fit(d, positive=positive)
  return sums, dict(zip(scores, (w * units).tolist(), strict=True))
