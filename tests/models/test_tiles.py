"""Squares that fade into each other: what they add up to, and their memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.autoencoders import tiles, vae, video_vae


def larger(x):
  """A picture of twice the side."""
  return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)


@pytest.mark.turns(3)
@pytest.mark.parametrize("shape", [(1, 7, 9, 2), (2, 3, 8, 4, 1)], ids=str)
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_what_every_square_agrees_on_stays(shape, overlap):
  x = jax.random.normal(jax.random.key(0), shape)
  run = lambda x: tiles.run(larger, x, (4, overlap), (8, 2 * overlap))
  got = jax.jit(run)(x)
  np.testing.assert_allclose(got, larger(x), atol=1e-6)


def test_overlaps_go_over_from_one_square_to_the_next():
  """Squares start at 0, 3 and 6 and give the number of their start."""
  x = jnp.broadcast_to(jnp.arange(8.0)[:, None], (1, 1, 8, 1))
  start = lambda x: jnp.broadcast_to(x[..., :1, :], x.shape)
  got = tiles.run(start, x, (4, 1), (4, 1))[0, 0, :, 0]
  np.testing.assert_array_equal(got, [0, 0, 0, 0, 3, 3, 3, 6])
  got = tiles.run(start, x, (4, 2), (4, 2))[0, 0, :, 0]
  np.testing.assert_array_equal(got, [0, 0, 0, 1, 2, 3, 4, 5])


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_picture_no_larger_than_a_square_is_whole():
  coder, cut = (
    vae.make_autoencoder(size="tiny", tile=n, overlap=2) for n in (0, 8)
  )
  params = jax.jit(coder.init)(jax.random.key(0))
  z = jax.random.normal(jax.random.key(1), (1, 4, 3, 4))
  for name, x in (("decode", z), ("encode", jax.jit(coder.decode)(params, z))):
    one, other = (jax.jit(getattr(c, name))(params, x) for c in (coder, cut))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("with_gradient", [False, True])
def test_more_squares_take_no_more_memory(with_gradient):
  """Temporaries, as the compiler lays them out, beside the pictures."""
  coder = vae.make_autoencoder(size="tiny", tile=32, overlap=8)
  whole = vae.make_autoencoder(size="tiny")
  like = jax.eval_shape(coder.init, jax.random.key(0))

  def temporaries(coder, width):
    run = lambda p, z: jnp.square(coder.decode(p, z)).sum()
    run = jax.value_and_grad(run, (0, 1)) if with_gradient else coder.decode
    z = jax.ShapeDtypeStruct((1, 16, width, 4), jnp.float32)
    built = jax.jit(run).lower(like, z).compile()
    return built.memory_analysis().temp_size_in_bytes

  narrow, wide = temporaries(coder, 64), temporaries(coder, 256)
  pixels = 32 * 2 * (256 - 64) * 3 * 4
  assert wide - narrow < 10 * pixels  # a few copies, and no features
  assert wide < temporaries(whole, 256) / 2


@pytest.mark.slow
def test_the_gradient_is_that_of_finite_differences():
  coder = video_vae.make_autoencoder(size="tiny", tile=16, overlap=8)
  params = jax.jit(coder.init)(jax.random.key(0))
  z, slope = jax.random.normal(jax.random.key(1), (2, 1, 2, 2, 4, 4))
  loss = jax.jit(lambda z: jnp.square(coder.decode(params, z)).sum())
  step = 1e-2
  want = (loss(z + step * slope) - loss(z - step * slope)) / (2 * step)
  got = (jax.jit(jax.grad(loss))(z) * slope).sum()
  np.testing.assert_allclose(got, want, rtol=1e-2)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(tile=60), "autoencoder.tile=60 is not a multiple of 8"),
    (dict(tile=-8), "autoencoder.tile=-8 is not a multiple"),
    (dict(tile=64, overlap=12), "autoencoder.overlap=12 is not a multiple"),
    (
      dict(tile=64, overlap=64),
      "autoencoder.overlap=64 is not less than autoencoder.tile=64",
    ),
  ],
)
@pytest.mark.parametrize(
  "make",
  [
    functools.partial(vae.make_autoencoder, size="sd3"),
    video_vae.make_autoencoder,
    video_vae.make_picture_autoencoder,
  ],
)
def test_squares_that_do_not_fit_are_refused(make, fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)
