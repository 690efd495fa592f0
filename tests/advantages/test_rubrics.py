"""A rubric that is replaced while the policy learns."""

import math

import jax
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.advantages import rubrics
from jaxreward.errors import UserError

P, G = 4, 6
SIZES = advantages.Sizes(P, G, 5, lambda: np.arange(P, dtype=np.uint32))
MASK = np.ones((P, G), bool)


def reviewer(**options):
  bound = advantages.REGISTRY["revised"](versions=("a", "b", "c"), **options)
  step = jax.jit(lambda scores, mask, state: bound.update(scores, mask, state))
  return bound.init(SIZES), step


def draw(seed):
  rng = np.random.default_rng(seed)
  base = rng.random((P, G)).astype(np.float32)
  noise = lambda: 0.05 * rng.random((P, G)).astype(np.float32)
  return {name: 0.5 * base + noise() for name in "abc"}


def test_agreement_is_the_mean_correlation_of_groups():
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, P, G)).astype(np.float32)
  mask = rng.random((P, G)) < 0.8
  first[2] = 3.0  # the same for all
  want = np.mean(
    [
      np.corrcoef(first[p, mask[p]], second[p, mask[p]])[0, 1]
      for p in (0, 1, 3)
    ]
  )
  got = rubrics.agreement_of(first, second, mask)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  assert rubrics.agreement_of(first[2:3], second[2:3], mask[2:3]) == 1


def test_a_rubric_that_is_exploited_gives_way_and_hacked_samples_fall():
  """What one version pays for the next one does not see."""
  state, step = reviewer(every=3)
  rng = np.random.default_rng(1)
  for n in range(6):
    quality = rng.random((P, G)).astype(np.float32)
    hacked = rng.random((P, G)) < 0.5
    hacked[:, 0], hacked[:, 1] = True, False
    honest = 0.1 + 0.6 * quality * ~hacked
    scores = {"a": 0.7 * hacked + 0.1 * quality, "b": honest, "c": honest}
    credit, state = step(scores, MASK, state)
    credit = np.asarray(credit)
    mean = lambda where, x=credit: x[where].mean()
    assert (mean(hacked) > mean(~hacked)) == (n < 3)
  assert int(state.version) == 1  # the second one agrees with the third


def test_a_rubric_that_still_tells_stays_and_what_failed_does_not_count():
  state, step = reviewer(every=1)
  for n in range(5):
    scores = draw(n)
    scores["b"][:, 0] = np.nan
    credit, state = step(scores, MASK, state)
    want = advantages.group(scores["a"], MASK & np.isfinite(scores["b"]))
    np.testing.assert_allclose(credit, want, atol=1e-4)
    assert int(state.version) == 0


def test_an_iteration_whose_scores_all_failed_is_none():
  """It neither fills a window nor protects a rubric that is saturated."""
  state, step = reviewer(every=2, saturated=0.9)
  full = {name: np.ones((P, G), np.float32) for name in "abc"}
  failed = {name: np.full((P, G), np.nan, np.float32) for name in "abc"}
  versions = []
  for scores in (full, failed, failed, full):
    credit, state = step(scores, MASK, state)
    assert not np.asarray(credit).any()
    versions.append((int(state.version), int(state.count)))
  assert versions == [(0, 1), (0, 1), (0, 1), (1, 0)]


@pytest.mark.parametrize(
  ("options", "says"),
  [
    (dict(versions="a"), "name two rewards"),
    (dict(versions=("a", "a")), "each once"),
    (dict(versions=("a", "b"), every=0), "every=0"),
    (dict(versions=("a", "b"), agreement=2.0), "agreement=2.0"),
    (dict(versions=("a", "b"), saturated=math.nan), "saturated=nan"),
  ],
)
def test_refused(options, says):
  with pytest.raises(UserError, match=says):
    rubrics.revised(**options)


def test_a_version_is_a_reward():
  state, step = reviewer()
  with pytest.raises(UserError, match="no reward of this name"):
    step({"a": MASK * 1.0, "b": MASK * 1.0}, MASK, state)


def test_versions_are_never_mixed_within_an_iteration():
  state, step = reviewer(every=2, saturated=0.3)
  seen = []
  for n in range(6):
    scores = {k: x + 0.1 for k, x in draw(n).items()}  # means above .3
    version = "abc"[int(state.version)]
    credit, state = step(scores, MASK, state)
    want = advantages.group(scores[version], MASK)
    np.testing.assert_allclose(credit, want, atol=1e-4)
    seen.append(version)
  assert "".join(seen) == "aabbcc"
  assert int(state.version) == 2  # the last one stays
