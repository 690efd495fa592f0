"""What an advantage may read of an iteration's scores."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, composition
from jaxreward.setup import credits
from tests import tiny

P, G, WEIGHTS = 6, 4, {"main": 2.0, "aux": 0.0}


def read(fn, config, are_steps=False):
  """(scores, step scores, credit) where an advantage is what `fn` makes of them."""
  plan = tiny.make_plan(config, tiny.mesh_of(1))
  updater = types.SimpleNamespace(
    weights=WEIGHTS, advantage=advantages.as_advantage(fn), seed=0,
    compose=composition.weighted_sum, loss=types.SimpleNamespace(names=()),
    plan=dataclasses.replace(plan, real=1), levels=lambda stats: None,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  draw = lambda *more: {
    k: jnp.asarray(rng.random((P, G, *more)), jnp.float32) for k in WEIGHTS
  }
  scores, steps = draw(), draw(len(plan.table.t) + 1)
  credit, _ = credits.credit_of(
    updater, scores, tiny.prompts_of(config), None, jnp.int32(0),
    steps if are_steps else None,
  )  # fmt: skip
  return scores, steps, credit


def test_rewards_without_a_weight_and_who_is_real():
  known = {}

  def reads(signal, mask, unweighted, real):
    known.update(unweighted=unweighted, real=real)
    return jnp.where(mask, signal, 0.0)

  scores, _, credit = read(reads, tiny.load("align_scenes.py:smoke"))
  assert list(known["unweighted"]) == ["aux"]
  np.testing.assert_array_equal(known["unweighted"]["aux"], scores["aux"])
  np.testing.assert_array_equal(
    known["real"], np.broadcast_to(np.arange(G) == G - 1, (P, G))
  )
  np.testing.assert_allclose(credit.signal, 2 * scores["main"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["step", "jump"])
def test_signals_of_steps_are_composed_like_that_of_the_sample(kind):
  given = {
    "step": lambda step_signal, step_mask: step_signal[..., :-1],
    "jump": lambda jump_signal, jump_mask: jump_signal[..., :-1],
  }[kind]
  bound = advantages.as_advantage(given)
  assert bound.needs_steps and bound.jumps is (kind == "jump")
  config = tiny.load("align_scenes.py:flow_grpo,smoke")
  _, steps, credit = read(given, config, are_steps=True)
  np.testing.assert_allclose(
    credit.advantage, 2 * np.asarray(steps["main"])[..., :-1], rtol=1e-6
  )
