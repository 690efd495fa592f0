"""Flow DPO: reference, gradient sign, limits."""

import jax
import numpy as np
import pytest

from jaxreward import objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

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
    numeric = numeric_gradient(
      lambda v, n=name: reference({**c, n: v}, beta)[0], c[name]
    )
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


def weighted_case(seed=3):
  rng = np.random.default_rng(seed)
  more = dict(signal_chosen=rng.random(5) + 0.5, signal_rejected=rng.random(5))
  more["signal_rejected"] = np.minimum(
    more["signal_rejected"], more["signal_chosen"]
  )
  return case(seed), more


def each(c, beta):
  """Loss of every pair, float64; beta may differ from pair to pair."""
  return np.logaddexp(0, np.asarray(beta) / 2 * reference(c, 1.0)[1])


def check(name, want, arrays, **options):
  """Value, and the slope of the winner's velocity by finite differences."""
  function = objectives.REGISTRY[name]
  loss = lambda v: (
    function(**{**f32(arrays), "v_chosen": v}, mask=MASK, **options)[0].total
  )
  v = arrays["v_chosen"]
  got, slope = jax.value_and_grad(loss)(v.astype(np.float32))
  np.testing.assert_allclose(got, want(v), rtol=1e-5)
  numeric = numeric_gradient(want, v)
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-5)


def test_gap_dpo():
  c, more = weighted_case()
  gain = 3.0 ** more["signal_chosen"] - 3.0 ** more["signal_rejected"]
  want = lambda v: np.sum(gain * each(c | {"v_chosen": v}, 4.0))
  check("gap_dpo", want, c | more, beta=4.0, base=3.0)
  same = more | {"signal_rejected": more["signal_chosen"]}
  loss, _ = objectives.gap_dpo(**f32(c | same), mask=MASK)
  assert loss.total == 0


def test_dynamic_dpo():
  c, more = weighted_case()
  gap = more["signal_chosen"] - more["signal_rejected"]
  beta = 4.0 * (1 + 0.6 * (1 - np.exp(-0.7 * gap)))
  want = lambda v: np.sum(each(c | {"v_chosen": v}, beta))
  check("dynamic_dpo", want, c | more, beta=4.0, growth=0.6, rate=0.7)
  plain, _ = objectives.flow_dpo(**f32(c), mask=MASK, beta=4.0)
  none, _ = objectives.dynamic_dpo(
    **f32(c | more), mask=MASK, beta=4.0, growth=0.0
  )
  assert plain.total == none.total


def test_dynamic_dpo_by_hand():
  """Gaps 0, 1 and 3 at .1, .5 and .5; a margin of -4 is h = 2."""
  zeros = np.zeros((3, 1), np.float32)
  arrays = dict.fromkeys(NAMES, zeros) | dict(
    signal_chosen=np.array([0, 1, 3], np.float32),
    signal_rejected=np.zeros(3, np.float32),
    v_rejected=zeros + 2,
  )
  one = lambda i: objectives.dynamic_dpo(
    **arrays, mask=np.arange(3) == i, beta=0.1
  )
  for i, want in enumerate((0.1, 0.119673, 0.138843)):
    np.testing.assert_allclose(one(i)[1]["pair_beta"].value(), want, rtol=1e-5)
  for i, want in enumerate((0.598139, 0.580618)):
    np.testing.assert_allclose(one(i)[0].total, want, rtol=1e-5)


def test_inpo_is_flow_dpo_at_inverted_latents():
  c = f32(case(9))
  at = {
    "v_": "v_inverted_", "v_ref_": "v_ref_inverted_", "u_": "u_inverted_"
  }  # fmt: skip
  renamed = {
    f"{at[name.rpartition('_')[0] + '_']}{name.rpartition('_')[2]}": x
    for name, x in c.items()
  }
  got, metrics = objectives.inpo(**renamed, mask=MASK, beta=3.0)
  want, known = objectives.flow_dpo(**c, mask=MASK, beta=3.0)
  assert got.total == want.total
  assert metrics["error_chosen"].total == known["error_chosen"].total


def test_hierarchical_dpo():
  c, more = weighted_case()
  more |= dict(group_gap=np.full(5, 0.4), group_share=np.arange(5) / 2.0)
  gap = more["signal_chosen"] - more["signal_rejected"]
  weight = gap / 0.4 * more["group_share"]
  want = lambda v: np.sum(weight * each(c | {"v_chosen": v}, 4.0))
  check("hierarchical_dpo", want, c | more, beta=4.0)


