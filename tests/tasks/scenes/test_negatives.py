"""Spoiled pictures: in range, each in its way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.tasks.scenes import grammar, negatives, render

COUNT = len(negatives.WAYS)


@pytest.fixture(scope="module")
def pictures():
  batch = grammar.batch([grammar.parse("three red squares")] * COUNT)
  other = grammar.batch([grammar.parse("a blue cross")] * COUNT)
  keys = jax.random.split(jax.random.key(0), COUNT)
  draw = jax.jit(render.render_prompts)
  return draw(keys, batch), draw(keys, other)


@pytest.fixture(scope="module")
def spoiled(pictures):
  keys = jax.random.split(jax.random.key(1), COUNT)
  found = jax.jit(negatives.spoil)(keys, *pictures, jnp.arange(COUNT))
  return dict(zip(negatives.WAYS, np.asarray(found), strict=True))


@pytest.mark.job
@pytest.mark.turns(3)
def test_all_are_pictures_and_all_are_changed(pictures, spoiled):
  for i, (way, picture) in enumerate(spoiled.items()):
    assert picture.min() >= 0 and picture.max() <= 1, way
    assert np.abs(picture - np.asarray(pictures[0][i])).max() > 0.01, way


@pytest.mark.turns(2)
def test_texture_has_the_period_of_a_cell(pictures, spoiled):
  i = negatives.WAYS.index("texture")
  pattern = spoiled["texture"] - np.asarray(pictures[0][i])
  inside = (spoiled["texture"] > 0) & (spoiled["texture"] < 1)
  shifted = np.roll(pattern, render.CELL, 0)
  both = inside & np.roll(inside, render.CELL, 0)
  assert both.mean() > 0.3
  np.testing.assert_allclose(pattern[both], shifted[both], atol=1e-5)


def test_blank_is_one_colour_and_missing_is_background(pictures, spoiled):
  assert np.ptp(spoiled["blank"], axis=(0, 1)).max() < 1e-6
  i = negatives.WAYS.index("missing")
  before = np.asarray(pictures[0][i])
  changed = np.abs(spoiled["missing"] - before).max(-1) > 1e-6
  np.testing.assert_allclose(
    spoiled["missing"][changed],
    np.broadcast_to(before[0, 0], (changed.sum(), 3)),
  )


def test_extra_keeps_the_objects_and_adds_some(pictures, spoiled):
  i = negatives.WAYS.index("extra")
  before = np.asarray(pictures[0][i])
  assert (spoiled["extra"] <= before + 1e-6).all()
  assert ((before - spoiled["extra"]).max(-1) > 0.2).sum() > 10


def test_each_picture_depends_on_its_own_key(pictures):
  keys = jax.random.split(jax.random.key(1), COUNT)
  spoil = jax.jit(negatives.spoil)
  ways = jnp.arange(COUNT)
  first = spoil(keys, *pictures, ways)
  other = spoil(keys.at[0].set(jax.random.key(9)), *pictures, ways)
  assert np.abs(np.asarray(first - other)[0]).max() > 0
  np.testing.assert_array_equal(first[1:], other[1:])
