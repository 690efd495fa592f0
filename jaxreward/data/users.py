"""Users as vectors, which a few of their comparisons give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from jaxreward.errors import UserError

NOBODY = -1  # the average user


@dataclasses.dataclass(frozen=True, eq=False)
class Users:
  """Those of the rows of a run.

  Attributes:
    vectors: a row per user; those that rows are learned from come first.
    known: how many these are.
  """

  vectors: Float[np.ndarray, "N D"]
  known: int

  def of(self, number: Int[np.ndarray, "P"]) -> Float[np.ndarray, "P D"]:
    """The vectors of some users by number; zeros for `NOBODY`."""
    table = np.concatenate([self.vectors, 0 * self.vectors[:1]])
    return table[np.asarray(number)]


def contrast(
  images: Float[np.ndarray, "K 2 H W 3"], *, side: int = 1
) -> Float[np.ndarray, "D"]:
  """How preferred images differ from the others, in colour and place.

  The mean over pairs of the difference of mean colours in side x side cells, of
  the norm sqrt(D), D = 3 side^2; pairs in another order give the same.

  Args:
    images: K pairs, in [0, 1], the preferred image first.
    side: cells along each side.

  Raises:
    UserError: fewer pixels than cells.
  """
  if not 1 <= side <= min(images.shape[2:4]):
    raise UserError(
      f"config.data.users.encoder.side={side}: 1 or more, and at most the"
      f" {min(images.shape[2:4])} pixels of an image's side"
    )
  difference = (images[:, 0] - images[:, 1]).mean(0)
  cells = [
    cell.mean((0, 1))
    for row in np.array_split(difference, side, 0)
    for cell in np.array_split(row, side, 1)
  ]
  vector = np.concatenate(cells)
  size = np.linalg.norm(vector)
  return vector * (vector.size**0.5 / size) if size else vector


ENCODERS: dict[str, Callable[..., np.ndarray]] = {"contrast": contrast}
