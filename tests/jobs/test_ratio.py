"""The ratio of the first update is exactly 1, and the run watches it."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from jaxreward import feeds
from jaxreward.errors import UserError
from jaxreward.jobs import align
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.optimized, pytest.mark.turns(4, 0)]

SPEC = "align_scenes.py:flow_grpo,smoke"
SETTINGS = {
  "rollout.microbatch": 8, "optimizer.learning_rate": 1e-3,
  "align.old_log_prob": "sealed",
}  # fmt: skip


def gaps(*overrides, steps=2, real=True):
  """Metrics of a few iterations on one device."""
  config = tiny.load(SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, *overrides)
  iteration = tiny.Iteration(config, tiny.mesh_of(1), real=real)
  state, found = iteration.state, []
  for _ in range(steps):
    state, metrics, _ = iteration.step(state)
    found.append(tiny.numbers(metrics))
  assert not tiny.same_bits(state.params, iteration.state.params)
  return found


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_first_update_has_no_gap(remat):
  for row in gaps(SETTINGS, {"model.remat": remat, "align.updates": 2}):
    assert row["log_prob_gap"] == 0.0
    # the second update sees parameters that the first has moved
    assert row["log_ratio_abs"] > 1e-7
    assert row["ratio"] != 1.0
    assert row["approx_kl"] > 0


def test_one_update_has_ratio_one_throughout():
  for row in gaps(SETTINGS, {"align.updates": 1}, real=False):
    assert row["log_ratio_abs"] == row["log_prob_gap"] == 0.0
    assert row["ratio"] == 1.0
    assert row["clip_fraction_low"] == row["clip_fraction_high"] == 0.0


@pytest.mark.parametrize(
  "overrides",
  [
    {"rollout.guidance_scale": 2.0, "rollout.sampler.name": "cps"},
    {"lora.rank": 2, "model.dtype": "bfloat16", **tiny.kl("step_kl", 0.1)},
    pytest.param(
      {"model.depth": 2, "model.unroll": 2, "rollout.microbatch": 24},
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()),
)
def test_nor_with_other_samplers_and_models(overrides):
  found = gaps(SETTINGS, overrides)
  assert [row["log_prob_gap"] for row in found] == [0.0, 0.0]


@pytest.mark.parametrize(
  "overrides",
  [
    {"rollout.sampler.name": "dance_sde", "rollout.microbatch": 7},
    {"rollout.window_start": 1, "rollout.window_size": 1, "align.updates": 1},
  ],
  ids=["dance_sde", "window"],
)
def test_nor_with_other_geometry(overrides):
  found = gaps(SETTINGS, overrides, real=False)
  assert [row["log_prob_gap"] for row in found] == [0.0, 0.0]


def test_without_the_seal_the_first_ratio_is_one_and_the_gap_is_told():
  """Stored or computed again: the update is that of the seal but for rounding."""
  small = {**SETTINGS, "align.updates": 2}
  params, rows = {}, {}
  for form in feeds.OLD_LOG_PROBS:
    config = tiny.load(
      SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, small,
      {"align.old_log_prob": form},
    )  # fmt: skip
    iteration = tiny.Iteration(config, tiny.mesh_of(1))
    state, metrics, _ = iteration.step(iteration.state)
    params[form], rows[form] = tiny.flat(state.params), tiny.numbers(metrics)
    assert rows[form]["log_prob_gap"] == 0.0
    assert rows[form]["log_ratio_abs"] > 1e-7  # of the second optimizer step
    np.testing.assert_allclose(params[form], params["sealed"], atol=2e-5)
  for form in ("stored", "recomputed"):
    assert 0 <= rows[form]["stored_gap"] < 1e-5
  assert "stored_gap" not in rows["sealed"]


def test_a_stored_gap_beyond_the_bound_stops_the_run():
  with pytest.raises(UserError, match=r"differ from the rollout's by 0\.01"):
    align.Watch(1e-3)(3, {"log_prob_gap": 0.0, "stored_gap": 0.01})
  compared = align.Watch(1e-3, reads_stored=False)
  compared(3, {"log_prob_gap": 0.0, "stored_gap": 0.01})


def test_the_gap_is_of_the_first_update_alone():
  """A stored log-probability that is wrong by 1e-3 shows as 1e-3."""
  config = tiny.load(SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS)
  iteration = tiny.Iteration(config, tiny.mesh_of(1))
  trajectory, _, images = iteration.sample(iteration.state)
  wrong = trajectory.replace(log_probs=trajectory.log_probs - 1e-3)
  scores = {"redness": tiny.redness(images, None)}
  _, metrics = iteration.update(iteration.state, wrong, scores)
  gap = tiny.numbers(metrics)["log_prob_gap"]
  np.testing.assert_allclose(gap, 1e-3, rtol=1e-2)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("row", [0, 23])
def test_the_gap_is_the_largest_of_all_samples(row, devices):
  """One sample of 24 is wrong, in whichever micro-batch, on whatever device."""
  one = {"align.updates": 1}
  config = tiny.load(SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS, one)
  iteration = tiny.Iteration(config, tiny.mesh_of(devices))
  trajectory, _, images = iteration.sample(iteration.state)
  stored = np.array(trajectory.log_probs)
  stored[iteration.plan.trained[0], row] -= 1e-3
  stored = jax.device_put(stored, trajectory.log_probs.sharding)
  scores = {"redness": tiny.redness(images, None)}
  _, metrics = iteration.update(
    iteration.state, trajectory.replace(log_probs=stored), scores
  )
  found = tiny.numbers(metrics)
  np.testing.assert_allclose(found["log_prob_gap"], 1e-3, rtol=1e-2)
  assert found["log_ratio_abs"] < 1e-3 / 8


def test_a_wrong_log_probability_stops_the_run(
  monkeypatch, command, tmp_path, small_model
):
  steps = feeds.FEEDS["steps"]

  def biased(*args):
    rows = steps.make(*args)
    return rows | {"old_log_prob": rows["old_log_prob"] + 1e-4}

  wrong = dataclasses.replace(steps, make=biased)
  monkeypatch.setitem(feeds.FEEDS, "steps", wrong)
  overrides = {"checkpoint.every": 1}
  code = command(
    SPEC, tmp_path / "run", tiny.MODEL, tiny.REWARD, tiny.FAST, overrides
  )
  assert code == 2
  assert "log_prob_gap_bound" in command.error
  assert "at step 1" in command.error
  assert not (tmp_path / "run" / "policy.safetensors").exists()


@pytest.mark.parametrize(
  ("gap", "stops"), [(0.0, False), (1e-6, False), (1.1e-6, True), (1.0, True)]
)
def test_the_bound(gap, stops):
  check = align.Watch(1e-6)
  if stops:
    with pytest.raises(UserError, match="log_prob_gap_bound=1e-06"):
      check(3, {"log_prob_gap": gap})
  else:
    check(3, {"log_prob_gap": gap})


def test_no_gap_and_an_unknown_gap_do_not_stop():
  """Nothing was weighed, or the update was skipped: both are told elsewhere."""
  align.Watch(1e-6)(3, {})
  align.Watch(1e-6)(3, {"log_prob_gap": math.nan})


def test_replaying_a_rollout_twice_is_the_same():
  """Two programs of the same rollout, one update each: no hidden state."""
  config = tiny.load(SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS)
  found = []
  for _ in range(2):
    iteration = tiny.Iteration(config, tiny.mesh_of(1))
    state, _, trajectory = iteration.step(iteration.state)
    found.append((jax.device_get(state), jax.device_get(trajectory)))
  assert tiny.same_bits(*found)
