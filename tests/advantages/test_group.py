"""Group advantages against float64 references, limits and invariances."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.errors import UserError

FULL = np.ones((3, 6), bool)

REGISTRY = {
  name: jax.jit(function, static_argnames=("std", "epsilon", "clip"))
  for name, function in (
    ("group", advantages.group),
    ("leave_one_out", advantages.leave_one_out),
  )
}
group, leave_one_out = REGISTRY["group"], REGISTRY["leave_one_out"]


def reference_group(signal, mask, std, epsilon, clip):
  """Row by row, on the valid entries alone, in float64."""
  signal = np.asarray(signal, np.float64)
  out = np.zeros(signal.shape)
  for p in range(signal.shape[0]):
    row = signal[p][mask[p]]
    if row.size == 0:
      continue
    scale = {"group": row.std(), "batch": signal[mask].std(), "none": 0}[std]
    scale = 1.0 if std == "none" else scale + epsilon
    out[p][mask[p]] = np.clip((row - row.mean()) / scale, -clip, clip)
  return out


def reference_leave_one_out(signal, mask):
  signal = np.asarray(signal, np.float64)
  out = np.zeros(signal.shape)
  for p in range(signal.shape[0]):
    for g in range(signal.shape[1]):
      others = [
        signal[p, j] for j in range(signal.shape[1]) if j != g and mask[p, j]
      ]
      if mask[p, g] and others:
        out[p, g] = signal[p, g] - sum(others) / len(others)
  return out


def draw(seed, shape=(3, 6), hole=0.3):
  rng = np.random.default_rng(seed)
  signal = rng.normal(2.0, 0.7, shape).astype(np.float32)
  mask = rng.random(shape) > hole
  return np.where(mask, signal, np.nan).astype(np.float32), mask


@pytest.mark.parametrize("std", ["group", "batch", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_group_matches_float64(std, seed):
  signal, mask = draw(seed)
  got = group(signal, mask, std=std, clip=1.2)
  want = reference_group(signal, mask, std, 1e-4, 1.2)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
  assert got.dtype == jnp.float32


@pytest.mark.parametrize("seed", range(4))
def test_leave_one_out_matches_float64(seed):
  signal, mask = draw(seed, hole=0.5)
  got = leave_one_out(signal, mask)
  want = reference_leave_one_out(signal, mask)
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_leave_one_out_is_the_scaled_group_deviation():
  signal, _ = draw(0, hole=0.0)
  got = leave_one_out(signal, FULL)
  centred = group(signal, FULL, std="none", clip=None)
  np.testing.assert_allclose(got, centred * 6 / 5, rtol=1e-5, atol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("std", ["group", "batch", "none"])
def test_equal_rewards_give_exact_zeros(name, std):
  function = jax.jit(lambda s: REGISTRY[name](s, s == s, std=std))
  # 0.1 * 7 / 7 differs from 0.1 in float32 for some orders of summation.
  for size in (7, 24):
    for value in (0.1, 1e8, -3.3e-7, 0.0):
      got = function(np.full((2, size), value, np.float32))
      assert np.array_equal(got, np.zeros((2, size)))


@pytest.mark.parametrize("name", REGISTRY)
def test_all_masked_and_lone_survivor(name):
  signal = np.full((2, 4), np.nan, np.float32)
  mask = np.zeros((2, 4), bool)
  mask[1, 2], signal[1, 2] = True, 3.0
  for std in ("group", "batch", "none"):
    got = REGISTRY[name](signal, mask, std=std)
    assert np.array_equal(got, np.zeros((2, 4)))


@pytest.mark.parametrize("name", REGISTRY)
def test_what_is_masked_does_not_matter(name):
  signal, mask = draw(3)
  first = REGISTRY[name](signal, mask)
  second = REGISTRY[name](np.where(mask, signal, 1e30), mask)
  assert np.array_equal(first, second)
  assert np.all(np.isfinite(first))


@hypothesis.given(
  seed=st.integers(0, 2**31),
  shift=st.floats(-100, 100),
  scale=st.floats(0.1, 100),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_shift_and_scale_do_not_matter(seed, shift, scale):
  signal, mask = draw(seed)
  for std in ("group", "batch"):
    base = group(signal, mask, std=std, epsilon=0.0)
    moved = (signal * scale + shift).astype(np.float32)
    got = group(moved, mask, std=std, epsilon=0.0)
    # Bounded by the digits that the shift leaves to the signal.
    np.testing.assert_allclose(got, base, atol=3e-5 * (1 + abs(shift) / scale))


@hypothesis.given(seed=st.integers(0, 2**31))
@hypothesis.settings(max_examples=15, deadline=None)
def test_permutations_carry_over(seed):
  rng = np.random.default_rng(seed)
  signal, mask = draw(seed)
  p, g = rng.permutation(3), rng.permutation(6)
  for name in REGISTRY:
    for std in ("group", "batch", "none"):
      function = REGISTRY[name]
      base = function(signal, mask, std=std)
      got = function(signal[p][:, g], mask[p][:, g], std=std)
      np.testing.assert_allclose(got, base[p][:, g], rtol=2e-5, atol=2e-6)


def test_batch_and_group_scales_differ():
  signal = np.array([[0, 1, 0, 1], [0, 10, 0, 10]], np.float32)
  mask = np.ones((2, 4), bool)
  by_group = group(signal, mask, std="group", epsilon=0.0)
  by_batch = group(signal, mask, std="batch", epsilon=0.0)
  np.testing.assert_allclose(np.abs(by_group), 1.0, rtol=1e-6)
  np.testing.assert_allclose(
    by_batch[1] / by_batch[0], 10 * np.ones(4), rtol=1e-5
  )


def test_large_offset_keeps_its_digits():
  signal = (1e6 + np.array([[0.0, 1.0, 2.0, 3.0]])).astype(np.float32)
  got = group(signal, np.ones((1, 4), bool), epsilon=0.0)
  want = (np.arange(4) - 1.5) / np.arange(4).std()
  np.testing.assert_allclose(got[0], want, rtol=1e-6)


def test_no_gradient_flows():
  signal, _ = draw(1, hole=0.0)
  for function in REGISTRY.values():
    grad = jax.grad(lambda s, f=function: jnp.sum(f(s, FULL) ** 2))(signal)
    assert np.array_equal(grad, np.zeros_like(signal))


def test_clip_binds_and_can_be_switched_off():
  signal = np.zeros((1, 64), np.float32)
  signal[0, 0] = 1.0
  mask = np.ones((1, 64), bool)
  assert np.max(group(signal, mask)) == 5.0
  for off in (None, 0.0):
    got = group(signal, mask, clip=off, epsilon=0.0)
    np.testing.assert_allclose(np.max(got), np.sqrt(63), rtol=1e-5)


def test_zero_variance_share():
  signal = np.array(
    [[1, 1, np.nan], [1, 2, 3], [5, np.nan, np.nan], [np.nan] * 3], np.float32
  )
  share = advantages.zero_variance_share(signal, np.isfinite(signal))
  assert (share.total, share.weight) == (2.0, 3.0)


def test_padded_prompts_change_nothing():
  signal, mask = draw(5)
  more = np.concatenate([signal, np.full((2, 6), np.nan, np.float32)])
  more_mask = np.concatenate([mask, np.zeros((2, 6), bool)])
  for std in ("group", "batch", "none"):
    base = group(signal, mask, std=std)
    got = group(more, more_mask, std=std)
    np.testing.assert_allclose(got[:3], base, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [0, 1])
def test_a_group_needs_two(size):
  with pytest.raises(UserError, match=rf"rollout.group is {size}"):
    advantages.check_group_size(size)
  advantages.check_group_size(2)


def test_unknown_scale_is_named():
  with pytest.raises(UserError, match='"grup"'):
    advantages.group(np.zeros((2, 2)), FULL[:2, :2], std="grup")


@pytest.mark.parametrize("std", ["group", "batch"])
@pytest.mark.parametrize("size", [1e30, 3e36, 1e-25])
def test_scores_of_any_size(size, std):
  """float32 squares of such scores are infinite, or nothing."""
  signal, mask = draw(3)
  big = (signal * np.float32(size)).astype(np.float32)
  found = advantages.group(big, mask, std=std, epsilon=0.0)
  expected = reference_group(big.astype(np.float64), mask, std, 0.0, 5.0)
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
  assert np.abs(np.asarray(found)).max() > 0.5


def test_one_group_of_huge_scores_leaves_the_others_alone():
  signal, mask = draw(4)
  plain = advantages.group(signal, mask)
  signal = signal.copy()
  signal[0] *= np.float32(1e30)
  found = advantages.group(signal, mask)
  np.testing.assert_array_equal(found[1:], plain[1:])
