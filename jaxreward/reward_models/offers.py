"""Arrays that a loss may request by the names of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreward.data.preferences import PreferenceBatch
from jaxreward.reward_models.contract import Head, Outputs
from jaxreward.types import Array

# Per pair of a row's images; a head's other outputs have their own names.
PAIRS = ("scores", "label_prob", "ratings", "strength", "mask")
ROWS = (
  "row_ratings", "row_prob", "row_source", "row_mask", "users", "confidence",
  "keys",
)  # fmt: skip
RATED = ("ratings", "strength", "row_ratings")  # only of rated images
ASPECTS = ("aspect_ratings", "row_aspect_ratings")  # only of rated aspects
ANSWERS = ("aspect_label_prob", "row_aspect_prob")  # only of compared aspects
_NAMES = {"value": "scores", "std": "stds"}


def names(head: Head) -> tuple[str, ...]:
  """Every name available for a head."""
  images = [n for n in head.names if n not in (*head.of_pairs, *head.of_rows)]
  extras = [_NAMES.get(name, name) for name in images]
  rows = [f"row_{name}" for name in (*extras, *head.of_pairs)]
  others = (*head.of_pairs, *head.of_rows, *ROWS, *ASPECTS, *ANSWERS)
  return tuple(dict.fromkeys((*PAIRS, *extras, *rows, *others)))


def offers(
  head: Head, outputs: Outputs, rows: PreferenceBatch
) -> Mapping[str, Array]:
  """The arrays by name; C pairs of each of R rows, the first image first.

  Args:
    head: whose outputs they are.
    outputs: of the head, leaves [R, K, ...]; of pairs [R, K, K, ...]; of rows
      [R, ...].
    rows: R rows of K images with their labels.

  Returns:
    "scores", "stds" and the head's others [R, C, 2, ...], those of pairs
    [R, C, ...], those of rows [R, ...]; "label_prob" [R, C], NaN where
    unlabeled; "mask" [R, C], True where labeled; "ratings" [R, C, 2];
    "strength" [R, C], their distance; "aspect_ratings" [R, C, 2, A];
    "aspect_label_prob" [R, C, A]; "users", "confidence" and "keys" [R]; and "row_scores", "row_ratings", "row_prob", "row_source"
    and so on [R, K, ...], of all images of a row.
  """
  prob, rating = jnp.asarray(rows.prob), jnp.asarray(rows.rating)
  details, aspects = rows.details, rows.details.aspect_ratings
  first, second = np.triu_indices(rating.shape[1], 1)
  pair = lambda x: jnp.stack([x[:, first], x[:, second]], 2)
  arrays: dict[str, Any] = {}
  for output, x in outputs.items():
    name = _NAMES.get(output, output)
    if output in head.of_rows:
      arrays[name] = x
      continue
    in_pairs = output in head.of_pairs
    arrays[name] = x[:, first, second] if in_pairs else pair(x)
    arrays[f"row_{name}"] = x
  labels = prob[:, first, second]
  ratings = pair(rating)
  answers = details.aspect_prob
  optional = {
    "row_source": details.source,
    "users": details.user,
    "keys": details.keys,
    "row_aspect_prob": answers,
    "aspect_label_prob": None
    if answers is None
    else jnp.asarray(answers)[:, first, second],
    "row_aspect_ratings": aspects,
    "aspect_ratings": None if aspects is None else pair(jnp.asarray(aspects)),
  }
  arrays |= {name: x for name, x in optional.items() if x is not None}
  mask, confidence = details.mask, details.confidence
  if mask is None:
    mask = jnp.ones(rating.shape, bool)
  if confidence is None:
    confidence = jnp.ones(rating.shape[0])
  return arrays | {
    "row_mask": jnp.asarray(mask),
    "confidence": jnp.asarray(confidence),
    "label_prob": labels,
    "mask": jnp.isfinite(labels),
    "ratings": ratings,
    "row_ratings": rating,
    "row_prob": prob,
    "strength": jnp.abs(ratings[..., 0] - ratings[..., 1]),
  }
