"""The shortest mix of gradients against float64 solvers, and in an update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from jaxreward import composition
from jaxreward.numerics import Mean
from jaxreward.training import state, step
from tests import tiny

HERE = __file__
solve = jax.jit(composition.min_norm)


def gradients(count, size, seed):
  rng = np.random.default_rng(seed)
  scale = np.exp(rng.normal(size=(count, 1)))
  return (rng.normal(size=(count, size)) + 0.4) * scale


def shortest(g):
  """SLSQP on the simplex, in float64."""
  count = len(g)
  gram = g @ g.T / np.square(g).max()
  result = optimize.minimize(
    lambda w: w @ gram @ w,
    np.full(count, 1 / count),
    jac=lambda w: 2 * gram @ w,
    bounds=[(0, 1)] * count,
    constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    options={"ftol": 1e-15, "maxiter": 500},
  )
  return result.x


def test_the_published_example():
  g = np.array([[1.0, 0.0], [-0.5, 1.0]])
  w = np.asarray(solve((g @ g.T).astype(np.float32)))
  np.testing.assert_allclose(w, [0.538462, 0.461538], atol=1e-6)
  d = w @ g
  np.testing.assert_allclose(d, [0.307692, 0.461538], atol=1e-6)
  np.testing.assert_allclose(g @ d, [d @ d, d @ d], atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_two_gradients_have_a_closed_form(seed):
  a, b = gradients(2, 3, seed)
  first = np.clip((b - a) @ b / np.square(a - b).sum(), 0, 1)
  g = np.stack([a, b])
  w = solve((g @ g.T).astype(np.float32))
  np.testing.assert_allclose(w, [first, 1 - first], atol=1e-5)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_more_of_them_against_a_solver(count, seed):
  g = gradients(count, 4 if seed % 2 else 12, seed)
  w = np.asarray(solve((g @ g.T).astype(np.float32)), np.float64)
  assert w.min() >= 0 and w.sum() == pytest.approx(1.0, abs=1e-6)
  d, best = w @ g, shortest(g) @ g
  top = np.square(g).sum(1).max()
  assert d @ d <= best @ best + 1e-5 * top
  assert (g @ d >= d @ d - 2e-4 * top).all()  # no loss rises along it


def test_equal_opposite_and_absent_gradients():
  g = np.tile([[1.0, 2.0]], (3, 1))
  np.testing.assert_allclose(solve(jnp.float32(g @ g.T)).sum(), 1.0, rtol=1e-6)
  g = np.array([[1.0, 2.0], [-1.0, -2.0]])
  np.testing.assert_allclose(solve(jnp.float32(g @ g.T)), [0.5, 0.5], atol=1e-6)
  g = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
  w = composition.marble(
    jnp.float32(g @ g.T), np.ones(3) / 3, 0, normalize=False
  )
  np.testing.assert_allclose(w, [0.8, 0.0, 0.2], atol=1e-6)
  w = composition.marble(jnp.zeros((2, 2)), np.ones(2) / 2, 0)
  np.testing.assert_allclose(w, [0.5, 0.5])


def test_weights_are_smoothed_after_the_first():
  gram = jnp.float32([[1.0, -0.5], [-0.5, 1.25]])
  new = np.array([0.538462, 0.461538])
  first = composition.marble(
    gram, np.array([0.2, 0.8]), 0, decay=0.75, normalize=False
  )
  np.testing.assert_allclose(first, new, atol=1e-6)
  later = composition.marble(
    gram, np.array([0.2, 0.8]), 1, decay=0.75, normalize=False
  )
  want = 0.75 * np.array([0.2, 0.8]) + new / 4
  np.testing.assert_allclose(later, want, atol=1e-6)


def test_lengths_do_not_matter_once_normalised():
  a, b = np.array([1.0, 0.2]), np.array([-0.3, 1.0])
  for scale in (1.0, 1e3):
    g = np.stack([a, scale * b])
    w = composition.marble(jnp.float32(g @ g.T), None, 0, normalize=True)
    d = np.asarray(w) @ g
    unit = a / np.linalg.norm(a) + b / np.linalg.norm(b)  # the bisector
    np.testing.assert_allclose(
      d / np.linalg.norm(d), unit / np.linalg.norm(unit), atol=1e-5
    )
    np.testing.assert_allclose(np.sum(w), 1.0, rtol=1e-6)


# In the step

ROWS = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)


def pulls(params, micro, frozen):
  """Two losses, each a pull to its own rows, and a term of its own."""
  error = jnp.square(params["p"] - micro).sum(-1) / 2  # [2, M]
  term = frozen * jnp.square(params["p"]).sum() * micro.shape[1]
  total = jnp.concatenate([error.sum(1), term[None]])
  return Mean(total, jnp.float32(micro.shape[1])), {}


def stepped(count, every, updates=2):
  tx = optax.sgd(0.3)
  weigh = lambda gram, last, n: composition.marble(
    gram, last, n, decay=0.5, normalize=False
  )
  combine = step.Combine(weigh, 2, every)
  rows = ROWS.reshape(2, updates, count, -1, 3).transpose(1, 2, 0, 3, 4)
  start = state.create({"p": jnp.array([1.0, -2.0, 0.5])}, tx, gradients=2)
  return step.update(
    start, pulls, tx, rows, jnp.float32(0.1), ema_decay=0.0, combine=combine
  )


@pytest.mark.turns(3)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_the_step_follows_the_mix(count, every):
  """Against float64; between computations the last weights are held."""
  after, metrics = stepped(count, every)
  p, last, mixes = np.array([1.0, -2.0, 0.5]), None, []
  for u in range(2):
    x = ROWS.astype(np.float64).reshape(2, 2, 6, 3)[:, u]
    g = p - x.mean(1)
    if u % every == 0:
      w = shortest(g)
      last = w if last is None else (last + w) / 2
    mixes.append(last)
    p = p - 0.3 * (last @ g + 0.2 * p)
  np.testing.assert_allclose(after.params["p"], p, rtol=2e-4)
  np.testing.assert_allclose(metrics["mixture"], mixes, atol=2e-4)
  np.testing.assert_allclose(after.mixture, mixes[-1], atol=2e-4)


def test_a_gradient_that_is_not_finite_leaves_the_weights():
  tx = optax.sgd(0.3)
  start = state.create({"p": jnp.ones(3)}, tx, gradients=2)
  combine = step.Combine(lambda gram, *_: composition.min_norm(gram), 2)
  rows = np.full((1, 1, 2, 4, 3), np.nan, np.float32)
  after, metrics = step.update(
    start, pulls, tx, rows, jnp.float32(0), ema_decay=0.0, combine=combine
  )
  assert metrics["skipped_updates"].total == 1.0
  np.testing.assert_array_equal(after.mixture, start.mixture)
  np.testing.assert_array_equal(after.params["p"], start.params["p"])


# In a run


def greenness(images, prompts):
  return 3.0 * images[..., 1].mean((2, 3))


@pytest.mark.job
def test_the_sum_of_gradients_is_that_of_advantages():
  """The clipped ratio loss is linear in the advantage where the ratio is 1."""
  green = {"rewards.green.fn": f"{HERE}:greenness", "rewards.green.weight": 0.5}
  apart = {"composition.name": "separate", "align.combine.name": "sum"}
  whole = {"composition.name": "advantage_sum", "composition.epsilon": 1e-4}
  found = {}
  for name, given in (
    ("apart", apart | {"advantage.std": "group"}),
    ("whole", whole | {"advantage.std": "none"}),
  ):
    config = tiny.load(
      "align_scenes.py:flow_grpo,smoke", tiny.FAST, tiny.REWARD, green, given,
      {"align.updates": 1, "optimizer.name": "sgd",
       "advantage.clip": 50.0, "optimizer.learning_rate": 0.1},
    )  # fmt: skip
    one = tiny.Iteration(config, tiny.mesh_of(1))
    trajectory, _, images = one.sample(one.state)
    scores = {
      "redness": tiny.redness(images, None), "green": greenness(images, None)
    }  # fmt: skip
    start = tiny.flat(one.state.params)
    after, metrics = one.update(one.state, trajectory, scores)
    found[name] = tiny.flat(after.params) - start, tiny.numbers(metrics)
  moved, numbers = found["apart"]
  np.testing.assert_allclose(moved, found["whole"][0], atol=2e-6)
  assert np.abs(moved).max() > 5e-5
  assert numbers["mixture/green"] == 1.0 and numbers["log_prob_gap"] == 0.0
  assert {"loss/green", "loss/redness"} <= numbers.keys()
  np.testing.assert_allclose(numbers["kl"], found["whole"][1]["kl"], atol=1e-9)


def test_bilevel_weights_follow_the_primary_reward():
  """Equal, opposite and orthogonal to the first gradient."""
  g = np.array([[2.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
  gram = jnp.float32(g @ g.T)
  run = lambda last, count: np.asarray(
    composition.bilevel(gram, last, count, rate=0.25)
  )
  last = np.array([1, 0.5, 0.5, 0.5], np.float32)
  np.testing.assert_allclose(run(last, 3), [1, 0.75, 0.25, 0.5], atol=1e-6)
  for _ in range(3):
    last = run(last, 3)
  np.testing.assert_allclose(last, [1, 1, 0, 0.5], atol=1e-6)
  np.testing.assert_allclose(run(last, 0), [1, 1, 0.75, 1], atol=1e-6)


def test_the_bilevel_slope_is_that_of_the_outer_problem():
  """d J_1(theta + eta sum w g) / d w_k = eta g_1 . g_k, by differences."""
  rng = np.random.default_rng(0)
  a = rng.normal(size=(3, 4, 4))
  hessians = np.einsum("kij,klj->kil", a, a)
  theta, eta = rng.normal(size=4), 1e-4
  g = np.stack([-h @ theta for h in hessians])
  outer = lambda w: (
    -0.5 * (theta + eta * w @ g) @ hessians[0] @ (theta + eta * w @ g)
  )
  w = np.full(3, 0.5)
  slope = [(outer(w + e) - outer(w - e)) / 2e-3 for e in 1e-3 * np.eye(3)]
  np.testing.assert_allclose(slope, eta * (g @ g[0]), rtol=1e-2)
