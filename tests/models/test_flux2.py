"""FLUX.2 klein and its autoencoder against diffusers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.autoencoders import flux2_vae
from jaxreward.models.policies import flux2

B, HEIGHT, WIDTH, WORDS = 3, 3, 4, 5


def make(**fields):
  options = dict(
    size="tiny", latent_side=4, words=WORDS, dtype="float32", remat="none"
  )
  return flux2.make_policy(**(options | fields))


def theirs(size="tiny"):
  import diffusers

  config = dict(flux2.public_config(flux2.make_net(size)))
  del config["_class_name"]
  return diffusers.Flux2Transformer2DModel(**config)


def inputs(draw, sizes=((2, 5), (3, 2))):
  net = flux2.make_net("tiny")
  x = draw(1, B, HEIGHT, WIDTH, net.channels)
  prompts = {"words": draw(2, B, WORDS, net.text_width)}
  if sizes:
    prompts["picture"] = tuple(
      draw(4 + i, B, *size, net.channels) for i, size in enumerate(sizes)
    )
  t = np.array([0.5, 1.0, 0.0], np.float32)
  return jax.tree.map(jnp.asarray, (x, t, prompts))


def run_theirs(model, x, t, prompts):
  """As the pipeline calls it, with pictures to edit."""
  import torch
  from diffusers import Flux2KleinPipeline as Pipeline

  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(np.asarray(a), dtype=kind)
  latents = put(x).permute(0, 3, 1, 2)
  pictures = [
    put(p).permute(0, 3, 1, 2) for p in jax.tree.leaves(prompts.get("picture"))
  ]
  ids = Pipeline._prepare_latent_ids(latents)
  if pictures:
    more = Pipeline._prepare_image_ids([p[:1] for p in pictures])
    ids = torch.cat([ids, more.expand(len(ids), -1, -1)], dim=1)
  words = put(prompts["words"])
  packed = [Pipeline._pack_latents(p) for p in (latents, *pictures)]
  out = model(
    hidden_states=torch.cat(packed, dim=1), timestep=put(t), guidance=None,
    encoder_hidden_states=words, img_ids=ids,
    txt_ids=Pipeline._prepare_text_ids(words),
  ).sample  # fmt: skip
  return out[:, : packed[0].shape[1]].reshape(x.shape)


def run(policy, params, x, t, prompts):
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


@pytest.mark.parity
def test_outputs_and_gradients_are_those_of_diffusers(peers, tmp_path):
  """Beside two pictures to edit, of other shapes."""
  policy, model = make(), peers.shaken(theirs())
  args = inputs(peers.draw)
  peers.assert_is_diffusers(policy, model, run_theirs, args, tmp_path)


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  config = flux2.public_config(flux2.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.Flux2Transformer2DModel, model, params, policy.layout, config,
    tmp_path / "out",
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize(
  ("size", "count"),
  [("klein_4b", 3_875_544_576), ("klein_9b", 9_078_581_248)],
)
def test_full_sizes_have_the_published_parameters(peers, size, count):
  import torch

  policy = flux2.make_policy(size=size)
  like = peers.assert_rules_cover(policy)
  with torch.device("meta"):
    model = theirs(size)
  assert peers.count(like) == count
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, policy.layout) == shapes


@pytest.mark.parity
@pytest.mark.turns(3)
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  policy = make(dtype="bfloat16", param_dtype="bfloat16")
  model = peers.shaken(theirs()).to(torch.bfloat16)
  params = load(peers, policy, model, tmp_path)
  args = inputs(peers.draw)
  got = jax.jit(functools.partial(run, policy))(params, *args)
  peers.assert_near(got, peers.array(run_theirs(model, *args)), 4e-2)


@pytest.mark.parity
@pytest.mark.turns(3)
def test_eight_devices_agree_with_one(peers):
  policy = make()
  params = jax.jit(policy.init)(jax.random.key(0))
  x, t, prompts = inputs(peers.draw, ())
  double = lambda a: jnp.concatenate([a, a[:1]])
  args = jax.tree.map(double, (x, t, prompts))
  peers.assert_sharded_equals_one(policy, params, *args)


def test_an_unknown_size_is_refused():
  with pytest.raises(UserError, match='did you mean "klein_4b"'):
    make(size="klein_4")


@pytest.mark.parity
def test_latents_and_pictures_are_those_of_the_autoencoder(peers, tmp_path):
  """Packed and whitened as the pipeline does, from statistics that differ."""
  import diffusers
  import torch
  from diffusers import Flux2KleinPipeline as Pipeline

  config = flux2_vae.public_config(flux2_vae.make_net("tiny"))
  del config["_class_name"]
  model = peers.shaken(diffusers.AutoencoderKLFlux2(**config))
  with torch.no_grad():
    model.bn.running_mean.copy_(torch.tensor(peers.draw(5, 16)))
    model.bn.running_var.copy_(torch.tensor(peers.draw(6, 16)) ** 2 + 0.1)
  coder = flux2_vae.make_autoencoder(size="tiny")
  like = jax.eval_shape(coder.init, jax.random.key(0))
  params = peers.params_of(model, coder.layout, like, tmp_path)
  assert (coder.factor, coder.channels) == (4, 16)
  put = lambda x: torch.tensor(x).permute(0, 3, 1, 2)
  pixels, z = peers.draw(0, 2, 12, 8, 3), peers.draw(1, 2, 3, 2, 16)
  mean = model.bn.running_mean.view(1, -1, 1, 1)
  std = torch.sqrt(model.bn.running_var + config["batch_norm_eps"])
  std = std.view(1, -1, 1, 1)
  with torch.no_grad():
    raw = model.encode(put(pixels)).latent_dist.mode()
    latents = (Pipeline._patchify_latents(raw) - mean) / std
    drawn = model.decode(
      Pipeline._unpatchify_latents(put(z) * std + mean)
    ).sample
  last = lambda x: peers.array(x.permute(0, 2, 3, 1))
  both = jax.jit(
    lambda p, x, z: (coder.encode(p, x * 0.5 + 0.5), coder.decode(p, z))
  )
  found = both(params, pixels, z)
  peers.assert_near(found[0], last(latents), 1e-4)
  peers.assert_near(found[1], last(drawn) * 0.5 + 0.5, 1e-4)
  public = convert.to_public(params, coder.layout)
  state = model.state_dict()
  assert set(state) - set(public) == {"bn.num_batches_tracked"}
  for name, value in public.items():
    assert value.tobytes() == state[name].numpy().tobytes(), name


@pytest.mark.parity
def test_the_full_autoencoder_has_the_published_parameters(peers):
  import diffusers
  import torch

  coder = flux2_vae.make_autoencoder()
  like = jax.eval_shape(coder.init, jax.random.key(0))
  with torch.device("meta"):
    model = diffusers.AutoencoderKLFlux2()
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  del shapes["bn.num_batches_tracked"]
  assert convert.public_shapes(like, coder.layout) == shapes
  assert peers.count(like) == 84_046_371
