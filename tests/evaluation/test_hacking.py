"""The panel against loops in float64, and its properties."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxreward.evaluation import hacking
from jaxreward.numerics import Mean


def luminance(images):
  return images.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])


def pictures(seed, *shape):
  return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_edge_density_matches_scipy():
  images = pictures(0, 2, 3, 11, 8, 3)
  want = np.zeros((2, 3))
  for i, j in np.ndindex(2, 3):
    y = luminance(images[i, j])
    across, down = (ndimage.sobel(y, axis=a) / 8 for a in (1, 0))
    want[i, j] = np.hypot(across, down)[1:-1, 1:-1].mean()
  got = jax.jit(hacking.edge_density)(images)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_edge_density_of_a_ramp_is_its_slope():
  ramp = np.broadcast_to(0.01 * np.arange(20.0)[:, None, None], (20, 9, 3))
  got = hacking.edge_density(ramp)
  np.testing.assert_allclose(got, 0.01, rtol=1e-4)
  assert hacking.edge_density(np.full((5, 5, 3), 0.4)) < 1e-6


def test_colour_entropy_matches_numpy():
  images = pictures(1, 4, 9, 9, 3) * 1.2 - 0.1
  got = jax.jit(hacking.colour_entropy, static_argnames="bins")(images, bins=4)
  for image, value in zip(images, got, strict=True):
    counts = np.histogramdd(
      np.clip(image.reshape(-1, 3), 0, 1), bins=4, range=[(0, 1)] * 3
    )[0]
    p = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(value, -np.sum(p * np.log2(p)), rtol=1e-5)


def test_colour_entropy_orders_flat_scene_noise():
  flat = np.full((1, 36, 36, 3), 0.3, np.float32)
  halves = flat.copy()
  halves[:, :18] = 0.9
  noise = pictures(2, 1, 36, 36, 3)
  values = [float(hacking.colour_entropy(x)[0]) for x in (flat, halves, noise)]
  assert values[0] == 0
  np.testing.assert_allclose(values[1], 1.0, rtol=1e-6)
  assert 5.8 < values[2] <= 6


def test_entropy_and_brightness_ignore_where_pixels_lie():
  image = pictures(3, 6, 6, 3)
  order = np.random.default_rng(0).permutation(36)
  moved = image.reshape(36, 3)[order].reshape(6, 6, 3)
  for measure in (hacking.colour_entropy, hacking.brightness):
    np.testing.assert_allclose(measure(image), measure(moved), rtol=1e-5)


def test_brightness_matches_numpy_and_grey_needs_no_colour():
  images = pictures(4, 3, 7, 5, 3)
  want = luminance(images).mean(axis=(1, 2))
  np.testing.assert_allclose(hacking.brightness(images), want, rtol=1e-5)
  grey = images[..., :1]
  np.testing.assert_allclose(
    hacking.brightness(grey),
    hacking.brightness(grey.repeat(3, -1)),
    rtol=1e-5,
  )


def test_bad_shapes_say_so():
  with pytest.raises(ValueError, match="1 or 3 channels"):
    hacking.brightness(np.zeros((4, 4, 2)))
  with pytest.raises(ValueError, match="3 x 3"):
    hacking.edge_density(np.zeros((2, 4, 3)))


def discordance(trained, heldout, mask):
  wrong = ranked = 0
  for t, h, m in zip(trained, heldout, mask, strict=True):
    for i, j in itertools.combinations(np.flatnonzero(m), 2):
      product = (t[i] - t[j]) * (h[i] - h[j])
      wrong += product < 0
      ranked += product != 0
  return wrong, ranked


def test_disagreement_matches_pair_loop_with_ties_and_mask():
  rng = np.random.default_rng(5)
  trained = rng.integers(0, 4, (6, 7)).astype(np.float32)
  heldout = rng.integers(0, 3, (6, 7)).astype(np.float32)
  mask = rng.random((6, 7)) < 0.7
  got = jax.jit(hacking.ranking_disagreement)(trained, heldout, mask)
  wrong, ranked = discordance(trained, heldout, mask)
  assert (float(got.total), float(got.weight)) == (wrong, ranked)


def test_disagreement_is_half_of_one_minus_kendall():
  rng = np.random.default_rng(6)
  trained, heldout = rng.random((2, 1, 9)).astype(np.float32)
  tau = stats.kendalltau(trained[0], heldout[0]).statistic
  got = hacking.ranking_disagreement(trained, heldout, np.ones((1, 9), bool))
  np.testing.assert_allclose(got.value(), (1 - tau) / 2, rtol=1e-5)


def test_disagreement_limits():
  scores = pictures(7, 2, 5)
  mask = np.ones((2, 5), bool)
  measure = lambda a, b: float(hacking.ranking_disagreement(a, b, mask).value())
  assert measure(scores, np.exp(3 * scores)) == 0
  assert measure(scores, -scores) == 1
  nothing = hacking.ranking_disagreement(scores, np.ones((2, 5)), mask)
  assert nothing.weight == 0
  broken = scores.copy()
  broken[:, 0] = np.nan
  broken[:, 1] = np.inf
  left = hacking.ranking_disagreement(broken, scores, mask)
  assert float(left.weight) == 2 * math.comb(3, 2)


def test_zero_variance_groups():
  rewards = np.array(
    [[1, 1, 1], [1, 1, 2], [np.nan, 3, 3], [np.nan] * 3, [1, 5, 1]], np.float32
  )
  mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]], bool)
  got = hacking.zero_variance_groups(rewards, mask)
  assert (float(got.total), float(got.weight)) == (3, 4)
  loose = hacking.zero_variance_groups(rewards, mask, tolerance=1.0)
  assert float(loose.total) == 4


def panel_of(images, mask, scores):
  return hacking.measure_panel(
    images,
    mask,
    trained=scores[0],
    heldout=scores[1],
    strict=(scores[0] > 0.5).astype(np.float32),
    texture=scores[2],
    out_of_range=scores[2],
    kl=Mean(np.float32(3.0), np.float32(2.0)),
  )


def test_panel_ignores_padding_of_members_and_prompts():
  images, scores = pictures(8, 2, 4, 9, 9, 3), pictures(9, 3, 2, 4)
  mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
  wide = np.full((3, 6, 9, 9, 3), np.nan, np.float32)
  wide[:2, :4] = images
  wide_scores = np.full((3, 3, 6), np.nan, np.float32)
  wide_scores[:, :2, :4] = scores
  wide_mask = np.zeros((3, 6), bool)
  wide_mask[:2, :4] = mask
  small = jax.jit(panel_of)(images, mask, scores).metrics()
  large = jax.jit(panel_of)(wide, wide_mask, wide_scores).metrics()
  assert small.keys() == large.keys()
  for name, mean in small.items():
    assert mean.weight > 0, name
    got = np.array([large[name].value(), large[name].weight])
    want = np.array([mean.value(), mean.weight])
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)


def test_panels_of_halves_add_up_to_the_whole():
  images, scores = pictures(10, 4, 3, 9, 9, 3), pictures(11, 3, 4, 3)
  mask = np.ones((4, 3), bool)
  measure = jax.jit(panel_of)
  part = lambda s: measure(images[s], mask[s], scores[:, s])
  whole = part(slice(None))
  halves = jax.tree.map(
    lambda a, b: a + b, part(slice(0, 2)), part(slice(2, 4))
  )
  for name, mean in whole.metrics().items():
    got = halves.metrics()[name].value()
    np.testing.assert_allclose(got, mean.value(), rtol=1e-5, err_msg=name)


@pytest.mark.turns(2)
def test_panel_leaves_out_what_was_not_measured():
  panel = hacking.measure_panel(pictures(12, 1, 2, 5, 5, 3), np.ones((1, 2)))
  assert set(panel.metrics("")) == {
    "diversity",
    "edge_density",
    "colour_entropy",
    "brightness",
  }
