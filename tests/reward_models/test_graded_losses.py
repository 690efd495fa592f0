"""Losses that read ratings, and the heads of grades, against float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import reward_models as rm
from jaxreward.errors import UserError
from jaxreward.reward_models import heads

RNG = np.random.default_rng(0)
F = np.float32


def log_sigmoid(x):
  return -np.logaddexp(0.0, -x)


def pairs(gap):
  return np.stack([np.asarray(gap), np.zeros(len(gap))], -1).astype(F)


def differences(loss, x, h=1e-3):
  """The gradient of a loss by central differences, in float32."""
  slope = np.zeros(x.shape)
  for at in np.ndindex(*x.shape):
    step = np.zeros(x.shape, F)
    step[at] = h
    up, down = (float(loss(jnp.asarray(x + s))) for s in (step, -step))
    slope[at] = (up - down) / (2 * h)
  return slope


def test_strength_multiplies_the_loss():
  """The values that the paper's formula has at d = 1 and m = 1, 2, 3."""
  for m, want in zip((1, 2, 3), (0.313262, 0.626523, 0.939785), strict=True):
    strength = np.array([m / 3], F)
    found = rm.scaled_bradley_terry(pairs([1.0]), 1.0, strength)
    np.testing.assert_allclose(found.total, want, atol=2e-6)
    assert found.weight == m
  gap = RNG.normal(size=9)
  prob = RNG.random(9)
  strength = np.append(RNG.random(8), np.nan)
  found = rm.scaled_bradley_terry(
    pairs(gap), prob.astype(F), strength.astype(F), levels=4
  )
  m = np.append(np.ceil(4 * strength[:8]), 1)
  loss = -prob * log_sigmoid(gap) - (1 - prob) * log_sigmoid(-gap)
  np.testing.assert_allclose(
    found.value(), (m * loss).sum() / m.sum(), rtol=1e-5
  )
  even = rm.scaled_bradley_terry(pairs(gap), prob.astype(F), np.full(9, 0.2, F))
  plain = rm.bradley_terry(pairs(gap), prob.astype(F))
  np.testing.assert_allclose(even.value(), plain.value(), rtol=1e-6)


def soli(gap, label, ratings, **options):
  loss = rm.solireward(
    pairs([gap]), np.array([label], F), np.array([ratings], F), **options
  )
  return float(loss.total), float(loss.weight)


def test_good_ones_are_kept_in_a_band():
  tie = (1.0, 1.0)
  for gap, want in ((0, 6.097175), (1, 6.145078), (3, 6.695623)):
    assert soli(gap, 0.5, tie)[0] == pytest.approx(want, abs=1e-5)
    assert soli(-gap, 0.5, tie)[0] == pytest.approx(want, abs=1e-5)
  assert soli(0, 0.5, tie, margin=0.0)[0] == pytest.approx(2 * math.log(2))
  assert soli(3, 1.0, (1, 0))[0] == pytest.approx(math.log(2))
  assert soli(-3, 0.0, (0, 1))[0] == pytest.approx(math.log(2))
  assert soli(1, 0.5, (0.2, 0.1)) == (0.0, 0.0)  # two bad ones say nothing
  assert soli(1, np.nan, tie) == (0.0, 0.0)
  ratings = np.ones((1, 2), F)
  slope = jax.grad(
    lambda s: rm.solireward(s, np.array([0.5], F), ratings).total
  )
  np.testing.assert_array_equal(slope(jnp.asarray(pairs([0.0]))), 0.0)


@pytest.mark.turns(2)
def test_the_best_of_a_row():
  scores = RNG.normal(size=(4, 5)).astype(F)
  ratings = RNG.random((4, 5)).astype(F)
  ratings[1, 2] = np.nan
  ratings[2, :2] = 2.0  # two best ones
  ratings[3] = 0.5  # nothing to choose
  total = 0.0
  for row in range(3):
    there = np.isfinite(ratings[row])
    s, r = scores[row][there].astype(np.float64), ratings[row][there]
    log_p = s - np.log(np.exp(s).sum())
    total -= log_p[r == r.max()].mean()
  found = rm.best_of_row(scores, ratings)
  np.testing.assert_allclose(found.total, total, rtol=1e-5)
  assert found.weight == 3
  two = rm.best_of_row(scores[:, :2], np.tile(F([1, 0]), (4, 1)))
  plain = rm.bradley_terry(scores[:, :2])
  np.testing.assert_allclose(two.total, plain.total, rtol=1e-6)
  even = rm.best_of_row(np.zeros((1, 5), F), ratings[:1])
  np.testing.assert_allclose(even.total, math.log(5), rtol=1e-6)
  total = lambda s: rm.best_of_row(s, ratings).total
  np.testing.assert_allclose(
    jax.grad(total)(jnp.asarray(scores)), differences(total, scores), atol=2e-3
  )


