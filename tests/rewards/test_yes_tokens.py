"""The probability of one of two answers, and what follows from its maths."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxreward import advantages
from jaxreward.errors import UserError
from jaxreward.models.vlm import decode, tiny
from jaxreward.reward_models import curation
from jaxreward.rewards import answer_tables, judges
from jaxreward.rewards.remote import answers, matches, templates


def mean_of(first, second, others=0.0):
  """The expected answer where "yes" has the first logit and "no" the second."""
  table = answer_tables.Table(
    np.array([[1], [2]]), np.ones((2, 1), bool), np.array([1.0, 0.0])
  )
  rows = [np.full(np.shape(first), others), first, second]
  logits, empty = jnp.stack(rows, -1), jnp.zeros((1, 1, 1, 1, 1))
  prefix = decode.Prefix(
    (empty, empty), jnp.ones((1, 1), bool), jnp.zeros(1, int), logits
  )
  return np.asarray(table.mean(tiny.MODEL, {}, prefix))


def test_of_two_tokens_the_probability_is_a_sigmoid():
  """Whatever the rest of the vocabulary has."""
  rng = np.random.default_rng(0)
  yes, no = rng.normal(size=(2, 8)).astype(np.float32)
  want = scipy.special.expit(np.float64(yes) - no)
  for others in (-5.0, 0.0, 5.0):
    np.testing.assert_allclose(mean_of(yes, no, others), want, rtol=1e-5)


def test_at_the_optimum_both_orders_sum_to_one_and_logits_are_differences():
  """Fitted by cross entropy to pairs in both orders, labels of Bradley and Terry."""
  rng = np.random.default_rng(1)
  pairs = rng.normal(size=(200, 2))
  both = np.concatenate([pairs, pairs[:, ::-1]])  # the order is turned
  label = scipy.special.expit(1.5 * (both[:, 0] - both[:, 1]))
  x = np.concatenate([both, np.ones((400, 1))], 1)
  weight = curation.fit(x, label, ridge=1e-9)
  logit = (x @ weight).astype(np.float32)
  chance = mean_of(logit, np.zeros_like(logit))
  np.testing.assert_allclose(chance[:200] + chance[200:], 1, atol=1e-5)
  np.testing.assert_allclose(logit, 1.5 * (both[:, 0] - both[:, 1]), atol=1e-4)


def test_the_reference_is_the_first_of_a_group_and_the_question_is_of_the_other():
  assert matches.schedule(range(4), "member", 9) == [(0, 1), (0, 2), (0, 3)]
  text = templates.NAMED["better_than_reference"]
  assert templates.places(text) == ["first", "second", "prompt", "answer"]
  assert "second picture better than the first" in text
  form = answers.Choice("winner", {"no": 1.0, "yes": 0.0})
  assert form.request(True) == "Answer with one word: no or yes."


def test_verdicts_that_both_orders_give_are_kept_whole():
  first = np.array([0.9, 0.9, 0.2, 0.5, np.nan], np.float32)
  second = np.array([0.1, 0.8, 0.7, 0.2, 0.1], np.float32)
  mean = judges.of_both_orders(first, second)
  np.testing.assert_allclose(mean[:4], [0.9, 0.55, 0.25, 0.65], rtol=1e-6)
  kept = judges.of_both_orders(first, second, consistent=True)
  np.testing.assert_allclose(kept, [1, 0.5, 0, 0.5, np.nan])


def test_a_judge_of_places_decides_nothing_and_one_by_chance_is_unbiased():
  rng = np.random.default_rng(2)
  place = 0.5 + 0.5 * rng.random((2, 1000)).astype(np.float32)
  kept = judges.of_both_orders(*place, consistent=True)
  assert (np.asarray(kept) == 0.5).all()
  chance = rng.random((2, 20000)).astype(np.float32)
  kept = np.asarray(judges.of_both_orders(*chance, consistent=True))
  decided = kept[kept != 0.5]
  assert len(decided) / kept.size == pytest.approx(0.5, abs=0.02)
  assert decided.mean() == pytest.approx(0.5, abs=0.02)


def test_pairs_of_two_are_kept_where_both_orders_agree():
  """One by chance teaches either member as often; one of places keeps no pair."""
  rng = np.random.default_rng(3)
  mask = np.ones((20000, 2), bool)

  def credit(first, second):
    win = judges.of_both_orders(first, second, consistent=True)
    rates = np.stack([win, 1 - win], -1)
    return np.asarray(advantages.sifted(rates, {"judge": rates}, mask))

  place = credit(*(0.5 + 0.5 * rng.random((2, 20000)).astype(np.float32)))
  assert np.isnan(place).all()
  chance = credit(*rng.random((2, 20000)).astype(np.float32))
  kept = chance[np.isfinite(chance).all(-1)]
  assert len(kept) == pytest.approx(10000, abs=400)
  np.testing.assert_array_equal(kept.sum(-1), 0)
  np.testing.assert_allclose(kept.mean(0), 0, atol=0.04)
  sure = credit(np.full(20000, 0.8), np.full(20000, 0.3))
  np.testing.assert_array_equal(sure, [[1, -1]] * 20000)


def test_both_orders_are_needed_to_agree():
  with pytest.raises(UserError, match="consistent=True: two orders"):
    judges.vlm_pairwise.loads(weights="tiny", swap=False, consistent=True)
