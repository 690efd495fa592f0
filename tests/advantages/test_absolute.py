"""Weights, values of steps and credit between groups against loops."""

import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.errors import UserError
from jaxreward.flow import schedule, steppers

P, G, T = 4, 6, 5


def draw(seed, steps=None):
  rng = np.random.default_rng(seed)
  signal = rng.random((P, G)).astype(np.float32)
  if steps:
    signal = np.round(signal * steps).astype(np.float32) / steps
  mask = rng.random((P, G)) > 0.2
  return np.where(mask, signal, np.nan).astype(np.float32), mask


def test_given_is_the_signal_within_bounds():
  signal, mask = draw(0)
  got = np.asarray(advantages.given(4 * signal, mask, clip=2.0))
  np.testing.assert_array_equal(got[mask], np.minimum(4 * signal[mask], 2))
  assert not got[~mask].any()


@pytest.mark.turns(2)
@pytest.mark.parametrize("among", ["batch", "group"])
def test_exponential_weights(among):
  signal, mask = draw(1)
  got = np.asarray(
    advantages.exponential(signal, mask, tau=1.5, most=4.0, among=among)
  )
  want = np.zeros((P, G))
  for p in range(P):
    rows = signal[p][mask[p]] if among == "group" else signal[mask]
    rows = rows.astype(np.float64)
    z = (signal[p][mask[p]] - rows.mean()) / rows.std(ddof=1)
    want[p][mask[p]] = np.minimum(np.exp(1.5 * z), 4.0)
  want /= want[mask].mean()
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_published_weights_and_equal_rewards():
  mask = np.ones((1, 4), bool)
  signal = np.array([[0, 0, 1, 3]], np.float32)
  got = advantages.exponential(signal, mask)
  want = (0.05899, 0.05899, 0.24263, 3.63940)
  np.testing.assert_allclose(got[0], want, rtol=1e-4)
  same = advantages.exponential(0 * signal, mask)
  np.testing.assert_array_equal(same, np.ones((1, 4)))


def reference_copo(signal, mask, sharpness, bits, clip):
  out, value, n = np.zeros((P, G)), {}, {}
  entropy, rows = {}, {}
  for p in range(P):
    row = signal[p][mask[p]].astype(np.float64)
    n[p], rows[p] = len(row), row
    if not len(row):
      continue
    _, counts = np.unique(np.round(row / 1e-3), return_counts=True)
    share = counts / len(row)
    entropy[p] = -(share * np.log2(share)).sum()
    size = max(len(row), 2)
    lam = (1 - 1 / size) / np.log2(size)
    value[p] = row.mean() * (1 - lam * entropy[p])
  g = np.array(list(value.values()))
  for p in value:
    whole = np.clip((value[p] - g.mean()) / (g.std() + 1e-6), -clip, clip)
    spread = rows[p].std()
    local = np.clip((rows[p] - rows[p].mean()) / (spread + 1e-6), -clip, clip)
    w = 1 / (1 + np.exp(-sharpness * (entropy[p] - bits))) if spread else 0
    out[p][mask[p]] = w * local + (1 - w) * whole
  return out


@pytest.mark.turns(3)
@pytest.mark.parametrize("seed", range(3))
def test_global_and_local(seed):
  signal, mask = draw(seed, steps=2)
  signal[0] = np.where(mask[0], 1.0, np.nan)  # all alike
  got = advantages.global_and_local(
    signal, mask, sharpness=2.0, bits=0.7, clip=1.2
  )
  want = reference_copo(signal, mask, 2.0, 0.7, 1.2)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.turns(2)
def test_a_group_that_agrees_still_learns():
  signal = np.array([[1.0] * 8, [0.0] * 8, [0, 1] * 4], np.float32)
  mask = np.ones((3, 8), bool)
  got = np.asarray(advantages.global_and_local(signal, mask))
  assert (got[0] > 0).all() and (got[1] < 0).all()
  assert np.ptp(got[0]) == 0
  only = np.asarray(advantages.group(signal, mask))
  assert not only[:2].any()


def test_noise_weighs_the_steps():
  signal, mask = draw(2)
  steps = steppers.flow_sde(schedule.timesteps(T, 3.0))
  base = np.asarray(advantages.group(signal, mask))
  got = np.asarray(advantages.noise_weighted(signal, mask, steps))
  np.testing.assert_allclose(
    got, base[..., None] * (2.25 * np.asarray(steps.std)), rtol=1e-6
  )
  window = np.arange(T) < 2
  steps = steppers.flow_sde(schedule.timesteps(T, 3.0), window)
  got = np.asarray(advantages.noise_weighted(signal, mask, steps, form="mean"))
  assert not got[..., 2:].any()
  std = np.asarray(steps.std, np.float64)[:2]
  want = base[..., None] * (std / std.mean())
  np.testing.assert_allclose(got[..., :2], want, rtol=1e-5)