@pytest.mark.turns(2)
def test_the_order_of_a_row():
  """-log of the probability of the order, over all orders adding up to 1."""
  scores = RNG.normal(size=(1, 4)).astype(F)
  chances = []
  for order in itertools.permutations(range(4)):
    ratings = np.array([[order.index(i) for i in range(4)]], F)
    found = rm.ranked_plackett_luce(scores, -ratings)
    chance, left = 1.0, list(order)
    while len(left) > 1:
      weights = np.exp(scores[0, left].astype(np.float64))
      chance *= weights[0] / weights.sum()
      left = left[1:]
    assert float(found.total) == pytest.approx(-math.log(chance), rel=1e-5)
    chances.append(chance)
  assert sum(chances) == pytest.approx(1.0)
  # Of two equal ones after the best, half the weight is gone after the first.
  tied = np.array([[0.5, 0.9, 0.5, 0.1]], F)
  e = np.exp(scores[0].astype(np.float64))
  both = e[0] + e[2]
  want = -np.log(
    e[1] / e.sum() * e[0] / (both + e[3]) * e[2] / (both / 2 + e[3])
  )
  loss = lambda s, order: (
    rm.ranked_plackett_luce(s[:, order], tied[:, order]).total
  )
  for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
    found = loss(jnp.asarray(scores), np.array(order))
    np.testing.assert_allclose(found, want, rtol=1e-5)
  plain = lambda s: loss(s, np.arange(4))
  slope = jax.grad(plain)(jnp.asarray(scores))
  np.testing.assert_allclose(slope, differences(plain, scores), atol=2e-3)
  pull = jax.grad(lambda s: rm.ranked_plackett_luce(s, F([[1, 1, 1]])).total)
  np.testing.assert_allclose(pull(jnp.ones((1, 3))), 0.0, atol=1e-6)
  assert (pull(F([[1e4, 0, -1e4]]))[0, [0, 2]] * F([1, -1]) > 0.5).all()
  lost = np.array([[0.1, np.nan, 0.3, np.nan]], F)
  pair = rm.ranked_plackett_luce(scores, lost)
  np.testing.assert_allclose(
    pair.total, -log_sigmoid(scores[0, 2] - scores[0, 0]), rtol=1e-5
  )


def ordinal(first, second, label=1.0, ratings=(np.nan, np.nan), **options):
  log_probs = np.stack([np.log(first), np.log(second)])[None].astype(F)
  loss = rm.ordinal_pairs(
    log_probs, np.array([label], F), np.array([ratings], F), **options
  )
  return float(loss.total)


def test_distributions_over_grades():
  s = np.arange(1, 10)
  p, q = (np.exp(x * s) / np.exp(x * s).sum() for x in (0.5, -0.5))
  assert math.exp(-ordinal(p, q)) == pytest.approx(0.944909, abs=1e-5)
  assert (p * s).sum() == pytest.approx(7.559610, abs=1e-6)
  both = math.exp(-ordinal(p, q)) + math.exp(-ordinal(p, q, label=0.0))
  assert 1 - both == pytest.approx(0.026097, abs=1e-5)  # what ties have
  even = np.full(9, 1 / 9)
  assert math.exp(-ordinal(even, even)) == pytest.approx(36 / 81, rel=1e-5)
  # Good against bad: grades 7 to 9 against 1 to 3.
  joint = sum(p[i] * q[j] for i in (6, 7, 8) for j in (0, 1, 2))
  flooded = ordinal(p, q, ratings=(0.9, 0.1), regions=3)
  assert math.exp(-flooded) == pytest.approx(joint, rel=1e-5)
  assert flooded > ordinal(p, q)
  # Of one region, the better grade within it.
  joint = sum(p[i] * q[j] for i in (3, 4, 5) for j in (3, 4, 5) if i > j)
  found = ordinal(p, q, ratings=(0.5, 0.4), regions=3)
  assert math.exp(-found) == pytest.approx(joint, rel=1e-5)
  # Where regions contradict the answer, or nobody rated, the whole scale.
  for ratings in ((0.1, 0.9), (np.nan, np.nan)):
    found = ordinal(p, q, ratings=ratings, regions=3)
    assert found == pytest.approx(ordinal(p, q), rel=1e-6)


