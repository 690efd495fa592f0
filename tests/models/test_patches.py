"""The autoencoder by patches: against float64, its posterior, its sizes."""

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.autoencoders import patches

SIZES = dict(image_size=8, patch=4, channels=3, width=8, heads=2, depth=1)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def coder():
  made = patches.make_autoencoder(**SIZES, noise=0.2)
  like = jax.eval_shape(made.init, jax.random.key(0))
  draw = lambda s: RNG.standard_normal(s.shape).astype(np.float32) * 0.4
  return made, jax.tree.map(draw, like)


def half(params, x, heads):
  """One half in float64: tokens [N, A] -> [N, F]."""

  def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]

  def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

  def unit(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

  block = params["block_0"]
  x = dense(params["into"], x) + params["place"]
  mixed = []
  for head in np.split(
    dense(block["qkv"], norm(x)).reshape(len(x), 3, heads, -1), heads, axis=2
  ):
    q, k, v = head[:, :, 0].swapaxes(0, 1)
    logits = unit(q) @ unit(k).T / np.sqrt(q.shape[-1])
    weight = np.exp(logits)
    mixed.append(weight / weight.sum(-1, keepdims=True) @ v)
  x = x + dense(block["out"], np.concatenate(mixed, -1))
  hidden = np.maximum(dense(block["up"], norm(x)), 0) ** 2
  x = x + dense(block["down"], hidden)
  return dense(params["out_of"], norm(x))


def test_both_ways_are_those_of_float64(coder):
  made, params = coder
  exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  image = RNG.random((8, 8, 3))
  squares = lambda x: [x[i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
  tokens = np.stack([s.ravel() * 2 - 1 for s in squares(image)])
  z = half(exact["encoder"], tokens, 2)
  decoded = half(exact["decoder"], z, 2) * 0.5 + 0.5
  got_z = jax.jit(made.encode)(params, image[None])[0]
  np.testing.assert_allclose(got_z.reshape(4, 3), z, atol=1e-4)
  got = jax.jit(made.decode)(params, z.reshape(1, 2, 2, 3))[0]
  for square, want in zip(squares(np.asarray(got)), decoded, strict=True):
    np.testing.assert_allclose(square.ravel(), want, atol=1e-4)


def test_a_key_draws_from_the_posterior(coder):
  made, params = coder
  image = RNG.random((1, 8, 8, 3))
  many = np.repeat(image, 400, 0)
  drawn = jax.jit(made.encode)(params, many, jax.random.key(2))
  distance = np.asarray(drawn - jax.jit(made.encode)(params, image)) / 0.2
  np.testing.assert_allclose(distance.mean(), 0, atol=5 / distance.size**0.5)
  np.testing.assert_allclose(
    distance.std(), 1, atol=5 / (2 * distance.size) ** 0.5
  )


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"patch": 3}, "patch=3 does not divide config.autoencoder.image_size=8"),
    ({"width": 6}, "width=6 is not divisible by 2 \\* .*heads=4"),
    ({"depth": 0}, "config.autoencoder.depth=0"),
    ({"noise": -1.0}, "config.autoencoder.noise=-1.0"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(given, message):
  with pytest.raises(UserError, match=message):
    patches.make_autoencoder(**(SIZES | given))


def test_images_and_latents_of_another_size_are_refused(coder):
  made, params = coder
  with pytest.raises(UserError, match=r"images of 8 x 8 pixels.* 12 x 8; set"):
    made.encode(params, np.zeros((1, 12, 8, 3)))
  with pytest.raises(UserError, match=r"latents of 2 x 2 pixels.* 3 x 3; set"):
    made.decode(params, np.zeros((1, 3, 3, 3)))
