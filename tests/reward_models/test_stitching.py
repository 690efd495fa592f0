"""A reward model behind a policy's blocks: the fit between them, and what learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import reward_models as rm
from jaxreward.errors import UserError
from jaxreward.models.policies import scene_dit, trunk
from jaxreward.models.vision import scene_reward
from jaxreward.reward_models import inputs, stitching

RNG = np.random.default_rng(0)
SIZES = dict(width=16, depth=1, first=1, heads=2, text_layers=1, stem=8)


def test_the_fit_is_the_ridge_regression():
  x, y = RNG.normal(size=(50, 4)) + 3.0, RNG.normal(size=(50, 2))
  kernel, bias = stitching.ridge(
    x.astype(np.float32), y.astype(np.float32), 0.2
  )
  # The bias is not penalized: rows sqrt(50 * 0.2) of a prior for S alone.
  rows = np.concatenate(
    [np.c_[x, np.ones(50)], np.c_[np.sqrt(10) * np.eye(4), np.zeros(4)]]
  )
  want, *_ = np.linalg.lstsq(rows, np.concatenate([y, np.zeros((4, 2))]))
  np.testing.assert_allclose(kernel, want[:4], rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(bias, want[4], rtol=1e-3, atol=1e-4)


def test_the_stitched_value_is_the_closed_form_of_a_gaussian():
  """Where data are N(m, C) and r is quadratic, every stage has a formula.

  The fit is Tweedie's mean, so that the tail as it was gives r(E[x_0 | x_t]); what
  learns r from noisy images gives E[r | x_t], which is more by tr(H P) / 2, with P
  the covariance of x_0 given x_t; as t goes to 0 it is r.
  """
  mean, cov = np.array([0.5, -1.0]), np.array([[1.0, 0.4], [0.4, 0.6]])
  hessian, slope = np.array([[1.5, -0.7], [-0.7, 0.4]]), np.array([0.3, -0.2])
  reward = lambda x: ((x @ hessian) * x).sum(-1) / 2 + x @ slope
  # Gauss-Hermite points of four normals as equal weights: moments up to 5 agree.
  one = 3**0.5 * np.repeat([-1.0, 0.0, 1.0], [1, 4, 1])
  points = np.stack(np.meshgrid(*[one] * 4), -1).reshape(-1, 4)
  clean = mean + points[:, :2] @ np.linalg.cholesky(cov).T
  head = RNG.normal(size=(2, 2)) + 2 * np.eye(2)  # the policy's blocks
  tests = RNG.normal(size=(20, 2))
  of_squares = lambda h: np.c_[h, h[:, :1] * h, h[:, 1:] ** 2]
  gaps = []
  for t in (0.7, 0.3, 1e-3):
    gain = (1 - t) * cov @ np.linalg.inv((1 - t) ** 2 * cov + t**2 * np.eye(2))
    tweedie = mean + (tests - (1 - t) * mean) @ gain.T
    jensen = np.trace(hessian @ (cov - (1 - t) * gain @ cov)) / 2
    states = ((1 - t) * clean + t * points[:, 2:]) @ head
    kernel, bias = stitching.ridge(states, clean, 1e-9)
    fitted = tests @ head @ np.asarray(kernel, float) + np.asarray(bias, float)
    np.testing.assert_allclose(fitted, tweedie, atol=1e-4)
    kernel, bias = stitching.ridge(
      of_squares(states), reward(clean)[:, None], 1e-9
    )
    value = of_squares(tests @ head) @ np.asarray(kernel, float)[:, 0] + bias
    np.testing.assert_allclose(value, reward(tweedie) + jensen, atol=3e-3)
    gaps.append(np.abs(value - reward(tests)).max())
    assert jensen > 1e-2 or t < 0.01
  assert gaps[2] < 1e-2 < gaps[1] < gaps[0]


@pytest.mark.job
@pytest.mark.turns(3)
def test_stitched_tokens_are_nearest_and_the_policy_does_not_learn():
  backbone = rm.BACKBONES["stitched"](**SIZES)
  params = jax.jit(backbone.init)(jax.random.key(0))
  # Blocks that do something: gates and last layers start at 0.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  shake = lambda x, key: x + 0.1 * jax.random.normal(key, x.shape)
  params = jax.tree.unflatten(tree, map(shake, leaves, keys))
  images = jnp.asarray(RNG.random((3, 2, *backbone.image_shape)), jnp.float32)
  tokens = jnp.asarray(RNG.integers(1, 9, (3, backbone.length)), jnp.int32)
  noise = inputs.Noise(jnp.full(3, 0.3), jax.random.split(jax.random.key(2), 3))
  sizes = {k: SIZES[k] for k in ("width", "heads", "text_layers")}
  policy = scene_dit.make_policy(depth=1, **sizes)
  tail = scene_reward.make_trunk(depth=1, stem=8, **sizes)

  @jax.jit
  def run(params):
    fitted = backbone.fit(params, images, tokens, noise)
    # By hand: the policy's tokens of x_t, and the tail's patches of what is clean.
    shape = images.shape[2:]
    eps = [
      jax.random.normal(jax.random.fold_in(key, 2), shape)
      for key in map(noise.keys.__getitem__, range(3))
    ]
    x_t = 0.7 * (2 * images - 1) + 0.3 * jnp.stack(eps)[:, None]
    cond = policy.encode(params["policy"], jnp.repeat(tokens, 2, 0))
    tokens_of = trunk.last_states(
      policy, params["policy"], x_t.reshape(-1, *shape), jnp.full(6, 0.3), cond
    )
    patches = tail.patches(params["tail"], images.reshape(-1, *shape))
    total = lambda p: jnp.square(
      backbone.features(p, images, tokens, noise)["joint"]
    ).sum()
    return fitted, jax.grad(total)(fitted), tokens_of, patches

  fitted, gradient, *sides = run(params)
  largest = {
    name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part))
    for name, part in gradient.items()
  }
  assert largest["policy"] == 0 < min(largest["stitch"], largest["tail"])
  assert all(
    np.array_equal(*pair)
    for name in ("policy", "tail")
    for pair in zip(
      jax.tree.leaves(fitted[name]), jax.tree.leaves(params[name]), strict=True
    )
  )
  x, y = (np.asarray(side, np.float64).reshape(-1, 16) for side in sides)
  centred = x - x.mean(0)
  gram = centred.T @ centred / len(x) + 1e-3 * np.eye(16)
  kernel = np.linalg.solve(gram, centred.T @ (y - y.mean(0)) / len(x))
  np.testing.assert_allclose(fitted["stitch"]["kernel"], kernel, atol=2e-3)
  bias = y.mean(0) - x.mean(0) @ kernel
  np.testing.assert_allclose(fitted["stitch"]["bias"], bias, atol=2e-3)
  assert np.abs(kernel - np.eye(16)).max() > 0.1
  moved = backbone.from_reward(params, {"other": 1})
  assert moved["tail"] == {"other": 1} and moved["policy"] is params["policy"]


@pytest.mark.parametrize(
  ("options", "words"),
  [(dict(weight=0.0), "weight=0"), (dict(least=0.5, most=0.5), "most=0.5")],
)
def test_options_that_mean_nothing(options, words):
  with pytest.raises(UserError, match=words):
    rm.BACKBONES["stitched"](**SIZES, **options)
