"""Credit from learned step rewards, against loops in float64."""

import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.errors import UserError

RNG = np.random.default_rng(0)
P, G, T = 3, 4, 5
SIGNAL = RNG.random((P, G)).astype(np.float32)
MASK = np.ones((P, G), bool)
MASK[1, 2] = False
STEPS = RNG.normal(0, 1, (P, G, T)).astype(np.float32)
DIRTY = np.where(MASK[..., None], STEPS, np.nan)


def prime(process):
  """The released form, one prompt at a time."""
  largest = max(
    abs(STEPS[p, g, t:].astype(float).sum())
    for p, g in zip(*np.nonzero(MASK), strict=True) for t in range(T)
  )  # fmt: skip
  total = np.zeros((P, G, T))
  for p in range(P):
    members = np.flatnonzero(MASK[p])
    n = len(members)
    r = STEPS[p, members].astype(float) / largest
    apart = (n * r - r.mean(1).sum()) / (n - 1)
    assert abs(apart.mean(1).sum()) < 1e-9
    R = SIGNAL[p, members].astype(float)
    outcome = (n * R - R.sum()) / (n - 1)
    returns = apart[:, ::-1].cumsum(1)[:, ::-1]
    total[p, members] = process * returns + outcome[:, None]
  kept = total[MASK]
  return np.where(MASK[..., None], (total - kept.mean()) / kept.std(), 0)


@pytest.mark.turns(2)
@pytest.mark.parametrize("process", [0.0, 5.0])
def test_implied_rewards_and_the_outcome(process):
  signal = np.where(MASK, SIGNAL, np.nan)
  got = advantages.implicit_process(signal, MASK, DIRTY, process=process)
  np.testing.assert_allclose(got, prime(process), atol=2e-5)


def test_step_rewards_have_no_scale_and_weigh_as_much_as_the_outcome():
  """Published coefficients of 5 and a beta of .05 enter no advantage."""
  fn = advantages.REGISTRY["implicit_process"]
  plain = fn(SIGNAL, MASK, DIRTY)
  np.testing.assert_allclose(fn(SIGNAL, MASK, 20 * DIRTY), plain, atol=1e-5)
  np.testing.assert_allclose(plain, prime(1.0), atol=2e-5)


def test_prompts_that_are_too_easy_are_dropped():
  signal = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]], np.float32)
  full = np.ones_like(MASK)
  got = advantages.implicit_process(signal, full, STEPS, least=0.2, most=0.8)
  assert np.isnan(got[:2]).all() and np.isfinite(got[2]).all()
  with pytest.raises(UserError, match="it must be below most"):
    advantages.implicit_process(signal, full, STEPS, least=0.9, most=0.8)


def test_step_rewards_beside_the_outcome():
  plain = np.asarray(advantages.group(SIGNAL, MASK))
  zeros = np.zeros((P, G, T), np.float32)
  same = advantages.outcome_and_process(SIGNAL, MASK, zeros)
  np.testing.assert_allclose(
    same, np.repeat(plain[..., None], T, -1), rtol=1e-6
  )
  got = np.asarray(
    advantages.outcome_and_process(
      SIGNAL, MASK, DIRTY, process=0.5, epsilon=0.0
    )
  )
  exact = np.asarray(advantages.group(SIGNAL, MASK, epsilon=0.0))
  for p in range(P):
    r = STEPS[p][MASK[p]].astype(float)
    want = exact[p][MASK[p]][:, None] + 0.5 * (r - r.mean()) / r.std()
    np.testing.assert_allclose(got[p][MASK[p]], want, atol=2e-5)
  assert not got[~MASK].any()


def test_parts_add_up_to_the_return():
  parts = np.asarray(advantages.whole_return(SIGNAL, MASK, DIRTY))
  np.testing.assert_allclose(parts.sum(-1), SIGNAL * MASK, atol=1e-5)
  np.testing.assert_array_equal(
    parts[..., :-1], (STEPS * MASK[..., None])[..., :-1]
  )
  uniform = np.repeat(SIGNAL[..., None] / T, T, -1)
  got = np.asarray(advantages.redistributed(SIGNAL, MASK, uniform, epsilon=0.0))
  exact = np.asarray(advantages.group(SIGNAL, MASK, epsilon=0.0))
  np.testing.assert_allclose(got, np.repeat(exact[..., None], T, -1), atol=2e-4)


def test_values_of_steps_beside_the_outcome():
  got = np.asarray(
    advantages.outcome_and_values(SIGNAL, MASK, DIRTY, process=0.5, epsilon=0.0)
  )
  exact = np.asarray(advantages.group(SIGNAL, MASK, epsilon=0.0))
  for p in range(P):
    v = STEPS[p][MASK[p]].astype(float)
    want = exact[p][MASK[p]][:, None] + 0.5 * (v - v.mean(0)) / v.std(0)
    np.testing.assert_allclose(got[p][MASK[p]], want, atol=2e-5)
  assert not got[~MASK].any()
