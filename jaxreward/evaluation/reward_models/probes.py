"""Probes: what the features that a reward model's head reads know.

After Wang et al. 2025, https://arxiv.org/abs/2511.12464: the backbone is frozen, and a linear probe per
dimension is fitted and tested on other prompts. The probe here is a ridge
regression onto the classes in closed form, not trained by gradients; thresholds
of the confidence are unverified.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxreward.types import ArrayLike


class Probe(NamedTuple):
  """A linear classifier of features.

  Attributes:
    mean: [D], of the features.
    whiten: [D, R], to uncorrelated directions of unit variance.
    weights: [R, C].
    bias: [C].
    centroids: [C, R], means of the classes in the whitened space.
  """

  mean: np.ndarray
  whiten: np.ndarray
  weights: np.ndarray
  bias: np.ndarray
  centroids: np.ndarray


def fit(
  features: Float[ArrayLike, "K D"],
  labels: Int[ArrayLike, "K"],
  *,
  ridge: float = 1e-2,
) -> Probe:
  """The ridge regression from whitened features onto one-hot classes.

  In whitened features it is the class means scaled by 1 / (1 + ridge), and the
  probe does not change under an invertible linear map of the features.
  Directions without variance are left out.

  Args:
    features: K samples.
    labels: classes 0 to C - 1, each of which occurs.
    ridge: penalty per sample.
  """
  x, y = np.asarray(features, np.float64), np.asarray(labels)
  mean = x.mean(0)
  _, size, directions = np.linalg.svd(x - mean, full_matrices=False)
  is_large = size > 1e-9 * max(size.max(initial=0.0), 1e-300)
  whiten = directions[is_large].T / size[is_large] * np.sqrt(len(x))
  z = (x - mean) @ whiten
  target = np.eye(int(y.max()) + 1)[y]
  bias = target.mean(0)
  weights = z.T @ (target - bias) / len(x) / (1 + ridge)
  centroids = (target.T @ z) / target.sum(0)[:, None]
  return Probe(mean, whiten, weights, bias, centroids)


def predict(
  probe: Probe, features: Float[ArrayLike, "K D"]
) -> Int[np.ndarray, "K"]:
  """The class of each sample."""
  z = (np.asarray(features, np.float64) - probe.mean) @ probe.whiten
  return np.argmax(z @ probe.weights + probe.bias, -1)


def distance(
  probe: Probe, features: Float[ArrayLike, "K D"]
) -> Float[np.ndarray, "K"]:
  """Distance of each sample to the nearest class mean; small is confident."""
  z = (np.asarray(features, np.float64) - probe.mean) @ probe.whiten
  gaps = z[:, None] - probe.centroids
  return np.sqrt((gaps**2).sum(-1)).min(-1)


def by_aspect(
  features: Float[ArrayLike, "K D"],
  labels: Mapping[str, ArrayLike],
  clusters: ArrayLike,
  *,
  ridge: float = 1e-2,
  seed: int = 0,
) -> dict[str, dict[str, float]]:
  """Accuracy of a probe per aspect on the clusters that it was not fitted to.

  Args:
    features: of K images.
    labels: aspect -> int [K], classes; -1 where unknown.
    clusters: [K], such as prompts; all images of one are in one half.
    ridge: of `fit`.
    seed: of the halves and of the control.

  Returns:
    Per aspect {"accuracy", "chance", "control", "n"}: chance is the share of the
    most frequent class, the control fits a probe to shuffled labels. An aspect
    with fewer than two classes on a side is left out.
  """
  x = np.asarray(features, np.float64)
  generator = np.random.default_rng(seed)
  index = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
  half = generator.permutation(index.max(initial=-1) + 1)[index] % 2 == 0
  results = {}
  for aspect, values in labels.items():
    y = np.asarray(values)
    train, test = half & (y >= 0), ~half & (y >= 0)
    classes = np.intersect1d(y[train], y[test])
    train, test = (m & np.isin(y, classes) for m in (train, test))
    if classes.size < 2:
      continue
    y = np.searchsorted(classes, y)
    shuffled = generator.permutation(y[train])
    accuracy, control = (
      float((predict(fit(x[train], t, ridge=ridge), x[test]) == y[test]).mean())
      for t in (y[train], shuffled)
    )
    results[aspect] = {
      "accuracy": accuracy,
      "chance": float(np.bincount(y[test]).max() / test.sum()),
      "control": control,
      "n": int(test.sum()),
    }
  return results
