"""Credit from rewards of steps, phases and difficulty against float64 loops."""

import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.errors import UserError
from jaxreward.flow import steppers

P, G, T = 3, 5, 6


def draw(seed):
  rng = np.random.default_rng(seed)
  signal, mask = rng.random((P, G, T + 1)), rng.random((P, G, T + 1)) > 0.03
  return np.where(mask, signal, np.nan).astype(np.float32), mask


def zscore(rows, epsilon=1e-4):
  return (rows - rows.mean(0)) / (rows.std(0) + epsilon)


def test_renormalised():
  signal, mask = draw(0)
  got = np.asarray(
    advantages.renormalised(signal, mask, discount=0.8, clip=1.2)
  )
  want = np.zeros((P, G, T))
  for p in range(P):
    kept = np.flatnonzero(mask[p].all(-1))
    value = np.zeros((len(kept), T))
    for n, g in enumerate(kept):
      r = signal[p, g].astype(np.float64)
      shifted = r[1:] + r[-1] - 1
      shifted[-1] = r[-1]
      for t in range(T):
        value[n, t] = sum(0.8 ** (k - t) * shifted[k] for k in range(t, T))
    want[p, kept] = np.clip(zscore(value), -1.2, 1.2)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_failures_gain_from_no_step():
  """Of a failed sample each shifted reward is at most 0, of a good one at least."""
  steps = np.array([[[0, 0.9, 0.2, 0.0], [0, 0.1, 0.4, 1.0]]], np.float32)
  got = np.asarray(
    advantages.renormalised(steps, np.ones(steps.shape, bool), clip=None)
  )
  assert (got[0, 0] < 0).all() and (got[0, 1] > 0).all()


def runs(gain):
  """Mean of each run of one sign, over the largest."""
  out, start = np.zeros(len(gain)), 0
  for t in range(1, len(gain) + 1):
    if t == len(gain) or np.sign(gain[t]) != np.sign(gain[start]):
      out[start:t] = gain[start:t].mean()
      start = t
  return out / max(np.abs(out).max(), 1e-30)


def test_segments():
  signal, mask = draw(1)
  got = np.asarray(advantages.segments(signal, mask, strength=0.7, clip=None))
  want = np.zeros((P, G, T))
  for p in range(P):
    kept = np.flatnonzero(mask[p].all(-1))
    r = signal[p, kept].astype(np.float64)
    share = (r[:, -1] >= 0.5).mean()
    verdict = np.stack([runs(np.diff(row)) for row in r])
    weight = 2 * np.where(verdict > 0, 1 - share, share)
    want[p, kept] = zscore(r[:, -1])[:, None] + 0.7 * weight * verdict
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_equal_verdicts_are_one_segment():
  gain = np.array([[[0.1, 0.3, -0.2, -0.2, 0.4]]], np.float32)
  got = np.asarray(advantages.merged(gain))[0, 0]
  np.testing.assert_allclose(got, [0.5, 0.5, -0.5, -0.5, 1.0], rtol=1e-6)
  up = np.asarray(advantages.merged(np.abs(gain)))
  np.testing.assert_allclose(up, np.ones_like(gain), rtol=1e-6)


def test_without_strength_segments_are_the_outcome():
  signal, mask = draw(2)
  got = np.asarray(advantages.segments(signal, mask, strength=0.0))
  whole = mask.all(-1)
  plain = advantages.group(np.where(whole, signal[..., -1], 0), whole)
  np.testing.assert_array_equal(
    got, np.broadcast_to(plain[..., None], got.shape)
  )


def test_by_phase():
  rng = np.random.default_rng(3)
  mask = rng.random((P, G)) > 0.1
  scores = {k: rng.random((P, G)).astype(np.float32) for k in "abc"}
  table = steppers.ode(np.linspace(1, 0, T + 1))
  run = lambda scores: np.asarray(
    advantages.by_phase(scores, mask, table, early="a", late="b", boundary=0.6)
  )
  got, want = run(scores), np.zeros((P, G, T))
  for p in range(P):
    z = {k: zscore(s[p][mask[p]].astype(np.float64)) for k, s in scores.items()}
    for t in range(T):
      phase = z["a"] if table.t[t] >= 0.6 else z["b"]
      want[p, mask[p], t] = phase + z["c"]
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
  # Another reward of the late steps leaves the early ones alone.
  other = run(scores | {"b": scores["b"][:, ::-1]})
  early = np.asarray(table.t) >= 0.6
  np.testing.assert_array_equal(other[..., early], got[..., early])
  assert not np.array_equal(other[..., ~early], got[..., ~early])


def test_by_difficulty():
  rng = np.random.default_rng(4)
  signal, mask = rng.random((P, G)).astype(np.float32), rng.random((P, G)) > 0.1
  got = np.asarray(
    advantages.by_difficulty(signal, mask, sharpness=1.5, epsilon=0.0)
  )
  means = np.array([signal[p][mask[p]].astype(float).mean() for p in range(P)])
  scale = 2 / (1 + np.exp(-1.5 * (means.mean() - means) / means.std()))
  for p in range(P):
    z = zscore(signal[p][mask[p]].astype(float), 0)
    np.testing.assert_allclose(got[p][mask[p]], scale[p] * z, rtol=1e-3)
  assert np.argmax(scale) == np.argmin(means)
  plain = advantages.by_difficulty(signal, mask, sharpness=0.0)
  np.testing.assert_array_equal(plain, advantages.group(signal, mask))


def test_options_that_are_refused():
  signal, mask = draw(5)
  final, ok = signal[..., -1], mask[..., -1]
  table = steppers.ode(np.linspace(1, 0, T + 1))
  for call, says in (
    (lambda: advantages.segments(signal, mask, strength=-1.0), "strength"),
    (lambda: advantages.by_difficulty(final, ok, sharpness=-1.0), "sharpness"),
    (
      lambda: advantages.by_phase({"a": final}, ok, table, early="a", late="z"),
      "late",
    ),
    (
      lambda: advantages.by_phase(
        {"a": final}, ok, table, early="a", late="a", boundary=2.0
      ),
      "boundary",
    ),
  ):
    with pytest.raises(UserError, match=says):
      call()
