"""What verdicts after thoughts earn, and the gradient that follows from it."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.models.vlm import verdicts
from jaxreward.models.vlm.decode import Answers

CLOSE, YES, NO, STOP, WORD = range(5)
MARKS = dict(close=CLOSE, verdicts=(YES, NO), stop=STOP)
EXACT = dict(exact=np.array([[WORD, WORD]]), exact_mask=np.ones((1, 2), bool))
CASES = {  # tokens: right for the truth "yes", formed
  (WORD, CLOSE, YES, STOP): (True, True),
  (CLOSE, YES, STOP, STOP): (True, True),
  (WORD, CLOSE, NO, STOP): (False, True),
  (WORD, CLOSE, YES, WORD): (True, False),
  (WORD, WORD, CLOSE, YES): (True, False),  # it was cut
  (WORD, YES, STOP, STOP): (False, False),  # no thought
  (CLOSE, CLOSE, YES, STOP): (False, False),  # two ends of a thought
  (WORD, CLOSE, WORD, STOP): (False, False),
  (WORD, WORD, WORD, CLOSE): (False, False),
  (WORD, STOP, CLOSE, YES): (False, False),  # what follows the end is nothing
}


def answers_of(rows):
  tokens = np.array(rows)[None]
  ended = (tokens == STOP).cumsum(-1)
  mask = np.concatenate([0 * ended[..., :1], ended[..., :-1]], -1) == 0
  return Answers(
    jnp.asarray(np.where(mask, tokens, STOP)),
    jnp.zeros(tokens.shape),
    jnp.asarray(mask),
  )


@pytest.fixture(scope="module")
def written():
  heard = jnp.zeros((1, len(CASES), 4, 5))
  heard = heard.at[..., YES].set(
    np.log(3)
  )  # a listener says yes three times of four
  return verdicts.read(
    answers_of([*CASES]), np.array([YES]), heard=heard, **EXACT, **MARKS
  )


def test_a_verdict_follows_a_thought_and_ends_the_answer(written):
  right, formed = zip(*CASES.values(), strict=True)
  assert written.is_right[0].tolist() == [*right]
  assert written.is_formed[0].tolist() == [*formed]
  has_thought = [CLOSE in x[:3] and STOP not in x[:2] for x in CASES]
  np.testing.assert_allclose(
    written.listened[0], 0.75 * np.array(has_thought), rtol=1e-6
  )


def test_a_thought_is_like_the_exact_one_by_its_words(written):
  """Two words are right; those after the end of a thought do not count."""
  words = [x[: x.index(CLOSE)].count(WORD) if CLOSE in x else 0 for x in CASES]
  ended = [STOP in x[: x.index(CLOSE)] if CLOSE in x else True for x in CASES]
  want = np.where(ended, 0, 2 * np.minimum(words, 2) / (np.array(words) + 2))
  np.testing.assert_allclose(written.alike[0], want, rtol=1e-6)


def test_overlap_counts_words_as_often_as_they_stand_there():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 4, (5, 6)), rng.integers(0, 4, (5, 3))
  mask = rng.random(a.shape) < 0.7
  got = verdicts.overlap(a, mask, b, np.ones(b.shape, bool), 4)
  for row, words, there, other in zip(got, a, mask, b, strict=True):
    counts = [collections.Counter(x.tolist()) for x in (words[there], other)]
    same = sum((counts[0] & counts[1]).values())
    np.testing.assert_allclose(
      row, 2 * same / (there.sum() + len(other)), rtol=1e-6
    )


def test_a_truth_of_no_is_right_where_no_is_said():
  heard = jnp.zeros((1, 2, 4, 5))
  rows = [(WORD, CLOSE, NO, STOP), (WORD, CLOSE, YES, STOP)]
  read = verdicts.read(
    answers_of(rows), np.array([NO]), heard=heard, **EXACT, **MARKS
  )
  assert read.is_right.tolist() == [[True, False]]
  np.testing.assert_allclose(read.listened, 0.5)


def test_rules_are_their_tables():
  right, formed = np.array([*itertools.product((True, False), repeat=2)]).T
  listened, alike = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0, 1, 0.5]])
  one = verdicts.Verdicts(
    *(jnp.asarray(x[None]) for x in (right, formed, listened, alike))
  )
  tables = {
    "signed": [1, 1, -1, -1],
    "added": [2, 1, 1, 0],
    "gated": [1, 0, 0, 0],
    "explained": [0.5, 0, 0, 0],
    "graded": [1.5, 0, 0.4, 0],
    "listened": [2.05, 1.1, 1.15, 0.2],
  }
  assert set(tables) == set(verdicts.RULES)
  for name, expected in tables.items():
    np.testing.assert_allclose(verdicts.RULES[name](one)[0], expected)


def test_a_listener_who_hears_nothing_new_changes_no_credit():
  """Its part is the same in a group, and drops out of the comparison."""
  right = jnp.array([[True, False, True]])
  share = jnp.full((1, 3), 0.3)
  alike = verdicts.Verdicts(right, right, share, share)
  each = lambda rule: advantages.group(rule(alike), np.ones((1, 3), bool))
  np.testing.assert_allclose(
    each(verdicts.listened), each(verdicts.added), atol=1e-5
  )


def test_of_right_verdicts_the_critique_decides_and_a_guess_earns_nothing():
  """Read from tokens: two exact words, one, none, and two before a wrong verdict."""
  rows = [
    (WORD, WORD, CLOSE, YES, STOP), (WORD, CLOSE, YES, STOP, STOP),
    (CLOSE, YES, STOP, STOP, STOP), (WORD, WORD, CLOSE, NO, STOP),
  ]  # fmt: skip
  read = verdicts.read(
    answers_of(rows), np.array([YES]), heard=jnp.zeros((1, 4, 5, 5)), **EXACT,
    **MARKS,
  )  # fmt: skip
  np.testing.assert_allclose(
    verdicts.explained(read)[0], [1, 2 / 3, 0, 0], rtol=1e-6
  )
  # Where all verdicts are right, they alone teach nothing; the critiques do.
  right = jax.tree.map(lambda x: x[:, :3], read)
  credit = lambda rule: np.asarray(
    advantages.group(rule(right), np.ones((1, 3), bool))
  )[0]
  np.testing.assert_array_equal(credit(verdicts.signed), 0)
  assert (np.diff(credit(verdicts.explained)) < 0).all()
  # A guess without a critique: half of the verdicts are right, and none is paid.
  rows = [(CLOSE, word, STOP) for word in (YES, NO)]
  guess = verdicts.read(
    answers_of(rows), np.array([YES]), heard=jnp.zeros((1, 2, 3, 5)), **EXACT,
    **MARKS,
  )  # fmt: skip
  assert verdicts.gated(guess).mean() == 0.5
  assert not np.asarray(verdicts.explained(guess)).any()


def test_the_gradient_is_that_of_the_expected_reward():
  """One token, all answers once, weighed by their probability: exact."""
  scores, reward = jnp.array([0.3, -0.2, 0.9]), jnp.array([1.0, -1.0, 0.5])

  def expected(s):
    return (jax.nn.softmax(s) * reward).sum()

  def surrogate(s):
    now = jax.nn.log_softmax(s)
    each = verdicts.loss_of(
      now[None, :, None], now[None, :, None], reward[None], kl=0.0
    )
    weight = jax.lax.stop_gradient(jax.nn.softmax(s))
    return -(weight * each[0, :, 0]).sum()

  np.testing.assert_allclose(
    jax.grad(surrogate)(scores), jax.grad(expected)(scores), atol=1e-6
  )


def test_the_reference_costs_nothing_at_the_start_and_pulls_back():
  now = jnp.log(jnp.array([[[0.2, 0.5]]]))
  zero = jnp.zeros((1, 1))
  at = lambda x, base: verdicts.loss_of(x, base, zero, kl=1.0)
  np.testing.assert_array_equal(at(now, now), 0)
  other = jnp.log(jnp.array([[[0.4, 0.1]]]))
  gap = np.asarray(other - now, np.float64)
  np.testing.assert_allclose(at(now, other), np.exp(gap) - gap - 1, rtol=1e-5)
  slope = jax.grad(lambda x: at(x, other).sum())(now)
  np.testing.assert_allclose(slope, 1 - np.exp(gap), rtol=1e-5)


def test_a_grade_grows_with_the_form_the_thought_and_the_verdict():
  """And pays for a look exactly where that makes the verdict right often enough."""
  one = lambda *x: float(
    verdicts.graded(verdicts.Verdicts(*(jnp.array([[v]]) for v in x)))[0, 0]
  )
  got = [
    one(False, False, 0.0, 1.0), one(False, True, 0.0, 0.0),
    one(False, True, 0.0, 0.3), one(True, True, 0.0, 0.0),
    one(True, True, 0.0, 0.8),
  ]  # fmt: skip
  np.testing.assert_allclose(got, [0, 0.3, 0.4, 1, 1.5], rtol=1e-6)
  for plain, looked in itertools.product((0.2, 0.5, 0.9), repeat=2):
    without = plain * got[3] + (1 - plain) * got[1]
    with_look = looked * got[4] + (1 - looked) * got[2]
    assert with_look == pytest.approx(0.4 + 1.1 * looked)
    assert (with_look > without) == (looked > (0.7 * plain - 0.1) / 1.1)
