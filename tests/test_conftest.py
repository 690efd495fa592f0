"""The harness itself: it must notice what the other tests rely on."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax._src import compiler

from tests import hurry, turns


def test_there_are_eight_devices():
  assert jax.device_count() == 8
  assert jax.devices()[0].platform == "cpu"


def test_compile_counter_counts_new_programs_only(compile_counter):
  step = jax.jit(lambda x: jnp.sin(x) * 3.25)
  x = np.ones(5, np.float32)
  step(x)
  compile_counter.reset()
  step(x)
  assert compile_counter.count == 0
  step(np.ones(6, np.float32))
  assert compile_counter.count == 1, compile_counter.names


def test_functions_are_checked_and_records_are_not():
  from jaxreward import rng, types

  with pytest.raises(Exception, match="seed"):
    rng.stream_key("not a seed", "stream")
  batch = types.PromptBatch(*[np.zeros(2) for _ in range(3)])
  assert jax.tree.map(lambda _: None, batch).ids is None


def test_shapes_are_checked():
  from jaxreward.flow import schedule, steppers

  table = steppers.ode(schedule.timesteps(2))
  step = jax.tree.map(lambda row: jnp.asarray(row[0]), table)
  x = np.zeros((2, 3), np.float32)
  assert steppers.mean(x, x, step).shape == (2, 3)
  with pytest.raises(jaxtyping.TypeCheckError, match=r"steppers\.mean"):
    steppers.mean(x, x[:, :2], step)


def flags() -> dict[str, str]:
  return dict(compiler.get_compile_options(1, 1).env_option_overrides)


def test_programs_are_compiled_in_a_hurry():
  assert flags() == hurry.FLAGS


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.optimized
def test_unless_they_are_to_be_as_users_are():
  assert flags() == {}


class Item:
  """What `turns.take` asks of a test: its marks, and those of its file."""

  module = jax  # any

  def __init__(self, name, mark, of_file):
    self.originalname, self.mark, self.added = name, mark, []
    marks = [mark] if of_file else []
    self.parents = [type("File", (), {"own_markers": marks}), self]

  def get_closest_marker(self, name):
    assert name == "turns"
    return self.mark

  def listchain(self):
    return self.parents

  def add_marker(self, mark):
    self.added.append(mark)


@pytest.mark.parametrize("of_file", [True, False])
@pytest.mark.parametrize("cases", [1, 4])
def test_each_case_is_due_in_one_commit_of_three(monkeypatch, cases, of_file):
  mark = pytest.mark.turns(3).mark
  due = []
  for commit in range(5, 8):
    monkeypatch.setattr(turns, "turn", lambda commit=commit: commit)
    items = [Item("test_it", mark, of_file) for _ in range(cases)]
    turns.take(items)
    due.append([not item.added for item in items])
  assert np.sum(due, 0).tolist() == [1] * cases
  most = cases if of_file else -(-cases // 3)
  assert max(np.sum(due, 1)) == most
