"""Ascent in the initial noise: against float64, and its limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards, steering
from jaxreward.errors import UserError
from jaxreward.flow import rollout, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.setup import steering as setup_steering
from jaxreward.steering import noise
from jaxreward.types import Policy
from tests.steering.test_methods import GROUP, PROMPTS, batch_of

SIDE, STEPS = 3, 2
RNG = np.random.default_rng(0)
PULL = RNG.uniform(0.02, 0.1, (SIDE, SIDE, 1))  # of the generator, per pixel
TARGETS = RNG.uniform(0.3, 0.7, (2, SIDE, SIDE, 1))  # of two rewards
WEIGHTS = np.array([5.0, 1.0])


def policy_of() -> Policy:
  """One Euler step to 0 multiplies the noise; a second one of 0 keeps it."""

  def velocity(params, x, t, cond):
    first = (t == 1)[:, None, None, None]
    return jnp.where(first, 2 * (1 - PULL.astype(np.float32)) * x, 0.0)

  return Policy(
    init=lambda key: {},
    encode=lambda params, tokens: tokens[:, 0].astype(jnp.float32),
    velocity=velocity,
    to_pixels=lambda x, decoder=None: 0.5 + x,
    latent_shape=(SIDE, SIDE, 1),
  )


POLICY = policy_of()


def terms(images, xp=jnp):
  """-weighted squared distances [K, P, S] to the targets."""
  square = xp.square(images - TARGETS[:, None, None].astype(images.dtype))
  weight = WEIGHTS.astype(images.dtype)[:, None, None]
  return -weight * square.sum((-3, -2, -1))


def gradients(images, prompts):
  one = lambda k: jax.grad(lambda x: terms(x)[k].sum())(images)
  return terms(images), jnp.stack([one(0), one(1)])


@functools.cache
def particles(count):
  table = steppers.ode(np.linspace(1, 0, STEPS + 1))

  def make(rows, scale):
    layout = rollout.make_layout(PROMPTS, rows, 4)  # the last chunk is padded
    return Sampler(POLICY, table, layout, scale)

  return steering.Particles(
    make=make, score=lambda images, prompts: terms(images).sum(0),
    gradients=gradients, group=GROUP, count=count, steps=STEPS, seed=5,
    stream="test",
  )  # fmt: skip


def first_noise(draw) -> np.ndarray:
  state = draw.init({}, batch_of(), None)
  flat = rollout.from_chunks(np.asarray(state.latents))
  return draw.sets(rollout.to_groups(flat, PROMPTS, GROUP * draw.count))


def reference(x, iterations, is_each, prior=0.01, clip=0.1, rate=5.0, keep=0.9):
  """Best images and scores of one seed [P, G, N, ...], in float64."""
  x = np.asarray(x, np.float64)
  axes = (-3, -2, -1)
  norm = lambda y: np.sqrt(np.square(y).sum(axes, keepdims=True))
  cut = lambda y: y * np.minimum(1, clip / np.maximum(norm(y), 1e-12))
  velocity, best, images = np.zeros_like(x), None, None
  for _ in range(iterations + 1):
    pixels = 0.5 + PULL * x
    image = np.clip(pixels, 0, 1)
    distance = image[None] - TARGETS[:, None, None, None]
    weight = WEIGHTS.reshape(2, *(1,) * x.ndim)
    score = -(weight * np.square(distance)).sum((0, -3, -2, -1))
    is_better = np.ones_like(score, bool) if best is None else score > best
    best = score if best is None else np.maximum(score, best)
    better = is_better[..., None, None, None]
    images = pixels if images is None else np.where(better, pixels, images)
    inside = (pixels >= 0) & (pixels <= 1)
    each = 2 * weight * distance * PULL * inside
    pull = prior * x * (1 - (SIDE * SIDE - 1) / norm(x) ** 2)
    g = cut(each + pull).sum(0) if is_each else each.sum(0) + pull
    g = cut(g)
    velocity = keep * velocity + g
    x = x - rate * (g + keep * velocity)
  return images, best


@pytest.mark.turns(2)
@pytest.mark.parametrize("name", ["reno", "carinox"])
def test_the_best_image_is_that_of_float64(name):
  count = {"reno": 1, "carinox": 3}[name]
  draw, iterations = particles(count), 6
  options = {} if name == "reno" else {"particles": count}
  method = steering.REGISTRY[name](iterations=iterations, **options)
  pixels, trace = method.run(draw, {}, batch_of())
  images, best = reference(first_noise(draw), iterations, name == "carinox")
  member = best.argmax(-1)
  want = np.take_along_axis(images, member[..., None, None, None, None], 2)
  np.testing.assert_allclose(trace.score, best.max(-1), rtol=2e-4)
  np.testing.assert_allclose(pixels, want[:, :, 0], atol=2e-4)
  assert trace.network_evaluations == count * STEPS * (iterations + 1)
  assert trace.reward_calls == count * (iterations + 1)
  assert method.needs_gradient and method.particles == count


def test_more_iterations_and_more_seeds_never_score_lower():
  draw = particles(3)
  scores = []
  for iterations in (0, 1, 3, 6):
    method = steering.carinox(particles=3, iterations=iterations)
    scores.append(np.asarray(method.run(draw, {}, batch_of())[1].score))
  assert (np.diff(scores, axis=0) >= 0).all()
  assert scores[-1].mean() > scores[0].mean() + 0.1
  best, _ = steering.best_of_n(particles=3).run(draw, {}, batch_of())
  none = steering.carinox(particles=3, iterations=0)
  np.testing.assert_allclose(none.run(draw, {}, batch_of())[0], best, atol=1e-6)


def test_iterations_compile_once(compile_counter):
  """More of them, and another run, take the programs of the first."""
  draw = dataclasses.replace(particles(1))  # with programs of its own
  compile_counter.reset()
  steering.reno(iterations=2).run(draw, {}, batch_of())
  assert compile_counter.names
  compile_counter.reset()
  steering.reno(iterations=4).run(draw, {}, batch_of())
  assert not compile_counter.names


def test_the_prior_is_least_at_the_norm_of_noise():
  """Its gradient is 0 at sqrt(d - 1), and that of the density of norms."""
  x = RNG.normal(size=(2, 12))
  at_least = x * np.sqrt(11) / np.linalg.norm(x, axis=-1, keepdims=True)
  np.testing.assert_allclose(noise.norm_prior(at_least), 0, atol=1e-6)
  energy = lambda x: np.square(x).sum() / 2 - 11 * np.log(np.linalg.norm(x))
  h, want = 1e-6, np.zeros(12)
  for i, unit in enumerate(np.eye(12)):
    want[i] = (energy(x[0] + h * unit) - energy(x[0] - h * unit)) / (2 * h)
  np.testing.assert_allclose(noise.norm_prior(x)[0], want, rtol=1e-4, atol=1e-5)


def test_no_reward_pulls_more_than_the_clip():
  x = np.stack([np.full(4, 3.0), np.full(4, 0.01), np.full(4, np.nan)])
  got = np.asarray(noise.clipped(x, 0.1))
  np.testing.assert_allclose(np.linalg.norm(got, axis=-1), [0.1, 0.02, 0])
  np.testing.assert_allclose(got[1], x[1], rtol=1e-6)


def test_a_reward_without_a_gradient_is_refused():
  flat = lambda images, prompts: jnp.round(images).mean((2, 3, 4))
  slope = lambda images, prompts: images.mean((2, 3, 4))
  images = jnp.asarray(RNG.uniform(size=(PROMPTS, 2, 4, 4, 3)), jnp.float32)
  built = rewards.build({"slope": slope, "flat": flat})
  good = setup_steering.gradients_of(built, {"slope": 2.0, "flat": 0.0})
  values, gradients = good(images, batch_of())
  np.testing.assert_allclose(values[0], 2 * images.mean((2, 3, 4)), rtol=1e-6)
  np.testing.assert_allclose(gradients[0], 2 / 48, rtol=1e-6)
  bad = setup_steering.gradients_of(built, {"slope": 1.0, "flat": 1.0})
  with pytest.raises(UserError, match=r"config\.rewards\.flat: its gradient"):
    bad(images, batch_of())
