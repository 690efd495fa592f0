"""Wan against diffusers: outputs, gradients, names, sizes, first frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.policies import wan

B, SHAPE = 4, (3, 4, 6)
# The network splits the words off the vision by their number.
WORDS, SEEN = 512, 3
# Of the sizes without frames to start from, the published checkpoints.
PUBLISHED = {
  "wan21_1b": 1_418_996_800,
  "wan21_14b": 14_288_491_584,
  "wan21_i2v_14b": None,
  "wan22_5b": None,
  "wan22_t2v_14b": 14_288_491_584,
  "wan22_i2v_14b": None,
}
VARIANTS = [{}, {"extra_channels": 5, "vision_width": 16}]


def make(**fields):
  options = dict(
    size="tiny", frames=SHAPE[0], latent_height=SHAPE[1],
    latent_width=SHAPE[2], dtype="float32", remat="none",
  )  # fmt: skip
  return wan.make_policy(**(options | fields))


def theirs(size="tiny"):
  import diffusers

  config = wan.public_config(wan.make_net(size))
  del config["_class_name"]
  return diffusers.WanTransformer3DModel(**config)


def inputs(draw, batch=B):
  net = wan.make_net("tiny")
  x = draw(1, batch, *SHAPE, net.channels)
  prompts = {"words": draw(2, batch, WORDS, net.text_width)}
  if net.extra_channels:
    prompts["picture"] = draw(3, batch, *SHAPE, net.extra_channels)
  if net.vision_width:
    prompts["vision"] = draw(4, batch, SEEN, net.vision_width)
  t = np.array([0.5, 0.25, 1.0, 0.0], np.float32)[:batch]
  return jax.tree.map(jnp.asarray, (x, t, prompts))


def run_theirs(model, x, t, prompts):
  import torch

  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(np.asarray(a), dtype=kind)
  if "picture" in prompts:
    x = jnp.concatenate([x, prompts["picture"]], -1)
  out = model(
    hidden_states=put(x).permute(0, 4, 1, 2, 3),
    timestep=put(t) * 1000,
    encoder_hidden_states=put(prompts["words"]),
    encoder_hidden_states_image=(
      put(prompts["vision"]) if "vision" in prompts else None
    ),
  ).sample
  return out.permute(0, 2, 3, 4, 1)


def run(policy, params, x, t, prompts):
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


@pytest.mark.parity
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
@pytest.mark.turns(3)
def test_outputs_and_gradients_are_those_of_diffusers(
  peers, monkeypatch, tmp_path, fields
):
  monkeypatch.setitem(wan.SIZES, "tiny", wan.SIZES["tiny"] | fields)
  policy, model = make(), peers.shaken(theirs())
  args = inputs(peers.draw)
  peers.assert_is_diffusers(policy, model, run_theirs, args, tmp_path)


@pytest.mark.parity
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  """As `from_pretrained` loads it: the signal of the time in float32."""
  import diffusers
  import torch

  policy, model = make(dtype="bfloat16"), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  config = wan.public_config(wan.make_net("tiny"))
  convert.save_params(tmp_path, params, policy.layout, config=config)
  kind = diffusers.WanTransformer3DModel
  half = kind.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
  args = inputs(peers.draw)
  got = jax.jit(functools.partial(run, policy))(params, *args)
  peers.assert_near(got, peers.array(run_half(half, *args)), 2e-2)


def run_half(model, x, t, prompts):
  import torch

  put = lambda a: torch.tensor(np.asarray(a)).bfloat16()
  out = model(
    hidden_states=put(x).permute(0, 4, 1, 2, 3),
    timestep=torch.tensor(np.asarray(t)) * 1000,
    encoder_hidden_states=put(prompts["words"]),
  ).sample
  return out.permute(0, 2, 3, 4, 1)


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  config = wan.public_config(wan.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.WanTransformer3DModel, model, params, policy.layout, config,
    tmp_path / "out",
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("size", list(PUBLISHED))
def test_full_sizes_have_the_published_parameters(peers, size):
  import torch

  policy = wan.make_policy(size=size)
  like = peers.assert_rules_cover(policy)
  with torch.device("meta"):
    model = theirs(size)
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, policy.layout) == shapes
  if PUBLISHED[size]:
    assert peers.count(like) == PUBLISHED[size]


@functools.cache
def loss_and_gradients(**fields):
  policy = make(**fields)
  params = jax.jit(make().init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  args = inputs(lambda _, *s: rng.standard_normal(s).astype(np.float32), 1)
  loss = lambda params: jnp.square(run(policy, params, *args)).sum()
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
def test_remat_and_unroll_change_nothing():
  want, grads = loss_and_gradients()
  got, others = loss_and_gradients(remat="full", unroll=2)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  near = functools.partial(np.testing.assert_allclose, atol=1e-5 * scale)
  jax.tree.map(near, grads, others)


@pytest.mark.parity
@pytest.mark.turns(3)
def test_eight_devices_agree_with_one(peers, monkeypatch):
  fields = dict(VARIANTS[1], vision_width=16)
  monkeypatch.setitem(wan.SIZES, "tiny", wan.SIZES["tiny"] | fields)
  policy = make()
  params = jax.jit(policy.init)(jax.random.key(0))
  peers.assert_sharded_equals_one(policy, params, *inputs(peers.draw))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": "wan21_14"}, 'did you mean "wan21_14b"'),
    ({"latent_width": 7}, "latent_width=7 is odd"),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)
