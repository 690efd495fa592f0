"""The harness itself: it must notice what the other tests rely on."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax._src import compiler

from tests import hurry


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


@pytest.mark.optimized
def test_unless_they_are_to_be_as_users_are():
  assert flags() == {}
