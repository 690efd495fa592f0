"""Families of objectives on one Gaussian, to fixed points known in closed form.

Samples are x ~ N(0, 1) in one dimension and the reward is linear, A = x. A velocity
at time t is a line, v = a x_t + b: flow matching on weighted samples has the
conditional mean E_w[u | x_t] for its optimum, a line too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, composition, objectives, regularizers

T, ROWS = 0.5, 200_000
# u = eps - x0 given x_t, of x0 ~ N(m, 1) and eps ~ N(0, 1) at t = 1/2: a = 0, b = -m.


def draw():
  rng = np.random.default_rng(0)
  x0, noise = rng.normal(size=(2, ROWS, 1)).astype(np.float32)
  return dict(
    x0=x0, noise=noise, x_t=(1 - T) * x0 + T * noise, u=noise - x0,
    t=np.full(ROWS, T, np.float32),
  )  # fmt: skip


def arrays_of(rows, advantage, v, v_old):
  return rows | dict(
    v=v, v_old=v_old, v_reference=v_old, advantage=advantage, weight=advantage,
    value=jnp.zeros(ROWS), mask=jnp.ones(ROWS, bool),
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def optimum(name, options, steps, advantage, rate):
  """Gradient descent on (a, b) from the policy that drew, whose v is 0."""
  rows = draw()
  fn = objectives.REGISTRY[name]

  def loss(theta):
    v = theta[0] * rows["x_t"] + theta[1]
    arrays = arrays_of(rows, advantage, v, jnp.zeros_like(v))
    return fn(**{k: arrays[k] for k in ASKS[name]}, **dict(options))[0].value()

  body = lambda _, theta: theta - rate * jax.grad(loss)(theta)
  return jax.lax.fori_loop(0, steps, body, jnp.zeros(2))


ASKS = {
  "flow_matching": ("v", "u", "t", "weight", "mask"),
  "ac_flow": ("v", "x0", "noise", "value", "advantage", "mask"),
  "diffusion_nft": ("v", "v_old", "x0", "x_t", "t", "advantage", "mask"),
}
TILT = 0.5
X0 = draw()["x0"][:, 0]
CASES = {
  # exp(TILT x) tilts N(0, 1) to N(TILT, 1), the optimum of a KL of 1 / TILT.
  "flow_matching": ((), np.exp(TILT * X0), (0.0, -TILT), 0.5),
  "ac_flow": (
    (("temperature", TILT), ("adv_clip", 50.0)), X0, (0.0, -TILT), 0.2,
  ),
  # v_old + E[(2 r - 1) (u - v_old) | x_t] / beta with 2 r - 1 = x / 5:
  # E[x u | x_t] = -1/2 + (x_t^2 - x_t^2) = -1, since E[x | x_t] = x_t, of
  # variance 1/2 about it, and u = 2 (x_t - x).
  "diffusion_nft": (
    (("adaptive_weight", False), ("beta", 1.0), ("adv_clip", 5.0)), X0,
    (0.0, -0.2), 0.5,
  ),
}  # fmt: skip


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", CASES)
def test_a_family_reaches_its_own_fixed_point(name):
  options, advantage, want, rate = CASES[name]
  got = optimum(name, options, 60, jnp.asarray(advantage, jnp.float32), rate)
  np.testing.assert_allclose(got, want, atol=0.02)


def test_the_policy_gradient_with_a_kl_reaches_the_tilted_optimum():
  """exp(r / beta) N(0, 1) with r = x is N(1 / beta, 1), one step of unit noise."""
  rows, beta = jnp.asarray(draw()["x0"]), 2.0
  mask = jnp.ones(ROWS, bool)
  log_prob = lambda mean: -jnp.square(rows[:, 0] - mean) / 2

  def loss(mean):
    pull, _ = objectives.flow_grpo(
      log_prob(mean), log_prob(0.0), rows[:, 0], mask, clip_range=1e6
    )
    kl = regularizers.step_kl(
      jnp.full_like(rows, mean), jnp.zeros_like(rows), 1.0, 1.0, 1.0, mask,
      form="exact",
    )  # fmt: skip
    return pull.value() + beta * kl.value()

  body = lambda _, mean: mean - 0.3 * jax.grad(loss)(mean)
  run = jax.jit(lambda start: jax.lax.fori_loop(0, 40, body, start))
  np.testing.assert_allclose(run(jnp.float32(0)), 1 / beta, atol=0.02)


@pytest.mark.turns(2)
def test_equal_rewards_are_one_reward():
  """K equal rewards summed, apart or ranked give the credit of one."""
  score = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
  mask = np.ones((3, 6), bool)
  scores, weights = {"a": score, "b": score}, {"a": 0.5, "b": 0.5}
  for name in ("weighted_sum", "advantage_sum", "win_rate"):
    compose = composition.REGISTRY[name]
    several, _ = compose(scores, mask, weights)
    one, _ = compose({"a": score}, mask, {"a": 1.0})
    np.testing.assert_allclose(several, one, rtol=1e-5, atol=1e-6)
    credit = [advantages.group(x, mask, std="none") for x in (several, one)]
    np.testing.assert_allclose(*credit, rtol=1e-5, atol=1e-6)


def test_a_group_of_two_is_a_pair_and_its_win_rate_the_answer():
  """DGPO of two samples has DPO's gradient, over beta; the better one wins all."""
  rng = np.random.default_rng(2)
  v, reference, u = rng.normal(size=(3, 5, 2, 6)).astype(np.float32)
  score = rng.normal(size=(5, 2)).astype(np.float32)
  mask, beta = np.ones((5, 2), bool), 3.0
  rate, _ = composition.win_rate({"r": score}, mask, {"r": 1.0})
  first = score[:, :1] > score[:, 1:]
  np.testing.assert_array_equal(rate, np.hstack([first, ~first]))
  order = np.where(first, [[0, 1]], [[1, 0]])[..., None]  # the better one first
  of = lambda x: np.take_along_axis(x, order, 1)
  v, reference, u = of(v), of(reference), of(u)
  advantage = np.tile(np.array([[1.0, -1.0]], np.float32), (5, 1))

  def pair(v):
    return objectives.flow_dpo(
      v[:, 0], v[:, 1], reference[:, 0], reference[:, 1], u[:, 0], u[:, 1],
      mask[:, 0], beta=beta,
    )[0].value()  # fmt: skip

  def group(v):
    return objectives.dgpo(v, reference, u, advantage, mask, beta=beta)[
      0
    ].value()

  slopes = jax.jit(lambda v: (jax.grad(pair)(v), jax.grad(group)(v)))
  want, got = slopes(v)
  np.testing.assert_allclose(beta * got, want, rtol=1e-4, atol=1e-6)
