"""Qwen-Image against diffusers: outputs, gradients, names, sizes, editing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.policies import qwen_image

B, HEIGHT, WIDTH, WORDS = 4, 6, 8, 5
LENGTHS = np.array([5, 3, 4, 1])


def make(**fields):
  options = dict(size="tiny", latent_side=8, dtype="float32", remat="none")
  return qwen_image.make_policy(**(options | fields))


def theirs(size="tiny"):
  import diffusers

  config = dict(qwen_image.public_config(qwen_image.make_net(size)))
  del config["_class_name"]
  return diffusers.QwenImageTransformer2DModel(**config)


def inputs(draw, *, edit=False):
  net = qwen_image.make_net("tiny")
  x = draw(1, B, HEIGHT, WIDTH, net.channels)
  prompts = {
    "words": draw(2, B, WORDS, net.text_width),
    "mask": np.arange(WORDS) < LENGTHS[:, None],
  }
  sizes = [(4, 10), (6, 4)][: int(edit)]
  if edit:
    several = tuple(
      draw(4 + i, B, *s, net.channels) for i, s in enumerate(sizes)
    )
    prompts["picture"] = several if edit > 1 else several[0]
  t = np.array([0.5, 0.25, 1.0, 0.0], np.float32)
  return jax.tree.map(jnp.asarray, (x, t, prompts))


def run_theirs(model, x, t, prompts):
  import torch
  from diffusers import QwenImagePipeline as Pipeline

  kind = next(model.parameters()).dtype
  put = lambda a: torch.tensor(np.asarray(a), dtype=kind)

  def packed(pixels):
    b, h, w, c = pixels.shape
    latents = put(pixels).permute(0, 3, 1, 2)
    return Pipeline._pack_latents(latents, b, c, h, w), (1, h // 2, w // 2)

  pictures = [x, *jax.tree.leaves(prompts.get("picture"))]
  tokens, shapes = zip(*map(packed, pictures), strict=True)
  out = model(
    hidden_states=torch.cat(tokens, dim=1),
    encoder_hidden_states=put(prompts["words"]),
    encoder_hidden_states_mask=torch.tensor(np.asarray(prompts["mask"])),
    timestep=put(t),
    img_shapes=[list(shapes)] * B,
  ).sample[:, : tokens[0].shape[1]]
  out = Pipeline._unpack_latents(out, HEIGHT * 8, WIDTH * 8, 8)
  return out[:, :, 0].permute(0, 2, 3, 1)


def run(policy, params, x, t, prompts):
  return policy.velocity(params, x, t, policy.encode(params, prompts))


def load(peers, policy, model, folder):
  like = jax.eval_shape(policy.init, jax.random.key(0))
  return peers.params_of(model, policy.layout, like, folder)


@pytest.mark.parity
@pytest.mark.parametrize(
  ("size", "edit"),
  [("tiny", 0), ("tiny", 1), ("tiny_2511", 2)],
)
@pytest.mark.turns(3)
def test_outputs_and_gradients_are_those_of_diffusers(
  peers, tmp_path, size, edit
):
  """From words, beside a picture, and beside two at time zero."""
  import torch

  policy, model = make(size=size), peers.shaken(theirs(size))
  params = load(peers, policy, model, tmp_path)
  args = inputs(peers.draw, edit=edit)
  weight = peers.draw(7, *args[0].shape)
  want = run_theirs(model, *args)
  (want * torch.tensor(weight)).sum().backward()
  # The words of the last block lead nowhere: no gradient there, ours is zero.
  for parameter in model.parameters():
    if parameter.grad is None:
      parameter.grad = torch.zeros_like(parameter)

  def scalar(params):
    v = run(policy, params, *args)
    return (v * weight).sum(), v

  (_, got), grads = jax.jit(jax.value_and_grad(scalar, has_aux=True))(params)
  peers.assert_near(got, peers.array(want), 1e-4)
  peers.assert_same_gradients(model, policy.layout, grads)
  peers.assert_round_trip(model, policy.layout, params)


@pytest.mark.parity
def test_given_pictures_at_time_zero_are_what_the_flag_says(peers, tmp_path):
  """Without a picture it changes nothing; with one it does, as in the peer."""
  model = peers.shaken(theirs("tiny_2511"))
  plain, still = make(), make(size="tiny_2511")
  params = load(peers, plain, model, tmp_path)
  for edit in (0, 1):
    args = inputs(peers.draw, edit=edit)
    want = peers.array(run_theirs(model, *args))
    got = jax.jit(functools.partial(run, still))(params, *args)
    peers.assert_near(got, want, 1e-4)
    other = jax.jit(functools.partial(run, plain))(params, *args)
    assert (np.abs(other - want).max() > 0.05) == bool(edit)


@pytest.mark.parity
def test_bfloat16_is_that_of_diffusers(peers, tmp_path):
  import torch

  policy = make(dtype="bfloat16", param_dtype="bfloat16")
  model = peers.shaken(theirs()).to(torch.bfloat16)
  params = load(peers, policy, model, tmp_path)
  args = inputs(peers.draw)
  got = jax.jit(functools.partial(run, policy))(params, *args)
  peers.assert_near(got, peers.array(run_theirs(model, *args)), 2e-2)


@pytest.mark.parity
def test_words_behind_the_mask_change_nothing(peers, tmp_path):
  policy, model = make(), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  x, t, prompts = inputs(peers.draw)
  compiled = jax.jit(functools.partial(run, policy))
  mask = prompts["mask"][..., None]
  words = prompts["words"]
  noise = jnp.asarray(peers.draw(9, *words.shape))
  moved = dict(prompts, words=jnp.where(mask, words, noise))
  others = dict(prompts, words=jnp.where(mask, noise, words))
  want = compiled(params, x, t, prompts)
  np.testing.assert_allclose(
    compiled(params, x, t, moved), want, rtol=1e-5, atol=1e-5
  )
  assert np.abs(compiled(params, x, t, others) - want).max() > 1e-2


@pytest.mark.parity
def test_diffusers_reads_what_we_write(peers, tmp_path):
  import diffusers

  policy, model = make(), peers.shaken(theirs())
  params = load(peers, policy, model, tmp_path)
  config = qwen_image.public_config(qwen_image.make_net("tiny"))
  peers.assert_loads_in_diffusers(
    diffusers.QwenImageTransformer2DModel, model, params, policy.layout,
    config, tmp_path / "out",
  )  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("size", ["qwen_image", "qwen_image_edit"])
def test_full_sizes_have_the_published_parameters(peers, size):
  import torch

  policy = qwen_image.make_policy(size=size)
  like = peers.assert_rules_cover(policy)
  with torch.device("meta"):
    model = theirs(size)
  assert peers.count(like) == 20_430_401_088
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


@pytest.mark.slow
def test_remat_and_unroll_change_nothing():
  want, grads = loss_and_gradients()
  got, others = loss_and_gradients(remat="full", unroll=3)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
  near = functools.partial(np.testing.assert_allclose, atol=1e-5 * scale)
  jax.tree.map(near, grads, others)


@pytest.mark.parity
def test_eight_devices_agree_with_one(peers):
  policy = make(size="tiny_2511")  # two times in one pass
  params = jax.jit(policy.init)(jax.random.key(0))
  peers.assert_sharded_equals_one(
    policy, params, *inputs(peers.draw, edit=True)
  )


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"size": "qwen_imge"}, 'did you mean "qwen_image"'),
    ({"latent_side": 7}, "latent_side=7 is odd"),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)


def draw_pair(shape, dtype="float32"):
  rng = np.random.default_rng(5)
  two = rng.standard_normal((2, *shape))
  return [jnp.asarray(x, dtype) for x in two]


def packed(v):
  """[B, H, W, C] -> tokens [B, N, 4 C], in float64."""
  b, h, w, c = v.shape
  v = np.asarray(v, np.float64).reshape(b, h // 2, 2, w // 2, 2, c)
  return v.transpose(0, 1, 3, 5, 2, 4).reshape(b, -1, 4 * c)


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)]
)
def test_guidance_keeps_the_length_of_every_token(dtype, tolerance):
  cond, uncond = draw_pair((B, HEIGHT, WIDTH, 4), dtype)
  t = jnp.ones(B)
  found = jax.jit(qwen_image.guide)(cond, uncond, 4.0, t)
  c, u = packed(cond), packed(uncond)
  plain = u + 4.0 * (c - u)
  length = lambda x: np.linalg.norm(x, axis=-1, keepdims=True)
  want = plain * (length(c) / length(plain))
  np.testing.assert_allclose(packed(found), want, atol=tolerance * 4)
  np.testing.assert_allclose(length(packed(found)), length(c), rtol=tolerance)
  assert np.abs(packed(found) - plain).max() > 1  # lengths did change
  one = qwen_image.guide(cond, uncond, jnp.float32(1), t)
  np.testing.assert_allclose(packed(one), c, atol=tolerance * 4)


@pytest.mark.turns(2)
def test_guidance_of_nothing_is_nothing_and_has_a_gradient():
  """Tokens that are zero with the prompt, when guided, or both."""
  cond, uncond = draw_pair((1, 2, 8, 4))
  cond = cond.at[:, :, 2:4].set(0).at[:, :, 6:].set(0)
  # Scale 2: u + 2 (c - u) = 0 where u = 2 c.
  uncond = uncond.at[:, :, 4:].set(2 * cond[:, :, 4:])
  run = lambda c, u: qwen_image.guide(c, u, 2.0, jnp.ones(1))
  found = run(cond, uncond)
  assert np.abs(found[:, :, :2]).max() > 0
  assert not np.asarray(found[:, :, 2:]).any()
  slopes = jax.grad(lambda c, u: (run(c, u) * cond).sum(), (0, 1))(cond, uncond)
  assert all(np.isfinite(g).all() for g in slopes)


@pytest.mark.turns(2)
def test_gradients_of_guidance_are_differences():
  cond, uncond = draw_pair((1, 2, 4, 2))
  weight = jnp.arange(cond.size, dtype=jnp.float32).reshape(cond.shape)
  loss = lambda c, u: (qwen_image.guide(c, u, 3.0, jnp.ones(1)) * weight).sum()

  with jax.enable_x64():
    wide = [jnp.asarray(np.float64(x)) for x in (cond, uncond)]
    move = jnp.asarray(
      np.random.default_rng(1).standard_normal((2, *cond.shape))
    )

    def reference(c, u):
      c, u = (x.reshape(1, 1, 2, 2, 2, 2) for x in (c, u))
      v = u + 3.0 * (c - u)
      norm = lambda x: jnp.sqrt((x**2).sum((2, 4, 5), keepdims=True))
      return ((v * norm(c) / norm(v)).reshape(weight.shape) * weight).sum()

    step = 1e-6
    sides = [
      reference(*(x + s * step * m for x, m in zip(wide, move, strict=True)))
      for s in (1, -1)
    ]
    want = (sides[0] - sides[1]) / (2 * step)
  slopes = jax.grad(loss, (0, 1))(cond, uncond)
  got = sum(
    (g * m).sum() for g, m in zip(slopes, np.float32(move), strict=True)
  )
  np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parity
def test_times_are_told_as_the_pipeline_tells_them():
  torch = pytest.importorskip("torch")
  t = np.linspace(0, 1, 1001, dtype=np.float32)
  whole = torch.tensor(t) * 1000
  for dtype in ("bfloat16", "float16"):
    want = (whole.to(getattr(torch, dtype)) / 1000).float().numpy()
    got = jax.jit(lambda t, d=dtype: qwen_image._network_time(t, jnp.dtype(d)))(
      t
    )
    np.testing.assert_array_equal(got, want)
    assert np.abs(want - t).max() > 1e-4
  same = qwen_image._network_time(jnp.asarray(t), jnp.float32)
  np.testing.assert_array_equal(same, t)