def test_gradients_of_all_steps_have_one_size():
  signal, mask = draw(4)
  steps = steppers.precise_sde(schedule.timesteps(T, 3.0))
  base = np.asarray(advantages.group(signal, mask))
  got = np.asarray(advantages.equalised(signal, mask, steps))
  delta = np.float64(steps.t) - steps.t_next
  variance, t = np.float64(steps.std) ** 2, np.float64(steps.t)
  size = np.abs(-delta - 0.5 * variance * (1 - t) / t) / np.sqrt(variance)
  want = base[..., None] * (np.median(size) / size)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  # In a window the median is of its steps, and the others get nothing.
  window = np.arange(T) < 2
  steps = steppers.precise_sde(schedule.timesteps(T, 3.0), window)
  inside = np.asarray(advantages.equalised(signal, mask, steps))
  want = base[..., None] * (np.median(size[:2]) / size[:2])
  np.testing.assert_allclose(inside[..., :2], want, rtol=1e-4, atol=1e-6)
  assert not inside[..., 2:].any()
  steps = steppers.precise_sde(schedule.timesteps(T, 3.0))
  # The derivative of log p by the velocity, of noise drawn once, times it:
  slopes = np.abs(np.asarray(steps.c_v)) / np.asarray(steps.std)
  scaled = slopes * got[mask][np.abs(base[mask]) > 0.1]
  spread = np.ptp(np.abs(scaled), axis=1) / np.abs(scaled).mean(1)
  np.testing.assert_allclose(spread, 0, atol=1e-4)


def reference_vgpo(step_signal, mask, discount, anchor, count, epsilon, clip):
  reward = step_signal[..., 1:].astype(np.float64)
  value = np.zeros_like(reward)
  for t in range(T):
    for k in range(T - t):
      value[..., t] += discount**k * reward[..., t + k]
  out = np.zeros_like(value)
  for p in range(P):
    at = np.flatnonzero(mask[p].all(-1))
    if not len(at):
      continue
    q = value[p, at]
    share = q / q.mean(1, keepdims=True)
    np.testing.assert_allclose(share.sum(1), T)
    relative = (q - q.mean(0)) / (q.std(0) + epsilon)
    own = np.where(np.arange(T) < count, anchor * q, 0)
    out[p, at] = np.clip(share * (relative + own), -clip, clip)
  return out


def test_values():
  rng = np.random.default_rng(3)
  step_signal = rng.random((P, G, T + 1)).astype(np.float32)
  mask = rng.random((P, G, T + 1)) > 0.02
  got = advantages.values(
    step_signal, mask, discount=0.8, anchor=0.3, anchored=0.4, clip=4.0
  )
  want = reference_vgpo(step_signal, mask, 0.8, 0.3, 2, 1e-4, 4.0)
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_equal_rewards_are_anchored_at_their_value():
  step_signal = np.full((1, 3, T + 1), 0.5, np.float32)
  mask = np.ones_like(step_signal, bool)
  got = np.asarray(advantages.values(step_signal, mask, discount=1.0))
  assert (got[..., : T // 2] > 0).all()
  # Q = (2.5, 2, 1.5, 1, .5), its mean 1.5; half of 5 steps rounds to 2.
  np.testing.assert_allclose(got[0, 0, :2], (2.5 / 6, 2 * 0.2 / 1.5), rtol=1e-4)
  flat = advantages.values(step_signal, mask, anchor=0.0)
  assert not np.any(flat)


@pytest.mark.parametrize(
  ("name", "arrays", "options", "says"),
  [
    ("exponential", 2, dict(tau=-1.0), "tau=-1.0"),
    ("exponential", 2, dict(among="all"), '"all"'),
    ("global_and_local", 2, dict(resolution=0.0), "resolution=0.0"),
    ("noise_weighted", 3, dict(form="std"), '"std"'),
    ("values", 0, dict(discount=1.5), "discount=1.5"),
  ],
)
def test_what_is_refused(name, arrays, options, says):
  signal, mask = draw(0)
  every = np.ones((P, G, T + 1), np.float32)
  steps = steppers.flow_sde(schedule.timesteps(T, 3.0))
  given = (signal, mask, steps)[:arrays] or (every, every > 0)
  with pytest.raises(UserError, match=says):
    advantages.REGISTRY[name](*given, **options)
