"""Ratio objectives: references, exact ratio 1, oracles of the variants."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives
from tests.differences import numeric_gradient

ONE = np.ones(1, bool)


def gaussian_log_prob(x, mean, std):
  """Mean over elements of the log density, float64."""
  d = (np.asarray(x, np.float64) - mean) / std
  each = -0.5 * d**2 - np.log(std) - 0.5 * np.log(2 * np.pi)
  return each.reshape(len(d), -1).mean(1)


def reference_grpo(log_prob, old, advantage, low, high):
  total = 0.0
  for lp, lo, a in zip(log_prob, old, advantage, strict=True):
    ratio = np.exp(lp - lo)
    clipped = min(max(ratio, 1 - low), 1 + high)
    total += max(-a * ratio, -a * clipped)
  return total


@pytest.mark.parametrize("high", [None, 0.4])
def test_flow_grpo_matches_float64_in_value_and_gradient(high):
  rng = np.random.default_rng(0)
  old = rng.normal(0, 1, 40)
  log_prob = old + rng.normal(0, 0.3, 40)
  advantage = rng.normal(0, 1, 40)
  f32 = [x.astype(np.float32) for x in (log_prob, old, advantage)]
  mask = np.ones(40, bool)

  def loss(lp):
    return objectives.flow_grpo(
      lp, f32[1], f32[2], mask, clip_range=0.2, clip_range_high=high
    )[0].total

  reference = lambda lp: reference_grpo(
    lp, f32[1].astype(float), f32[2].astype(float), 0.2, high or 0.2
  )
  np.testing.assert_allclose(
    jax.jit(loss)(f32[0]), reference(f32[0]), rtol=1e-5
  )
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(f32[0]),
    numeric_gradient(reference, f32[0]),
    rtol=1e-4,
    atol=1e-6,
  )
  _, metrics = objectives.flow_grpo(
    *f32, mask, clip_range=0.2, clip_range_high=high
  )
  ratio = np.exp(log_prob - old)
  top = 1 + (high or 0.2)
  want = {
    "ratio": ratio.mean(),
    "log_ratio_abs": np.abs(log_prob - old).mean(),
    "log_ratio_max": np.abs(log_prob - old).max(),
    "approx_kl": (ratio - 1 - np.log(ratio)).mean(),
    "clip_fraction_low": np.mean((ratio < 0.8) & (advantage < 0)),
    "clip_fraction_high": np.mean((ratio > top) & (advantage > 0)),
  }
  assert set(metrics) == set(want)
  for key, value in want.items():
    np.testing.assert_allclose(metrics[key].value(), value, rtol=1e-4)
  assert want["clip_fraction_low"] > 0
  assert want["clip_fraction_high"] > 0


def test_equal_log_probs_give_ratio_one_and_minus_a_grad():
  rng = np.random.default_rng(1)
  # Of JAX, or the old product would be NumPy's, whose last bits are its own.
  theta = jnp.asarray(rng.normal(0, 1, 5), jnp.float32)
  features = jnp.asarray(rng.normal(0, 1, (8, 5)), jnp.float32)
  advantage = rng.normal(0, 1, 8).astype(np.float32)
  mask = np.ones(8, bool)
  log_prob = lambda theta: jnp.tanh(features @ theta)
  old = log_prob(theta)

  def loss(theta):
    mean, metrics = objectives.flow_grpo(log_prob(theta), old, advantage, mask)
    return mean.total, metrics

  grad, metrics = jax.grad(loss, has_aux=True)(theta)
  assert metrics["ratio"].value() == 1.0
  assert metrics["log_ratio_abs"].value() == 0.0
  assert metrics["approx_kl"].value() == 0.0
  plain = jax.grad(lambda th: jnp.sum(-advantage * log_prob(th)))(theta)
  assert np.array_equal(grad, plain)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_clip_stops_only_the_harmful_side(sign):
  old, a = np.zeros(1, np.float32), np.full(1, sign, np.float32)
  grad = jax.grad(
    lambda lp: objectives.flow_grpo(lp, old, a, ONE, clip_range=1e-4)[0].total
  )
  beyond = np.full(1, 2e-4 * sign, np.float32)
  assert grad(beyond)[0] == 0.0
  np.testing.assert_allclose(grad(-beyond)[0], -sign, rtol=1e-3)


def guard_case(seed, b=4, std=0.6, shape=(3, 4)):
  rng = np.random.default_rng(seed)
  old_mean = rng.normal(0, 1, (b, *shape))
  mean = old_mean + rng.normal(0, 0.2, (b, *shape))
  noise = rng.normal(0, 1, (b, *shape))
  return old_mean, mean, noise, std


def guard(old_mean, mean, noise, std, advantage, dt=0.1, **kwargs):
  """Loss and metrics with log-probs from the density itself."""
  x = old_mean + std * noise
  arrays = (
    gaussian_log_prob(x, mean, std),
    gaussian_log_prob(x, old_mean, std),
    mean,
    old_mean,
    np.asarray(std),
    np.asarray(dt),
    advantage,
  )
  arrays = [np.asarray(a, np.float32) for a in arrays]
  return objectives.grpo_guard(*arrays, np.ones(len(mean), bool), **kwargs)


def test_guard_log_ratio_is_the_projection_on_the_noise():
  old_mean, mean, noise, std = guard_case(0, b=1)
  projection = np.mean(noise * (mean - old_mean))
  _, metrics = guard(old_mean, mean, noise, std, np.ones(1))
  np.testing.assert_allclose(
    np.log(metrics["ratio"].value()), projection, atol=2e-6
  )
  # Opposite noise, opposite log ratio: its mean over the noise is zero, while
  # the plain log ratio is biased downwards by the KL of the two steps.
  _, mirrored = guard(old_mean, mean, -noise, std, np.ones(1))
  np.testing.assert_allclose(
    np.log(mirrored["ratio"].value()), -projection, atol=2e-6
  )
  plain = [
    gaussian_log_prob(old_mean + s * std * noise, mean, std)
    - gaussian_log_prob(old_mean + s * std * noise, old_mean, std)
    for s in (1, -1)
  ]
  kl = np.mean((mean - old_mean) ** 2) / (2 * std**2)
  np.testing.assert_allclose(np.mean(plain), -kl, rtol=1e-6)


@pytest.mark.parametrize("std", [0.05, 0.3, 1.5])
def test_guard_ratio_does_not_depend_on_the_noise_level(std):
  old_mean, mean, noise, _ = guard_case(1, b=1)
  _, metrics = guard(old_mean, mean, noise, std, np.ones(1))
  np.testing.assert_allclose(
    np.log(metrics["ratio"].value()),
    np.mean(noise * (mean - old_mean)),
    atol=2e-5 / std,
  )


def test_guard_value_and_gradient_match_float64():
  old_mean, mean, noise, std = guard_case(2)
  advantage = np.array([1.0, -2.0, 0.5, -0.3])
  dt = np.array([0.1, 0.2, 0.05, 0.3])

  def reference(mu):
    log_ratio = np.mean(noise * (mu - old_mean), axis=(1, 2))
    ratio = np.exp(log_ratio)
    clipped = np.clip(ratio, 1 - 0.05, 1 + 0.05)
    each = np.maximum(-advantage * ratio, -advantage * clipped)
    return np.sum(each / dt)

  x = (old_mean + std * noise).astype(np.float32)
  old32, a32, dt32 = (
    np.asarray(v, np.float32) for v in (old_mean, advantage, dt)
  )
  old_log_prob = gaussian_log_prob(x, old_mean, std).astype(np.float32)

  def loss(mu):
    square = jnp.square((x - mu) / std)
    log_prob = jnp.mean(
      -0.5 * square - np.log(std) - 0.5 * np.log(2 * np.pi), axis=(1, 2)
    )
    return objectives.grpo_guard(
      log_prob,
      old_log_prob,
      mu,
      old32,
      np.float32(std),
      dt32,
      a32,
      np.ones(4, bool),
      clip_range=0.05,
    )[0].total

  mu = mean.astype(np.float32)
  np.testing.assert_allclose(jax.jit(loss)(mu), reference(mean), rtol=1e-4)
  np.testing.assert_allclose(
    jax.jit(jax.grad(loss))(mu),
    numeric_gradient(reference, mean),
    rtol=1e-3,
    atol=1e-5,
  )


def test_guard_bias_is_per_sample():
  case = guard_case(3)
  alone, _ = guard(*(x[:1] if np.ndim(x) else x for x in case), np.ones(1))
  advantage = np.array([1.0, 0, 0, 0])
  old_mean, mean, noise, std = case
  mean = mean + np.array([0, 5, -5, 9.0])[:, None, None]
  together, _ = guard(old_mean, mean, noise, std, advantage)
  np.testing.assert_allclose(together.total, alone.total, rtol=1e-5)


def test_flow_dppo_truth_table():
  std, old_mean = 0.5, np.zeros((1, 4), np.float32)
  for sign, side, far in itertools.product((1, -1), (1, -1), (True, False)):
    log_ratio = np.full(1, 0.01 * side, np.float32)
    # Distance d = delta^2 / (2 std^2), threshold 1e-5.
    d = 2e-5 if far else 0.5e-5
    mean = old_mean + np.float32(np.sqrt(2 * std**2 * d))
    advantage = np.full(1, sign * 2.0, np.float32)

    def loss(lp, mean=mean, advantage=advantage):
      out, metrics = objectives.flow_dppo(
        lp, 0 * lp, mean, old_mean, np.float32(std), advantage, ONE
      )
      return out.total, (out, metrics)

    grad, (out, metrics) = jax.grad(loss, has_aux=True)(log_ratio)
    dropped = far and sign * side > 0
    want = 0.0 if dropped else -2.0 * sign * np.exp(0.01 * side)
    np.testing.assert_allclose(grad[0], want, rtol=1e-5)
    np.testing.assert_allclose(out.total, want, rtol=1e-5)
    assert out.weight == 1.0
    np.testing.assert_allclose(metrics["step_kl"].value(), d, rtol=1e-4)
    assert metrics["clip_fraction_high"].value() == (dropped and side > 0)
    assert metrics["clip_fraction_low"].value() == (dropped and side < 0)


def test_flow_dppo_drops_at_the_threshold_itself():
  mean = np.full((1, 4), 0.5, np.float32)
  args = (np.full(1, 0.1, np.float32), np.zeros(1, np.float32), mean)
  rest = (np.zeros_like(mean), np.float32(0.5), np.ones(1, np.float32), ONE)
  at, _ = objectives.flow_dppo(*args, *rest, threshold=0.5)
  above, _ = objectives.flow_dppo(*args, *rest, threshold=0.5001)
  assert at.total == 0.0
  assert above.total < 0.0


@pytest.mark.turns(2)
def test_gspo_clips_a_sample_as_one():
  """Value and gradient against the ratio of whole samples, in float64."""
  rng = np.random.default_rng(7)
  steps, samples, low = 3, 5, 0.05
  old = rng.normal(size=(steps, samples))
  log_prob = old + 0.1 * rng.normal(size=old.shape)
  advantage = rng.normal(size=samples)
  mask = np.array([1, 1, 0, 1, 1], bool)
  where = np.broadcast_to(mask, old.shape)
  number = np.broadcast_to(np.arange(samples), old.shape)

  def reference(log_prob):
    ratio = np.exp((log_prob - old).mean(0))
    clipped = np.clip(ratio, 1 - low, 1 + low)
    each = np.maximum(-advantage * ratio, -advantage * clipped)
    return steps * each[mask].sum()

  def loss(log_prob):
    columns = objectives.gspo.prepare.finish({
      "log_ratio": jax.lax.stop_gradient(log_prob) - old.astype(np.float32),
      "sample": number, "valid": where,
    })  # fmt: skip
    rows = [
      objectives.gspo(
        log_prob[t], columns["sample_log_ratio"][t],
        advantage.astype(np.float32), mask, clip_range=low,
      )[0].total
      for t in range(steps)
    ]  # fmt: skip
    return sum(rows)

  got, slope = jax.value_and_grad(loss)(jnp.asarray(log_prob, jnp.float32))
  np.testing.assert_allclose(got, reference(log_prob), rtol=1e-5)
  want = numeric_gradient(reference, log_prob)
  np.testing.assert_allclose(slope, want, rtol=1e-3, atol=1e-5)
  ratio = np.exp((log_prob - old).mean(0))
  assert (np.abs(ratio - 1) > low).any() and (np.abs(ratio - 1) < low).any()
