"""Preferences on scenes: what is drawn, and how it is judged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.data import preferences as pr
from jaxreward.tasks.scenes import detect, grammar
from jaxreward.tasks.scenes import preferences as scene_preferences


@pytest.fixture(scope="module")
def chosen():
  train = pr.choose_rows(grammar.prompts("train"), 10, 0)
  unseen = grammar.prompts("validation") + grammar.prompts("heldout")
  return train + pr.choose_rows(unseen, 8, 0)


def test_neighbours_differ_in_little_and_stay_on_their_side(chosen):
  for row, near in enumerate(scene_preferences.neighbours(chosen)):
    mine = chosen[row]
    for other in (chosen[i] for i in near):
      assert (other.split == "train") == (mine.split == "train")
      assert grammar.combination(
        other.items, other.relation
      ) != grammar.combination(mine.items, mine.relation)
  texts = ("a red circle", "a blue circle", "two crosses", "a circle")
  prompts = [
    dataclasses.replace(grammar.parse(text), split="train") for text in texts
  ]
  near = scene_preferences.neighbours(prompts)
  np.testing.assert_array_equal(near[0], [1, 3])


@pytest.fixture(scope="module")
def collected(chosen):
  """18 rows; the "policy" draws noise and flat pictures."""
  generator = np.random.default_rng(0)
  samples = generator.integers(0, 256, (len(chosen), 2, 36, 36, 3), np.uint8)
  samples[:, 1] = 200
  found = scene_preferences.collect(
    jax.random.key(0), chosen, samples, renders=1, spoiled=2, borrowed=1
  )
  return found, samples


@pytest.mark.job
@pytest.mark.turns(3)
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


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_sides_share_no_picture_and_no_prompt(collected, chosen):
  found, _ = collected
  train = pr.rows_between(found, 0, 10, per_row=6)
  unseen = pr.rows_between(found, 10, 18, per_row=6)
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


@pytest.mark.job
@pytest.mark.turns(3)
def test_collection_is_a_function_of_the_key(collected, chosen):
  found, samples = collected
  again = scene_preferences.collect(
    jax.random.key(0), chosen, samples, renders=1, spoiled=2, borrowed=1
  )
  same = jax.tree.map(
    lambda a, b: np.array_equal(a, b, equal_nan=True), found, again
  )
  assert all(jax.tree.leaves(same))
