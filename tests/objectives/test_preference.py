"""Flow DPO: reference, gradient sign, limits."""

import jax
import numpy as np
import pytest

from jaxreward import objectives

NAMES = (
  "v_chosen",
  "v_rejected",
  "v_ref_chosen",
  "v_ref_rejected",
  "u_chosen",
  "u_rejected",
)
MASK = np.ones(5, bool)


def case(seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.normal(0, 1, (5, 2, 3)) for name in NAMES}


def f32(arrays):
  return {k: np.asarray(a, np.float32) for k, a in arrays.items()}


def reference(c, beta):
  error = lambda v, u: np.mean((c[v] - c[u]) ** 2, axis=(1, 2))
  margin = error("v_chosen", "u_chosen") - error("v_ref_chosen", "u_chosen")
  margin -= error("v_rejected", "u_rejected")
  margin += error("v_ref_rejected", "u_rejected")
  return np.sum(np.logaddexp(0, beta / 2 * margin)), margin


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_matches_float64_in_value_and_gradient(beta):
  c = case()
  mean, metrics = objectives.flow_dpo(**f32(c), mask=MASK, beta=beta)
  want, margin = reference(c, beta)
  np.testing.assert_allclose(mean.total, want, rtol=1e-5)
  np.testing.assert_allclose(
    metrics["margin"].value(), margin.mean(), rtol=1e-4
  )
  np.testing.assert_allclose(
    metrics["accuracy"].value(), np.mean(margin < 0), rtol=1e-6
  )
  for name in ("v_chosen", "v_rejected"):
    grad = jax.grad(
      lambda v, n=name: (
        objectives.flow_dpo(**{**f32(c), n: v}, mask=MASK, beta=beta)[0].total
      )
    )(c[name].astype(np.float32))
    numeric = np.zeros_like(c[name])
    for i in np.ndindex(numeric.shape):
      up, down = ({**c, name: c[name].copy()} for _ in range(2))
      up[name][i] += 1e-6
      down[name][i] -= 1e-6
      numeric[i] = (reference(up, beta)[0] - reference(down, beta)[0]) / 2e-6
    np.testing.assert_allclose(grad, numeric, rtol=1e-3, atol=1e-5)


def test_at_the_reference_the_loss_is_log_two_and_pulls_the_right_way():
  arrays = f32(case(1))
  arrays["v_ref_chosen"] = arrays["v_chosen"]
  arrays["v_ref_rejected"] = arrays["v_rejected"]
  mean, metrics = objectives.flow_dpo(**arrays, mask=MASK, beta=100.0)
  np.testing.assert_allclose(mean.value(), np.log(2), rtol=1e-6)
  assert metrics["accuracy"].value() == 0.5

  def gradient(name):
    return jax.grad(
      lambda v: (
        objectives.flow_dpo(**{**arrays, name: v}, mask=MASK, beta=100.0)[
          0
        ].total
      )
    )(arrays[name])

  towards = arrays["v_chosen"] - arrays["u_chosen"]
  away = arrays["v_rejected"] - arrays["u_rejected"]
  # beta / 2 * sigmoid(0) * 2 (v - u) / D: towards the winner, off the loser.
  np.testing.assert_allclose(
    gradient("v_chosen"), 50 * towards / 6, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    gradient("v_rejected"), -50 * away / 6, rtol=1e-4, atol=1e-5
  )


def test_swapping_the_pair_flips_the_margin():
  arrays = f32(case(2))
  swap = {
    name: arrays[
      name.replace("chosen", "x")
      .replace("rejected", "chosen")
      .replace("x", "rejected")
    ]
    for name in NAMES
  }
  _, one = objectives.flow_dpo(**arrays, mask=MASK)
  _, two = objectives.flow_dpo(**swap, mask=MASK)
  np.testing.assert_allclose(
    one["margin"].value(), -two["margin"].value(), rtol=1e-5
  )
  np.testing.assert_allclose(
    one["accuracy"].value(), 1 - two["accuracy"].value(), rtol=1e-6
  )


def test_extreme_beta_stays_finite():
  arrays = f32(case(3))
  mean, _ = objectives.flow_dpo(**arrays, mask=MASK, beta=1e6)
  assert np.isfinite(mean.total)
