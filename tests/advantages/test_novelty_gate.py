"""GARDO: the gate, its controller and diverse credit, against float64."""

import numpy as np
import pytest

from jaxreward import advantages, regularizers
from jaxreward.advantages import novelty_gate

RNG = np.random.default_rng(0)


def ranks(score, mask):
  """1 is the best of the valid ones; ties share the mean of theirs."""
  valid = score[mask]
  out = np.zeros(score.shape)
  for i in np.ndindex(score.shape):
    above = (valid > score[i]).sum()
    same = (valid == score[i]).sum()
    out[i] = above + (same + 1) / 2
  return out


def reference_gate(main, auxiliaries, mask, share):
  over = np.mean([ranks(a, mask) for a in auxiliaries], 0) - ranks(main, mask)
  there = mask & (over >= 0)
  if not there.any():
    return there, over
  bound = np.percentile(over[there], 100 * (1 - share))
  return there & (over > bound), over


@pytest.mark.parametrize("seed", range(4))
def test_the_gate_in_float64(seed):
  rng = np.random.default_rng(seed)
  main, first, second = rng.integers(0, 12, (3, 4, 6)).astype(np.float64)
  mask = rng.random((4, 6)) > 0.2
  names = {"a": first.astype(np.float32), "b": second.astype(np.float32)}
  dirty = np.where(mask, main, np.nan).astype(np.float32)
  over = novelty_gate.over_rated(dirty, mask, names)
  for share in (0.1, 0.37):
    want, exact = reference_gate(main, (first, second), mask, share)
    np.testing.assert_allclose(np.asarray(over)[mask], exact[mask], atol=1e-5)
    got = np.asarray(
      novelty_gate.gated(over, mask, np.array(share, np.float32))
    )
    far = np.abs(exact - np.percentile(exact[mask & (exact >= 0)],
                                       100 * (1 - share))) > 1e-4  # fmt: skip
    np.testing.assert_array_equal(got[far], want[far])


def test_the_over_rated_sample_is_gated_and_the_under_rated_is_not():
  """The sign of the paper's intent; that of its code gates the other one."""
  main = np.array([[9.0, 1.0, 2.0, 3.0, 0.0]], np.float32)
  aux = np.array([[0.0, 1.0, 2.0, 3.0, 9.0]], np.float32)
  mask = np.ones((1, 5), bool)
  over = novelty_gate.over_rated(main, mask, {"a": aux})
  gate = np.asarray(novelty_gate.gated(over, mask, np.array(0.2, np.float32)))
  assert gate.tolist() == [[True, False, False, False, False]]
  assert float(over[0, 4]) < 0


def test_limits_of_the_share():
  over = np.array([[0.0, 1.0, 2.0, 0.0]], np.float32)
  mask = np.array([[1, 1, 1, 0]], bool)
  none = novelty_gate.gated(over, mask, np.array(0.0, np.float32))
  every = novelty_gate.gated(over, mask, np.array(1.0, np.float32))
  assert not np.asarray(none).any()
  assert np.asarray(every).tolist() == [[True, True, True, False]]
  # Auxiliaries that agree, and none at all, gate nothing.
  assert not np.asarray(
    novelty_gate.gated(over * 0, mask, np.array(0.1, np.float32))
  ).any()
  assert not np.asarray(novelty_gate.over_rated(over, mask, {})).any()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_gated_is_no_kl_and_all_is_the_whole(share):
  b = 6
  mask = np.array([1, 1, 1, 0, 1, 1], bool)
  mean, ref = RNG.normal(size=(2, b, 4)).astype(np.float32)
  facts = dict(std=np.float32(0.3), dt=np.float32(0.1), c_v=np.float32(1.0))
  gate = novelty_gate.gated(
    np.ones((1, b), np.float32), mask[None], np.array(share, np.float32)
  )
  weights = np.asarray(novelty_gate.gate_weights(gate, mask[None]))[0]
  got = regularizers.gated_step_kl(mean, ref, **facts, gate=weights, mask=mask)
  full = regularizers.step_kl(mean, ref, **facts, mask=mask, form="exact")
  want = float(full.value()) if share else 0.0
  assert float(got.value()) == pytest.approx(want, rel=1e-6)


def test_the_kl_is_the_mean_over_gated_samples_however_rows_are_cut():
  b = 6
  mean, ref = RNG.normal(size=(2, b, 4)).astype(np.float32)
  facts = dict(std=np.float32(0.3), dt=np.float32(0.1), c_v=np.float32(1.0))
  gate = np.array([[1, 0, 0, 0, 1, 0]], bool)
  weights = np.asarray(novelty_gate.gate_weights(gate, np.ones((1, b), bool)))[
    0
  ]
  parts = [
    regularizers.gated_step_kl(
      mean[s], ref[s], **facts, gate=weights[s], mask=np.ones(3, bool)
    )
    for s in (slice(0, 3), slice(3, 6))
  ]
  rows = np.square(mean.astype(np.float64) - ref).mean(1) / (2 * 0.09)
  got = float((parts[0] + parts[1]).value())
  assert got == pytest.approx(rows[[0, 4]].mean(), rel=1e-5)


def test_diverse_samples_earn_more_and_copies_nothing():
  signal = np.array([[3.0, 3.0, 2.0, 0.0, np.nan]], np.float32)
  mask = np.array([[1, 1, 1, 1, 0]], bool)
  x = np.zeros((1, 5, 3), np.float32)
  x[0, 0] = x[0, 1] = x[0, 4] = [1, 0, 0]  # copies
  x[0, 2], x[0, 3] = [0, 1, 0], [0, 0.6, 0.8]
  d = np.asarray(advantages.novelty_gate.nearest_distances(x, mask))
  np.testing.assert_allclose(d, [[0, 0, 0.4, 0.4, 0]], atol=1e-6)
  got = np.asarray(novelty_gate.diverse(signal, mask, d))
  # mean reward 2, mean distance .2: positive credit is scaled, negative is not
  np.testing.assert_allclose(got, [[0, 0, 0, -2, 0]], atol=1e-6)
  signal[0, 2] = 4.0
  got = np.asarray(novelty_gate.diverse(signal, mask, d))
  np.testing.assert_allclose(got, [[0, 0, 1.5 * 2, -2.5, 0]], atol=1e-6)


def test_the_share_rises_and_falls_within_its_bounds():
  mask = np.ones((1, 2), bool)
  bound = advantages.gardo()
  state = bound.init(advantages.Sizes(1, 2, 3, lambda: np.arange(1)))
  shares, history, want, q = [], [], [], 0.1
  levels = [1.0, *np.arange(2, 12), *np.arange(0.9, 0.0, -0.02)]
  for level in levels:
    over = np.array([[level, -1.0]], np.float32)  # the negative has no part
    state = novelty_gate.adapted(state, over, mask, 0.02, 0.2)
    if history:
      q *= 1.1 if level > max(history) else 0.9 if level < min(history) else 1
    q = min(max(q, 0.02), 0.2)
    history = [*history, level][-20:]
    shares.append(float(state.share))
    want.append(q)
  np.testing.assert_allclose(shares, want, rtol=1e-4)
  assert max(shares) == pytest.approx(0.2) and shares[-1] == pytest.approx(0.02)
