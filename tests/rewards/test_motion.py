"""The reward of executable motion: differences in float64, and exact paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards import motion

RNG = np.random.default_rng(0)
FPS, T = 8.0, np.arange(9) / 8.0


def clip(path, side=32):
  """A bright dot of a Gaussian's form along a path [F, 2] on a dark ground."""
  at = (np.arange(side) + 0.5) / side
  y = np.exp(-np.square(at - path[:, :1]) / 0.005)
  x = np.exp(-np.square(at - path[:, 1:]) / 0.005)
  return np.repeat((y[:, :, None] * x[:, None])[..., None], 3, -1)


def score(*clips, **options):
  images = np.stack(clips)[:, None].astype(np.float32)
  return np.asarray(motion.executable(images, None, fps=FPS, **options))[:, 0]


def test_excesses_in_float64():
  path = RNG.normal(size=(2, 9, 3)).astype(np.float32)
  limits = (3.0, 20.0, 150.0)
  found = motion.excesses(jnp.asarray(path), FPS, limits)
  for order, (limit, e) in enumerate(zip(limits, found, strict=True), 1):
    s = np.diff(path.astype(np.float64), order, axis=1) * FPS**order
    over = np.maximum(np.abs(s) - limit, 0)
    np.testing.assert_allclose(e, np.linalg.norm(over, axis=-1).mean(1), 1e-4)


def test_polynomials_and_a_glitch():
  """A line has no acceleration, a parabola no jerk; a glitch h gives 3 h / dt^3."""
  line = np.stack([0.2 + 0.5 * T, 0.5 + 0 * T], -1)
  parabola = np.stack([0.2 + 0.5 * T**2, 0.5 + 0 * T], -1)
  of = lambda path: [
    float(e)
    for e in motion.excesses(jnp.asarray(path, jnp.float32), FPS, [0] * 3)
  ]
  speed, acceleration, jerk = of(line)
  assert speed == pytest.approx(0.5, rel=1e-5)
  assert acceleration < 1e-3 and jerk < 1e-2
  assert of(parabola)[1] == pytest.approx(1.0, rel=1e-3)
  assert of(parabola)[2] < 1e-2
  glitch = 0 * line
  glitch[4, 0] = 0.1
  third = np.abs(np.diff(glitch[:, 0], 3)) * FPS**3
  assert third.max() == pytest.approx(3 * 0.1 * FPS**3)
  assert of(glitch)[2] == pytest.approx(third.mean(), rel=1e-4)
  away = motion.outside(jnp.asarray(line + 1, jnp.float32), 0.0, 1.0)
  want = np.maximum(line + 1 - 1, 0)
  np.testing.assert_allclose(away, np.linalg.norm(want, axis=-1).mean(), 1e-5)


def test_the_path_of_a_dot_is_read():
  path = np.stack([0.3 + 0.04 * np.arange(9), 0.6 - 0.03 * np.arange(9)], -1)
  found = motion.positions(clip(path).astype(np.float32))
  np.testing.assert_allclose(found, path, atol=0.02)
  even = motion.positions(np.ones((3, 4, 6, 3), np.float32))
  np.testing.assert_allclose(even, 0.5, rtol=1e-6)


@pytest.mark.turns(2)
def test_smooth_motion_earns_all_and_noise_less_and_less():
  path = np.stack([0.3 + 0.3 * T, 0.5 + 0 * T], -1)
  shake = RNG.normal(size=path.shape)
  clips = [clip(path + s * shake) for s in (0.0, 0.03, 0.06, 0.12)]
  scores = score(*clips)
  assert scores[0] == pytest.approx(1.0, abs=1e-3)
  assert (np.diff(scores) < 0).all()
  broken = clips[0].copy()
  broken[3, 0, 0, 0] = np.nan
  assert np.isnan(score(broken)).all()
  # Only the range is left by a dot that rests at the border.
  still = np.stack([0.02 + 0 * T, 0.5 + 0 * T], -1)
  assert 0.75 < score(clip(still))[0] < 1


@pytest.mark.turns(2)
def test_it_has_a_gradient_where_it_is_exceeded():
  path = np.stack([0.3 + 0.3 * T, 0.5 + 0 * T], -1)
  images = clip(path + 0.1 * RNG.normal(size=path.shape))[None, None]
  value = lambda x: motion.executable(x, None, fps=FPS).sum()
  slope = np.asarray(jax.grad(value)(jnp.asarray(images, jnp.float32)))
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0
  plain = np.asarray(jax.grad(value)(jnp.ones((1, 1, 9, 8, 8, 3))))
  assert np.isfinite(plain).all()


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ({"limits": (1.0,)}, r"scales="),
    ({"margin": 0.5}, r"margin=0\.5"),
    ({"fps": 0.0}, "fps=0"),
  ],
)
def test_options_out_of_range(given, says):
  with pytest.raises(UserError, match=says):
    motion.executable(np.ones((1, 1, 5, 8, 8, 3), np.float32), None, **given)


def test_too_few_frames():
  with pytest.raises(UserError, match="jerk needs 4 frames"):
    motion.executable(np.ones((1, 1, 3, 8, 8, 3), np.float32), None)
