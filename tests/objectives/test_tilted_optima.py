"""Other families on one Gaussian, to the tilted optimum or a root known beforehand.

The policy is N(m, 1) with m trained from 0, x = m + z, the reward r = x: with a KL of
weight beta to N(0, 1) the best policy is N(1 / beta, 1). A velocity is v = -m: of all
lines it is the one of flow matching on N(m, 1) at t = 1/2 (test_fixed_points.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import methods, objectives

ROWS = 40_000
RNG = np.random.default_rng(0)
Z, NOISE, OTHER = (RNG.normal(size=(3, ROWS, 1))).astype(np.float32)
U = NOISE - Z  # the target of flow matching
MASK = np.ones(ROWS, bool)
T = 0.5
BETA = 2.0


def wide(x):
  return jnp.broadcast_to(x, (ROWS, 1))


def slid(loss, rate, steps=80, start=0.0):
  """m after gradient descent on a loss of m."""
  body = lambda _, m: m - rate * jax.grad(loss)(m)
  run = jax.jit(lambda m: jax.lax.fori_loop(0, steps, body, m))
  return float(run(jnp.float32(start)))


def dpo(m):
  """Pairs answered by sigmoid of the rewards' difference: beta m = 1."""
  gap = Z - OTHER
  answer = RNG.random((ROWS, 1)) < 1 / (1 + np.exp(-gap))
  chosen, rejected = np.where(answer, Z, OTHER), np.where(answer, OTHER, Z)
  v, zero = wide(-m), np.zeros((ROWS, 1), np.float32)
  loss, _ = objectives.flow_dpo(
    v, v, zero, zero, NOISE - chosen, NOISE - rejected, MASK, beta=BETA
  )
  return loss.value()


def crd(m):
  """beta (l_old - l) is to differ in a group as x does: 2 beta m x = x."""
  group = lambda x: jnp.reshape(x, (-1, 4, 1))
  noise = np.repeat(group(NOISE)[:, :1], 4, 1)
  x = group(Z)
  v = jnp.broadcast_to(-m, x.shape)
  loss, _ = objectives.crd(
    v, jnp.zeros(x.shape), noise - x, x[..., 0], np.ones(x.shape[:2], bool),
    beta=BETA,
  )  # fmt: skip
  return loss.value()


def backprop(m):
  loss, _ = objectives.align_prop(m + Z[:, 0], MASK)
  return loss.value() + BETA * m**2 / 2  # the KL of N(m, 1) to N(0, 1)


def hinge(m):
  """The slope ends where all are satisfied: here at a mean of the margin's."""
  loss, _ = objectives.refl(wide(m)[:, 0], MASK, margin=0.3, scale=1.0)
  return loss.value()


def noised(m):
  loss, _ = objectives.noised_reward(m + Z[:, 0], MASK)
  return loss.value() + BETA * m**2 / 2


def one_step(m):
  """mean (v - u)^2 - w r(x_t - t v): its slope vanishes at m = w t / 2."""
  v, x_t = wide(-m), (1 - T) * Z + T * NOISE
  loss, _ = objectives.one_step_reward(
    v, U, MASK.astype(np.float32), (x_t - T * v)[:, 0], MASK, weight=0.8
  )
  return loss.value()


def predicted(x0_hat):
  """x0_hat noised again, and the velocity there of N(mean, 1)."""
  x = (1 - T) * x0_hat + T * NOISE
  at = lambda mean: (x - (mean + (x - (1 - T) * mean))) / T  # posterior mean
  return jax.lax.stop_gradient(x), lambda mean: jax.lax.stop_gradient(at(mean))


def distilled(m):
  """The fake score knows the generator: descent ends at the teacher's mean, 1."""
  x0 = m + Z
  x, of = predicted(x0)
  loss, _ = objectives.distribution_matching(
    x0, x, np.full(ROWS, T, np.float32), of(1.0), of(m), MASK * 1.0, MASK,
    floor=1e3,
  )  # fmt: skip
  return 1e3 * loss.value()


