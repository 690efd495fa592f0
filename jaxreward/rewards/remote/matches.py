"""Schedules matches between a group's images and computes win rates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SCHEDULES = ("all", "random", "member", "reference")


def schedule(
  order: Sequence[int], pairs: str, opponents: int
) -> list[tuple[int, int]]:
  """The matches of a group, each pair of members once.

  Args:
    order: the members, shuffled.
    pairs: "all"; "random", so that each member meets `opponents` others (one
      more where both the group and it are odd); or "member", so that all meet
      the first one.
    opponents: see above.
  """
  n = len(order)
  if pairs == "member":
    return [(order[0], other) for other in order[1:]]
  if pairs == "all" or opponents >= n - 1:
    return list(itertools.combinations(sorted(order), 2))
  # On a ring, each member meets its nearest neighbours.
  odd = opponents % 2
  places = {
    (i, (i + step) % n)
    for i in range(n)
    for step in range(1, opponents // 2 + 1 + (odd and n % 2))
  }
  if odd and n % 2 == 0:
    places |= {(i, i + n // 2) for i in range(n // 2)}
  return sorted((order[i], order[j]) for i, j in places)


def win_rates(
  members: int,
  matches: Int[np.ndarray, "M 2"],
  wins: Float[np.ndarray, "M"],
) -> Float[np.ndarray, "G"]:
  """Mean result of each member's matches, in [0, 1]; NaN without any.

  Args:
    members: G.
    matches: (i, j); negative indices are not members and get no rate.
    wins: P(i is better than j); NaN if not played.
  """
  total, played = np.zeros(members), np.zeros(members)
  valid = np.isfinite(wins)
  for side, result in ((0, wins), (1, 1 - wins)):
    use = valid & (matches[:, side] >= 0)
    np.add.at(total, matches[use, side], result[use])
    np.add.at(played, matches[use, side], 1)
  return np.where(played > 0, total / np.maximum(played, 1), np.nan)
