"""Arrays that a loss may request by the names of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.reward_models.contract import Outputs
from jaxreward.types import Array, ArrayLike

# Per pair of a row's images; a head's other outputs have their own names.
PAIRS = ("scores", "label_prob", "ratings", "strength", "mask")
RATED = ("ratings", "strength", "row_ratings")  # only of rated images
_NAMES = {"value": "scores", "std": "stds"}


def names(outputs: tuple[str, ...]) -> tuple[str, ...]:
  """Every name available for a head with these outputs."""
  extras = [_NAMES.get(name, name) for name in outputs]
  rows = ("row_ratings", *(f"row_{name}" for name in extras))
  return tuple(dict.fromkeys((*PAIRS, *extras, *rows)))


def offers(
  outputs: Outputs,
  prob: Float[ArrayLike, "R K K"],
  rating: Float[ArrayLike, "R K"],
) -> Mapping[str, Array]:
  """The arrays by name; C pairs of each of R rows, the first image first.

  Args:
    outputs: of the head, leaves [R, K, ...].
    prob: that the image of the row is preferred to that of the column.
    rating: from which labels are derived; NaN where unknown.

  Returns:
    "scores", "stds" and the head's others [R, C, 2, ...]; "label_prob" [R, C],
    NaN where unlabeled; "mask" [R, C], True where labeled; "ratings"
    [R, C, 2]; "strength" [R, C], their distance; and "row_scores",
    "row_ratings" and so on [R, K, ...], of all images of a row.
  """
  first, second = np.triu_indices(jnp.shape(rating)[1], 1)
  pair = lambda x: jnp.stack([x[:, first], x[:, second]], 2)
  arrays: dict[str, Any] = {
    _NAMES.get(name, name): pair(x) for name, x in outputs.items()
  }
  arrays |= {f"row_{_NAMES.get(name, name)}": x for name, x in outputs.items()}
  labels = jnp.asarray(prob)[:, first, second]
  ratings = pair(jnp.asarray(rating))
  return arrays | {
    "label_prob": labels,
    "mask": jnp.isfinite(labels),
    "ratings": ratings,
    "row_ratings": rating,
    "strength": jnp.abs(ratings[..., 0] - ratings[..., 1]),
  }
