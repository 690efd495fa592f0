"""Composition of scores: references, failed scores, invariances."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from jaxreward import composition, methods
from jaxreward.errors import UserError

WEIGHTS = {"detector": 1.0, "model": 0.25}
# What has to be said of those that name a reward.
OPTIONS = {
  "base_and_bonus": dict(base="detector"),
  "gated_sum": dict(gates=dict(detector=0.5)),
  "lexicographic": dict(order=("detector", "model"), thresholds=(0.5,)),
  "mastered_first": dict(base="detector", threshold=0.5),
  "own_and_others": dict(own="detector", others="model"),
  "tempered": dict(reliability="detector"),
  "bonus_if_consistent": dict(base="detector", consistency="model"),
  "tiers": dict(thresholds=(0.25, 0.5)),
  "trusted_sum": dict(outcome="detector"),
  "prerequisite": dict(check="detector"),
  "whole_and_parts": dict(whole="detector"),
  "routed": dict(order=("detector", "model")),
  "viescore": dict(semantic="detector", quality="model"),
  "staged": dict(order=("detector", "model"), at=(3,)),
}
# What reads other prompts too, and what masks more than has failed.
WHOLE_BATCH = ("gdpo", "tamed_sum", "mastered_first", "routed")
SELECTIVE = ("pareto", "chain")

EXACT_ADVANTAGE_SUM, EXACT_GDPO = (
  jax.jit(functools.partial(fn, epsilon=0.0))
  for fn in (composition.advantage_sum, composition.gdpo)
)


@functools.cache
def program(name, weights):
  """A composition by name, each score as unsure as any other."""
  fn = functools.partial(composition.REGISTRY[name], **OPTIONS.get(name, {}))

  @jax.jit
  def run(scores, mask):
    stds = {"model": np.full(mask.shape, 0.5, np.float32)}
    known = {
      k: np.linspace(0, 1, 5, dtype=np.float32) + np.zeros((len(mask), 1), "f4")
      for k in WEIGHTS
    }
    noise = np.random.default_rng(0).random((*mask.shape, 8, 8, 3))
    taken = methods.named(
      fn, stds=stds, references=known, iteration=5, iterations=9,
      images=noise.astype(np.float32),  # none like another
    )  # fmt: skip
    signal, valid = fn(scores, mask, dict(weights), **taken)
    if isinstance(signal, dict):  # what stays apart, as one array
      signal = sum(signal.values())
    return signal, valid

  return run


def compose(name, scores, mask, weights):
  """(signal, mask) as NumPy arrays, from one program per shape."""
  outputs = program(name, tuple(weights.items()))(scores, mask)
  return tuple(np.asarray(x) for x in outputs)


def draw(seed, failed=0.2, shape=(4, 6)):
  rng = np.random.default_rng(seed)
  scores = {
    "detector": rng.random(shape).astype(np.float32),
    "model": rng.normal(3, 20, shape).astype(np.float32),
    "heldout": np.full(shape, np.nan, np.float32),
  }
  for name in WEIGHTS:
    bad = rng.random(shape) < failed
    scores[name][bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
  return scores, rng.random(shape) > 0.1


def reference_valid(scores, mask):
  return {name: mask & np.isfinite(scores[name]) for name in WEIGHTS}


def reference_advantage_sum(scores, mask, epsilon):
  valid = reference_valid(scores, mask)
  both = valid["detector"] & valid["model"]
  total = np.zeros(mask.shape)
  for name, weight in WEIGHTS.items():
    for p in range(mask.shape[0]):
      row = scores[name][p][both[p]].astype(np.float64)
      if row.size:
        total[p][both[p]] += weight * (row - row.mean()) / (row.std() + epsilon)
  return np.where(both, total, 0), both


@pytest.mark.parametrize("seed", range(4))
def test_weighted_sum_matches_float64(seed):
  scores, mask = draw(seed)
  signal, valid = composition.weighted_sum(scores, mask, WEIGHTS)
  both = np.logical_and(*reference_valid(scores, mask).values())
  want = np.zeros(mask.shape)
  for name, weight in WEIGHTS.items():
    want[both] += weight * scores[name][both].astype(np.float64)
  assert np.array_equal(valid, both)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_advantage_sum_matches_float64(seed, epsilon):
  scores, mask = draw(seed)
  signal, valid = composition.advantage_sum(
    scores, mask, WEIGHTS, epsilon=epsilon
  )
  want, both = reference_advantage_sum(scores, mask, epsilon)
  assert np.array_equal(valid, both)
  np.testing.assert_allclose(signal, want, rtol=2e-4, atol=2e-5)


def test_gdpo_is_the_whitened_sum():
  scores, mask = draw(7)
  signal, valid = composition.gdpo(scores, mask, WEIGHTS)
  want, both = reference_advantage_sum(scores, mask, 1e-4)
  want = (want - want[both].mean()) / (want[both].std() + 1e-4)
  np.testing.assert_allclose(
    np.asarray(signal)[both], want[both], rtol=2e-4, atol=2e-5
  )
  assert np.array_equal(valid, both)


def test_gdpo_is_the_authors_with_their_divisors():
  """NVlabs/GDPO grpo_trainer.py divides variances by n - 1."""
  scores, _ = draw(8, failed=0.0)
  total = 0.0
  for name, weight in WEIGHTS.items():
    r = scores[name].astype(np.float64)
    spread = r.std(1, ddof=1, keepdims=True)
    total = total + weight * (r - r.mean(1, keepdims=True)) / (spread + 1e-4)
  want = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
  signal, _ = composition.gdpo(
    scores, np.ones(total.shape, bool), WEIGHTS, sample_std=True
  )
  np.testing.assert_allclose(signal, want, rtol=1e-3, atol=1e-4)


def test_gdpo_tells_apart_what_sums_do_not():
  """Groups (0,0), (0,1) and (0,0), (1,1): sums give both the same advantage."""
  scores = {
    "a": np.array([[0, 0], [0, 1]], np.float32),
    "b": np.array([[0, 1], [0, 1]], np.float32),
  }
  weights, mask = {"a": 1.0, "b": 1.0}, np.ones((2, 2), bool)
  signal, _ = composition.gdpo(scores, mask, weights, sample_std=True)
  want = [[-0.547680, 0.547680], [-1.095360, 1.095360]]
  np.testing.assert_allclose(signal, want, rtol=1e-4)
  plain, _ = composition.weighted_sum(scores, mask, weights)
  z = (plain - plain.mean(1, keepdims=True)) / plain.std(1, keepdims=True)
  np.testing.assert_allclose(z[0], z[1])


@hypothesis.given(
  seed=st.integers(0, 2**31),
  scale=st.floats(0.05, 1000),
  shift=st.floats(-5, 5),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_affine_rescale_of_one_score_does_not_matter(seed, scale, shift):
  scores, mask = draw(seed)
  moved = dict(scores, detector=(scores["detector"] + shift) * scale)
  for compose in (EXACT_ADVANTAGE_SUM, EXACT_GDPO):
    base, _ = compose(scores, mask, WEIGHTS)
    got, _ = compose(moved, mask, WEIGHTS)
    np.testing.assert_allclose(got, base, atol=3e-3)
  base, _ = composition.weighted_sum(scores, mask, WEIGHTS)
  got, _ = composition.weighted_sum(moved, mask, WEIGHTS)
  if abs(scale - 1) > 0.1 and np.any(np.asarray(base)):
    assert not np.allclose(got, base, atol=1e-3)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", composition.REGISTRY)
def test_failed_scores_are_masked_not_zero(name):
  scores, mask = draw(2, failed=0.0)
  scores["model"][1, 2] = np.nan
  signal, valid = compose(name, scores, mask, WEIGHTS)
  counted = mask & np.isfinite(scores["model"])
  assert np.array_equal(valid, counted) or name in SELECTIVE
  assert not np.any(valid & ~counted)
  assert np.all(np.isfinite(signal))
  # The others of the group are as if the failed sample had not been drawn.
  without = {k: np.delete(v, 2, axis=1) for k, v in scores.items()}
  rest, _ = compose(name, without, np.delete(mask, 2, 1), WEIGHTS)
  if name not in WHOLE_BATCH:
    np.testing.assert_allclose(
      np.delete(signal[1], 2), rest[1], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", composition.REGISTRY)
def test_all_masked_is_zero_and_finite(name):
  scores, mask = draw(0)
  signal, valid = compose(name, scores, mask & False, WEIGHTS)
  assert not np.any(valid)
  assert np.array_equal(signal, np.zeros(mask.shape))


@pytest.mark.parametrize("name", ["advantage_sum", "gdpo"])
def test_equal_scores_drop_out_exactly(name):
  scores, mask = draw(4, failed=0.0)
  flat = dict(scores, detector=np.full_like(scores["detector"], 0.1))
  got, _ = compose(name, flat, mask, WEIGHTS)
  alone, _ = compose(name, flat, mask, {"model": 0.25})
  np.testing.assert_allclose(got, alone, rtol=1e-6, atol=1e-7)


def test_masks_per_score():
  scores, mask = draw(5, failed=0.0)
  hidden = mask.copy()
  hidden[0, 0] = False
  masks = {"detector": mask, "model": hidden}
  _, valid = composition.weighted_sum(scores, masks, WEIGHTS)
  assert np.array_equal(valid, mask & hidden)


# Of several longest chains it is the first members that decide.
@pytest.mark.parametrize("name", sorted({*composition.REGISTRY} - {"chain"}))
def test_permutations_carry_over(name):
  scores, mask = draw(6)
  g = np.random.default_rng(0).permutation(6)
  base, _ = compose(name, scores, mask, WEIGHTS)
  moved = {k: v[:, g] for k, v in scores.items()}
  got, _ = compose(name, moved, mask[:, g], WEIGHTS)
  np.testing.assert_allclose(got, base[:, g], rtol=1e-4, atol=1e-5)


def test_failures_are_counted_over_valid_samples():
  scores, mask = draw(8)
  counted = composition.failures(scores, mask)
  for name, score in scores.items():
    mean = counted[f"failed/{name}"]
    assert mean.total == np.sum(mask & ~np.isfinite(score))
    assert mean.weight == np.sum(mask)


@pytest.mark.parametrize("name", composition.REGISTRY)
def test_weights_must_name_scores(name):
  scores, mask = draw(0)
  with pytest.raises(UserError, match="detecto"):
    compose(name, scores, mask, {"detecto": 1.0})
  with pytest.raises(UserError):
    compose(name, scores, mask, {})


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_win_rate_matches_float64(seed, temperature):
  scores, mask = draw(seed)
  scores["detector"] = np.round(scores["detector"] * 3)  # with ties
  signal, valid = composition.win_rate(
    scores, mask, WEIGHTS, temperature=temperature
  )
  both = np.logical_and(*reference_valid(scores, mask).values())
  assert np.array_equal(valid, both)
  want = np.zeros(mask.shape)
  for name, weight in WEIGHTS.items():
    for p, i in np.argwhere(both):
      others = [j for j in np.flatnonzero(both[p]) if j != i]
      d = [np.float64(scores[name][p, i]) - scores[name][p, j] for j in others]
      wins = [
        1 / (1 + np.exp(-x / temperature))
        if temperature
        else (np.sign(x) + 1) / 2
        for x in d
      ]
      want[p, i] += weight * (np.mean(wins) if wins else 0.5)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


def test_a_win_rate_reads_the_order_alone():
  scores, mask = draw(7, failed=0.0)
  weights = {"model": 1.0}
  plain, _ = composition.win_rate(scores, mask, weights)
  bent = {"model": np.exp(scores["model"] / 10)}
  np.testing.assert_array_equal(
    plain, composition.win_rate(bent, mask, weights)[0]
  )


def test_a_negative_temperature_is_refused():
  scores, mask = draw(0)
  with pytest.raises(UserError, match=r"composition\.temperature=-1"):
    composition.win_rate(scores, mask, WEIGHTS, temperature=-1.0)


@pytest.mark.parametrize("seed", range(3))
def test_lower_bound_matches_float64(seed):
  scores, mask = draw(seed)
  rng = np.random.default_rng(seed)
  stds = {"model": rng.random(mask.shape).astype(np.float32)}
  weights = {"detector": 1.0, "model": -0.25}
  signal, valid = composition.lower_bound(
    scores, mask, weights, stds=stds, beta=1.5
  )
  both = np.logical_and(*reference_valid(scores, mask).values())
  want = np.zeros(mask.shape)
  for name, weight in weights.items():
    want[both] += weight * scores[name][both].astype(np.float64)
  want[both] -= 1.5 * 0.25 * stds["model"][both]
  assert np.array_equal(valid, both)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-5)


def test_lower_bound_asks_for_what_is_there():
  scores, mask = draw(0, failed=0)
  plain, _ = composition.weighted_sum(scores, mask, WEIGHTS)
  stds = {"model": np.ones_like(scores["model"])}
  sure, _ = composition.lower_bound(scores, mask, WEIGHTS, stds=stds, beta=0.0)
  np.testing.assert_array_equal(plain, sure)
  lost = {"model": np.full_like(scores["model"], np.nan)}
  _, valid = composition.lower_bound(scores, mask, WEIGHTS, stds=lost)
  assert not valid.any()
  with pytest.raises(UserError, match="detector, model does not say"):
    composition.lower_bound(scores, mask, WEIGHTS, stds={})


def test_deviations_over_n_minus_1_as_published():
  """MRN, of weights 1 and .1, by hand."""
  scores = {
    "a": np.array([[1, 1, 0, 0]], np.float32),
    "b": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32),
  }
  signal, _ = composition.advantage_sum(
    scores, np.ones((1, 4), bool), {"a": 1.0, "b": 0.1}, epsilon=1e-4,
    sample_std=True,
  )  # fmt: skip
  want = (0.74978, 0.82718, -0.82718, -0.74978)
  np.testing.assert_allclose(signal[0], want, atol=2e-5)