def test_thresholds_at_published_values():
  logits = jnp.array([2.0, 0.0, -1.0])
  p = heads.grade_probabilities(logits)
  want = (0.119203, 0.440399, 0.321957, 0.118441)
  np.testing.assert_allclose(p, want, atol=2e-6)
  found = heads.moments(p)
  np.testing.assert_allclose(found["value"], 2.439637, atol=2e-6)
  grade = np.arange(1, 5)
  std = math.sqrt((p * (grade - 2.439637) ** 2).sum())
  np.testing.assert_allclose(found["std"], std, rtol=1e-5)
  far = heads.grade_probabilities(jnp.array([1e4, -1e4, 1e4]))
  np.testing.assert_allclose(far, [0, 1, 0, 0], atol=1e-6)


def test_corn_asks_only_those_who_come_so_far():
  logits = RNG.normal(size=(3, 4, 3)).astype(F)
  ratings = RNG.random((3, 4)).astype(F)
  ratings[0, 0] = np.nan
  total, count = 0.0, 0
  for row, place in np.ndindex(3, 4):
    if np.isfinite(ratings[row, place]):
      grade = min(int(4 * ratings[row, place]), 3)
      for k in range(min(grade + 1, 3)):
        sign = 1 if grade > k else -1
        total -= log_sigmoid(sign * float(logits[row, place, k]))
        count += 1
  found = rm.corn(logits, ratings)
  np.testing.assert_allclose(found.total, total, rtol=1e-5)
  assert found.weight == count
  loss = lambda x: rm.corn(x, ratings).total
  slope = jax.grad(loss)(jnp.asarray(logits))
  np.testing.assert_allclose(slope, differences(loss, logits), atol=2e-3)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["ordinal", "thresholds", "among", "scalar"])
def test_heads_start_without_an_opinion_and_learn(name):
  head = rm.HEADS[name]()
  features = {"joint": jnp.asarray(RNG.normal(size=(2, 3, 6)), F)}
  params = jax.jit(head.init)(jax.random.key(0), features)
  outputs = jax.jit(head.outputs)(params, features)
  assert set(outputs) == set(head.names)
  value, std = head.score(outputs)
  assert value.shape == (2, 3)
  assert float(jnp.ptp(value)) < 1e-6
  assert (std is None) == (name in ("among", "scalar"))
  value = lambda p: head.outputs(p, features)["value"][0, 0]
  slope = jax.jit(jax.grad(value))(params)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope)) > 0


def test_the_order_of_a_group_changes_nothing_but_its_order():
  head = rm.HEADS["among"](width=8)
  features = RNG.normal(size=(2, 4, 6)).astype(F)
  drawn = jax.jit(head.init)(jax.random.key(0), {"joint": features})
  params = jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * RNG.normal(size=x.shape).astype(F), drawn
  )
  score = jax.jit(lambda x: head.outputs(params, {"joint": x})["value"])
  base, order = score(features), np.array([2, 0, 3, 1])
  np.testing.assert_allclose(
    score(features[:, order]), base[:, order], atol=1e-5
  )
  others = score(np.concatenate([features[:, :2], -features[:, 2:]], 1))
  assert np.abs(np.asarray(others - base))[:, :2].min() > 1e-5


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: rm.HEADS["ordinal"](grades=1), "grades=1"),
    (lambda: rm.HEADS["thresholds"](grades=1), "grades=1"),
    (lambda: rm.HEADS["among"](width=9), "width=9 is not divisible"),
    (lambda: rm.HEADS["scalar"](activation="relu"), "one of gelu, silu"),
    (lambda: rm.HEADS["scalar"](hidden=-1), "hidden=-1"),
    (lambda: rm.HEADS["gaussian"](least=2.0), "either side of 1"),
    (
      lambda: rm.scaled_bradley_terry(pairs([1]), 1.0, F([1]), levels=0),
      "levels=0",
    ),
    (
      lambda: rm.expected_bradley_terry(pairs([1]), pairs([1]), nodes=0),
      "nodes=0",
    ),
  ],
)
def test_options_that_mean_nothing(make, words):
  with pytest.raises(UserError, match=words):
    make()
