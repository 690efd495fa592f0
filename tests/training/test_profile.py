"""The trace and the table of where step time goes."""

import jax.numpy as jnp
import pytest
from etils import epath

from jaxreward.training import profile


def test_the_table_adds_up():
  steps = [{"sample": 1.0, "update": 2.0}, {"sample": 3.0, "evaluate": 2.0}]
  text = profile.table(steps)
  rows = {
    line[:22].strip(): line[22:].split() for line in text.splitlines()[1:-1]
  }
  assert rows == {
    "sample": ["2.0000", "50.0%"],
    "update": ["1.0000", "25.0%"],
    "evaluate": ["1.0000", "25.0%"],
    "whole step": ["4.0000", "100.0%"],
  }
  assert text.endswith("mean of 2 steps")


def test_a_trace_of_steps_after_the_one_that_compiles(tmp_path, monkeypatch):
  calls, now = [], iter(range(0, 1000, 10))
  monkeypatch.setattr(profile.time, "perf_counter", lambda: float(next(now)))
  monkeypatch.setattr(
    profile.jax.profiler, "start_trace", lambda path: calls.append("start")
  )
  monkeypatch.setattr(
    profile.jax.profiler, "stop_trace", lambda: calls.append("stop")
  )
  with profile.Profile(epath.Path(tmp_path) / "p") as one:
    for n in range(6):
      one.begin()
      calls.append(n)
      one.end({"update": 4.0})
  assert calls == [0, "start", 1, 2, 3, "stop", 4, 5]
  assert one.steps == [{"update": 4.0, profile.REST: 6.0}] * 5
  assert "10.0000" in (tmp_path / "p" / profile.TABLE_FILE).read_text()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_trace_is_written_and_ended_when_a_step_raises(tmp_path):
  with pytest.raises(RuntimeError, match="enough"):
    with profile.Profile(epath.Path(tmp_path)) as one:
      one.begin()
      one.end({})
      one.begin()
      jnp.ones(3).block_until_ready()
      raise RuntimeError("enough")
  assert list(tmp_path.rglob("*.xplane.pb"))


def test_without_a_folder_nothing_is_written(tmp_path):
  with profile.Profile(None) as one:
    for _ in range(6):
      one.begin()
      one.end({})
  assert not one._tracing
