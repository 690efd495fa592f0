"""What a reward declares about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def declare(
  *,
  is_host: bool = False,
  is_differentiable: bool = False,
  takes_verdict: bool = False,
) -> Callable[[F], F]:
  """Marks a reward; without it, it runs inside jit and has no gradient.

  Args:
    is_host: it gets NumPy arrays, outside jit.
    is_differentiable: its scores have a useful gradient in the pictures.
    takes_verdict: it takes, as `verdict`, what the detector has found in these
      pictures already: {"dense", "strict"}, each [P, G], or None.
  """

  def mark(reward: F) -> F:
    vars(reward).update(
      is_host=is_host,
      is_differentiable=is_differentiable,
      takes_verdict=takes_verdict,
    )
    return reward

  return mark
