"""Wan 2.2: two networks by time, and a first frame that is given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.flow import guidance, sampler, steppers
from jaxreward.models import convert, lora
from jaxreward.models.autoencoders import video_vae
from jaxreward.models.policies import experts, wan
from tests import tiny

B, SHAPE, WORDS = 2, (3, 4, 4), 7
BOUNDARY = 0.875


def make(**fields):
  options = dict(
    size="tiny", frames=SHAPE[0], latent_height=SHAPE[1],
    latent_width=SHAPE[2], dtype="float32", remat="none", words=WORDS,
    boundary=BOUNDARY,
  )  # fmt: skip
  return wan.make_policy(**(options | fields))


def theirs(size="tiny", seed=0):
  import diffusers
  import peers

  config = wan.public_config(wan.make_net(size))
  del config["_class_name"]
  return peers.shaken(diffusers.WanTransformer3DModel(**config), seed)


def shaken(params, seed=0):
  rng = np.random.default_rng(seed)
  noise = lambda x: x + 0.1 * rng.standard_normal(x.shape).astype("f4")
  return jax.tree.map(noise, params)


def inputs(policy, batch=B):
  """Latents and prompts, with what they take of a picture."""
  rng = np.random.default_rng(0)
  draw = lambda *s: jnp.asarray(rng.standard_normal((batch, *s)), jnp.float32)
  shapes = policy.prompts | (policy.pictures or {})
  prompts = {k: draw(*x.shape[1:]) for k, x in shapes.items()}
  return draw(*policy.latent_shape), prompts


def sample(
  policy, params, monkeypatch, start, prompts, empty, times, scale, told
):
  """x_0 by the rollout's own loop, from given noise."""
  table = dataclasses.replace(steppers.ode(times), network_t=told)
  monkeypatch.setattr(sampler, "initial_noise", lambda *_: start)
  keys = jax.random.split(jax.random.key(0), len(start))

  @jax.jit
  def run(params):
    cond, uncond = (policy.encode(params, p) for p in (prompts, empty))
    return tiny.sample_rows(
      policy, params, keys, cond, uncond, table, guidance_scale=scale
    ).latents[-1]

  return run(params)


def first_channels(x):
  import torch

  return torch.tensor(np.asarray(x)).movedim(-1, 1)


def run_pipeline(pipe, scheduler, start, words, empty, **options):
  import torch

  height, width = (8 * n for n in start.shape[2:4])
  with torch.no_grad():
    out = pipe(
      prompt_embeds=torch.tensor(np.asarray(words)),
      negative_prompt_embeds=torch.tensor(np.asarray(empty)),
      latents=first_channels(start), output_type="latent",
      num_frames=4 * start.shape[1] - 3, num_inference_steps=5,
      height=options.pop("height", height), width=options.pop("width", width),
      **options,
    ).frames  # fmt: skip
  return out.movedim(1, -1).numpy(), scheduler.sigmas.numpy()


def reference(policy, params, x, t, cond):
  """Both networks on every row; the row's time chooses."""
  net = wan.make_net("tiny")
  both = experts.Experts(net, net.copy())
  high, low = (
    both.apply({"params": params}, x, t, cond, name) for name in experts.FOLDERS
  )
  return jnp.where((t >= BOUNDARY)[:, None, None, None, None], high, low)


@pytest.mark.slow
def test_gradients_with_adapters_are_those_of_running_both():
  policy = lora.adapt_policy(make(), rank=2, alpha=4.0, targets="self_(q|v)$")
  params = shaken(jax.jit(policy.init)(jax.random.key(0)))
  x, prompts = inputs(policy)
  t = jnp.asarray([0.9, 0.3])
  weight = jax.random.normal(jax.random.key(1), x.shape)
  plain = lora.with_lora(
    lambda *args: reference(policy, *args),
    rank=2, alpha=4.0, targets="self_(q|v)$",
  )  # fmt: skip

  def run(velocity):
    def loss(params, x):
      cond = policy.encode(params, prompts)
      return (velocity(params, x, t, cond) * weight).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)

  (got, slopes), (want, others) = run(policy.velocity), run(plain)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(others))
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale)
  jax.tree.map(near, slopes, others)
  _, adapters = lora.split(slopes[0])
  assert set(adapters) == {"high", "low"}
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(adapters))


