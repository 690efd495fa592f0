"""The step against NumPy, and the loop around it with a step that is told."""

import dataclasses
import os
import signal
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreward.errors import Stopped, UserError
from jaxreward.numerics import Mean
from jaxreward.training import interrupt, loop, state, step
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.training.writers import MetricsWriter, read_rows

RATE = 0.1
DESCENT = optax.sgd(RATE)
ROWS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
MASK = np.array([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], bool)


def quadratic(params, micro, frozen):
  """Masked mean over rows of |p - x|^2 / 2; `frozen` shifts the rows."""
  rows, mask = micro
  error = 0.5 * jnp.square(params["p"] - rows - frozen).sum(-1)
  return Mean.of(error, mask), {"error": Mean.of(error, mask)}


def fresh(tx=DESCENT, average=True):
  start = {"p": jnp.array([1.0, -2.0, 0.5])}
  return state.create(start, tx, average=average)


def cut(updates, count):
  """The twelve rows as [U, N, M, ...]."""
  size = 12 // updates // count
  return (
    ROWS.reshape(updates, count, size, 3),
    MASK.reshape(updates, count, size),
  )


def updated(updates, count, decay=0.75, tx=DESCENT, **kwargs):
  return step.update(
    fresh(tx, decay > 0), quadratic, tx, cut(updates, count), jnp.float32(0.25),
    ema_decay=decay, **kwargs,
  )  # fmt: skip


def reference(updates, decay):
  """float64 NumPy: descent and average, update by update."""
  p = np.array([1.0, -2.0, 0.5])
  average, losses = p.copy(), []
  rows = ROWS.astype(np.float64).reshape(updates, -1, 3)
  masks = MASK.reshape(updates, -1)
  for x, mask in zip(rows, masks, strict=True):
    error = p - x[mask] - 0.25
    losses.append(0.5 * (error**2).sum(-1).mean())
    p = p - RATE * error.mean(0)
    average = decay * average + (1 - decay) * p
  return p, average, losses


@pytest.mark.turns(3)
@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.75, 1.0])
def test_descent_and_average_per_update(updates, decay):
  found, metrics = updated(updates, 2, decay)
  p, average, losses = reference(updates, decay)
  np.testing.assert_allclose(found.params["p"], p, rtol=1e-6)
  assert (found.ema is None) == (decay == 0)
  np.testing.assert_allclose(found.averaged["p"], average, rtol=1e-6)
  np.testing.assert_allclose(
    jax.vmap(Mean.value)(metrics["loss"]), losses, rtol=1e-6
  )
  assert int(found.updates) == updates and int(found.step) == 0


@pytest.mark.turns(3)
@pytest.mark.parametrize("count", [2, 3, 6])
def test_any_cut_of_a_batch_is_the_same_update(count):
  """Micro-batches hold different numbers of masked rows."""
  found, metrics = updated(2, count)
  expected, whole = updated(2, 1)
  np.testing.assert_allclose(found.params["p"], expected.params["p"], rtol=1e-6)
  for name in ("loss", "error", "grad_norm"):
    got, want = metrics[name], whole[name]
    np.testing.assert_allclose(got.total, want.total, rtol=1e-5)
    np.testing.assert_array_equal(got.weight, want.weight)


def test_the_average_can_warm_up():
  found, _ = updated(2, 1, 0.9, ema_schedule="warmup")
  p = np.array([1.0, -2.0, 0.5])
  average = p.copy()
  for n in range(2):
    rows, mask = ROWS.reshape(2, 6, 3)[n], MASK.reshape(2, 6)[n]
    p = p - RATE * (p - rows[mask] - 0.25).mean(0)
    decay = min(0.9, (1 + n) / (10 + n))
    average = decay * average + (1 - decay) * p
  np.testing.assert_allclose(found.ema["p"], average, rtol=1e-5)