def surrogate(m):
  """Teacher N(0, 1), and one that prefers the rewarded, N(1 / beta, 1)."""
  x0 = m + Z
  x, of = predicted(x0)
  loss, _ = objectives.surrogate_matching(
    x0, x, np.full(ROWS, T, np.float32), of(0.0), of(0.0), of(m),
    of(1 / BETA), MASK, share=0.0, floor=1e3,
  )  # fmt: skip
  return 1e3 * loss.value()


def log_prob(m):
  return -jnp.square(Z[:, 0] - m) / 2


def dppo(m):
  """Importance sampling within a trust region that never binds."""
  loss, _ = objectives.flow_dppo(
    log_prob(m), log_prob(0.0), wide(m), wide(0.0), 1.0, Z[:, 0], MASK,
    threshold=1e9,
  )  # fmt: skip
  return loss.value() + BETA * m**2 / 2


def guard(m, beta=4.0):
  """A ratio exp(m x) without its mean: (1 + m^2) exp(m^2 / 2) = beta m."""
  loss, _ = objectives.grpo_guard(
    log_prob(m), log_prob(0.0), wide(m), wide(0.0), 1.0, 1.0, Z[:, 0], MASK,
    clip_range=1e6,
  )  # fmt: skip
  return loss.value() + beta * m**2 / 2


def root(f, low, high):
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if f(middle) < 0 else (low, middle)
  return low


GUARD = root(lambda m: 4 * m - (1 + m**2) * np.exp(m**2 / 2), 0.0, 0.5)
CASES = {
  "flow_dpo": (dpo, 1 / BETA, 0.5),
  "crd": (crd, 1 / (2 * BETA), 0.02),
  "align_prop": (backprop, 1 / BETA, 0.2),
  "refl": (hinge, 0.3, 0.01),
  "noised_reward": (noised, 1 / BETA, 0.2),
  "one_step_reward": (one_step, 0.8 * T / 2, 0.2),
  "distribution_matching": (distilled, 1.0, 0.1),
  "surrogate_matching": (surrogate, 1 / BETA, 0.1),
  "flow_dppo": (dppo, 1 / BETA, 0.2),
  "grpo_guard": (guard, GUARD, 0.1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_family_reaches_what_is_known_of_it(name):
  loss, want, rate = CASES[name]
  np.testing.assert_allclose(slid(loss, rate), want, atol=0.02)


@pytest.mark.parametrize("name", ["prdp", "rebel"])
def test_differences_of_rewards_are_differences_of_log_ratios(name):
  """Groups of four, one step: the regression's optimum is 1 / beta."""
  fn = objectives.REGISTRY[name]
  scale = dict(beta=BETA) if name == "prdp" else dict(eta=BETA)
  more = dict(clip_range=1e6) if name == "prdp" else {}
  partial = functools.update_wrapper(functools.partial(fn, **scale, **more), fn)
  prepare, count = methods.prepare_of(partial), 400
  x = Z[:count, 0]
  start = -np.square(x) / 2

  def loss(m):
    now = -jnp.square(x - m) / 2
    arrays = {
      "log_prob": now, "old_log_prob": start, "reference_log_prob": start,
      "advantage": x, "mask": MASK[:count], "sample": np.arange(count),
      "prompt": np.arange(count) // 4,
    }  # fmt: skip
    read = {
      k: jax.lax.stop_gradient(jnp.asarray(arrays[k]))
      for k in methods.asks(prepare.read)
    }
    columns = prepare.finish(
      {k: v[None] for k, v in prepare.read(**read).items()}
    )
    arrays |= {k: v[0] for k, v in columns.items()}
    return partial(**{k: arrays[k] for k in methods.asks(fn)})[0].value()

  np.testing.assert_allclose(slid(loss, 0.02), 1 / BETA, atol=0.02)