@pytest.mark.slow
@pytest.mark.parametrize("asked", list(experts.FOLDERS))
def test_a_network_that_no_row_asks_for_has_no_say(asked):
  """Were it run, its numbers that are none would be in the gradient."""
  policy = make()
  params = shaken(jax.jit(policy.init)(jax.random.key(0)))
  x, prompts = inputs(policy)
  cond = jax.jit(policy.encode)(params, prompts)
  (other,) = set(experts.FOLDERS) - {asked}
  params[other] = jax.tree.map(lambda p: p + np.nan, params[other])
  t = jnp.full((B,), BOUNDARY if asked == "high" else BOUNDARY - 1e-3)
  loss = lambda p: jnp.square(policy.velocity(p, x, t, cond)).sum()
  value, slopes = jax.jit(jax.value_and_grad(loss))(params)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(slopes))
  assert all(not g.any() for g in jax.tree.leaves(slopes[other]))
  moved = [bool(g.any()) for g in jax.tree.leaves(slopes[asked])]
  assert np.mean(moved) > 0.8


@pytest.mark.turns(2)
@pytest.mark.parametrize("which", ["high", "low"])
def test_adapters_go_to_one_network_by_their_pattern(which):
  policy = lora.adapt_policy(
    make(), rank=2, alpha=4.0, targets=f"^{which}/.*self_q$"
  )
  like = jax.eval_shape(policy.init, jax.random.key(0))
  base, adapter = lora.split(like)
  assert set(base) == {"high", "low"} and set(adapter) == {which}


def test_guidance_has_a_scale_on_either_side_of_the_boundary():
  policy = make(low_guidance=2.0)
  x, t = jnp.zeros((3, *policy.latent_shape)), jnp.asarray([1.0, 0.875, 0.8])
  stub = dataclasses.replace(
    policy, velocity=lambda p, x, t, c: x + c[:, None, None, None, None]
  )
  run = lambda scale: guidance.guided_velocity(
    stub, None, x, t, jnp.ones(3), jnp.zeros(1), scale
  )[:, 0, 0, 0, 0]
  np.testing.assert_allclose(run(5.0), [5.0, 5.0, 2.0])
  np.testing.assert_allclose(run(jnp.asarray(3.0)), [3.0, 3.0, 2.0])
  np.testing.assert_allclose(run(1.0), [1.0, 1.0, 1.0])


@pytest.mark.parity
@pytest.mark.parametrize("size", ["wan22_t2v_14b", "wan22_i2v_14b"])
def test_the_full_sizes_are_two_networks_of_fourteen_billion(peers, size):
  policy = wan.make_policy(size=size, boundary=BOUNDARY)
  like = peers.assert_rules_cover(policy)
  assert set(like) == {"high", "low"}
  shapes = [
    convert.public_shapes(like[name], policy.layout) for name in policy.parts
  ]
  assert shapes[0] == shapes[1]
  assert peers.count(like) > 2 * 14e9
  assert set(policy.pictures or {}) <= {"picture"}


@pytest.mark.parity
def test_eight_devices_agree_with_one(peers):
  policy = make()
  params = shaken(jax.jit(policy.init)(jax.random.key(0)))
  x, prompts = inputs(policy, 4)
  t = jnp.asarray([1.0, 0.9, 0.5, 0.1])
  peers.assert_sharded_equals_one(policy, params, x, t, prompts)


