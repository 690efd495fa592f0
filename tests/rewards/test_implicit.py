"""The implicit reward against float64, and as what a DPO loss is taken of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives
from jaxreward.errors import UserError
from jaxreward.rewards.implicit import implicit, load_policies
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
