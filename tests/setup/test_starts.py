"""Branches and starts as a config names them: the steps that are left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rng, setup, types
from jaxreward.flow import rollout
from jaxreward.flow.sampler import Sampler
from jaxreward.jobs import align
from jaxreward.setup import starts, updates
from tests import tiny

GRPO = "align_scenes.py:flow_grpo,smoke"
EDITS = "align_edits.py:smoke"  # its prompts have pictures to start from
BRANCH = {"rollout.branch.members": 2, "rollout.num_steps": 8}


def plan_of(*overrides, spec=GRPO):
  config = tiny.load(spec, {"align.updates": 1}, *overrides)
  return config, align.make_plan(config, devices=1)


def test_branches_part_where_the_moving_window_begins():
  window = {
    "rollout.window_move.name": "sliding", "rollout.window_start": 0,
    "rollout.window_size": 2, "rollout.branch.steps": -1,
    "rollout.window_move.every": 1,
  }  # fmt: skip
  _, plan = plan_of(BRANCH, window)
  for iteration in (0, 3):
    now = plan.at(jnp.int32(iteration))
    assert int(now.share.steps[0]) == iteration == int(now.trained[0])
    assert now.share.members == (2,)
    assert (np.asarray(now.table.std)[:iteration] == 0).all()


def test_branches_part_after_the_steps_that_are_named():
  steps = {"rollout.branch.steps": 3, "rollout.window_size": 0}
  _, plan = plan_of(BRANCH, steps)
  assert plan.at(jnp.int32(5)).share.steps == (3,)
  assert plan_of()[1].share is None


def test_a_tree_forks_every_few_steps():
  tree = {
    "rollout.group": 8, "rollout.branch.members": 8, "rollout.branch.steps": 1,
    "rollout.branch.children": 2, "rollout.branch.every": 2,
    "rollout.num_steps": 8, "rollout.window_size": 0,
  }  # fmt: skip
  share = plan_of(tree)[1].share
  assert share.members == (8, 4, 2)
  assert share.steps == (1, 3, 5)


@pytest.mark.parametrize(("strength", "left"), [(0.5, 4), (0.01, 1), (0.99, 8)])
def test_a_start_from_a_picture_takes_the_last_steps(strength, left):
  begin = {
    "rollout.start.name": "picture", "rollout.start.strength": strength,
    "rollout.num_steps": 8, "rollout.window_size": 0,
    "rollout.window_start": 0,
  }  # fmt: skip
  config, plan = plan_of(begin, spec=EDITS)
  whole = setup.make_schedule(config).times(8)
  assert len(plan.table.t) == left
  np.testing.assert_allclose(plan.table.t, whole[8 - left : 8], rtol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_start_from_a_reference_is_the_tasks_own_image():
  """The same whenever a prompt comes, and noised to the first time."""
  begin = {
    "rollout.start.name": "reference", "rollout.start.strength": 0.5,
    "rollout.num_steps": 4, "rollout.window_size": 0,
  }  # fmt: skip
  config, plan = plan_of(begin)
  assert len(plan.table.t) == 2
  policy, batch = setup.make_policy(config), tiny.prompts_of(config)
  start = jax.jit(lambda: plan.start(policy, batch))
  x0 = np.asarray(start())
  np.testing.assert_array_equal(x0, start())
  pixels = policy.to_pixels(jnp.asarray(x0))[:, None]
  measure = jax.jit(setup.make_task(config).measure)
  accuracy = measure(pixels, pixels, batch)["strict"]
  assert np.asarray(accuracy)[np.asarray(batch.mask)].mean() > 0.9


def test_pixels_become_latents_of_minus_one_to_one():
  config = tiny.load(GRPO)
  policy = setup.make_policy(config)
  images = np.random.default_rng(0).random((2, *policy.latent_shape))
  latents = starts.to_latents(policy, jnp.asarray(images, jnp.float32))
  np.testing.assert_allclose(policy.to_pixels(latents), images, atol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_group_starts_where_the_policys_own_chains_have_led():
  """None or one of them, by prompt; the sampler's own chain from the reference."""
  begin = {
    "rollout.start.name": "reference", "rollout.start.strength": 0.5,
    "rollout.start.rounds": 1, "rollout.num_steps": 4,
    "rollout.window_size": 0, "rollout.prompts": 6,
  }  # fmt: skip
  config, plan = plan_of(begin)
  policy, batch = setup.make_policy(config), tiny.prompts_of(config)
  key = jax.random.key(5)

  params = tiny.shaken(jax.jit(policy.init)(jax.random.key(0)), 0.1)

  @jax.jit
  def run(params):
    start = plan.start(policy, batch)
    after = updates.continued(policy, params, batch, plan, start, key)
    sampler = plan.sampler(policy, plan.history)
    chain = sampler.sample(
      params, jax.random.fold_in(key, 0), batch.words, batch.ids, start=start
    )  # fmt: skip
    return start, after, chain.latents[-1]

  start, after, chain = (np.asarray(x) for x in run(params))
  moved = (after != start).any((1, 2, 3))
  assert 0 < moved.sum() < len(moved)
  np.testing.assert_array_equal(after[~moved], start[~moved])
  index = plan.history.prompt_index
  chain = {p: chain[i] for i, p in enumerate(index) if plan.history.mask[i]}
  for p in np.flatnonzero(moved):
    np.testing.assert_allclose(after[p], chain[p], atol=1e-5)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_group_explores_around_a_sample_of_the_policy():
  """Drawn by all steps, and noised to the first of those that are taken again."""
  begin = {
    "rollout.start.name": "own", "rollout.start.strength": 0.5,
    "rollout.num_steps": 4, "rollout.window_size": 0,
  }  # fmt: skip
  config, plan = plan_of(begin)
  assert plan.whole is not None
  assert (len(plan.table.t), len(plan.whole.t)) == (2, 4)
  np.testing.assert_array_equal(plan.table.t, plan.whole.t[2:])
  batch = tiny.prompts_of(config)
  policy = types.Policy(
    init=lambda key: {}, encode=lambda params, tokens: tokens[:, 0] * 0.1,
    velocity=lambda params, x, t, cond: (
      0.4 * x + (t + cond)[:, None, None, None]
    ),
    to_pixels=lambda x, decoder=None: x, latent_shape=(2, 2, 3),
  )  # fmt: skip

  @jax.jit
  def run():
    key = rng.stream_key(3, "history", 0)
    chain = Sampler(policy, plan.whole, plan.history).sample(
      {}, key, batch.words, batch.ids
    )
    noise = plan.sampler(policy, plan.layout).init(
      {}, rng.stream_key(3, "rollout", 0), batch.words, batch.ids
    )
    trajectory, _ = updates.sample(
      policy, {}, batch, plan, seed=3, iteration=jnp.int32(0)
    )
    noise = rollout.from_chunks(noise.latents)
    return chain.latents[-1], noise, trajectory.latents[0]

  chain, noise, first = (np.asarray(x, np.float64) for x in run())
  own = {
    p: chain[i]
    for i, p in enumerate(plan.history.prompt_index)
    if plan.history.mask[i]
  }
  start = np.stack([own[p] for p in plan.layout.prompt_index])
  t = float(plan.table.t[0])
  np.testing.assert_allclose(first, (1 - t) * start + t * noise, atol=1e-5)