@pytest.mark.parity
def test_a_time_for_every_token_is_that_of_diffusers(peers, tmp_path):
  """Tokens of the first frame have time zero; velocities and gradients."""
  import torch

  policy, model = make(boundary=0.0, takes_source=True), theirs()
  like = jax.eval_shape(policy.init, jax.random.key(0))
  params = peers.params_of(model, policy.layout, like, tmp_path)
  x, prompts = inputs(policy)
  t = np.array([0.7, 0.2], np.float32)
  seen = jnp.concatenate([prompts["picture"], x[:, 1:]], 1)
  times = np.repeat(t[:, None] * (np.arange(SHAPE[0]) > 0), 4, 1)
  out = model(
    hidden_states=first_channels(seen), timestep=torch.tensor(times) * 1000,
    encoder_hidden_states=torch.tensor(np.asarray(prompts["words"])),
  ).sample.movedim(1, -1)  # fmt: skip
  # What the network says of a given frame is not used.
  weight = peers.draw(7, *x.shape) * (np.arange(SHAPE[0]) > 0).reshape(
    3, 1, 1, 1
  )
  (out * torch.tensor(weight)).sum().backward()

  def scalar(params):
    v = policy.velocity(
      params, x, jnp.asarray(t), policy.encode(params, prompts)
    )
    return (v * weight).sum(), v

  (_, v), slopes = jax.jit(jax.value_and_grad(scalar, has_aux=True))(params)
  peers.assert_near(v[:, 1:], peers.array(out)[:, 1:], 1e-4)
  peers.assert_same_gradients(model, policy.layout, slopes)
  left = (x[:, :1] - prompts["picture"]) / t[:, None, None, None, None]
  np.testing.assert_allclose(v[:, :1], left, rtol=1e-6)


@pytest.mark.parity
def test_a_given_first_frame_is_kept_as_in_the_public_pipeline(
  peers, monkeypatch, tmp_path
):
  import diffusers
  import torch

  policy, model = make(boundary=0.0, takes_source=True), theirs()
  like = jax.eval_shape(policy.init, jax.random.key(0))
  params = peers.params_of(model, policy.layout, like, tmp_path)
  coder = video_vae.make_autoencoder(size="tiny22")
  config = video_vae.public_config(video_vae.make_net("tiny22"))
  del config["_class_name"]
  vae = peers.shaken(diffusers.AutoencoderKLWan(**config))
  like = jax.eval_shape(coder.init, jax.random.key(0))
  decoder = peers.params_of(vae, coder.layout, like, tmp_path)
  side = 4 * coder.factor
  pixels = np.random.default_rng(1).random((1, side, side, 3)).astype("f4")
  start, prompts = inputs(policy, 1)
  prompts["picture"] = jax.jit(coder.encode)(decoder, pixels[:, None])
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
  pipe = diffusers.WanImageToVideoPipeline(
    None, None, vae, scheduler, None, None, model, expand_timesteps=True
  )
  pipe.set_progress_bar_config(disable=True)
  empty = {"words": 0.5 * prompts["words"], "picture": prompts["picture"]}
  want, times = run_pipeline(
    pipe, scheduler, start, prompts["words"], empty["words"], height=side,
    width=side, image=torch.tensor(pixels).movedim(-1, 1), guidance_scale=5.0,
  )  # fmt: skip
  draw = lambda told: sample(
    policy, params, monkeypatch, start, prompts, empty, times, 5.0, told
  )
  peers.assert_near(draw(None), want, 1e-4)
  # Steps lead to the picture from their own times, whatever the network is told.
  rough = draw(np.trunc(5 * times[:-1]) / 5)
  peers.assert_near(rough[:, :1], prompts["picture"], 1e-5)
  assert np.abs(rough - want).max() > 1e-3


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"boundary": 1.0}, r"model\.boundary=1\.0: expected a time"),
    ({"boundary": -0.1}, r"model\.boundary=-0\.1"),
    ({"low_guidance": -1.0}, r"model\.low_guidance=-1\.0"),
    (
      {"boundary": 0.0, "low_guidance": 3.0},
      r"model\.low_guidance=3\.0: expected a scale for times below",
    ),
    ({"size": "tiny_i2v"}, r'size="tiny_i2v" reads states of a vision tower'),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(UserError, match=message):
    make(**fields)
