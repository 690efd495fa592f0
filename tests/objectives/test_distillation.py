"""Matching of distributions: directions in float64, limits, and a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives
from tests.differences import numeric_gradient

RNG = np.random.default_rng(0)
MASK, SHAPE = np.ones(4, bool), (4, 2, 3)
NAMES = ("x0_hat", "x_again", "v_reference_again", "v_fake_again")


def arrays_of():
  arrays = {name: RNG.normal(0, 1, SHAPE) for name in NAMES}
  return arrays | {
    "again_t": RNG.uniform(0.2, 0.9, 4), "advantage": RNG.uniform(0, 2, 4)
  }  # fmt: skip


def moved(a, floor):
  """(x0_real - x0_fake) / max(mean |x0_real - x0_hat|, floor)."""
  t = a["again_t"][:, None, None]
  real, fake = (
    a["x_again"] - t * a[f"v_{k}_again"] for k in ("reference", "fake")
  )
  size = np.abs(real - a["x0_hat"]).mean((1, 2), keepdims=True)
  return (real - fake) / np.maximum(size, floor)


def slope_of(fn, a, **options):
  def loss(x0_hat):
    mean, metrics = fn(**{**a, "x0_hat": x0_hat}, mask=MASK, **options)
    return mean.total, metrics

  return jax.grad(loss, has_aux=True)(a["x0_hat"].astype(np.float32))


def test_the_gradient_is_the_normalised_gap_of_two_scores():
  a = arrays_of()
  for floor in (0.1, 5.0):
    slope, _ = slope_of(objectives.distribution_matching, a, floor=floor)
    want = -2 / 6 * a["advantage"][:, None, None] * moved(a, floor)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)
  slope, _ = slope_of(objectives.distribution_matching, a, weighted=False)
  np.testing.assert_allclose(
    slope, -2 / 6 * moved(a, 0.1), rtol=1e-4, atol=1e-6
  )
  same = a | {"v_fake_again": a["v_reference_again"]}
  assert not np.any(slope_of(objectives.distribution_matching, same)[0])


def test_saliency_moves_weight_and_keeps_its_sum():
  a = arrays_of()
  plain, _ = slope_of(objectives.distribution_matching, a)
  flat = a | {"saliency": np.full(SHAPE, 0.3)}
  got, _ = slope_of(objectives.salient_matching, flat)
  np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-7)
  none = a | {"saliency": np.zeros(SHAPE)}
  got, _ = slope_of(objectives.salient_matching, none)
  np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-7)
  peaked = np.zeros(SHAPE)
  peaked[:, 0, 0] = 1.0
  got, _ = slope_of(
    objectives.salient_matching, a | {"saliency": peaked}, least=0.1
  )
  share = got / plain
  np.testing.assert_allclose(share.mean((1, 2)), 1, rtol=1e-4)
  np.testing.assert_allclose(
    share[:, 0, 0] / share[:, 1, 1], 6 / 0.1, rtol=1e-4
  )


def test_guidance_and_the_point_beside_the_path_are_terms_of_their_own():
  a = arrays_of()
  del a["advantage"]
  a |= {
    name: RNG.normal(0, 1, SHAPE)
    for name in (
      "v_empty_again", "x0_beyond", "x_beyond_again",
      "v_reference_beyond_again", "v_fake_beyond_again",
    )
  } | {"beyond_again_t": RNG.uniform(0.2, 0.9, 4)}  # fmt: skip
  slope, _ = slope_of(objectives.continuous_matching, a, guidance=7.0)
  guide = moved(a | {"v_fake_again": a["v_empty_again"]}, 0.1)
  np.testing.assert_allclose(
    slope, -2 / 6 * (moved(a, 0.1) + 7 * guide), rtol=1e-4, atol=1e-5
  )
  beyond = {
    "x0_hat": a["x0_beyond"], "x_again": a["x_beyond_again"],
    "again_t": a["beyond_again_t"],
    "v_reference_again": a["v_reference_beyond_again"],
    "v_fake_again": a["v_fake_beyond_again"],
  }  # fmt: skip
  far = jax.grad(
    lambda x: (
      objectives.continuous_matching(**{**a, "x0_beyond": x}, mask=MASK)[
        0
      ].total
    )
  )(a["x0_beyond"].astype(np.float32))
  np.testing.assert_allclose(
    far, -2 / 6 * moved(beyond, 0.1), rtol=1e-4, atol=1e-6
  )


def test_a_surrogate_and_guidance_share_the_pull_beside_matching():
  a = arrays_of()
  del a["advantage"]
  a |= {f"v_{k}_again": RNG.normal(0, 1, SHAPE) for k in ("empty", "surrogate")}
  slope, metrics = slope_of(
    objectives.surrogate_matching, a, guidance=3.5, share=0.3
  )
  guide = moved(a | {"v_fake_again": a["v_empty_again"]}, 0.1)
  rise = moved(
    a | {
      "v_reference_again": a["v_surrogate_again"],
      "v_fake_again": a["v_reference_again"],
    }, 0.1,
  )  # fmt: skip
  want = moved(a, 0.1) + 0.3 * 3.5 * guide + 0.7 * rise
  np.testing.assert_allclose(slope, -2 / 6 * want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    metrics["reward_gap"].value(), np.abs(rise).mean(), rtol=1e-4
  )
  same = a | {"v_surrogate_again": a["v_reference_again"]}
  got, _ = slope_of(objectives.surrogate_matching, same, share=0.0)
  np.testing.assert_allclose(got, -2 / 6 * moved(a, 0.1), rtol=1e-4, atol=1e-6)


@pytest.mark.turns(2)
def test_score_implicit_pulls_a_gaussian_to_the_teacher():
  """Generator N(theta, 1), data N(1, 1), exact scores: the minimum is 1."""
  rows, t = 4000, 0.5
  z, noise = RNG.normal(0, 1, (2, rows, 1)).astype(np.float32)
  variance = (1 - t) ** 2 + t**2

  def velocity(x, mean):  # x0_hat is the posterior mean
    x0 = mean + (1 - t) / variance * (x - (1 - t) * mean)
    return (x - x0) / t

  def slope(theta, reward=0.0):
    def loss(theta, fake):
      x0 = theta + z
      x = (1 - t) * x0 + t * noise
      mean, _ = objectives.score_implicit(
        x, np.full(rows, t, np.float32), noise, velocity(x, 1.0),
        velocity(x, 1.0), velocity(x, fake), x0[:, 0], np.ones(rows, bool),
        reward=reward, huber=0.1,
      )  # fmt: skip
      return mean.value()

    return float(jax.jit(jax.grad(loss))(jnp.float32(theta), theta))

  below, at, above, far = (slope(x) for x in (0.0, 1.0, 2.0, 6.0))
  assert below < -0.05 and above > 0.05 and abs(at) < 1e-6
  np.testing.assert_allclose(below, -above, rtol=0.05)
  np.testing.assert_allclose(far, above, rtol=0.1)  # the pull is bounded
  np.testing.assert_allclose(slope(1.0, reward=0.3), -0.3, atol=1e-5)


def test_score_implicit_in_value_and_gradient():
  """The guided teacher's score, t^2 and both weights, through x and the scores."""
  x, noise, real, empty, fake = RNG.normal(0, 1, (5, 4, 2, 3))
  t, scores = RNG.uniform(0.2, 0.9, 4), RNG.normal(0, 1, 4)
  mask = np.array([1, 1, 0, 1], bool)

  def reference(x, scores):
    wide = t[:, None, None]
    score = lambda v: -(x + (1 - wide) * v) / wide
    y = score(fake) - score(empty + 2.5 * (real - empty))
    size = np.sqrt(np.square(y).mean((1, 2)) + 0.3**2)
    inner = (y * (score(fake) + noise / wide)).mean((1, 2))
    return (-(t**2) * inner / size - 0.7 * scores)[mask].mean()

  def loss(x, scores):
    mean, _ = objectives.score_implicit(
      x, t, noise, real, empty, fake, scores, mask, reward=0.7, guidance=2.5,
      huber=0.3,
    )  # fmt: skip
    return mean.value()

  value, slopes = jax.value_and_grad(loss, (0, 1))(
    x.astype(np.float32), scores.astype(np.float32)
  )
  np.testing.assert_allclose(value, reference(x, scores), rtol=1e-5)
  of = (lambda x: reference(x, scores), lambda s: reference(x, s))
  for slope, want, at in zip(slopes, of, (x, scores), strict=True):
    np.testing.assert_allclose(
      slope, numeric_gradient(want, at), rtol=1e-3, atol=1e-5
    )