@pytest.mark.parametrize("bad", ["loss", "gradient", "weight"])
def test_a_bad_update_is_skipped_and_the_next_is_not(bad):
  tx = optax.adam(0.1)

  def loss_fn(params, micro, frozen):
    rows, _ = micro
    first = rows[0, 0] == ROWS[0, 0]
    loss, _ = quadratic(params, micro, frozen)
    if bad == "loss":
      total = jnp.where(first, jnp.nan, loss.total)
    elif bad == "gradient":  # finite loss, infinite slope
      there, p = jnp.where(first, 0.0, 1.0), params["p"][0]
      total = loss.total + jnp.sqrt(there * p**2) - there * jnp.abs(p)
    else:
      return Mean(loss.total, jnp.where(first, 0.0, loss.weight)), {}
    return Mean(total, loss.weight), {}

  start = fresh(tx)
  found, metrics = step.update(
    start, loss_fn, tx, cut(2, 1), jnp.float32(0), ema_decay=0.5
  )
  np.testing.assert_array_equal(metrics["skipped_updates"].total, [1, 0])
  second = jax.tree.map(lambda x: x[1:], cut(2, 1))
  expected, _ = step.update(
    start, quadratic, tx, second, jnp.float32(0), ema_decay=0.5
  )
  np.testing.assert_array_equal(found.params["p"], expected.params["p"])
  for got, want in zip(
    jax.tree.leaves(found.opt_state),
    jax.tree.leaves(expected.opt_state),
    strict=True,
  ):
    np.testing.assert_array_equal(got, want)


# The loop


@dataclasses.dataclass
class Told:
  """A step whose updates are skipped when it is told so."""

  skipped: set
  seen: list
  during: Callable[[int], object] = bool

  def __call__(self, current, n):
    self.seen.append(n)
    self.during(n + 1)
    bad = n + 1 in self.skipped
    moved = {"p": current.params["p"] + (0.0 if bad else 1.0)}
    metrics = {"skipped_updates": Mean.of(jnp.asarray(bad)), "loss": 0.5 * n}
    return current.replace(params=moved, step=current.step + 1), metrics


def run(tmp_path, total, skipped=(), start=None, during=bool, **kwargs):
  told = Told(set(skipped), [], during)
  with (
    MetricsWriter(tmp_path, "test") as writer,
    Checkpoints(tmp_path / "checkpoints") as checkpoints,
  ):
    job = loop.Loop("test", total, told, writer, checkpoints, **kwargs)
    restored, at, extras = loop.restore(job, start or jax.jit(fresh)())
    found = loop.run(job, restored, at)
  return found, told, extras


def test_twenty_skipped_steps_running_stop_the_run(tmp_path):
  with pytest.raises(UserError, match="20 steps running") as caught:
    run(tmp_path, 40, range(6, 60), save_every=5)
  assert "learning_rate" in str(caught.value)
  rows = read_rows(tmp_path / "metrics.jsonl")
  assert rows[-1]["step"] == 25
  assert sum(row["skipped_updates"] for row in rows) == 20
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    _, kept, _ = checkpoints.restore_latest(state.abstract(jax.jit(fresh)()))
  np.testing.assert_array_equal(kept.params["p"], np.array([1, -2, 0.5]) + 5)


def test_nineteen_do_not_and_a_good_step_starts_the_count_again(tmp_path):
  skipped = [*range(2, 21), *range(22, 41)]
  found, told, _ = run(tmp_path, 41, skipped)
  assert told.seen == list(range(41))
  np.testing.assert_array_equal(found.params["p"], np.array([1, -2, 0.5]) + 3)


def test_a_share_of_skipped_updates_does_not_stop(tmp_path):
  """One of two updates of an iteration was taken."""

  def half(current, n):
    return current, {"skipped_updates": Mean(1.0, 2.0)}

  with (
    MetricsWriter(tmp_path, "test") as writer,
    Checkpoints(tmp_path / "checkpoints") as checkpoints,
  ):
    job = loop.Loop("test", 30, half, writer, checkpoints)
    loop.run(job, jax.jit(fresh)(), 0)
  assert len(read_rows(tmp_path / "metrics.jsonl")) == 30


