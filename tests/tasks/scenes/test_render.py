"""Pictures: exact coverage, keys that are addresses, room for every object."""

import functools

import jax
import numpy as np
import pictures
import pytest

from jaxreward import rng
from jaxreward.tasks.scenes import grammar, render


def _inside(shape, x, y, r):
  """Is a point inside a shape? Hard edges, float64."""
  ax, ay = np.abs(x), np.abs(y)
  if shape == "circle":
    return np.hypot(x, y) < r
  if shape == "square":
    return np.maximum(ax, ay) < 0.885 * r
  if shape == "triangle":  # tip at -0.975 r, base of half width 1.1258 r
    half = 1.1258 * (y + 0.975 * r) / 1.95
    return (ax < half) & (np.abs(y) < 0.975 * r)
  return ((ax < r) & (ay < 0.38 * r)) | ((ay < r) & (ax < 0.38 * r))


def _reference(scene, factor=16):
  """One picture by supersampling: factor x factor hard samples a pixel."""
  sub = (np.arange(factor) + 0.5) / factor - 0.5
  axis = (np.arange(render.SIZE)[:, None] + sub).reshape(-1)
  image = np.broadcast_to(scene.background, (render.SIZE, render.SIZE, 3))
  image = image.astype(np.float64)
  for i in np.flatnonzero(scene.present):
    x = axis[None, :] - float(scene.centre[i, 0])
    y = axis[:, None] - float(scene.centre[i, 1])
    name = grammar.SHAPES[scene.shape[i]]
    hard = _inside(name, x, y, float(scene.radius[i])).astype(np.float64)
    side = (render.SIZE, factor) * 2
    cover = hard.reshape(side).mean((1, 3))[..., None]
    image = image * (1 - cover) + cover * scene.colour[i]
  return image


def test_pictures_are_those_of_hard_edges_sampled_densely():
  drawn = pictures.two_thousand()
  for i in range(0, 120, 5):
    expected = _reference(pictures.take(drawn.scenes, i))
    error = np.abs(drawn.images[i] - expected)
    assert error.mean() < 0.002
    assert error.max() < 0.3  # a sharp corner inside one pixel


@pytest.mark.parametrize("shape", range(4))
def test_area_and_centroid_of_each_shape(shape):
  axis = np.arange(48, dtype=np.float32) - 23.6
  x, y = np.meshgrid(axis, axis)
  for r in (3.6, 4.0, 4.4, 8.0):
    cover = np.asarray(
      render.coverage(shape, x, y, np.full_like(x, r)), np.float64
    )
    area = render.UNIT_AREA[shape] * r * r
    assert cover.sum() == pytest.approx(area, rel=0.02)
    below = (cover * y).sum() / cover.sum()
    assert below == pytest.approx(render.CENTROID_Y[shape] * r, abs=0.05)
    assert (cover * x).sum() / cover.sum() == pytest.approx(0, abs=0.02)


def test_areas_of_shapes_are_alike():
  """Area does not give a shape away: extremes differ by less than half."""
  dense = np.linspace(-1.2, 1.2, 1201)
  x, y = np.meshgrid(dense, dense)
  cell = (dense[1] - dense[0]) ** 2
  areas = [_inside(s, x, y, 1.0).sum() * cell for s in grammar.SHAPES]
  np.testing.assert_allclose(areas, render.UNIT_AREA, rtol=0.01)
  assert max(areas) / min(areas) < 1.5


@functools.cache
def _programs():
  sample = lambda keys, p: render.render_prompts(keys, p)
  return jax.jit(sample)


def _keys(batch, members):
  key = rng.stream_key(3, "render")
  return rng.sample_keys(key, batch.ids, np.asarray(members))


@pytest.mark.job
@pytest.mark.turns(3)
def test_deterministic_by_seed_whatever_the_order():
  prompts = pictures.balanced(12, seed=5)
  batch = grammar.batch(prompts)
  members = np.arange(12)
  images = np.asarray(_programs()(_keys(batch, members), batch))
  again = np.asarray(_programs()(_keys(batch, members), batch))
  np.testing.assert_array_equal(images, again)
  order = np.random.default_rng(0).permutation(12)
  shuffled = jax.tree.map(lambda x: x[order], batch)
  other = np.asarray(_programs()(_keys(shuffled, members[order]), shuffled))
  np.testing.assert_array_equal(images[order], other)
  changed = np.asarray(_programs()(_keys(batch, members + 1), batch))
  assert (np.abs(changed - images).max((1, 2, 3)) > 0.01).all()


@pytest.mark.job
@pytest.mark.turns(3)
def test_one_picture_alone_is_that_of_the_batch():
  prompts = pictures.balanced(12, seed=5)
  batch = grammar.batch(prompts)
  keys = _keys(batch, np.arange(12))
  images = np.asarray(_programs()(keys, batch))
  for i in (0, 4, 11):
    one = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
    alone = np.asarray(_programs()(keys[i : i + 1], one))[0]
    np.testing.assert_allclose(alone, images[i], atol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_scenes_satisfy_their_prompts():
  drawn = pictures.two_thousand()
  for i, prompt in enumerate(drawn.prompts):
    assert pictures.is_true(pictures.take(drawn.scenes, i), prompt) is True


def test_objects_have_room():
  """No object reaches over the edge or touches another."""
  drawn = pictures.two_thousand()
  scenes = drawn.scenes
  half = scenes.radius[..., None] * pictures.EXTENT[scenes.shape]
  low, high = scenes.centre - half, scenes.centre + half
  there = scenes.present
  assert (low[there] >= -0.5).all()  # the edge of the first pixel
  assert (high[there] <= render.SIZE - 0.5).all()
  count = there.shape[1]
  for i in range(count):
    for j in range(i):
      both = there[:, i] & there[:, j]
      gap = np.maximum(
        low[both, i] - high[both, j], low[both, j] - high[both, i]
      )
      assert (gap.max(-1) > 0.4).all()


def test_free_attributes_are_spread():
  """Colours nobody asked for, cells and sizes are drawn evenly."""
  drawn = pictures.two_thousand()
  scenes = drawn.scenes
  distance = np.abs(scenes.colour[..., None, :] - render.PALETTE).sum(-1)
  colour = distance.argmin(-1)
  free = [
    colour[i, 0] for i, p in enumerate(drawn.prompts) if p.items[0][1] == -1
  ]
  counts = np.bincount(free, minlength=5) / len(free)
  assert np.abs(counts - 0.2).max() < 0.08
  cells = np.round((scenes.centre - 5.5) / render.CELL).astype(int)
  first = [
    cells[i, 0] @ [1, 3] for i, p in enumerate(drawn.prompts) if not p.relation
  ]
  counts = np.bincount(first, minlength=9) / len(first)
  assert np.abs(counts - 1 / 9).max() < 0.05
  radius = scenes.radius[scenes.present]
  assert radius.min() >= 3.6 and radius.max() <= 4.4
  assert abs(radius.mean() - 4.0) < 0.03


def test_images_are_in_range():
  images = pictures.two_thousand().images
  assert images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1
