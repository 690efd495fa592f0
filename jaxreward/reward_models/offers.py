"""What a loss may ask for by the names of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.reward_models.contract import Outputs
from jaxreward.types import Array, ArrayLike

# Of each pair of a row's images; a head's other outputs by their own names.
PAIRS = ("scores", "label_prob", "ratings", "strength", "mask")
RATED = ("ratings", "strength", "row_ratings")  # of rated images alone
_NAMES = {"value": "scores", "std": "stds"}


def names(outputs: tuple[str, ...]) -> tuple[str, ...]:
  """Every name there is for a head of these outputs."""
  others = [_NAMES.get(name, name) for name in outputs]
  rows = ("row_ratings", *(f"row_{name}" for name in others))
  return tuple(dict.fromkeys((*PAIRS, *others, *rows)))


def offers(
  outputs: Outputs,
  prob: Float[ArrayLike, "R K K"],
  rating: Float[ArrayLike, "R K"],
) -> Mapping[str, Array]:
  """The arrays by name; C pairs of each of R rows, the first image first.

  Args:
    outputs: of the head, leaves [R, K, ...].
    prob: that the image of the row is preferred to that of the column.
    rating: what the answers come from; NaN where unknown.

  Returns:
    "scores", "stds" and the head's others [R, C, 2, ...]; "label_prob" [R, C],
    NaN without an answer; "mask" [R, C], where there is one; "ratings"
    [R, C, 2]; "strength" [R, C], how far apart they are; and "row_scores",
    "row_ratings" and so on [R, K, ...], of all images of a row.
  """
  first, second = np.triu_indices(jnp.shape(rating)[1], 1)
  pair = lambda x: jnp.stack([x[:, first], x[:, second]], 2)
  found: dict[str, Any] = {
    _NAMES.get(name, name): pair(x) for name, x in outputs.items()
  }
  found |= {f"row_{_NAMES.get(name, name)}": x for name, x in outputs.items()}
  answers = jnp.asarray(prob)[:, first, second]
  ratings = pair(jnp.asarray(rating))
  return found | {
    "label_prob": answers,
    "mask": jnp.isfinite(answers),
    "ratings": ratings,
    "row_ratings": rating,
    "strength": jnp.abs(ratings[..., 0] - ratings[..., 1]),
  }
