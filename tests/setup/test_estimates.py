"""Rewards learn from clean estimates, one look after the other, by clean labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rng, setup
from jaxreward.data import preferences
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler, initial_noise
from jaxreward.setup import preference_data, prompt_encoding, task_preferences
from jaxreward.training import mesh as mesh_lib
from tests import tiny

SAMPLING = "train_reward.sampling"


def test_stages_are_equal_parts_from_the_first_step_to_the_last():
  for steps, stages in ((7, 3), (240, 8), (5, 5), (4, 1)):
    at = np.arange(steps + 2)
    stage = np.asarray(preference_data.stage_of(at, steps, stages))
    want = np.searchsorted(
      np.arange(1, stages) / np.float64(stages) * steps,
      np.arange(steps) + 1e-9,
    )
    np.testing.assert_array_equal(stage[:steps], want)
    assert stage[0] == 0 and (stage[steps - 1 :] == stages - 1).all()


def test_a_batch_has_the_labels_of_its_rows_and_the_images_of_its_stage():
  config = tiny.load("recipes/ttsnap.py:smoke", {"mesh.data": 1})
  steps, rows, n = config.train_reward.steps, 5, 4
  images = np.arange(2 * rows * n, dtype=np.uint8)[:, None, None, None]
  members = np.arange(rows * n).reshape(rows, n)
  data = preferences.Preferences(
    images=jnp.asarray(images), tokens=jnp.zeros((rows, 1), jnp.int32),
    category=None, members=jnp.asarray(members),
    prob=jnp.full((rows, n, n), jnp.nan), score=jnp.asarray(members / 100),
    strict=None, source=jnp.zeros(n, jnp.int32),
  )  # fmt: skip
  mesh = mesh_lib.make_mesh(data=1, devices=jax.devices()[:1])
  with jax.set_mesh(mesh):
    batch_of = jax.jit(preference_data.make_batch(config, mesh))
    first, last = (batch_of(data, n) for n in (0, steps - 1))
  for batch, stage in ((first, 0), (last, 1)):
    number = np.round(np.asarray(batch.images)[..., 0, 0, 0] * 255)
    want = np.asarray(batch.rating) * 100 + stage * members.size
    np.testing.assert_allclose(number, want, atol=1e-3)


@pytest.mark.job
@pytest.mark.turns(3)
def test_results_of_the_named_steps_alone_are_kept():
  """In their order; of the whole scan the same ones, and no more memory."""
  layout = rollout.make_layout(2, 2, 4)
  table = steppers.ode(schedule.timesteps(4))
  policy = tiny.small_policy(side=2)
  params = policy.init(jax.random.key(0))
  drawer = Sampler(policy, table, layout)
  words = jnp.zeros((2, 3), jnp.int32)

  def run(at):
    state = drawer.init(params, jax.random.key(1), words, jnp.arange(2))
    keep = lambda before, after, info, step: {"x0": info.x0_hat}
    return drawer.scan(params, state, keep, at=at)

  every, some = (
    jax.eval_shape(lambda at=at: run(at)[1]["x0"]) for at in (None, (3, 1))
  )
  assert every.shape[0] == 4 and some.shape == (2, *every.shape[1:])
  (end, whole), (same, part) = jax.jit(lambda: (run(None), run((3, 1))))()
  np.testing.assert_array_equal(part["x0"], whole["x0"][jnp.array([3, 1])])
  np.testing.assert_array_equal(end.latents, same.latents)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_look_after_all_steps_is_the_image_and_the_first_one_jump():
  fields = {f"{SAMPLING}.num_steps": 3, f"{SAMPLING}.samples": 2}
  fields |= {f"{SAMPLING}.guidance_scales": (1.0,)}
  fields |= {f"{SAMPLING}.estimates": (3, 1)}
  config = tiny.load("train_reward_scenes.py:smoke", tiny.MODEL, fields)
  policy = setup.make_policy(config)
  params = tiny.shaken(tiny.drawn(policy.init, jax.random.key(0)))
  prompts = list(setup.load_prompts(config, "train")[:2])
  finished, clean, noisy = np.asarray(
    task_preferences.sample_policy(config, policy, params, prompts), int
  )
  np.testing.assert_allclose(clean, finished, atol=1)
  batch = setup.make_task(config).batch(prompts)
  encoded = prompt_encoding.make_encode(config, policy)(batch)
  index, member = np.repeat([0, 1], 2), np.tile([0, 1], 2)
  keys = rng.sample_keys(
    rng.stream_key(config.seed, "preferences", 0),
    jnp.asarray(preferences.row_ids(encoded))[index], member,
  )  # fmt: skip
  x = initial_noise(keys, policy.latent_shape)

  @jax.jit
  def first_velocity(params, x):
    cond = policy.encode(params, encoded.words)
    cond = jax.tree.map(lambda c: c[index], cond)
    return policy.velocity(params, x, jnp.ones(4), cond)

  v = first_velocity(params, x)
  x0 = np.asarray(x, np.float64) - np.asarray(v, np.float64)
  want = np.round(255 * np.clip(0.5 + 0.5 * x0, 0, 1))
  np.testing.assert_allclose(noisy.reshape(want.shape), want, atol=1)
  assert np.abs(noisy - finished).mean() > 2


@pytest.mark.job
@pytest.mark.turns(3)
def test_labels_are_of_finished_images_and_rows_show_estimates(monkeypatch):
  config = tiny.load("recipes/ttsnap.py:smoke", {"train_reward.labels": ""})
  views = np.random.default_rng(0).integers(
    0, 256, (3, 36, 4, 36, 36, 3), np.uint8
  )
  count = [3]
  monkeypatch.setattr(
    task_preferences,
    "sample_policy",
    lambda *_: jnp.asarray(views[: count[0]]),
  )
  run = lambda: task_preferences.scene_preferences(
    config, tiny.small_policy(), {}
  )
  train, heldout = run()
  flat = lambda x: x.reshape(-1, 36, 36, 3)
  np.testing.assert_array_equal(
    train.images, np.concatenate([flat(x[:24]) for x in views[1:]])
  )
  np.testing.assert_array_equal(heldout.images, flat(views[2, 24:]))
  count[0] = 1
  for side, plain in zip((train, heldout), run(), strict=True):
    same = dataclasses.replace(side, images=plain.images)
    jax.tree.map(np.testing.assert_array_equal, same, plain)
