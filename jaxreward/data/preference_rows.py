"""A row of preferences from any file, and how its labels are read.

All labels become probabilities that one image is preferred to another: words and
shares, ranks, orders such as "A>B=C", votes, or ratings where nothing else is
said.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxreward import reading
from jaxreward.data.row_images import RowImage
from jaxreward.errors import UserError, shown

# Word -> (probability that the first is preferred, rating of both or None).
WORDS: Mapping[str, tuple[float, float | None]] = {
  "a": (1.0, None),
  "b": (0.0, None),
  "tie": (0.5, None),
  "same": (0.5, None),
  "both_good": (0.5, 1.0),
  "both_bad": (0.5, 0.0),
}
NAN = float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class PreferenceRow:
  """N images of one prompt, and what somebody said of them.

  Attributes:
    place: file and row, for errors.
    prompt: or the instruction of an edit.
    images: N, at least two.
    prob: float32 [N, N], probability that the image of the row is preferred to
      that of the column, one half for a tie; NaN where nobody said.
    rating: N, in [0, 1]; NaN where unknown.
    aspects: name -> N ratings in [0, 1]; NaN where unknown.
    aspect_prob: name -> as `prob`.
    user: who answered; empty if unknown.
    confidence: in [0, 1], of the answers; 1 if unknown.
    source: the image that an edit starts from.
    models: N names of the generators; empty if unknown.
    category: of the row, such as the kind of edit; empty if unknown.
    key: of the row in its data set; empty if it has none.
  """

  place: str
  prompt: str
  images: tuple[RowImage, ...]
  prob: Float[np.ndarray, "N N"]
  rating: tuple[float, ...]
  aspects: Mapping[str, tuple[float, ...]] = dataclasses.field(
    default_factory=dict
  )
  aspect_prob: Mapping[str, Float[np.ndarray, "N N"]] = dataclasses.field(
    default_factory=dict
  )
  user: str = ""
  confidence: float = 1.0
  source: RowImage | None = None
  models: tuple[str, ...] = ()
  category: str = ""
  key: str = ""

  @property
  def is_tie(self) -> bool:
    """Whether no pair of its images has a winner."""
    labels = (self.prob, *self.aspect_prob.values())
    return not any((np.abs(p - 0.5) > 0).any() for p in labels)

  def pairs(self) -> list[tuple[int, int, float]]:
    """(i, j, probability that i is preferred) of every labeled pair, i < j."""
    count = len(self.images)
    return [
      (i, j, float(self.prob[i, j]))
      for i in range(count)
      for j in range(i + 1, count)
      if np.isfinite(self.prob[i, j])
    ]


def quoted(value: Any) -> str:
  """A value of a row, for an error."""
  return shown(json.dumps(value, default=str))


def word(
  value: Any, name: str, words: Mapping[str, tuple[float, float | None]]
) -> tuple[float, float | None]:
  """(P(first preferred), rating of both or None) of an answer to a pair.

  Raises:
    UserError: neither a known word nor a share.
  """
  known = {**WORDS, **words}
  if isinstance(value, str) and value.strip().lower() in known:
    return known[value.strip().lower()]
  number = reading.number(value)
  if not 0 <= number <= 1:
    others = "".join(f', "{w}"' for w in words)
    raise UserError(
      f'"{name}" is {quoted(value)}; it must be "a", "b", "tie"{others} or the'
      " probability that a is preferred, from 0 to 1"
    )
  return number, None


def of_pair(prob: float, count: int) -> Float[np.ndarray, "N N"]:
  """Labels of the first two of `count` images."""
  table = np.full((count, count), np.nan, np.float32)
  table[0, 1], table[1, 0] = prob, 1 - prob
  return table


def of_ratings(values: Sequence[float]) -> Float[np.ndarray, "N N"]:
  """The larger is preferred, equal ones tie; NaN where either is unknown."""
  x = np.asarray(values, np.float64)
  gap = x[:, None] - x
  table = np.where(gap == 0, 0.5, gap > 0).astype(np.float32)
  table[~np.isfinite(gap)] = np.nan
  np.fill_diagonal(table, np.nan)
  return table


def of_order(value: Any, name: str, count: int) -> Float[np.ndarray, "N N"]:
  """Labels of an order such as "A>B=C"; letters stand for images in turn.

  If a pair of a longer list is given alone, as in "C>B", its letters in
  alphabetical order stand for the two.

  Raises:
    UserError: no such order, or of another number of images.
  """
  refusal = UserError(
    f'"{name}" is {quoted(value)}; expected an order of {count} images such as'
    f' "{">".join("BACDEFGHIJ"[:count])}", with = for a tie'
  )
  if not isinstance(value, str):
    raise refusal
  text = value.replace(" ", "").upper()
  if not re.fullmatch(r"[A-Z]([>=][A-Z])*", text):
    raise refusal
  letters = sorted(text[::2])
  if len(set(letters)) != len(letters) or len(letters) != count:
    raise refusal
  rank, ranks = 0, {text[0]: 0}
  for sign, letter in zip(text[1::2], text[2::2], strict=True):
    rank += sign == ">"
    ranks[letter] = rank
  return of_ratings([-ranks[letter] for letter in letters])


def listed(value: Any, name: str) -> list[Any]:
  """A list of two or more, given as a list or as its text.

  Raises:
    UserError: anything else.
  """
  if isinstance(value, str) and value.lstrip().startswith("["):
    value = reading.parse(value, f'"{name}"')
  if not isinstance(value, list) or len(value) < 2:
    raise UserError(
      f'"{name}" is {quoted(value)}; expected a list of 2 or more'
    )
  return value


def numbers(value: Any, name: str, count: int, images: str) -> list[float]:
  """A number for each of `count` images; NaN for null.

  Raises:
    UserError: not such a list; names what is wrong.
  """
  values = listed(value, name)
  if len(values) != count:
    raise UserError(
      f'"{images}" has {count} entries and "{name}" {len(values)}; they have to'
      " be as many"
    )
  return [number(v, name) for v in values]


def number(value: Any, name: str) -> float:
  """A finite number, or NaN for null and for an empty cell.

  Raises:
    UserError: anything else.
  """
  if value is None or value == "":
    return NAN
  amount = reading.number(value)
  if not np.isfinite(amount):
    raise UserError(f'"{name}" holds {quoted(value)}, no number')
  return amount


def scaled(
  values: Sequence[float], name: str, scale: tuple[float, float]
) -> tuple[float, ...]:
  """Ratings from the scale's ends to [0, 1].

  Raises:
    UserError: one outside the scale.
  """
  low, high = scale
  for value in values:
    if not (np.isnan(value) or low <= value <= high):
      raise UserError(
        f'"{name}" holds {value:g}, outside {low:g} to {high:g}; see'
        " config.data.layout.scale"
      )
  return tuple((value - low) / (high - low) for value in values)
