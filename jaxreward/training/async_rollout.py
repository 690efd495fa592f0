"""Asynchronous rollouts: the device samples while the host scores and logs.

On policy, the device waits for the host twice in an iteration: for rewards that
run on the host, and for rows and checkpoints. With `align.overlap`, the samples
of iteration n + 1 are drawn with the parameters before update n instead of
those after it, so that the device always has a rollout to work on:

  device   draw n+1 ......... update n   draw n+2 ........... update n+1
  host     rewards of n                  row n, rewards of n+1

Log-probabilities are stored with the samples, so ratios are relative to the
policy that drew them; `log_prob_gap` measures how stale it is. The parameters
of the next rollout are part of the state, so a resumed run draws the same
samples again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxreward.training.state import TrainState
from jaxreward.types import Params


def draw_params(state: TrainState) -> Params:
  """The newest parameters that may draw samples."""
  return state.params if state.old is None else state.old


class Samples:
  """The samples of every iteration, dispatched up to one iteration early.

  Args:
    draw: (parameters, iteration, state of the run) -> samples; dispatches without
      blocking.
    total: iterations.
  """

  def __init__(self, draw: Callable[[Params, int, Any], Any], total: int):
    self._draw, self._total = draw, total
    self._pending: dict[int, Any] = {}

  def of(self, state: TrainState, n: int) -> Any:
    """The samples of iteration n, from the state before its update."""
    params = (
      draw_params(state)
      if state.sampler_params is None
      else state.sampler_params
    )
    self._begin(params, n, state)
    self.begin_next(state, n)
    return self._pending.pop(n)

  def begin_next(self, state: TrainState, n: int) -> None:
    """With overlap, dispatches iteration n + 1 from the state before update n."""
    if state.sampler_params is not None and n + 1 < self._total:
      self._begin(draw_params(state), n + 1, state)

  def _begin(self, params: Params, n: int, state: TrainState) -> None:
    if n not in self._pending:
      self._pending[n] = self._draw(params, n, state)
