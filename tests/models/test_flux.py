"""FLUX.1 against diffusers: outputs, gradients, names, sizes, editing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.policies import flux, mmdit

B, HEIGHT, WIDTH, WORDS = 4, 6, 8, 5
PUBLISHED = {
  "flux_dev": 11_901_408_320,
  "flux_kontext": 11_901_408_320,
  "flux_schnell": 11_891_178_560,
}


def make(**fields):
  options = dict(size="tiny", latent_side=8, dtype="float32", remat="none")
  return flux.make_policy(**(options | fields))


def theirs():
  import diffusers
  import peers

  config = flux.public_config(flux.make_net("tiny"))
  del config["_class_name"]
  return peers.shaken(diffusers.FluxTransformer2DModel(**config))


def inputs(draw, *, edit=False):
  net = flux.make_net("tiny")
  x = draw(1, B, HEIGHT, WIDTH, net.channels)
  prompts = {
    "words": draw(2, B, WORDS, net.text_width),
    "pooled": draw(3, B, net.pooled_width),
  }
  if edit:
    prompts["picture"] = draw(4, B, 4, 10, net.channels)
  t = np.array([0.5, 0.25, 1.0, 0.0], np.float32)
  return jax.tree.map(jnp.asarray, (x, t, prompts))


def run_theirs(model, x, t, prompts, guidance=3.5):
  """As the diffusers pipelines pack latents and number their squares."""
  import torch
  from diffusers import FluxKontextPipeline as Pipeline

  net = flux.make_net("tiny")
  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(np.asarray(a), dtype=kind)

  def packed(pixels, number):
    b, h, w, c = pixels.shape
    latents = put(pixels).permute(0, 3, 1, 2)
    ids = Pipeline._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", kind)
    ids[..., 0] = number
    return Pipeline._pack_latents(latents, b, c, h, w), ids

  tokens, ids = packed(x, 0)
  length = tokens.shape[1]
  if "picture" in prompts:
    more, more_ids = packed(prompts["picture"], 1)
    tokens = torch.cat([tokens, more], dim=1)
    ids = torch.cat([ids, more_ids], dim=0)
  out = model(
    hidden_states=tokens,
    encoder_hidden_states=put(prompts["words"]),
    pooled_projections=put(prompts["pooled"]),
    timestep=put(t),
    img_ids=ids,
    txt_ids=torch.zeros(WORDS, 3),
    guidance=torch.full((B,), guidance, dtype=kind) if net.guided else None,
  ).sample[:, :length]
  # The scale of the pixels is twice that of the squares, and 8 of the image.
  out = Pipeline._unpack_latents(out, HEIGHT * 8, WIDTH * 8, 8)
  return out.permute(0, 2, 3, 1)


def run(policy, params, x, t, prompts):
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


@pytest.mark.turns(2)
@pytest.mark.parity
@pytest.mark.parametrize(
  ("fields", "edit"), [({}, True), ({"guided": False}, False)], ids=str
)
def test_outputs_and_gradients_are_those_of_diffusers(
  peers, monkeypatch, tmp_path, fields, edit
):
  monkeypatch.setitem(flux.SIZES, "tiny", flux.SIZES["tiny"] | fields)
  policy, model = make(), theirs()
  args = inputs(peers.draw, edit=edit)
  peers.assert_is_diffusers(policy, model, run_theirs, args, tmp_path)


@pytest.mark.parity
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  policy = make(dtype="bfloat16", param_dtype="bfloat16", guidance=3.7)
  model = theirs().to(torch.bfloat16)
  params = load(peers, policy, model, tmp_path)
  x, t, prompts = inputs(peers.draw)
  t = t + jnp.asarray([0.3551, 0.0513, 0.0, 0.9])  # that bfloat16 rounds
  got = jax.jit(functools.partial(run, policy))(params, x, t, prompts)
  # The pipeline rounds 1000 t before it divides.
  told = torch.tensor(np.asarray(t) * 1000).bfloat16() / 1000
  want = run_theirs(model, x, told.float(), prompts, guidance=3.7)
  peers.assert_near(got, peers.array(want), 2e-2)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_times_are_rounded_as_the_pipeline_rounds_them(peers, dtype):
  import torch

  t = np.random.default_rng(0).random(500, np.float32)
  kind = getattr(torch, dtype)
  there = (torch.tensor(t * 1000).to(kind) / 1000).to(kind) * 1000
  got = 1000 * jax.jit(mmdit.rounded_time, static_argnums=1)(t, dtype)
  np.testing.assert_allclose(got, there.float().numpy(), rtol=3e-7)
  scale = 5 * t  # of the distilled guidance, which the network rounds alone
  there = torch.tensor(scale).to(kind) * 1000
  read = 1000 * jax.jit(mmdit.rounded, static_argnums=1)(scale, dtype)
  np.testing.assert_allclose(read, there.float().numpy(), rtol=3e-7)
  moved = np.abs(got - 1000 * t).max()
  assert moved < 1e-3 if dtype == "float32" else moved > 0.2


@pytest.mark.parity
def test_guidance_and_the_picture_to_edit_matter(peers, tmp_path):
  policy, model = make(), theirs()
  params = load(peers, policy, model, tmp_path)
  x, t, prompts = inputs(peers.draw, edit=True)
  compiled = jax.jit(functools.partial(run, policy))
  one = compiled(params, x, t, prompts)
  other = dict(prompts, picture=-prompts["picture"])
  assert np.abs(one - compiled(params, x, t, other)).max() > 1e-2
  strong = jax.jit(functools.partial(run, make(guidance=1.0)))
  assert np.abs(one - strong(params, x, t, prompts)).max() > 1e-2


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), theirs()
  params = load(peers, policy, model, tmp_path)
  config = flux.public_config(flux.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.FluxTransformer2DModel, model, params, policy.layout, config,
    tmp_path / "out",
  )  # fmt: skip
  assert hub.read_config(tmp_path / "out") == config


@pytest.mark.parity
@pytest.mark.parametrize("size", list(PUBLISHED))
def test_full_sizes_have_the_published_parameters(peers, size):
  import diffusers
  import torch

  policy = flux.make_policy(size=size)
  like = peers.assert_rules_cover(policy)
  config = flux.public_config(flux.make_net(size))
  del config["_class_name"]
  with torch.device("meta"):
    model = diffusers.FluxTransformer2DModel(**config)
  assert peers.count(like) == PUBLISHED[size]
  shapes = {n: tuple(p.shape) for n, p in model.state_dict().items()}
  assert convert.public_shapes(like, policy.layout) == shapes


@functools.cache
def loss_and_gradients(**fields):
  policy = make(**fields)
  params = jax.jit(make().init)(jax.random.key(0))
  rng = np.random.default_rng(0)
  args = inputs(lambda _, *s: rng.standard_normal(s).astype(np.float32))
  loss = lambda params: jnp.square(run(policy, params, *args)).sum()
  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.job
@pytest.mark.parametrize(
  "fields",
  [
    {"remat": "full", "unroll": 2},
    pytest.param({"remat": "dots"}, marks=pytest.mark.slow),
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


@pytest.mark.turns(2)
@pytest.mark.parity
def test_eight_devices_agree_with_one(peers):
  policy = make()
  params = jax.jit(policy.init)(jax.random.key(0))
  peers.assert_sharded_equals_one(
    policy, params, *inputs(peers.draw, edit=True)
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": "flux"}, 'model.size="flux" is not known'),
    ({"latent_side": 7}, "latent_side=7 is odd"),
    ({"remat": "ful"}, 'did you mean "full"'),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)
