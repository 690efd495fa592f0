"""Plans of transport: the exact program, closed forms, what they do to attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxreward.errors import UserError
from jaxreward.models import heads, transport

pytest.importorskip("ott")
pytestmark = pytest.mark.extras
RNG = np.random.default_rng(0)


def test_the_plan_against_a_loop_in_float64():
  cost = RNG.uniform(0, 1, (2, 3, 5))
  rows = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
  columns = RNG.dirichlet(np.ones(5), 2)
  kernel, v = np.exp(-cost / 0.1), np.ones((2, 5))
  for _ in range(50):
    u = (rows / (kernel @ v[..., None])[..., 0]) ** 0.9
    v = (columns / (kernel.swapaxes(1, 2) @ u[..., None])[..., 0]) ** 0.9
  want = u[..., None] * kernel * v[:, None]
  found = jax.jit(lambda *x: transport.plan(*x, epsilon=0.1))(
    cost, rows, columns
  )
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-9)


def test_of_small_epsilon_it_is_the_linear_program_s():
  cost, rows = RNG.uniform(0, 1, (3, 4)), RNG.dirichlet(np.ones(3))
  columns = RNG.dirichlet(np.ones(4))
  sums = np.concatenate([
    np.kron(np.eye(3), np.ones(4)), np.kron(np.ones(3), np.eye(4))
  ])  # fmt: skip
  exact = optimize.linprog(
    cost.ravel(), A_eq=sums, b_eq=np.concatenate([rows, columns])
  )
  plan = transport.plan(cost, rows, columns, epsilon=2e-3, mass=1.0, steps=2000)
  np.testing.assert_allclose(plan, exact.x.reshape(3, 4), atol=1e-4)
  np.testing.assert_allclose(plan.sum(1), rows, rtol=1e-3)
  np.testing.assert_allclose(plan.sum(0), columns, rtol=1e-3)


def test_the_plan_by_hand_and_what_it_refuses():
  half = np.full(2, 0.5)
  plan = transport.plan(1 - np.eye(2), half, half)
  np.testing.assert_allclose(np.diag(plan), 0.518578, rtol=1e-4)
  assert 0 < plan[0, 1] < 2e-9
  with pytest.raises(UserError, match="mass=0"):
    transport.plan(np.eye(2), half, half, mass=0)


def test_attention_is_multiplied_by_the_plan():
  """A = (.7, .2, .1) and P = (.1, .6, .3); an even plan changes nothing."""
  attention = np.log([0.7, 0.2, 0.1])
  fused = jax.nn.softmax(
    attention + np.log(np.array([0.1, 0.6, 0.3]) + transport.FLOOR)
  )
  np.testing.assert_allclose(fused, [0.318182, 0.545455, 0.136364], rtol=1e-5)
  query, key = RNG.standard_normal((1, 2, 8)), np.ones((1, 4, 8))
  even = transport.attention_bias(query, key, np.ones((1, 2), bool), mass=1.0)
  assert np.ptp(even, axis=-1).max() < 1e-3
  known = np.array([[True, False]])
  bias = transport.attention_bias(
    query, RNG.standard_normal((1, 4, 8)), known, mass=0.9
  )
  assert np.ptp(bias[0, 0, 1]) == 0  # of padding
  slope = jax.grad(
    lambda q: transport.attention_bias(q, key, known, mass=0.9).sum()
  )(jnp.asarray(query))
  assert not np.asarray(slope).any()


def test_padding_changes_no_plan_of_others():
  query, key = RNG.standard_normal((1, 3, 8)), RNG.standard_normal((1, 4, 8))
  bias = jax.jit(lambda q, known: transport.attention_bias(
    q, key, known, mass=0.9
  ))  # fmt: skip
  alone = bias(query[:, :2], np.ones((1, 2), bool))
  for scale in (0.0, 9.0):
    words = np.concatenate([query[:, :2], scale * query[:, 2:]], 1)
    beside = bias(words, np.array([[True, True, False]]))
    np.testing.assert_allclose(beside[:, :, :2], alone, atol=1e-4)


def test_a_word_that_is_far_costs_more():
  cosines = np.zeros((1, 9))
  near = np.eye(1, 9)
  cost = transport.token_cost(cosines, near)
  assert cost[0, 0] == pytest.approx(0, abs=1e-6)
  assert cost[0, 8] == pytest.approx(1, abs=1e-6)  # the opposite corner
  np.testing.assert_allclose(
    transport.token_cost(np.array([[1.0, 0.5, 0.0]]), np.eye(1, 3)),
    [[0, 0.5, 1]],
    atol=1e-6,
  )


def test_the_head_reads_words_in_any_order_and_no_padding():
  net = heads.CrossAttention(8, 2, 0, 16, transport=0.9)
  words, mask = jnp.array([[3, 5, 7]]), jnp.array([[True, True, False]])
  states = jnp.asarray(RNG.standard_normal((1, 2, 4, 6)), jnp.float32)
  params = net.init(jax.random.key(0), words, mask, states)
  score = jax.jit(lambda words: net.apply(params, words, mask, states))
  value = score(words)
  for other in ([[5, 3, 7]], [[3, 5, 9]]):
    np.testing.assert_allclose(score(jnp.array(other)), value, atol=1e-5)