def test_evaluation_rows_and_saves_are_where_they_should_be(tmp_path):
  newest = []  # rows when `evaluated` is called
  see = lambda: newest.append(read_rows(tmp_path / "metrics.jsonl")[-1])
  run(
    tmp_path, 7, evaluate=lambda s, n: {"eval/x": float(n)}, evaluate_every=3,
    save_every=2, extras=lambda n: {"n": n}, evaluated=see,
  )  # fmt: skip
  assert [row["eval/x"] for row in newest] == [0.0, 3.0, 6.0, 7.0]
  rows = read_rows(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(8))
  evaluated = {row["step"]: row["eval/x"] for row in rows if "eval/x" in row}
  assert evaluated == {0: 0.0, 3: 3.0, 6: 6.0, 7: 7.0}
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    assert checkpoints.steps() == [6, 7]
  _, told, extras = run(tmp_path, 7, save_every=2)
  assert told.seen == [] and extras == {"n": 7}
  _, told, _ = run(tmp_path, 9, save_every=2)
  assert told.seen == [7, 8]
  steps = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")]
  assert steps == list(range(10))


SCORES = {2: 0.1, 4: 0.9, 6: 0.3, 8: float("nan"), 10: 0.8, 12: 0.4, 14: 0.95}


def steps_of(tmp_path):
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    return checkpoints.steps(), checkpoints.best()


def test_the_best_step_is_saved_and_stays(tmp_path):
  given = {
    "evaluate": lambda s, n: {"eval/x": SCORES.get(n, 0.0)},
    "evaluate_every": 2, "save_every": 5, "best": "eval/x",
  }  # fmt: skip
  run(tmp_path, 8, **given)  # 8 is the last, and not finite
  assert steps_of(tmp_path) == ([4, 5, 8], (0.9, 4))
  run(tmp_path, 13, **given)  # a resumed run knows the best
  assert steps_of(tmp_path) == ([4, 10, 13], (0.9, 4))
  run(tmp_path, 14, **given)
  assert steps_of(tmp_path) == ([13, 14], (0.95, 14))


@pytest.mark.turns(2)
def test_patience_ends_a_run_which_returns_its_best_step(tmp_path):
  scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.95, 10: 0.8, 12: float("nan"), 14: 2.0}
  given = {
    "evaluate": lambda s, n: {"eval/x": scores.get(n, 0.0)},
    "evaluate_every": 2, "save_every": 5, "best": "eval/x", "patience": 2,
  }  # fmt: skip
  best, told, _ = run(tmp_path / "whole", 40, **given)
  assert told.seen == list(range(12))
  assert steps_of(tmp_path / "whole") == ([8, 10, 12], (0.95, 8))
  np.testing.assert_array_equal(best.params["p"], np.array([1, -2, 0.5]) + 8)
  # Run again, it has nothing to do; broken off, it ends at the same step.
  again, told, _ = run(tmp_path / "whole", 40, **given)
  assert told.seen == []
  np.testing.assert_array_equal(again.params["p"], best.params["p"])

  def broken(n):
    if n == 11:
      raise RuntimeError("power cut")

  with pytest.raises(RuntimeError, match="power cut"):
    run(tmp_path / "broken", 40, during=broken, **given)
  again, told, _ = run(tmp_path / "broken", 40, **given)
  assert told.seen == [10, 11]
  np.testing.assert_array_equal(again.params["p"], best.params["p"])
  rows = [
    (tmp_path / name / "metrics.jsonl").read_bytes()
    for name in ("whole", "broken")
  ]
  assert rows[0] == rows[1]


def test_a_metric_that_never_comes_keeps_no_step(tmp_path):
  run(tmp_path, 9, save_every=2, best="eval/nonsuch")
  assert steps_of(tmp_path) == ([8, 9], None)


