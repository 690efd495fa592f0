"""Preferences: answers, splits, batches, pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.data import preferences as pr
from jaxreward.data.scenes import detect, grammar
from jaxreward.errors import UserError


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


@pytest.fixture(scope="module")
def chosen():
  train = pr.choose_rows(grammar.prompts("train"), 10, 0)
  unseen = grammar.prompts("validation") + grammar.prompts("heldout")
  return train + pr.choose_rows(unseen, 8, 0)


def test_rows_cover_every_kind():
  rows = pr.choose_rows(grammar.prompts("train"), 60, 0)
  assert len(rows) == 60
  counts = np.bincount([p.kind for p in rows], minlength=6)
  assert counts.min() >= 5
  # The uniform half is mostly position, as the prompts are.
  assert counts.argmax() == grammar.KINDS.index("position")


def test_neighbours_differ_in_little_and_stay_on_their_side(chosen):
  for row, near in enumerate(pr.neighbours(chosen)):
    mine = chosen[row]
    for other in (chosen[i] for i in near):
      assert (other.split == "train") == (mine.split == "train")
      assert grammar.combination(
        other.items, other.relation
      ) != grammar.combination(mine.items, mine.relation)
  texts = ("a red circle", "a blue circle", "two crosses", "a circle")
  prompts = [
    grammar.Prompt(p.text, p.kind, p.items, p.relation, "train")
    for p in map(grammar.parse, texts)
  ]
  near = pr.neighbours(prompts)
  np.testing.assert_array_equal(near[0], [1, 3])


def test_rows_of_one_prompt_have_ids_of_their_own():
  batch = grammar.batch([grammar.parse("a circle")] * 3)
  ids = pr.row_ids(batch)
  assert ids[0] == batch.ids[0]
  assert len(set(ids.tolist())) == 3


@pytest.fixture(scope="module")
def collected(chosen):
  """18 rows; the "policy" draws noise and flat pictures."""
  generator = np.random.default_rng(0)
  samples = generator.integers(0, 256, (len(chosen), 2, 36, 36, 3), np.uint8)
  samples[:, 1] = 200
  found = pr.collect(
    jax.random.key(0), chosen, samples, renders=1, spoiled=2, borrowed=1
  )
  return found, samples


def test_pictures_are_judged_for_their_own_prompt(collected, chosen):
  found, samples = collected
  rows, n = found.members.shape
  assert n == 7 and found.images.shape[0] == rows * 6
  names = [pr.SOURCES[s] for s in np.asarray(found.source)]
  assert names == ["policy"] * 2 + ["render", "corrupted"] + ["spoiled"] * 2 + [
    "borrowed"
  ]
  np.testing.assert_array_equal(found.images[found.members[:, :2]], samples)
  strict = np.asarray(found.strict)
  assert strict[:, names.index("render")].mean() > 0.9
  assert strict[:, :2].max() == 0  # noise and flat pictures show nothing
  # Judged afresh, prompt by prompt.
  images = pr.as_float(found.images[found.members[:, 3]])
  verdict = jax.jit(lambda x, p: detect.judge(detect.detect(x), p))(
    images, jax.tree.map(jnp.asarray, grammar.batch(chosen))
  )
  np.testing.assert_allclose(
    found.score[:, 3], (verdict.dense + verdict.strict) / 2, atol=1e-5
  )


def test_the_sides_share_no_picture_and_no_prompt(collected, chosen):
  found, _ = collected
  train = pr.rows_between(found, 0, 10, own=6)
  unseen = pr.rows_between(found, 10, 18, own=6)
  for side in (train, unseen):
    assert side.members.min() >= 0
    assert side.members.max() < side.images.shape[0]
  whole = np.asarray(found.images[found.members])
  parts = [np.asarray(s.images[s.members]) for s in (train, unseen)]
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  spread = {tuple(t) for t in np.asarray(train.tokens).tolist()}
  assert not spread & {tuple(t) for t in np.asarray(unseen.tokens).tolist()}
  meaning = lambda p: grammar.combination(p.items, p.relation)
  assert not set(map(meaning, chosen[:10])) & set(map(meaning, chosen[10:]))
  seen = {x.tobytes() for x in np.asarray(train.images)[:, :18]}
  # Flat pictures apart, no picture stands on both sides.
  shared = [x for x in np.asarray(unseen.images)[:, :18] if x.tobytes() in seen]
  assert all(np.ptp(x.reshape(-1, 3), axis=0).max() == 0 for x in shared)


def test_collection_is_a_function_of_the_key(collected, chosen):
  found, samples = collected
  again = pr.collect(
    jax.random.key(0), chosen, samples, renders=1, spoiled=2, borrowed=1
  )
  same = jax.tree.map(
    lambda a, b: np.array_equal(a, b, equal_nan=True), found, again
  )
  assert all(jax.tree.leaves(same))


def toy(rows=5, n=4):
  generator = np.random.default_rng(1)
  score = generator.random((rows, n)).astype(np.float32)
  return pr.Preferences(
    images=np.arange(rows * n, dtype=np.uint8)[:, None, None, None],
    tokens=np.arange(rows, dtype=np.int32)[:, None],
    kind=np.zeros(rows, np.int32),
    members=np.arange(rows * n).reshape(rows, n),
    prob=answers(score, margin=0.0),
    score=score,
    strict=np.round(score),
    source=np.zeros(n, np.int32),
  )


def test_batches_keep_pictures_words_and_answers_together():
  data = jax.tree.map(jnp.asarray, toy())
  images, tokens, prob, rating = pr.draw_batch(
    data, jax.random.key(3), rows=6, pictures=3
  )
  assert images.shape == (6, 3, 1, 1, 1) and prob.shape == (6, 3, 3)
  number = np.round(np.asarray(images)[..., 0, 0, 0] * 255).astype(int)
  np.testing.assert_array_equal(number // 4, np.asarray(tokens).repeat(3, 1))
  assert all(len(set(row)) == 3 for row in number.tolist())
  score = np.asarray(data.score).reshape(-1)[number]
  known = np.isfinite(prob)
  expected = score[:, :, None] > score[:, None, :]
  np.testing.assert_array_equal(np.asarray(prob)[known], expected[known])
  np.testing.assert_array_equal(rating, score)


def test_a_row_depends_on_the_key_and_its_number_alone():
  data = jax.tree.map(jnp.asarray, toy())
  short, long = (
    pr.draw_batch(data, jax.random.key(4), rows=r, pictures=2) for r in (3, 8)
  )
  for a, b in zip(short, long, strict=True):
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