def test_shares_of_the_groups_have_mean_one():
  rng = np.random.default_rng(0)
  std, counted = rng.random((3, 4)), rng.random((3, 4)) > 0.3
  finish = objectives.hierarchical_dpo.prepare.finish
  share = np.asarray(
    finish({"std": std.astype(np.float32), "mask": counted})["group_share"]
  )
  np.testing.assert_allclose(share[counted].mean(), 1, rtol=1e-6)
  np.testing.assert_allclose(
    share[counted], std[counted] / std[counted].mean(), rtol=1e-5
  )
  assert not share[~counted].any()


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("gap_dpo", dict(base=1.0), "base=1.0"),
    ("dynamic_dpo", dict(growth=-0.1), "growth=-0.1"),
  ],
)
def test_weights_that_are_refused(name, options, says):
  c, more = weighted_case()
  with pytest.raises(UserError, match=says):
    objectives.REGISTRY[name](**f32(c | more), mask=MASK, **options)


def test_smoothed_dpo():
  c, more = weighted_case()
  gap = more["signal_chosen"] - more["signal_rejected"]
  doubt = 1 / (np.exp(gap / 0.3) + 1)

  def want(v):
    h = -4.0 / 2 * reference(c | {"v_chosen": v}, 1.0)[1]
    losses = (1 - doubt) * np.logaddexp(0, -h) + doubt * np.logaddexp(0, h)
    return np.sum(losses)

  check("smoothed_dpo", want, c | more, beta=4.0, temperature=0.3)
  plain, _ = objectives.flow_dpo(**f32(c), mask=MASK, beta=4.0)
  sure, _ = objectives.smoothed_dpo(
    **f32(c | more), mask=MASK, beta=4.0, temperature=1e-6
  )
  np.testing.assert_allclose(sure.total, plain.total, rtol=1e-6)
  equal = c | more | {"signal_rejected": more["signal_chosen"]}
  at_reference = equal | {
    "v_chosen": c["v_ref_chosen"], "v_rejected": c["v_ref_rejected"],
  }  # fmt: skip
  known = f32(at_reference)
  slope = jax.grad(
    lambda v: (
      objectives.smoothed_dpo(**{**known, "v_chosen": v}, mask=MASK)[0].total
    )
  )(known["v_chosen"])
  np.testing.assert_allclose(slope, 0, atol=1e-3)  # beta is 2000


def test_masked_dpo():
  c = case(6)
  c["u_rejected"][..., :2] = c["u_chosen"][..., :2]  # these places are equal
  places = np.broadcast_to(np.arange(3) == 2, (5, 2, 3))

  def want(v):
    arrays = c | {"v_chosen": v}
    error = lambda v, u: (
      ((arrays[v] - arrays[u]) ** 2 * places).sum((1, 2)) / places.sum((1, 2))
    )
    margin = error("v_chosen", "u_chosen") - error("v_ref_chosen", "u_chosen")
    margin -= error("v_rejected", "u_rejected")
    margin += error("v_ref_rejected", "u_rejected")
    return np.sum(np.logaddexp(0, 2.0 * margin))

  check("masked_dpo", want, c, beta=4.0, threshold=0.0)
  _, metrics = objectives.masked_dpo(**f32(c), mask=MASK, threshold=0.0)
  np.testing.assert_allclose(metrics["place_share"].value(), 1 / 3, rtol=1e-6)
  everywhere = case(7)
  whole, _ = objectives.masked_dpo(
    **f32(everywhere), mask=MASK, beta=4.0, threshold=0.0
  )
  plain, _ = objectives.flow_dpo(**f32(everywhere), mask=MASK, beta=4.0)
  np.testing.assert_allclose(whole.total, plain.total, rtol=1e-6)


def test_single_dpo():
  rng = np.random.default_rng(8)
  v, ref, u = rng.normal(size=(3, 4, 2, 3))
  advantage = np.array([1.5, -0.7, 0.1, 0.9])
  label = np.array([1, -1, 0, 1])

  def want(v):
    error = lambda x: np.mean((x - u) ** 2, axis=(1, 2))
    z = 3.0 / 2 * label * (error(v) - error(ref))
    return np.sum(np.abs(label) * np.logaddexp(0, z))

  arrays = f32(dict(v_reference=ref, u=u, advantage=advantage))
  loss = lambda v: objectives.single_dpo(
    v, **arrays, mask=np.ones(4, bool), beta=3.0
  )
  (mean, metrics), slope = (
    loss(np.float32(v)),
    jax.grad(lambda v: loss(v)[0].total)(np.float32(v)),
  )
  np.testing.assert_allclose(mean.total, want(v), rtol=1e-5)
  assert metrics["labelled"].value() == 0.75
  assert not slope[2].any()  # neutral
  numeric = numeric_gradient(want, v)
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-5)
  at_reference, _ = objectives.single_dpo(
    np.float32(ref), **arrays, mask=np.ones(4, bool)
  )
  np.testing.assert_allclose(at_reference.total, 3 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("smoothed_dpo", dict(temperature=0.0), "temperature=0.0"),
    ("masked_dpo", dict(threshold=1.0), "threshold=1.0"),
  ],
)
def test_options_that_are_refused(name, options, says):
  c, more = weighted_case()
  arrays = f32(c if name == "masked_dpo" else c | more)
  with pytest.raises(UserError, match=says):
    objectives.REGISTRY[name](**arrays, mask=MASK, **options)