def test_a_stop_does_not_wait_for_an_evaluation(tmp_path):
  """The resumed run evaluates what the stopped one has saved."""
  evaluated = []

  def evaluate(current, n):
    evaluated.append(n)
    return {"eval/p": float(current.params["p"][0]) / 3}

  given = {"evaluate": evaluate, "evaluate_every": 3, "save_every": 50}

  def check(n, row):
    if n == 5:
      os.kill(os.getpid(), signal.SIGTERM)

  stopped = tmp_path / "stopped"
  with pytest.raises(Stopped, match="saved at step 5 of 8"):
    run(stopped, 8, check=check, **given)
  with pytest.raises(Stopped, match="saved at step 6 of 8"):
    ask = lambda n: n == 6 and os.kill(os.getpid(), signal.SIGTERM)
    run(stopped, 8, during=ask, **given)
  assert evaluated == [0, 3]
  rows = read_rows(stopped / "metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(6))
  for _ in range(2):  # and once more when all is done
    run(stopped, 8, **given)
    run(tmp_path / "unbroken", 8, **given)
    first, second = (
      (tmp_path / name / "metrics.jsonl").read_bytes()
      for name in ("stopped", "unbroken")
    )
    assert first == second


def test_a_grace_time_that_is_over_ends_the_process(monkeypatch, caplog):
  codes, over, timers = [], threading.Event(), []

  class Timer(threading.Timer):
    def start(self):
      timers.append(self)
      super().start()

  def end(code):
    codes.append(code)
    over.set()

  monkeypatch.setattr(interrupt.os, "_exit", end)
  monkeypatch.setattr(interrupt.threading, "Timer", Timer)
  with interrupt.GracefulStop(0.05, lambda: "step 4") as stop:
    signal.raise_signal(signal.SIGINT)  # a person may wait
    assert stop.requested and not timers
  with interrupt.GracefulStop(0.05, lambda: "step 4"):
    signal.raise_signal(signal.SIGTERM)
    assert over.wait(60)
  assert codes == [143]
  assert "within 0.05 s" in caplog.text and "from step 4" in caplog.text
  with interrupt.GracefulStop(3600):
    signal.raise_signal(signal.SIGTERM)
  timers[-1].join(60)
  assert not timers[-1].is_alive()
  assert codes == [143]  # what has been left in time is not ended


def test_a_grace_time_ends_the_process_whatever_is_saved(monkeypatch):
  def gone():
    raise OSError("the folder of checkpoints is gone")

  codes = []
  monkeypatch.setattr(interrupt.os, "_exit", codes.append)
  with pytest.raises(OSError, match="gone"):
    interrupt.GracefulStop(1.0, gone)._give_up()
  assert codes == [143]


def test_a_check_sees_every_row_and_may_stop(tmp_path):
  seen = []

  def check(n, row):
    seen.append((n, row["loss"]))
    if n == 3:
      raise UserError("enough")

  with pytest.raises(UserError, match="enough"):
    run(tmp_path, 9, check=check, save_every=1)
  assert seen == [(1, 0.0), (2, 0.5), (3, 1.0)]
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    assert checkpoints.steps() == [1, 2]  # what was stopped is not saved


def test_numbers_of_metrics():
  metrics = {
    "mean": Mean(jnp.float32(3), jnp.float32(2)),
    "nothing": Mean(jnp.float32(3), jnp.float32(0)),
    "plain": 2,
    "array": jnp.float32(0.5),
  }
  found = loop.to_numbers(metrics)
  assert found == {"mean": 1.5, "plain": 2.0, "array": 0.5}
  assert all(type(value) is float for value in found.values())


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  class Bursts(Told):
    def __call__(self, current, n):
      current, metrics = super().__call__(current, n)
      burst = jnp.where(n >= 3, jnp.inf, 0.0)
      return current.replace(params={"p": current.params["p"] + burst}), metrics

  def burst():
    with (
      MetricsWriter(tmp_path, "test") as writer,
      Checkpoints(tmp_path / "checkpoints", keep=9) as checkpoints,
    ):
      job = loop.Loop(
        "test", 6, Bursts(set(), []), writer, checkpoints, save_every=1
      )
      loop.run(job, jax.jit(fresh)(), 0)

  with pytest.raises(UserError, match=r"finite at step 4 .*: step 3\)"):
    burst()
  assert steps_of(tmp_path)[0] == [1, 2, 3]


def test_a_step_that_cannot_be_taken_loses_none_before_it(tmp_path):
  def fails(n):
    if n == 7:
      raise UserError("the service is down")

  with pytest.raises(UserError, match="service"):
    run(tmp_path, 9, during=fails, save_every=4)
  assert steps_of(tmp_path)[0] == [4, 6]
  _, told, _ = run(tmp_path, 9, save_every=4)
  assert told.seen == [6, 7, 8]
