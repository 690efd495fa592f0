"""A checkpoint of eight devices goes on, on fewer and on another split."""

import functools

import numpy as np
import pytest

from jaxreward.training import state as state_lib
from jaxreward.training.checkpoint import Checkpoints
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(4, 3)]

# devices, data, fsdp
MESHES = {
  "4x2": (8, 4, 2),
  "8x1": (8, 8, 1),
  "1x8": (8, 1, 8),
  "2x2": (4, 2, 2),
  "1x2": (2, 1, 2),
  "1x1": (1, 1, 1),
}
OBJECTIVES = ("flow_grpo", "diffusion_nft")
# Descent with a momentum, which is restored too. Adam divides a gradient of
# nearly zero by its own size, which makes a rounding error a whole step.
SETTINGS = {
  "optimizer.name": "sgd",
  "optimizer.learning_rate": 1e-2,
  "rollout.prompts": 6,
  "rollout.group": 4,
  "rollout.num_steps": 3,
  "rollout.microbatch": 12,
}
TOLERANCE = 2e-4  # float32 sums in another order, through layers and steps


@functools.cache
def iteration(objective, mesh):
  config = tiny.load(
    f"align_scenes.py:{objective},smoke",
    tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS,
  )  # fmt: skip
  return tiny.Iteration(config, tiny.mesh_of(*MESHES[mesh]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """objective -> (folder, state after two steps, the third step)."""
  done = {}

  def get(objective):
    if objective not in done:
      folder = tmp_path_factory.mktemp(objective)
      one = iteration(objective, "4x2")
      current = one.state
      for _ in range(2):
        current, _, _ = one.step(current)
      with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, current, {}, wait=True)
      kept = one.copy(current)
      after, row, _ = one.step(current)
      done[objective] = folder, kept, tiny.flat(after.params), tiny.numbers(row)
    return done[objective]

  return get


@pytest.mark.parametrize("mesh", list(MESHES))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_state_is_the_same_and_the_next_step_agrees(objective, mesh, saved):
  folder, state, params, row = saved(objective)
  one = iteration(objective, mesh)
  target = state_lib.abstract(one.state)
  with Checkpoints(folder) as checkpoints:
    step, found, _ = checkpoints.restore_latest(target)
  assert step == 2
  assert tiny.same_bits(found, state)
  found_after, found_row, _ = one.step(found)
  numbers = tiny.numbers(found_row)
  assert numbers.keys() == row.keys()
  for name, value in row.items():
    if name != "log_prob_gap":
      scale = max(abs(value), 1e-3)
      assert abs(numbers[name] - value) < TOLERANCE * scale, name
  start = tiny.flat(state.params)
  error = np.linalg.norm(tiny.flat(found_after.params) - params)
  assert error < 10 * TOLERANCE * np.linalg.norm(params - start)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_restored_lies_where_it_belongs(objective, saved):
  folder, *_ = saved(objective)
  one = iteration(objective, "1x8")
  target = state_lib.abstract(one.state)
  with Checkpoints(folder) as checkpoints:
    _, found, _ = checkpoints.restore_latest(target)
  kernel = found.params["into"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 8
