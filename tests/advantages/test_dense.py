"""Credit of steps: gains that add up, compared step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.flow import rollout, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.types import Policy


def test_the_published_example():
  """Two samples, rewards (.2, .5, .9) and (.4, .3, .7): only step 1 teaches."""
  signal = np.array([[[0.2, 0.5, 0.9], [0.4, 0.3, 0.7]]], np.float32)
  got = advantages.dense(signal, np.ones(signal.shape, bool), epsilon=0.0)
  np.testing.assert_allclose(got[0, :, 0], [1.0, -1.0], rtol=1e-5)
  np.testing.assert_allclose(advantages.gains(signal)[0, :, 1], 0.4, rtol=1e-5)
  assert np.abs(got[0, :, 1]).max() < 1.1  # equal but for rounding


def test_the_gains_of_a_sample_add_up():
  signal = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
  total = np.asarray(advantages.gains(signal)).sum(-1)
  np.testing.assert_allclose(total, signal[..., -1] - signal[..., 0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_float64(seed):
  rng = np.random.default_rng(seed)
  signal, mask = rng.normal(size=(3, 5, 6)), rng.random((3, 5, 6)) > 0.1
  dirty = np.where(mask, signal, np.nan).astype(np.float32)
  got = np.asarray(advantages.dense(dirty, mask, clip=1.3))
  want = np.zeros((3, 5, 5))
  for p in range(3):
    kept = [g for g in range(5) if mask[p, g].all()]
    for t in range(5):
      d = np.array([signal[p, g, t + 1] - signal[p, g, t] for g in kept])
      if len(kept):
        a = (d - d.mean()) / (d.std() + 1e-4)
        want[p, kept, t] = np.clip(a, -1.3, 1.3)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def linear() -> Policy:
  return Policy(
    init=lambda key: jnp.array([0.4, 0.2]),
    encode=lambda params, tokens: tokens[:, 0] * params[1],
    velocity=lambda params, x, t, cond: (
      x * params[0] + (cond * t)[:, None, None, None]
    ),
    to_pixels=lambda x, decoder=None: x,
    latent_shape=(3, 3, 1),
  )


@pytest.mark.parametrize("sampler", ["ode", "flow_sde"])
def test_latents_of_a_step_are_finished_by_the_ode(sampler):
  """Without noise they end in the sample: then no step gains anything."""
  policy, tokens = linear(), np.array([[1], [2]], np.int32)
  params, times = policy.init(None), np.linspace(1.0, 0.0, 6)
  layout = rollout.make_layout(2, 3, 4)
  table = steppers.REGISTRY[sampler](times)
  drawer = Sampler(policy, table, layout, is_recorded=True)
  trajectory = drawer.sample(params, jax.random.key(0), tokens, np.arange(2))
  finish = jax.jit(
    lambda first, jumps=False: drawer.finish(
      params, tokens, trajectory.latents[first], first, jumps=jumps
    ),
    static_argnums=1,
  )
  ends = [np.asarray(finish(first)) for first in range(6)]
  np.testing.assert_array_equal(ends[5], trajectory.latents[5])
  for first in range(5):
    x = np.asarray(trajectory.latents[first], np.float64)
    cond = tokens[layout.prompt_index, 0] * 0.2
    for i in range(first, 5):
      v = x * 0.4 + (cond * times[i])[:, None, None, None]
      x = x - (times[i] - times[i + 1]) * v
    np.testing.assert_allclose(ends[first], x, atol=1e-5)
    x = np.asarray(trajectory.latents[first], np.float64)
    v = x * 0.4 + (cond * times[first])[:, None, None, None]
    want = x - times[first] * v  # one Euler step to the end
    np.testing.assert_allclose(finish(first, True), want, atol=1e-5)
  if sampler == "ode":
    for end in ends:
      np.testing.assert_allclose(end, trajectory.latents[5], atol=1e-5)
