"""Preferences: answers, splits, batches, pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.data import preferences as pr
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar


def answers(score, noise=0.0, seed=0, **options):
  key = jax.random.key(seed)
  found = pr.preference_probabilities(
    key, jnp.asarray(score, jnp.float32), label_noise=noise, **options
  )
  return np.asarray(found)


def test_the_larger_score_is_preferred():
  found = answers([[0.1, 0.9, 0.5, np.nan]])[0]
  nan = np.nan
  expected = [[nan, 0, 0, nan], [1, nan, 1, nan], [1, 0, nan, nan], [nan] * 4]
  np.testing.assert_array_equal(found, expected)


def test_ties_are_dropped_or_one_half():
  score = [[0.5, 0.51, 0.9]]
  assert np.isnan(answers(score)[0, 0, 1])
  assert answers(score, ties="half")[0, 0, 1] == 0.5
  assert answers(score, margin=0.001)[0, 0, 1] == 0.0
  assert np.isnan(answers([[0.5, 0.5]], margin=0.0)).all()
  with pytest.raises(UserError, match='ties="hal"'):
    answers(score, ties="hal")


def test_label_noise_turns_the_right_share_round():
  score = np.random.default_rng(0).random((400, 8))
  clean, noisy = answers(score, margin=0.0), answers(score, 0.1, margin=0.0)
  known = np.isfinite(clean)
  share = (clean != noisy)[known].mean()
  assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / (known.sum() / 2))
  np.testing.assert_array_equal(
    (noisy + noisy.swapaxes(1, 2))[known], 1.0
  )  # a pair is misread from both sides alike


@pytest.mark.parametrize("noise", [-0.1, 0.5])
def test_label_noise_is_checked(noise):
  with pytest.raises(UserError, match="label_noise"):
    answers([[0.0, 1.0]], noise)


def test_rows_cover_every_kind():
  rows = pr.choose_rows(grammar.prompts("train"), 60, 0)
  assert len(rows) == 60
  counts = np.bincount([p.category for p in rows], minlength=6)
  assert counts.min() >= 5
  # The uniform half is mostly position, as the prompts are.
  assert counts.argmax() == grammar.KINDS.index("position")


def test_rows_of_one_prompt_have_ids_of_their_own():
  batch = grammar.batch([grammar.parse("a circle")] * 3)
  ids = pr.row_ids(batch)
  assert ids[0] == batch.ids[0]
  assert len(set(ids.tolist())) == 3


def toy(rows=5, n=4):
  generator = np.random.default_rng(1)
  score = generator.random((rows, n)).astype(np.float32)
  return pr.Preferences(
    images=np.arange(rows * n, dtype=np.uint8)[:, None, None, None],
    tokens=np.arange(rows, dtype=np.int32)[:, None],
    category=np.zeros(rows, np.int32),
    members=np.arange(rows * n).reshape(rows, n),
    prob=answers(score, margin=0.0),
    score=score,
    strict=np.round(score),
    source=np.zeros(n, np.int32),
  )


@pytest.mark.turns(2)
def test_batches_keep_pictures_words_and_answers_together():
  data = jax.tree.map(jnp.asarray, toy())
  batch = pr.draw_batch(data, jax.random.key(3), rows=6, group_size=3)
  images, tokens, prob = batch.images, batch.tokens, batch.prob
  assert images.shape == (6, 3, 1, 1, 1) and prob.shape == (6, 3, 3)
  number = np.round(np.asarray(images)[..., 0, 0, 0] * 255).astype(int)
  np.testing.assert_array_equal(number // 4, np.asarray(tokens).repeat(3, 1))
  assert all(len(set(row)) == 3 for row in number.tolist())
  score = np.asarray(data.score).reshape(-1)[number]
  known = np.isfinite(prob)
  expected = score[:, :, None] > score[:, None, :]
  np.testing.assert_array_equal(np.asarray(prob)[known], expected[known])
  np.testing.assert_array_equal(batch.rating, score)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_row_depends_on_the_key_and_its_number_alone():
  data = jax.tree.map(jnp.asarray, toy())
  short, long = (
    pr.draw_batch(data, jax.random.key(4), rows=r, group_size=2) for r in (3, 8)
  )
  for a, b in zip(*map(jax.tree.leaves, (short, long)), strict=True):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(a, b[:3])


def test_separate_pairs_share_no_picture_and_name_the_preferred_first():
  data = toy(rows=30, n=5)
  # A picture lent to the next row may be used once only.
  data = data.replace(members=data.members.copy())
  data.members[1:, 4] = data.members[:-1, 0]
  row, place = pr.separate_pairs(data)
  used = data.members[row[:, None], place].reshape(-1)
  assert len(used) == len(set(used.tolist()))
  assert len(row) >= 45
  score = data.score[row[:, None], place]
  assert (score[:, 0] > score[:, 1]).all()


def test_separate_pairs_of_one_source():
  data = toy(rows=10, n=4)
  data = data.replace(source=np.array([2, 0, 4, 0], np.int32))
  row, place = pr.separate_pairs(data, source="policy")
  np.testing.assert_array_equal(row, np.arange(10))
  assert set(place.reshape(-1).tolist()) == {1, 3}


def test_separate_pairs_of_nothing():
  data = toy()
  empty = data.replace(prob=np.full_like(data.prob, np.nan))
  row, place = pr.separate_pairs(empty)
  assert row.shape == (0,) and place.shape == (0, 2)
