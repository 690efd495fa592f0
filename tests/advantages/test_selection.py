"""Credit for a part of a group against loops, and what chance may do."""

import jax
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.errors import UserError

P, G = 4, 6
IDS = np.arange(P, dtype=np.uint32) + 7


def draw(seed, steps=None):
  rng = np.random.default_rng(seed)
  signal = rng.random((P, G)).astype(np.float32)
  if steps:
    signal = np.round(signal * steps).astype(np.float32) / steps
  mask = rng.random((P, G)) > 0.2
  return np.where(mask, signal, np.nan).astype(np.float32), mask


def z_score(row, epsilon=1e-4):
  row = row.astype(np.float64)
  return (row - row.mean()) / (row.std() + epsilon)


@pytest.mark.parametrize("keep", [2, 4, 8])
def test_best_and_worst_keeps_the_ends_of_the_whole_groups_credit(keep):
  signal, mask = draw(0)
  got = np.asarray(advantages.best_and_worst(signal, mask, keep=keep))
  for p in range(P):
    at = np.flatnonzero(mask[p])
    order = at[np.argsort(signal[p, at], kind="stable")]
    kept = {*order[: keep // 2], *order[max(len(order) - keep // 2, 0) :]}
    score = dict(zip(at, z_score(signal[p, at]), strict=True))
    for g in range(G):
      if g in kept:
        np.testing.assert_allclose(got[p, g], score[g], rtol=1e-4, atol=1e-6)
      else:
        assert np.isnan(got[p, g])


def test_of_pairs_the_best_winner_and_the_worst_loser_are_sifted():
  rng = np.random.default_rng(3)
  size = 10
  ranks, points = rng.random((2, 40, size)).astype(np.float32)
  mask = rng.random((40, size)) > 0.1
  ranks[:, 4], ranks[0] = ranks[:, 5], 0.5  # a tie, and a prompt of ties
  signal = np.full_like(ranks, np.nan)
  got = np.asarray(
    advantages.sifted(
      signal, {"r": ranks, "p": points}, mask, ranks="r", points="p"
    )
  )
  left_out = 0
  for p in range(len(got)):
    winners, losers = [], []
    for i in range(0, size, 2):
      if mask[p, i] and mask[p, i + 1] and ranks[p, i] != ranks[p, i + 1]:
        first = ranks[p, i] > ranks[p, i + 1]
        winners.append(i if first else i + 1)
        losers.append(i + 1 if first else i)
    expected = np.full(size, np.nan)
    if winners:
      best = max(winners, key=lambda i: points[p, i])
      worst = min(losers, key=lambda i: points[p, i])
      if points[p, best] > points[p, worst]:
        expected[best], expected[worst] = 1, -1
    left_out += np.isnan(expected).all()
    np.testing.assert_array_equal(got[p], expected)
  assert 1 < left_out < len(got)


def test_where_one_reward_compares_and_scores_the_ends_are_those_of_the_group():
  signal = np.array([[0.3, 0.1, 0.9, 0.5], [0.1, 0.1, 0.2, 0.2]], np.float32)
  got = advantages.sifted(signal, {}, np.ones_like(signal, bool))
  np.testing.assert_array_equal(got, [[np.nan, -1, 1, np.nan], [np.nan] * 4])
  for names, size, says in (
    (dict(ranks="no"), 4, 'ranks="no": there is no reward'),
    ({}, 3, "config.rollout.group=3: samples meet"),
  ):
    few = signal[:, :size]
    with pytest.raises(UserError, match=says):
      advantages.sifted(few, {"r": few}, few > 0, **names)


def test_the_ends_teach_more_than_the_group():
  signal = np.random.default_rng(1).normal(size=(P, 24)).astype(np.float32)
  mask = np.ones_like(signal, bool)
  ends = np.abs(advantages.best_and_worst(signal, mask, keep=8))
  assert np.isfinite(ends).sum() == 8 * P
  assert np.nanmean(ends) > np.abs(advantages.group(signal, mask)).mean()


def test_groups_of_little_spread_or_a_high_mean_are_dropped():
  signal = np.array(
    [
      [0.95, 0.96, 0.94, 0.95],  # solved
      [0.20, 0.90, 0.50, 0.70],  # stays
      [0.10, 0.10, 0.11, 0.10],  # hard, and all alike
      [1.00, 1.00, 1.00, 0.62],  # solved but for one
    ],
    np.float32,
  )
  mask = np.ones_like(signal, bool)
  got = np.asarray(advantages.filtered(signal, mask))
  assert np.isnan(got[[0, 2, 3]]).all()
  want = (signal[1] - signal[1].mean()) / (signal.std() + 1e-4)
  np.testing.assert_allclose(got[1], want, rtol=1e-5)


def verdicts(signal, mask, key, **options):
  return np.asarray(advantages.against_one(signal, mask, IDS, key, **options))


def test_against_one_compares_with_a_member_that_is_left_out():
  signal, mask = draw(2, steps=4)
  for seed in range(5):
    got = verdicts(signal, mask, jax.random.key(seed))
    for p in range(P):
      at = np.flatnonzero(mask[p])
      # Some member explains all of the group's verdicts.
      options = []
      for b in at:
        row = np.sign(signal[p] - signal[p, b])
        row[~mask[p] | (row == 0)] = np.nan
        if abs(np.nansum(row)) >= len(at) - 1:
          row[:] = np.nan  # too good, or too bad
        options.append(row)
      assert any(np.array_equal(got[p], row, equal_nan=True) for row in options)


def test_on_average_a_verdict_is_the_rank():
  signal = np.tile(np.arange(G, dtype=np.float32), (P, 1))
  mask = np.ones((P, G), bool)
  run = jax.jit(
    jax.vmap(lambda key: advantages.against_one(signal, mask, IDS, key))
  )
  got = np.asarray(run(jax.random.split(jax.random.key(0), 4000)))
  # References that are best or worst drop the group; over the four others:
  want = [np.mean(np.sign(g - np.delete(np.arange(1, 5), g - 1)
    if 1 <= g <= 4 else g - np.arange(1, 5))) for g in range(G)]  # fmt: skip
  np.testing.assert_allclose(np.nanmean(got, (0, 1)), want, atol=0.03)


def test_curated_keeps_one_with_the_chance_of_its_reward():
  signal = np.tile(np.array([0, 1, 2], np.float32), (P, 1))
  mask = np.ones((P, 3), bool)
  run = jax.jit(
    jax.vmap(lambda key: advantages.curated(signal, mask, IDS, key, ~mask))
  )
  got = np.asarray(run(jax.random.split(jax.random.key(1), 4000)))
  assert (np.nansum(got, -1) == 1).all()
  share = np.isfinite(got).mean((0, 1))
  np.testing.assert_allclose(share, (0.0900, 0.2447, 0.6652), atol=0.01)
  cold = lambda real, mask=mask: np.asarray(
    advantages.curated(
      signal, mask, IDS, jax.random.key(0), real, temperature=1e-3
    )
  )
  np.testing.assert_array_equal(np.isfinite(cold(~mask)), signal == 2)
  # A reference image, the best here, is not chosen and stays in the loss with 0.
  got = cold(signal == 2)
  np.testing.assert_array_equal(got[0], [np.nan, 1, 0])
  np.testing.assert_array_equal(
    cold(signal == 2, signal < 2)[0], [np.nan, 1, np.nan]
  )


@pytest.mark.parametrize("right", [0.7, 0.9])
def test_rounds_of_a_filter_multiply_the_odds_of_right_samples(right):
  """Bayes: by q / (1 - q) each, of verdicts that are right with probability q."""
  rng = np.random.default_rng(0)
  mask, share = np.ones((8000, 8), bool), 0.1
  ids = np.arange(8000, dtype=np.uint32)
  for n in (1, 2, 3):
    is_good = rng.random(mask.shape) < share
    passes = is_good == (rng.random(mask.shape) < right)
    got = advantages.curated(
      passes.astype(np.float32), mask, ids, jax.random.key(n), ~mask, least=0.5
    )
    kept = np.isfinite(got)
    np.testing.assert_array_equal(kept.sum(1), passes.any(1))
    assert passes[kept].all()
    share = is_good[kept].mean()  # the next policy draws what was kept
    odds = 0.1 / 0.9 * (right / (1 - right)) ** n
    assert share == pytest.approx(odds / (1 + odds), abs=0.025)


def test_draws_belong_to_the_prompt_and_the_member():
  signal, mask = draw(3)
  key, order = jax.random.key(5), np.array([2, 0, 3, 1])
  whole = verdicts(signal, mask, key)
  moved = advantages.against_one(signal[order], mask[order], IDS[order], key)
  np.testing.assert_array_equal(whole[order], moved)
  other = verdicts(signal, mask, jax.random.key(6))
  assert not np.array_equal(whole, other, equal_nan=True)


def test_masked_samples_are_never_chosen():
  signal, mask = draw(4)
  key = jax.random.key(0)
  for got in (
    advantages.against_one(signal, mask, IDS, key),
    advantages.curated(signal, mask, IDS, key, mask & False),
    advantages.best_and_worst(signal, mask, keep=4),
  ):
    assert np.isnan(np.asarray(got)[~mask]).all()


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("best_and_worst", dict(keep=3), "keep=3"),
    ("best_and_worst", dict(keep=0), "keep=0"),
    ("against_one", dict(discard=0.0), "discard=0.0"),
    ("curated", dict(temperature=0.0), "temperature=0.0"),
  ],
)
def test_what_is_refused(name, options, says):
  signal, mask = draw(0)
  arrays = (
    (signal, mask)
    if name == "best_and_worst"
    else (signal, mask, IDS, jax.random.key(0))
  )
  if name == "curated":
    arrays += (mask & False,)
  with pytest.raises(UserError, match=says):
    advantages.REGISTRY[name](*arrays, **options)


