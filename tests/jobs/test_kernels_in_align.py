"""The align step through Pallas kernels, run by the interpreter of a CPU."""

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.jobs import align
from jaxreward.setup import kernels
from pallas_kernels import dispatch
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.optimized, pytest.mark.turns(4, 3)]

SPEC = "align_scenes.py:flow_grpo,smoke"
SETTINGS = {
  "rollout.microbatch": 8, "optimizer.learning_rate": 1e-3,
  "align.old_log_prob": "sealed",
}  # fmt: skip


def iterate(form, mesh=1, **overrides):
  """(metrics, parameters, latents) of one iteration."""
  chosen = {"kernels.implementation": form} | overrides
  config = tiny.load(SPEC, tiny.MODEL, tiny.REWARD, tiny.FAST, SETTINGS, chosen)
  iteration = tiny.Iteration(config, tiny.mesh_of(mesh), real=False)
  state, metrics, drawn = iteration.step(iteration.state)
  params = jax.tree.map(np.asarray, state.params)
  return tiny.numbers(metrics), params, drawn


@pytest.mark.parametrize("advantage", ["group", "leave_one_out"])
def test_kernels_do_what_plain_operations_do(advantage):
  choice = {"advantage.name": advantage}
  plain, params, _ = iterate("xla", **choice)
  fused, moved, _ = iterate("interpret", **choice)
  assert plain.keys() == fused.keys()
  for name, value in plain.items():
    assert fused[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("form", ["interpret", "interpret_triton"])
def test_the_ratio_is_exactly_one_through_the_kernel(form):
  metrics, _, _ = iterate(form, **{"align.updates": 1})
  assert metrics["log_prob_gap"] == 0.0
  assert metrics["ratio"] == 1.0


def test_plain_operations_are_the_default():
  config = tiny.load(SPEC, tiny.FAST)
  assert config.kernels.implementation == "xla"
  assert kernels.take_step(config) is kernels.replay(config) is None


def test_win_rates_through_the_kernel_are_those_of_plain_operations():
  choice = {"composition.name": "win_rate"}
  plain, params, _ = iterate("xla", **choice)
  fused, moved, _ = iterate("interpret", **choice)
  assert 0 < plain["reward"] == pytest.approx(fused["reward"], rel=1e-5)
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


def test_the_config_reaches_the_kernel(monkeypatch):
  seen = set()
  choose = dispatch.choose

  def spy(implementation):
    seen.add(implementation)
    return choose(implementation)

  monkeypatch.setattr(dispatch, "choose", spy)
  iterate("interpret")
  assert seen == {"interpret"}


def test_an_unknown_form_is_refused():
  config = tiny.load(SPEC, {"kernels.implementation": "tritn"})
  with pytest.raises(
    UserError, match=r'kernels.implementation="tritn".*triton'
  ):
    align.check(config)


def test_a_forward_objective_takes_no_step_kernel():
  config = tiny.load(
    "align_scenes.py:smoke", {"kernels.implementation": "interpret"}
  )
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  assert plan.take_step is plan.replay is None


def test_kernels_work_on_a_mesh():
  metrics, _, _ = iterate("interpret", mesh=2)
  plain, _, _ = iterate("xla", mesh=2)
  assert metrics["log_prob_gap"] == 0.0
  assert metrics["loss"] == pytest.approx(plain["loss"], rel=1e-3, abs=1e-5)
