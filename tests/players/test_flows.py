"""A flow on patches: deviations off an exact field, and one that is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxreward import players
from jaxreward.errors import UserError
from jaxreward.models.vision.patch_flow import patches

RNG = np.random.default_rng(0)
MEAN, STD = 0.5, 0.3


def exact(x, t):
  """The velocity of N(MEAN, STD^2): E[eps - a | x_t]."""
  s = t[:, None, None]
  total = (1 - s) ** 2 * STD**2 + s**2
  off = x - (1 - s) * MEAN
  return (s * off - (1 - s) * STD**2 * off) / total - MEAN


def test_the_deviation_in_float64():
  a = RNG.normal(size=(3, 2, 4)).astype(np.float32)
  field = lambda x, t: 2 * x + t[:, None, None]
  want = np.zeros((3, 2))
  for i, t in enumerate((0.2, 0.6)):
    for j in range(2):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), j)
      eps = np.asarray(jax.random.normal(key, (1, 2, 4)), np.float64)
      x_t = (1 - t) * a.astype(np.float64) + t * eps
      off = np.square(2 * x_t + t - (eps - a)).mean(-1)
      want += (1 - t) / t * off / 4
  found = players.deviation(field, jnp.asarray(a), (0.2, 0.6), 2)
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_off_an_exact_field_it_grows_with_the_distance():
  """Of Gaussian features it ranks as Mahalanobis' distance, under one noise."""
  distance = np.linspace(0, 3, 40)
  direction = RNG.normal(size=(40, 1, 64))
  direction /= np.sqrt(np.square(direction).mean((1, 2), keepdims=True))
  a = MEAN + STD * distance[:, None, None] * direction
  off = players.deviation(exact, jnp.asarray(a, jnp.float32), (0.2,), 4)
  rank = scipy.stats.spearmanr(np.asarray(off)[:, 0], distance).statistic
  assert rank > 0.9
  # The expected velocity has the least error: any other is worse on its own data.
  own = MEAN + STD * RNG.normal(size=(200, 1, 64))
  own = jnp.asarray(own, jnp.float32)
  shifted = lambda x, t: exact(x, t) + 0.2
  mean = lambda field: float(players.deviation(field, own, (0.2,), 2).mean())
  assert mean(exact) < mean(shifted)


def test_patches_are_places_of_the_image():
  images = RNG.uniform(size=(2, 6, 9, 3)).astype(np.float32)
  found = np.asarray(patches(images, 3))
  assert found.shape == (2, 9, 18)
  want = images[:, 2:4, 6:9].reshape(2, -1) * 2 - 1  # row 1, column 2
  np.testing.assert_allclose(found[:, 5], want, rtol=1e-6)
  with pytest.raises(UserError, match="6 x 9 pixels"):
    patches(images, 4)


@pytest.mark.job
@pytest.mark.turns(3)
def test_it_learns_what_references_look_like():
  player = players.patch_flow(cells=2, width=16, depth=1, times=(0.3,), draws=4)
  sizes = players.Sizes((8, 8, 3), (8, 8, 3), None)
  params = player.init(jax.random.key(0), sizes)
  tx = optax.adam(1e-2)
  plain = lambda level, n=32: np.clip(
    RNG.normal(level, 0.1, (n, 1, 1, 1)) + np.zeros((n, 8, 8, 3)), 0, 1
  ).astype(np.float32)

  @jax.jit
  def learn(params, state, real, keys):
    def value(params):
      rows = dict(real_image=real, keys=jax.random.key_data(keys))
      arrays = players.Arrays(player, params, rows)
      return player.loss(arrays("error"), jnp.ones(len(real), bool))[0].value()

    slope = jax.grad(value)(params)
    step, state = tx.update(slope, state)
    return optax.apply_updates(params, step), state

  state = tx.init(params)
  for i in range(150):
    keys = jax.random.split(jax.random.key(i), 32)
    params, state = learn(params, state, plain(0.7), keys)

  def score(images):
    arrays = players.Arrays(player, params, {"image": images})
    return np.asarray(arrays("image_score"))

  assert score(plain(0.7)).mean() > score(plain(0.3)).mean() + 0.1
  # A share of the worst patches is no better than all of them.
  worst = players.patch_flow(
    cells=2, width=16, depth=1, times=(0.3,), draws=4, worst=0.25
  )
  arrays = players.Arrays(worst, params, {"image": plain(0.3)})
  assert np.mean(arrays("image_score")) < score(plain(0.3)).mean()


@pytest.mark.parametrize(
  ("given", "says"),
  [({"times": (0.0,)}, "times="), ({"worst": 0.0}, r"worst=0\.0")],
)
def test_options_out_of_range(given, says):
  with pytest.raises(UserError, match=says):
    players.patch_flow(**given)