def test_the_ends_of_branches_are_kept_if_they_are_far_enough_out():
  signal = np.array([[0.0, 1.0, 5.0, 2.0, 2.1, 1.9, 2.0, 2.0]], np.float32)
  mask = np.ones_like(signal, bool)
  mask[0, 1] = False
  got = advantages.branch_ends(signal, mask, members=4, least=0.5, epsilon=0.0)
  kept = signal[mask].astype(np.float64)
  z = (signal[0] - kept.mean()) / kept.std()
  want = np.full(8, np.nan)
  want[[0, 2]] = z[[0, 2]]  # the second branch lies too near the mean
  np.testing.assert_allclose(got[0], want, rtol=1e-5)
  every = advantages.branch_ends(signal, mask, members=4, least=0.0)
  assert np.isfinite(every[0]).tolist() == [1, 0, 1, 0, 0, 1, 0, 0]
  with pytest.raises(UserError, match="members=3"):
    advantages.branch_ends(signal, mask, members=3)


def test_pairs_by_exact_tools_are_right_and_close_ones_are_left_out():
  """Five candidates; what a perfect tool finds best and worst is best and worst."""
  truth = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
  mask = np.ones(truth.shape, bool)
  got = np.asarray(advantages.branch_ends(truth, mask, members=5, least=1.0))
  pairs = 0
  for row, credit in zip(truth, got, strict=True):
    kept = np.flatnonzero(np.isfinite(credit))
    assert set(kept) <= {int(row.argmax()), int(row.argmin())}
    for i in kept:
      assert (credit[i] > 0) == (i == row.argmax())
    z = (row - row.mean()) / row.std()
    pairs += len(kept) == 2
    assert (len(kept) == 2) == (min(z.max(), -z.min()) >= 1)
  assert 20 < pairs < 60
