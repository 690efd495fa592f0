"""Stable Diffusion 3 against diffusers: outputs, gradients, names, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.policies import sd3

B, SIDE, WORDS = 4, 8, 5
PUBLISHED = {
  "sd3_medium": 2_028_328_000,
  "sd35_medium": 2_243_171_520,
  "sd35_large": 8_056_627_520,
}


def make(**fields):
  """A small policy; tests of float32 products ask for nothing less."""
  options = dict(size="tiny", latent_side=SIDE, dtype="float32", remat="none")
  return sd3.make_policy(**(options | fields))


def theirs(**fields):
  import diffusers
  import peers

  config = sd3.public_config(sd3.make_net("tiny", **fields))
  del config["_class_name"]
  return peers.shaken(diffusers.SD3Transformer2DModel(**config))


@functools.cache
def inputs(draw):
  net = sd3.make_net("tiny")
  x = draw(1, B, SIDE, SIDE, net.channels)
  prompts = {
    "words": draw(2, B, WORDS, net.text_width),
    "pooled": draw(3, B, net.pooled_width),
  }
  t = np.array([0.5, 0.25, 1.0, 0.0], np.float32)
  return x, t, prompts


def run_theirs(model, x, t, prompts):
  import torch

  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(a, dtype=kind)
  out = model(
    hidden_states=put(x.transpose(0, 3, 1, 2)),
    encoder_hidden_states=put(prompts["words"]),
    pooled_projections=put(prompts["pooled"]),
    timestep=put(t * 1000),
  ).sample
  return out.permute(0, 2, 3, 1)


def run(policy, params, x, t, prompts):
  x, t, prompts = jax.tree.map(jnp.asarray, (x, t, prompts))
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


VARIANTS = [
  {},  # dual blocks and normalised queries, as SD3.5 medium
  {"dual_layers": 0},  # SD3.5 large
  {"dual_layers": 0, "qk_norm": False},  # SD3 medium
]


@pytest.mark.turns(3)
@pytest.mark.parity
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_outputs_and_gradients_are_those_of_diffusers(
  peers, monkeypatch, tmp_path, fields
):
  import torch

  monkeypatch.setitem(sd3.SIZES, "tiny", sd3.SIZES["tiny"] | fields)
  policy, model = make(), theirs()
  params = load(peers, policy, model, tmp_path)
  args = inputs(peers.draw)
  weight = peers.draw(7, B, SIDE, SIDE, 4)
  want = run_theirs(model, *args)
  (want * torch.tensor(weight)).sum().backward()

  def scalar(params):
    v = run(policy, params, *args)
    return (v * weight).sum(), v

  (_, got), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(params)
  peers.assert_near(got, peers.array(want), 1e-4)
  peers.assert_same_gradients(model, policy.layout, grads)
  assert not np.any(grads["position"])
  peers.assert_round_trip(model, policy.layout, params)


@pytest.mark.parity
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  policy, model = make(dtype="bfloat16", param_dtype="bfloat16"), theirs()
  model = model.to(torch.bfloat16)
  params = load(peers, policy, model, tmp_path)
  assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
  args = inputs(peers.draw)
  got = jax.jit(functools.partial(run, policy))(params, *args)
  peers.assert_near(got, peers.array(run_theirs(model, *args)), 2e-2)


@pytest.mark.parity
def test_pictures_need_not_be_square(peers, tmp_path):
  policy, model = make(), theirs()
  params = load(peers, policy, model, tmp_path)
  _, t, prompts = inputs(peers.draw)
  x = peers.draw(5, B, 8, 12, 4)
  got = jax.jit(functools.partial(run, policy))(params, x, t, prompts)
  peers.assert_near(got, peers.array(run_theirs(model, x, t, prompts)), 1e-4)


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), theirs()
  params = load(peers, policy, model, tmp_path)
  config = sd3.public_config(sd3.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.SD3Transformer2DModel, model, params, policy.layout, config,
    tmp_path / "out",
  )  # fmt: skip
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
  assert hub.read_config(tmp_path / "out") == config


@pytest.mark.parity
@pytest.mark.turns(3)
def test_places_start_as_in_diffusers(peers):
  policy = make()
  table = jax.jit(policy.init)(jax.random.key(0))["position"]
  want = theirs().pos_embed.pos_embed[0]
  np.testing.assert_allclose(table, peers.array(want), atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("size", list(PUBLISHED))
def test_full_sizes_have_the_published_parameters(peers, size):
  import diffusers
  import torch

  policy = sd3.make_policy(size=size)
  like = peers.assert_rules_cover(policy)
  config = sd3.public_config(sd3.make_net(size))
  del config["_class_name"]
  with torch.device("meta"):
    model = diffusers.SD3Transformer2DModel(**config)
  ours = peers.count(like) - like["position"].size  # a buffer over there
  assert ours == PUBLISHED[size]
  assert ours == sum(p.numel() for p in model.parameters())
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, policy.layout) == shapes


@functools.cache
def loss_and_gradients(**fields):
  policy = make(**fields)
  params = jax.jit(make().init)(jax.random.key(0))
  like = jax.eval_shape(policy.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, like)
  args = plain_inputs()
  loss = lambda params: jnp.square(run(policy, params, *args)).sum()
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.job
@pytest.mark.parametrize(
  "fields",
  [
    {"remat": "dots"},
    pytest.param({"remat": "full", "unroll": 2}, marks=pytest.mark.slow),
  ],
  ids=str,
)
@pytest.mark.turns(3)
def test_remat_and_unroll_change_nothing(fields):
  (want, grads), (got, others) = (
    loss_and_gradients(),
    loss_and_gradients(**fields),
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  near = functools.partial(np.testing.assert_allclose, atol=1e-5 * scale)
  jax.tree.map(near, grads, others)


def plain_inputs():
  rng = np.random.default_rng(0)
  return inputs(lambda _, *s: rng.standard_normal(s).astype(np.float32))


@pytest.mark.turns(2)
@pytest.mark.parity
def test_eight_devices_agree_with_one(peers):
  policy = make()
  params = jax.jit(policy.init)(jax.random.key(0))
  peers.assert_sharded_equals_one(policy, params, *inputs(peers.draw))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": "sd3_med"}, 'did you mean "sd3_medium"'),
    ({"latent_side": 7}, "latent_side=7 is not a multiple of 2 up to 24"),
    ({"latent_side": 26}, "latent_side=26"),
    ({"remat": "ful"}, 'did you mean "full"'),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)


@pytest.mark.parity
def test_weights_of_another_size_are_refused(peers, tmp_path):
  policy, model = make(), theirs(dual_layers=1)
  with pytest.raises(UserError, match=r"lacks transformer_blocks\.1\.attn2"):
    load(peers, policy, model, tmp_path)
