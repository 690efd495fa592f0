"""The implicit reward against float64, and as what a DPO loss is taken of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives
from jaxreward.errors import UserError
from jaxreward.rewards.implicit import (
  density_ratio,
  implicit,
  load_policies,
  load_strong_and_weak,
)
from jaxreward.types import Policy, PromptBatch

RNG = np.random.default_rng(4)
SHAPE = (2, 2, 3)
IMAGES = RNG.random((3, 2, *SHAPE)).astype(np.float32)
PROMPTS = PromptBatch(
  ids=np.arange(3, dtype=np.uint32), category=np.zeros(3, np.int32),
  mask=np.ones(3, bool), tokens=np.array([[1], [2], [3]], np.int32),
)  # fmt: skip
# v = w x_t + b t + c, c the first word
POLICY = Policy(
  init=lambda key: {},
  encode=lambda params, tokens: jnp.asarray(tokens)[:, 0].astype(jnp.float32),
  velocity=lambda params, x, t, cond: (
    params["w"] * x + (params["b"] * t + cond)[:, None, None, None]
  ),
  to_pixels=lambda latents, decoder: latents,
  latent_shape=SHAPE,
)
TUNED = {"w": np.float32(0.7), "b": np.float32(-0.2)}
REFERENCE = {"w": np.float32(0.4), "b": np.float32(0.1)}


def score(params=TUNED, images=IMAGES, beta=9.0, draws=2):
  return implicit(
    images, PROMPTS, policy=POLICY, params=params, reference=REFERENCE,
    beta=beta, draws=draws,
  )  # fmt: skip


def noises(draws):
  key = jax.random.key(0)
  return [
    np.asarray(jax.random.normal(jax.random.fold_in(key, i), SHAPE), np.float64)
    for i in range(draws)
  ]


def velocity(params, x_t, t):
  words = np.array([1.0, 2.0, 3.0])[:, None, None, None, None]
  return params["w"] * x_t + params["b"] * t + words


def test_it_is_the_gain_in_flow_matching_error():
  x, draws = 2 * IMAGES.astype(np.float64) - 1, 3
  total = np.zeros((3, 2))
  for i, noise in enumerate(noises(draws)):
    t = (i + 0.5) / draws
    x_t, target = (1 - t) * x + t * noise, noise - x
    for sign, params in ((1, REFERENCE), (-1, TUNED)):
      error = np.square(velocity(params, x_t, t) - target).mean((2, 3, 4))
      total += sign * error
  want = 50 / 2 * total / draws
  np.testing.assert_allclose(score(beta=50.0, draws=draws), want, rtol=1e-4)


def test_a_difference_is_the_logit_of_the_dpo_loss():
  """Of one draw the loss is -log sigmoid(r_chosen - r_rejected)."""
  (noise,) = noises(1)
  x = 2 * IMAGES.astype(np.float64) - 1
  x_t, target = 0.5 * x + 0.5 * noise, noise - x
  of = lambda params, i: velocity(params, x_t, 0.5)[:, i].astype(np.float32)
  loss, metrics = objectives.flow_dpo(
    of(TUNED, 0), of(TUNED, 1), of(REFERENCE, 0), of(REFERENCE, 1),
    target[:, 0].astype(np.float32), target[:, 1].astype(np.float32),
    np.ones(3, bool), beta=30.0,
  )  # fmt: skip
  r = np.asarray(score(beta=30.0, draws=1), np.float64)
  d = r[:, 0] - r[:, 1]
  assert float(loss.value()) == pytest.approx(
    np.logaddexp(0, -d).mean(), rel=1e-4
  )
  assert float(metrics["accuracy"].value()) == (d > 0).mean()


def test_limits():
  assert np.array_equal(score(REFERENCE), np.zeros((3, 2)))
  broken = IMAGES.copy()
  broken[1, 0, 0, 0, 0] = np.nan
  scores = np.asarray(score(images=broken))
  assert np.isnan(scores[1, 0]) and np.isfinite(scores).sum() == 5
  for options, words in (
    (dict(beta=0.0), "beta=0"),
    (dict(draws=0), "draws=0"),
  ):
    with pytest.raises(UserError, match=words):
      load_policies.check(options)


def test_the_reference_is_that_of_the_run():
  specs = []

  def policy_of(spec, name):
    specs.append((spec, name))
    return POLICY, spec or "base"

  loaded = load_policies(policy_of=policy_of)
  assert specs == [("workdir:policy", "weights"), ("", "reference")]
  assert loaded.arrays == {"params": "workdir:policy", "reference": "base"}


def ratio(params, reference, images=IMAGES, draws=64, weighting="likelihood"):
  return density_ratio(
    images, PROMPTS, policy=POLICY, params=params, reference=reference,
    draws=draws, weighting=weighting,
  )  # fmt: skip


@pytest.mark.turns(2)
def test_the_ratio_is_antisymmetric_and_weighs_times():
  """Of float64, under the noise of the implicit reward; equal policies give 0."""
  x, draws = 2 * IMAGES.astype(np.float64) - 1, 3
  want = {"likelihood": np.zeros((3, 2)), "uniform": np.zeros((3, 2))}
  for i, noise in enumerate(noises(draws)):
    t = (i + 0.5) / draws
    x_t, target = (1 - t) * x + t * noise, noise - x
    for sign, params in ((1, REFERENCE), (-1, TUNED)):
      error = np.square(velocity(params, x_t, t) - target).mean((2, 3, 4))
      want["uniform"] += sign * error / draws
      want["likelihood"] += (1 - t) / t * sign * error / draws
  for weighting, value in want.items():
    of = lambda a, b, w=weighting: ratio(a, b, draws=draws, weighting=w)
    np.testing.assert_allclose(of(TUNED, REFERENCE), value, rtol=1e-4)
    np.testing.assert_array_equal(of(TUNED, REFERENCE), -of(REFERENCE, TUNED))
  assert not np.asarray(ratio(TUNED, TUNED)).any()
  for options, words in (
    (dict(weighting="likely"), 'weighting="likely"'),
    (dict(draws=0), "draws=0"),
  ):
    with pytest.raises(UserError, match=words):
      load_strong_and_weak.check(options)


def test_of_exact_velocities_it_is_the_log_ratio_of_densities():
  """N(m, I) against N(n, I): the integral over times is exact, drawn noise close."""

  def gaussian(params, x, t, cond):
    s = t[:, None, None, None]
    off = x - (1 - s) * params["mean"]
    total = (1 - s) ** 2 + s**2
    return (s - (1 - s)) * off / total - params["mean"]

  policy = dataclasses.replace(POLICY, velocity=gaussian)
  strong, weak = {"mean": np.float32(0.4)}, {"mean": np.float32(-0.3)}
  found = density_ratio(
    IMAGES, PROMPTS, policy=policy, params=strong, reference=weak, draws=4000,
    weighting="likelihood",
  )  # fmt: skip
  x = 2 * IMAGES.astype(np.float64) - 1
  log_ratio = (np.square(x + 0.3) - np.square(x - 0.4)).mean((2, 3, 4)) / 2
  np.testing.assert_allclose(found, log_ratio, atol=0.02)
