"""The training loop: progress, records, checkpoints, a clean stop.

The order is a contract: a step runs, its row is written (with the metrics of an
evaluation at that step), then the step is saved, and only then the next one
begins. A killed run returns to a saved step, drops later rows and writes them
again, identically.

Metrics are fetched once per step, after its parts have been timed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from jaxreward import processes
from jaxreward.errors import UserError
from jaxreward.numerics import Max, Mean
from jaxreward.training import faults
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.training.interrupt import GracefulStop
from jaxreward.training.profile import Profile
from jaxreward.training.progress import Progress
from jaxreward.training.state import TrainState, abstract
from jaxreward.training.utilization import Utilization
from jaxreward.training.writers import MetricsWriter, Row

# step(state, n) -> (state, metrics: name -> Mean or number)
Step = Callable[[TrainState, int], tuple[TrainState, Mapping[str, Any]]]
MAX_SKIPPED = 20
_UNEVALUATED = "unevaluated"
_WAITED = "evaluations without a better one"


class Timer:
  """Seconds per part of a step; blocks on the result of each part."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  def __call__(self, part: str, value: Any) -> Any:
    """Adds the time since the last mark to `part`; returns `value`."""
    jax.block_until_ready(value)
    now = time.perf_counter()
    self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
    self._last = now
    return value

  def start(self) -> None:
    self.seconds, self._last = {}, time.perf_counter()


@dataclasses.dataclass
class Loop:
  """The parameters of `run`.

  Attributes:
    name: of the job, in records and progress.
    total: number of steps.
    step: one step.
    writer: of the job's rows.
    checkpoints: of the job.
    save_every: steps between checkpoints; 0 saves only the last step.
    evaluate: (state, n) -> metrics added to row n, or None.
    evaluate_every: steps between evaluations; step 0 is evaluated too.
    evaluated: called when the row of an evaluation is written.
    check: called with every row of numbers; raises to stop the run.
    shown: names of metrics for the progress line.
    timer: of the parts of a step.
    extras: saved with every step; n -> JSON values.
    best: metric whose highest value marks the checkpoint to keep; a new best
      step is saved even between checkpoints, unless `save_every` is 0. Empty
      for none.
    patience: evaluations in a row without a better `best` after which the run
      ends; 0 for never. The state that `run` returns is then that of the best
      checkpoint. A stop waits for an evaluation that is due.
    grace: seconds to save in after SIGTERM; 0 for no limit.
    profile: folder of a trace and a table of step time by part, or None.
    utilization: of the devices by the step's programs; gives `mfu`.
  """

  name: str
  total: int
  step: Step
  writer: MetricsWriter
  checkpoints: Checkpoints
  save_every: int = 0
  evaluate: Callable[[TrainState, int], Mapping[str, Any]] | None = None
  evaluate_every: int = 0
  evaluated: Callable[[], None] | None = None
  check: Callable[[int, Mapping[str, float]], None] | None = None
  shown: tuple[str, ...] = ()
  timer: Timer = dataclasses.field(default_factory=Timer)
  extras: Callable[[int], dict[str, Any]] = lambda n: {}
  best: str = ""
  patience: int = 0
  grace: float = 0.0
  profile: epath.Path | None = None
  utilization: Utilization | None = None
  # Metrics of a saved step whose evaluation a stop prevented.
  unevaluated: Mapping[str, float] = dataclasses.field(default_factory=dict)
  waited: int = 0  # evaluations without a better one


def to_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
  """Pooled metrics and scalars as floats, without those of zero weight."""
  numbers = {}
  for name, value in jax.device_get(dict(metrics)).items():
    if isinstance(value, Max):
      if value.weight > 0:
        numbers[name] = float(value.largest)
    elif not isinstance(value, Mean):
      numbers[name] = float(value)
    elif value.weight > 0:
      numbers[name] = float(np.float32(value.total) / np.float32(value.weight))
  return numbers


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
  leaves = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  flags = [jnp.isfinite(x).all() for x in leaves]
  return functools.reduce(jnp.logical_and, flags, jnp.bool_(True))


def is_finite(state: TrainState) -> bool:
  """Whether the trained parameters and their average are finite."""
  return bool(processes.fetch(_all_finite((state.params, state.ema))))


def restore(loop: Loop, state: TrainState) -> tuple[TrainState, int, dict]:
  """(state, step, extras) of the newest checkpoint, or of step 0."""
  checkpoint = loop.checkpoints.restore_latest(abstract(state))
  if checkpoint is None:
    loop.writer.truncate(-1)
    return state, 0, {}
  step, state, extras = checkpoint
  loop.unevaluated = {
    k: float(v) for k, v in extras.pop(_UNEVALUATED, {}).items()
  }
  loop.waited = int(extras.pop(_WAITED, 0))
  loop.writer.truncate(step - 1 if loop.unevaluated else step)
  return state, step, extras


def _is_due(loop: Loop, n: int) -> bool:
  """Whether step n is evaluated."""
  if not (loop.evaluate and loop.evaluate_every):
    return False
  return n % loop.evaluate_every == 0 or n == loop.total


def _is_stale(loop: Loop) -> bool:
  """Whether `patience` is used up."""
  return 0 < loop.patience <= loop.waited


