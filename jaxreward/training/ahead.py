"""Samples drawn ahead, while the host judges pictures and writes records.

On policy, a device waits for the host twice in an iteration: for rewards that
run there, and for rows and checkpoints. With `align.overlap`, the samples of
iteration n + 1 are drawn with the parameters before update n instead of those
after it, so that the device always has a rollout to go on with:

  device   draw n+1 ......... update n   draw n+2 ........... update n+1
  host     rewards of n                  row n, rewards of n+1

Log-probabilities are stored with the samples, so ratios are those of the
policy that drew them; `log_prob_gap` then tells how far that one is behind.
The parameters that draw next are part of the state: a resumed run draws the
same samples again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.training.state import TrainState
from jaxreward.types import Params


def drawer(state: TrainState) -> Params:
  """The newest parameters that samples are drawn with."""
  return state.params if state.old is None else state.old


class Samples:
  """The samples of every iteration, some of them on their way.

  Args:
    draw: (parameters, iteration) -> samples; returns before they are drawn.
    total: iterations.
  """

  def __init__(self, draw: Callable[[Params, int], Any], total: int):
    self._draw, self._total = draw, total
    self._begun: dict[int, Any] = {}

  def of(self, state: TrainState, n: int) -> Any:
    """The samples of iteration n, from the state before its update."""
    late = drawer(state) if state.behind is None else state.behind
    self._begin(late, n)
    self.begin_next(state, n)
    return self._begun.pop(n)

  def begin_next(self, state: TrainState, n: int) -> None:
    """Begins iteration n + 1, from the state before update n, if it overlaps."""
    if state.behind is not None and n + 1 < self._total:
      self._begin(drawer(state), n + 1)

  def _begin(self, params: Params, n: int) -> None:
    if n not in self._begun:
      self._begun[n] = self._draw(params, n)
