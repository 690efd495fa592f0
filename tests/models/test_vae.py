"""The autoencoder against diffusers: both ways, gradients, names, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.autoencoders import vae

B, SIDE = 2, 12  # pixels; the tiny size halves them once


def make(**fields):
  return vae.make_autoencoder(**(dict(size="tiny") | fields))


def theirs(size="tiny"):
  import diffusers

  config = vae.public_config(vae.make_net(size))
  del config["_class_name"]
  return diffusers.AutoencoderKL(**config)


def load(peers, model, folder, **fields):
  coder = make(**fields)
  like = jax.eval_shape(coder.init, jax.random.key(0))
  return coder, peers.params_of(model, coder.layout, like, folder)


def channels_last(tensor):
  return tensor.permute(0, 2, 3, 1)


@pytest.mark.parity
def test_both_ways_and_gradients_are_those_of_diffusers(peers, tmp_path):
  import torch

  model = peers.shaken(theirs())
  coder, params = load(peers, model, tmp_path)
  pixels = peers.draw(0, B, SIDE, SIDE, 3)
  z = peers.draw(1, B, SIDE // 2, SIDE // 2, 4)
  a, b = peers.draw(2, *z.shape), peers.draw(3, *pixels.shape)
  put = lambda x: torch.tensor(x).permute(0, 3, 1, 2)
  config = model.config
  posterior = model.encode(put(pixels)).latent_dist
  latents = (posterior.mean - config.shift_factor) * config.scaling_factor
  raw = put(z) / config.scaling_factor + config.shift_factor
  drawn = model.decode(raw).sample
  # The log-variance takes part, so that all of the last layer has a gradient.
  scalar = (latents * put(a)).sum() + (drawn * put(b)).sum()
  (scalar + posterior.std.sum()).backward()

  net = vae.make_net("tiny")

  def ours(params):
    got = coder.encode(params, pixels * 0.5 + 0.5)
    picture = coder.decode(params, z)
    moments = net.apply(
      {"params": params}, jnp.asarray(pixels), method="encode"
    )
    std = jnp.exp(0.5 * moments[..., 4:]).sum()
    total = (got * a).sum() + ((picture * 2 - 1) * b).sum() + std
    return total, (got, picture)

  (_, (got, picture)), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(
    params
  )
  peers.assert_near(got, peers.array(channels_last(latents)), 1e-4)
  want = peers.array(channels_last(drawn)) * 0.5 + 0.5
  peers.assert_near(picture, want, 1e-4)
  peers.assert_same_gradients(model, coder.layout, grads)
  peers.assert_round_trip(model, coder.layout, params)


@pytest.mark.parity
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  model = peers.shaken(theirs()).to(torch.bfloat16)
  coder, params = load(peers, model, tmp_path, dtype="bfloat16")
  z = peers.draw(1, B, SIDE // 2, SIDE // 2, 4)
  raw = jnp.asarray(z) / 1.5 + 0.1
  raw = peers.array(torch.tensor(np.asarray(raw)).bfloat16())
  z = (raw - 0.1) * 1.5
  put = torch.tensor(raw).permute(0, 3, 1, 2).bfloat16()
  want = peers.array(channels_last(model.decode(put).sample)) * 0.5 + 0.5
  peers.assert_near(jax.jit(coder.decode)(params, z), want, 2e-2)


@pytest.mark.turns(2)
@pytest.mark.parity
@pytest.mark.parametrize("shape", [(8, 11), (4, 13)], ids=str)
def test_tiles_are_those_of_diffusers(peers, tmp_path, shape):
  import torch

  model = peers.shaken(theirs())
  coder, params = load(peers, model, tmp_path, tile=8, overlap=2)
  whole = make()
  z = peers.draw(1, B, *shape, 4)
  model.use_tiling = True
  model.tile_sample_min_size, model.tile_latent_min_size = 8, 4
  raw = torch.tensor(z / 1.5 + 0.1, dtype=torch.float32).permute(0, 3, 1, 2)
  drawn = model.decode(raw).sample
  mean = model.encode(drawn).latent_dist.mean
  pixels = peers.array(channels_last(drawn)) * 0.5 + 0.5
  latents = (peers.array(channels_last(mean)) - 0.1) * 1.5
  for name, x, want in (("decode", z, pixels), ("encode", pixels, latents)):
    got = jax.jit(getattr(coder, name))(params, x)
    peers.assert_near(got, want, 1e-4)
    plain = jax.jit(getattr(whole, name))(params, x)
    assert plain.shape == got.shape
    assert np.abs(plain - got).max() > 1e-3  # it was cut


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  model = peers.shaken(theirs())
  coder, params = load(peers, model, tmp_path)
  config = vae.public_config(vae.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.AutoencoderKL, model, params, coder.layout, config,
    tmp_path / "out",
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("size", ["sd3", "flux"])
def test_full_sizes_have_the_published_parameters(peers, size):
  import torch

  coder = make(size=size)
  like = jax.eval_shape(coder.init, jax.random.key(0))
  assert peers.count(like) == 83_819_683
  with torch.device("meta"):
    model = theirs(size)
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, coder.layout) == shapes
  assert coder.factor == 8 and coder.channels == 16


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_key_draws_from_the_posterior():
  coder = make()
  params = jax.jit(coder.init)(jax.random.key(0))
  pixels = jax.random.uniform(jax.random.key(1), (1, SIDE, SIDE, 3))
  mean = jax.jit(coder.encode)(params, pixels)
  keys = jax.random.split(jax.random.key(2), 200)
  draw = jax.vmap(lambda key: coder.encode(params, pixels, key))
  drawn = jax.jit(draw)(keys)
  net = vae.make_net("tiny")
  moments = net.apply({"params": params}, pixels * 2 - 1, method="encode")
  std = np.exp(0.5 * np.asarray(moments[..., 4:])) * 1.5
  np.testing.assert_allclose(
    np.asarray(drawn - mean).mean(0) / std, 0, atol=5 / 200**0.5
  )
  np.testing.assert_allclose(
    np.asarray(drawn - mean).std(0) / std, 1, atol=5 / 400**0.5
  )


@pytest.mark.slow
def test_remat_changes_nothing():
  plain, spare = make(), make(remat="full")
  params = jax.jit(plain.init)(jax.random.key(0))
  z = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
  loss = lambda coder: jax.jit(
    jax.value_and_grad(lambda p: jnp.square(coder.decode(p, z)).sum())
  )
  (want, grads), (got, others) = loss(plain)(params), loss(spare)(params)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    grads,
    others,
  )


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match='did you mean "flux"'):
    make(size="fluxx")