def run(loop: Loop, state: TrainState, start: int) -> TrainState:
  """Runs steps start ... total - 1 and saves the result.

  With `patience` it may end sooner; see `Loop`.

  Raises:
    UserError: too many skipped updates in a row, or raised by `check`.
    Stopped: Ctrl-C or SIGTERM, after saving.
  """
  reported: set[str] = set()
  skip_count, best = 0, (loop.checkpoints.best() or (-math.inf, 0))[0]

  def finish(n: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    nonlocal skip_count, reported
    row = to_numbers(metrics)
    if loop.utilization:
      row |= loop.utilization.row(loop.timer.seconds)
    lines = faults.describe(row)
    if lines and set(lines) != reported:
      text = ", ".join(lines.values())
      logging.warning("%s: step %d left out %s", loop.name, n, text)
    reported = set(lines)
    loop.writer.write(n, row)
    if loop.timer.seconds:
      loop.writer.write_timings(n, loop.timer.seconds)
    if loop.check:
      loop.check(n, row)
    skip_count = skip_count + 1 if row.get("skipped_updates", 0) >= 1 else 0
    if skip_count >= MAX_SKIPPED:
      raise UserError(
        f"{loop.name}: the loss or its gradient was not finite in"
        f" {MAX_SKIPPED} steps running (up to step {n}); parameters were kept;"
        " lower config.optimizer.learning_rate or look at the rewards"
      )
    return row

  def save(n: int, row: Row, wait: bool = False, **more: Any) -> None:
    nonlocal best
    if not is_finite(state):
      loop.checkpoints.wait()
      newest = max(processes.on_first(loop.checkpoints.steps), default=0)
      raise UserError(
        f"{loop.name}: parameters are not finite at step {n} and were not saved"
        f" (newest checkpoint: step {newest}); lower"
        " config.optimizer.learning_rate, or look at the weights it began with"
      )
    score = row.get(loop.best, math.nan)
    score = score if math.isfinite(score) else None
    extras = loop.extras(n) | more
    if loop.patience:
      extras[_WAITED] = loop.waited
    loop.writer.publish()  # rows must exist before their checkpoint
    loop.checkpoints.save(n, state, extras, score=score, wait=wait)
    best = max(best, score if score is not None else best)

  def keep(n: int) -> None:
    """Saves the state before a failed step, unless it was donated."""
    arrays = [x for x in jax.tree.leaves(state) if isinstance(x, jax.Array)]
    is_alive = not any(x.is_deleted() for x in arrays)
    if loop.save_every and n > start and is_alive and processes.count() == 1:
      if n not in loop.checkpoints.steps():
        save(n, {}, wait=True)
        logging.info("%s saved at step %d of %d", loop.name, n, loop.total)

  def after_evaluation() -> None:
    if loop.evaluated:
      loop.writer.publish()
      loop.evaluated()

  def evaluate(n: int, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    assert loop.evaluate
    metrics = {**metrics, **loop.evaluate(state, n)}
    loop.timer("evaluate", ())
    return metrics

  def last() -> str:
    return f"step {max(loop.checkpoints.steps(), default=0)}"

  with (
    GracefulStop(loop.grace, last) as stop,
    Progress(loop.name, total=loop.total, start=start) as progress,
    Profile(loop.profile) as profile,
  ):
    if start == 0 and loop.evaluate and loop.evaluate_every:
      logging.info("%s: evaluating before the first step ...", loop.name)
      loop.timer.start()
      loop.timer.seconds = {}
      finish(0, loop.evaluate(state, 0))
      after_evaluation()
    if loop.unevaluated:
      loop.timer.start()
      finish(start, evaluate(start, loop.unevaluated))
      after_evaluation()
    if start < loop.total:
      is_finite(state)  # compiled now, not at the first checkpoint
      logging.info(
        "%s: step %d of %d compiles its programs ...",
        loop.name, start + 1, loop.total,
      )  # fmt: skip
    for n in range(start + 1, 0 if _is_stale(loop) else loop.total + 1):
      profile.begin()
      loop.timer.start()
      try:
        state, metrics = loop.step(state, n - 1)
      except UserError:
        keep(n - 1)
        raise
      if _is_due(loop, n):
        if not loop.patience and stop.agreed():  # it may exceed the grace
          metrics_left = {k: repr(v) for k, v in to_numbers(metrics).items()}
          save(n, {}, wait=True, **{_UNEVALUATED: metrics_left})
          stop.exit(f"{loop.name} saved at step {n} of {loop.total}")
        metrics = evaluate(n, metrics)
      row = finish(n, metrics)
      if _is_due(loop, n):
        after_evaluation()
      progress.update(n, {k: row[k] for k in loop.shown if k in row})
      is_due = loop.save_every and n % loop.save_every == 0
      better = loop.save_every and row.get(loop.best, -math.inf) > best
      if loop.patience and loop.best in row:
        loop.waited = 0 if row[loop.best] > best else loop.waited + 1
      if is_due or better or n == loop.total or _is_stale(loop):
        save(n, row)
      profile.end(loop.timer.seconds)
      if n < loop.total and stop.agreed():
        save(n, row, wait=True)
        stop.exit(f"{loop.name} saved at step {n} of {loop.total}")
      if _is_stale(loop):
        logging.info(
          "%s: no better %s in %d evaluations; it ends at step %d",
          loop.name, loop.best, loop.patience, n,
        )  # fmt: skip
        break
    if not _is_stale(loop) and (
      start < loop.total or not processes.on_first(loop.checkpoints.steps)
    ):
      save(loop.total, {})
    loop.checkpoints.wait()
    if best_step := loop.best and loop.checkpoints.best():
      logging.info("best by %s: %.4g at step %d", loop.best, *best_step)
      if loop.patience:
        state = loop.checkpoints.restore(best_step[1], abstract(state))
    if stop.agreed():
      stop.exit(f"{loop.name} saved at step {loop.total} of {loop.total}")
  return state
