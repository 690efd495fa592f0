"""Z-Image against diffusers: outputs, gradients, names, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.policies import z_image

# 35 words and 12 squares: learned tokens fill both, of words as many as a row needs.
# The peer never sees words behind the mask.
B, HEIGHT, WIDTH, WORDS = 4, 6, 8, 35
LENGTHS = np.array([35, 3, 32, 1])


def make(**fields):
  options = dict(
    size="tiny", latent_side=8, words=WORDS, dtype="float32", remat="none"
  )
  return z_image.make_policy(**(options | fields))


def theirs(size="tiny"):
  import diffusers

  config = dict(z_image.public_config(z_image.make_net(size)))
  del config["_class_name"]
  return diffusers.ZImageTransformer2DModel(**config)


def inputs(draw):
  net = z_image.make_net("tiny")
  x = draw(1, B, HEIGHT, WIDTH, net.channels)
  prompts = {
    "words": draw(2, B, WORDS, net.text_width),
    "mask": np.arange(WORDS) < LENGTHS[:, None],
  }
  t = np.array([0.5, 0.25, 1.0, 0.0], np.float32)
  return jax.tree.map(jnp.asarray, (x, t, prompts))


def run_theirs(model, x, t, prompts):
  """As the pipeline calls it: lists, time from noise to data, velocity turned."""
  import torch

  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(np.asarray(a), dtype=kind)
  out = model(
    list(put(x).permute(0, 3, 1, 2)[:, :, None]),
    1 - torch.tensor(np.asarray(t)),
    [
      put(words)[torch.tensor(np.asarray(mask))]
      for words, mask in zip(prompts["words"], prompts["mask"], strict=True)
    ],
  ).sample
  return -torch.stack(out)[:, :, 0].permute(0, 2, 3, 1)


def run(policy, params, x, t, prompts):
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


@pytest.mark.parity
def test_outputs_and_gradients_are_those_of_diffusers(peers, tmp_path):
  policy, model = make(), peers.shaken(theirs())
  args = inputs(peers.draw)
  peers.assert_is_diffusers(policy, model, run_theirs, args, tmp_path)


@pytest.mark.parity
@pytest.mark.turns(3)
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  policy = make(dtype="bfloat16", param_dtype="bfloat16")
  model = peers.shaken(theirs()).to(torch.bfloat16)
  params = load(peers, policy, model, tmp_path)
  args = inputs(peers.draw)
  got = jax.jit(functools.partial(run, policy))(params, *args)
  peers.assert_near(got, peers.array(run_theirs(model, *args)), 6e-2)


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  config = z_image.public_config(z_image.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.ZImageTransformer2DModel, model, params, policy.layout, config,
    tmp_path / "out",
  )  # fmt: skip


@pytest.mark.parity
def test_full_sizes_have_the_published_parameters(peers):
  import torch

  policy = z_image.make_policy(size="z_image")
  like = peers.assert_rules_cover(policy)
  with torch.device("meta"):
    model = theirs("z_image")
  assert peers.count(like) == 6_154_908_736
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, policy.layout) == shapes


@pytest.mark.parity
@pytest.mark.turns(3)
def test_eight_devices_agree_with_one(peers):
  policy = make()
  params = jax.jit(policy.init)(jax.random.key(0))
  peers.assert_sharded_equals_one(policy, params, *inputs(peers.draw))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": "z_imge"}, 'did you mean "z_image"'),
    ({"latent_side": 7}, "latent_side=7 is odd"),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)
