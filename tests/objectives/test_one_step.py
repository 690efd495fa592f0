"""Objectives on one-step predictions: published forms in float64, limit cases."""

import jax
import numpy as np

from jaxreward import objectives
from jaxreward.methods import prepare_of
from tests.differences import numeric_gradient

RNG = np.random.default_rng(0)
MASK = np.ones(5, bool)


def test_srpo_in_value_and_gradient():
  names = (
    "denoised_scores", "denoised_other_scores", "inverted_scores",
    "inverted_other_scores",
  )  # fmt: skip
  scores = RNG.normal(0, 1, (4, 5))
  t = np.array([0.3, 0.6, 0.9, 0.97, 0.99])
  near = np.array([0.1, 0.4, 0.7, 0.9, 0.96])

  def reference(scores):
    r, r_other, i, i_other = scores
    down = np.maximum(0, 0.7 - ((1.1 + 0.15 * t) * r - r_other))
    up = np.maximum(0, 0.7 - ((1.3 - 0.29 * near) * i_other - i))
    return (down * (near <= 0.95) + up * (t <= 0.95)).mean() / 2

  def loss(scores):
    arrays = dict(zip(names, scores, strict=True))
    mean, _ = objectives.srpo(**arrays, t=t, near_t=near, mask=MASK)
    return mean.value()

  value, slope = jax.value_and_grad(loss)(scores.astype(np.float32))
  np.testing.assert_allclose(value, reference(scores), rtol=1e-6)
  np.testing.assert_allclose(
    slope, numeric_gradient(reference, scores), atol=1e-6
  )
  assert not slope[:, 4].any()  # both steps end too late


def test_segments_end_where_they_should():
  """One of S is a consistency model; of many, the teacher's own step."""
  x = RNG.normal(0, 1, (5, 3))
  v, teacher, target = RNG.normal(0, 1, (3, 5, 3))
  t = np.array([0.15, 0.35, 0.5, 0.8, 1.0])
  near = t - 0.1
  solved = x - 0.1 * teacher

  def reference(end):
    jump = x - (t - end)[:, None] * v
    far = solved - (near - end)[:, None] * target
    short = x - (t - end)[:, None] * teacher
    goal = np.where((near > end)[:, None], far, short)
    return (np.sqrt((jump - goal) ** 2 + 1e-6) - 1e-3).mean(1)

  for segments, end in (
    (1, np.zeros(5)), (2, np.array([0, 0, 0, 0.5, 0.5])),
    (20, np.array([0.1, 0.3, 0.45, 0.75, 0.95])),
  ):  # fmt: skip
    mean, _ = objectives.consistency_reward(
      v, teacher, target, x, solved, t, near, np.full(5, 2.0), MASK,
      segments=segments, reward=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(
      mean.value(), reference(end).mean() - 1.0, rtol=1e-5
    )


def test_a_pixel_in_doubt_counts_less():
  """l = 2, U = .5: l exp(-U) + U = 1.713061, with slope 1 - l exp(-U) in U."""
  zeros, one = np.zeros((1, 2)), np.ones(1, bool)
  error = np.full((1, 2), np.sqrt(2.0))

  def loss(gap, window=1.0):
    near = error + np.array([[1.0, -1.0]]) * gap
    mean, _ = objectives.uncertain_reward(
      zeros, zeros, zeros, np.array([0.3]), np.array([window]), error, near,
      one, weight=1.0, uncertainty=1.0,
    )  # fmt: skip
    return mean.value()

  value, slope = jax.value_and_grad(loss)(np.float32(0.5))
  np.testing.assert_allclose(value, 1.713061, atol=1e-6)
  np.testing.assert_allclose(slope, -0.213061, atol=1e-6)
  np.testing.assert_allclose(loss(np.log(2.0)), 1.693147, atol=1e-6)
  np.testing.assert_allclose(loss(0.0), 2.0, rtol=1e-6)  # the plain reward
  assert loss(0.5, window=0.0) == 0  # flow matching alone


def test_uncertain_reward_in_value_and_gradient():
  """As the authors have it: pixels first, then the mean over rows in the window."""
  v, near_v, u = RNG.normal(0, 1, (3, 5, 2, 2))
  errors, near = RNG.normal(0, 1, (2, 5, 6))
  t = np.array([0.1, 0.39, 0.41, 0.2, 0.9])
  mask = np.array([1, 1, 1, 0, 1], bool)
  errors[2] = near[2] = np.nan  # later than the window
  arrays = (v, near_v, errors, near)
  finish = prepare_of(objectives.uncertain_reward).finish
  window = finish({"t": t, "valid": mask})["window"]

  def reference(v, near_v, errors, near):
    rows = np.square(v - u).mean((1, 2)) + np.square(near_v - u).mean((1, 2))
    gap, inside = np.abs(near - errors), mask & (t <= 0.4)
    reward = (errors**2 * np.exp(-gap)).mean(1)[inside].mean()
    return rows[mask].mean() + 1.5 * reward + 0.3 * gap.mean(1)[inside].mean()

  def loss(v, near_v, errors, near):
    mean, _ = objectives.uncertain_reward(
      v, near_v, u, t, window, errors, near, mask, weight=1.5,
      uncertainty=0.3,
    )  # fmt: skip
    return mean.value()

  value, slopes = jax.value_and_grad(loss, (0, 1, 2, 3))(
    *(x.astype(np.float32) for x in arrays)
  )
  np.testing.assert_allclose(value, reference(*arrays), rtol=1e-5)
  for i, slope in enumerate(slopes):
    of = lambda x, i=i: reference(*arrays[:i], x, *arrays[i + 1 :])
    np.testing.assert_allclose(
      slope, numeric_gradient(of, arrays[i]), rtol=1e-3, atol=1e-6
    )


def test_predictions_near_the_data_alone_are_scored():
  t = np.array([[0.1, 0.5], [0.15, 0.9]])
  columns = {"t": t, "valid": np.array([[True, True], [True, False]])}
  finish = prepare_of(objectives.one_step_reward).finish
  window = finish(columns)["window"]
  np.testing.assert_allclose(window, [[1.5, 0], [1.5, 0]])
  assert not finish(columns, latest=0.05)["window"].any()

  v, u = RNG.normal(0, 1, (2, 3, 4))
  scores, mask = np.array([1.0, np.inf, 2.0]), np.ones(3, bool)
  times = np.array([0.1, 0.9, 0.3])
  loss = lambda window, **options: objectives.one_step_reward(
    v, u, times, window, scores, mask, weight=0.5, **options
  )[0].value()
  matching = ((v - u) ** 2).mean()
  window = np.array([1.5, 0, 1.5])
  np.testing.assert_allclose(loss(np.zeros(3)), matching, rtol=1e-6)
  np.testing.assert_allclose(loss(window), matching - 0.5 * 1.5, rtol=1e-6)
  faded = 0.25 * (0.81 + 2 * 0.49)  # ID-Booth's weight is .49 at t = .3
  np.testing.assert_allclose(
    loss(window, fade=2.0), matching - faded, rtol=1e-6
  )
