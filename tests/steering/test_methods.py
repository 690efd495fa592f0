"""Methods on a small sampler: limits, and what they gain by a known reward."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import steering
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler, Share
from jaxreward.steering import pruning
from jaxreward.types import Policy, PromptBatch

PROMPTS, GROUP, COUNT, STEPS = 3, 2, 4, 6


def policy_of() -> Policy:
  """Samples near one of two values per pixel, by the prompt."""
  goal = lambda t: 0.6 * jnp.sign(t)

  def velocity(params, x, t, cond):
    t = t[:, None, None, None]
    mean = goal(jnp.sin(3 * x) + 0.3 * cond[:, None, None, None])
    return (x - mean) / jnp.maximum(t, 0.05)

  return Policy(
    init=lambda key: {},
    encode=lambda params, tokens: tokens[:, 0].astype(jnp.float32),
    velocity=velocity,
    to_pixels=lambda x, decoder=None: 0.5 + 0.5 * x,
    latent_shape=(2, 2, 1),
  )


POLICY = policy_of()


def batch_of() -> PromptBatch:
  tokens = np.array([[0], [1], [2]], np.int32)
  ids = np.array([7, 8, 9], np.uint32)
  category = np.zeros(PROMPTS, np.int32)
  return PromptBatch(
    ids=ids, category=category, mask=np.ones(PROMPTS, bool), tokens=tokens
  )


def brightness(images, prompts):
  return images.mean((2, 3, 4))


@functools.cache
def particles(count=COUNT, score=brightness, group=GROUP):
  table = steppers.flow_sde(schedule.timesteps(STEPS, 2.0))

  def make(rows, scale):
    layout = rollout.make_layout(
      PROMPTS, rows, 5 * group
    )  # groups straddle chunks
    return Sampler(POLICY, table, layout, scale)

  return steering.Particles(
    make=make, score=score, group=group, count=count, steps=STEPS, seed=3,
    stream="test",
  )  # fmt: skip


def samples(draw):
  """All particles by the plain sampler, pixels [P, G, N, ...]."""
  state = draw.init({}, batch_of(), None)
  sampler = draw.make(draw.group * draw.count, 1.0)
  drawn = jax.jit(lambda s: sampler.run({}, s).latents[-1])(state)
  return np.asarray(draw.sets(sampler.pixels(drawn)))


def steer(method, draw):
  pixels, trace = method.run(draw, {}, batch_of())
  return np.asarray(pixels), trace


@pytest.mark.turns(2)
def test_best_of_n_is_the_best_of_the_plain_samples():
  draw = particles()
  every = samples(draw)
  pixels, trace = steer(steering.best_of_n(particles=COUNT), draw)
  score = np.clip(every, 0, 1).mean((3, 4, 5))
  want = np.take_along_axis(
    every, score.argmax(-1)[..., None, None, None, None], 2
  )[:, :, 0]
  np.testing.assert_allclose(pixels, want, atol=1e-6)
  np.testing.assert_allclose(trace.score, score.max(-1), atol=1e-6)
  assert (trace.network_evaluations, trace.reward_calls) == (24, 4)
  assert len(np.unique(every.reshape(-1, 4), axis=0)) == PROMPTS * GROUP * COUNT


@pytest.mark.turns(2)
def test_one_particle_is_plain_sampling():
  draw = particles(count=1)
  for method in (steering.best_of_n(particles=1), steering.fk(particles=1)):
    pixels, trace = steer(method, draw)
    np.testing.assert_allclose(pixels, samples(draw)[:, :, 0], atol=1e-6)
    assert trace.network_evaluations == STEPS


def test_without_a_tilt_nothing_is_resampled():
  """Then the particles are the plain samples, and the best is the same."""
  draw = particles()
  pixels, trace = steer(steering.fk(particles=COUNT, tilt=0.0), draw)
  best, _ = steer(steering.best_of_n(particles=COUNT), draw)
  np.testing.assert_array_equal(pixels, best)
  assert float(trace.resampled) == 0


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("potential", ["difference", "max"])
def test_particles_drawn_by_their_weights_score_higher(potential):
  """Than plain samples, and near what the weights of plain samples say."""
  draw, tilt = particles(count=16, group=32), 4.0
  method = steering.fk(
    particles=16, tilt=tilt, potential=potential, first=1, every=2,
    pick="drawn",
  )  # fmt: skip
  _, trace = steer(method, draw)
  every = np.clip(samples(draw), 0, 1).mean((3, 4, 5)).reshape(PROMPTS, -1)
  weight = np.exp(tilt * every)
  want = (weight * every).sum(1) / weight.sum(1)
  assert trace.reward_calls == 16 * 4 and float(trace.resampled) > 0.5
  assert (want > every.mean(1) + 0.04).all()
  np.testing.assert_allclose(trace.score.mean(), want.mean(), atol=0.035)


def test_copies_part_by_their_own_noise():
  """Parents may be shared; what follows is not."""
  draw = particles()
  state = draw.init({}, batch_of(), None)
  parents = jnp.zeros((PROMPTS, GROUP, COUNT), jnp.int32)
  same = draw.select(state, parents)
  of_sets = lambda s: np.asarray(draw.sets(draw.pixels(s.latents, None)))
  before, copied = of_sets(state), of_sets(same)
  np.testing.assert_array_equal(copied, np.repeat(before[:, :, :1], COUNT, 2))
  after, _ = draw.advance({}, same, 0, 2, None)
  apart = of_sets(after).reshape(PROMPTS * GROUP, COUNT, -1)
  assert min(len(np.unique(x, axis=0)) for x in apart) == COUNT


def failing(images, prompts):
  score = brightness(images, prompts)
  return jnp.where(score == score.max(-1, keepdims=True), jnp.nan, score)


def test_a_failed_score_is_never_chosen():
  draw = particles(score=failing)
  every = np.clip(samples(draw), 0, 1).mean((3, 4, 5))
  _, trace = steer(steering.best_of_n(particles=COUNT), draw)
  best = every.reshape(PROMPTS, -1).max(-1, keepdims=True)
  want = np.where(every == best[..., None], -np.inf, every).max(-1)
  np.testing.assert_allclose(trace.score, want, atol=1e-6)


def sampler_of(share=None, rows=5, **table):
  constants = steppers.flow_sde(schedule.timesteps(STEPS, 2.0))
  layout = rollout.make_layout(PROMPTS, 4, rows)
  return Sampler(POLICY, constants, layout, is_recorded=True, share=share)


def drawn(sampler, **options):
  prompts = batch_of()
  run = jax.jit(
    lambda: sampler.sample(
      {}, jax.random.key(0), prompts.tokens, prompts.ids, **options
    )
  )
  latents = jax.vmap(lambda x: rollout.to_groups(x, PROMPTS, 4))(run().latents)
  return np.asarray(latents)


@pytest.mark.turns(2)
def test_branches_share_their_first_steps_and_part_then():
  got = drawn(sampler_of(Share((2,), (jnp.int32(3),))))
  plain = drawn(sampler_of())
  pairs = got.reshape(STEPS + 1, PROMPTS, 2, 2, -1)
  np.testing.assert_array_equal(pairs[:4, :, :, 0], pairs[:4, :, :, 1])
  apart = np.abs(pairs[4:, :, :, 0] - pairs[4:, :, :, 1]).max(-1)
  assert apart.min() > 0
  assert np.abs(pairs[0, :, 0, 0] - pairs[0, :, 1, 0]).max(-1).min() > 0
  # The first of each branch is the sample that it would be alone.
  np.testing.assert_allclose(got[:, :, ::2], plain[:, :, ::2], atol=1e-6)


def test_a_tree_parts_at_every_fork():
  """Leaves are equal up to the fork at which their paths part, and no further."""
  got = drawn(sampler_of(Share((4, 2), (1, jnp.int32(3)))))
  same = (got[:, :, :, None] == got[:, :, None]).all((-3, -2, -1))
  path = np.arange(4) // 2
  twins = path[:, None] == path
  want = np.where(twins, 3, 1)  # so many steps after the shared noise
  for step in range(STEPS + 1):
    equal = (step <= want) | np.eye(4, dtype=bool)
    np.testing.assert_array_equal(
      same[step], np.broadcast_to(equal, (PROMPTS, 4, 4))
    )


def test_a_start_from_a_partly_noised_sample():
  """The first latents are the sample's and noise, by the first time's share."""
  times = schedule.timesteps(STEPS, 2.0)[2:]
  layout = rollout.make_layout(PROMPTS, 4, 5)
  sampler = Sampler(POLICY, steppers.ode(times), layout, is_recorded=True)
  start = np.random.default_rng(0).normal(size=(PROMPTS, 2, 2, 1))
  start = start.astype(np.float32)
  got = drawn(sampler, start=start)
  noise = drawn(sampler)[0]
  t = times[0]
  want = (1 - t) * start[:, None] + t * noise
  np.testing.assert_allclose(got[0], want, atol=1e-6)
  assert len(got) == STEPS - 1


def mean_score(method, draw) -> float:
  return float(np.asarray(method.run(draw, {}, batch_of())[1].score).mean())


def test_a_lookahead_is_the_next_estimate_and_nears_the_end_of_the_ode():
  """One jump gives x0_hat of the next step; more jumps come closer."""
  draw = particles()
  state, _ = draw.advance({}, draw.init({}, batch_of(), None), 0, 2, None)
  guess = lambda jumps: np.asarray(draw.lookahead({}, state, 2, jumps, None))
  _, x0_hat = draw.advance({}, state, 2, 3, None)
  np.testing.assert_allclose(guess(1), x0_hat, atol=1e-5)
  gaps = [np.abs(guess(jumps) - guess(512)).mean() for jumps in (1, 4, 64)]
  assert all(b < 0.3 * a for a, b in itertools.pairwise(gaps))


def test_a_lookahead_tells_the_network_its_own_times():
  """Where those are not the sampler's: halves of them here, also in between."""
  sampler = sampler_of()
  table = dataclasses.replace(sampler.table, network_t=sampler.table.t / 2)
  told = lambda params, x, t, cond: x * 0 + t[:, None, None, None]
  policy = dataclasses.replace(POLICY, velocity=told)
  sampler = dataclasses.replace(sampler, table=table, policy=policy)
  prompts = batch_of()
  state = sampler.init({}, jax.random.key(0), prompts.tokens, prompts.ids)
  got = jax.jit(lambda: sampler.lookahead({}, state, 2, 4))()
  start = float(sampler.table.t[2])
  steps = start / 4 * sum(start * (1 - k / 4) / 2 for k in range(4))
  np.testing.assert_allclose(got, state.latents - steps, atol=1e-6)


def test_beams_without_branches_are_the_best_of_n():
  draw = particles()
  method = steering.lookahead_beams(beams=COUNT, branches=1, lookahead=2)
  pixels, trace = steer(method, draw)
  best, _ = steer(steering.best_of_n(particles=COUNT), draw)
  np.testing.assert_array_equal(pixels, best)
  assert trace.network_evaluations == COUNT * (STEPS + 2 * (STEPS - 1))
  assert trace.reward_calls == COUNT * STEPS
  assert not method.needs_noise


@pytest.mark.job
@pytest.mark.turns(3)
def test_beams_that_branch_score_higher_than_as_many_samples():
  draw = particles(group=32)
  plain = mean_score(steering.best_of_n(particles=COUNT), draw)
  for beams, jumps in ((1, 1), (2, 2)):
    method = steering.lookahead_beams(
      beams=beams, branches=COUNT // beams, lookahead=jumps
    )
    assert method.needs_noise
    assert mean_score(method, draw) > plain + 0.02


def test_pruning_nothing_is_the_best_of_n():
  draw = particles()
  method = steering.pruned(particles=COUNT, looks=(1, 3), keep=(1.0, 1.0))
  pixels, trace = steer(method, draw)
  best, _ = steer(steering.best_of_n(particles=COUNT), draw)
  np.testing.assert_array_equal(pixels, best)
  assert trace.network_evaluations == COUNT * STEPS
  assert trace.reward_calls == 3 * COUNT


@pytest.mark.job
@pytest.mark.turns(3)
def test_an_oracle_never_prunes_the_best():
  """At looks by the scores of the finished samples, at the end by the reward."""
  whole = particles()
  every = samples(whole)
  final = np.clip(every, 0, 1).mean((3, 4, 5))
  order = np.argsort(-final, axis=-1)
  asked = []

  def oracle(images, prompts):
    count = images.shape[1] // GROUP
    asked.append(count)
    kept = np.sort(order[..., :count], axis=-1)
    return np.take_along_axis(final, kept, -1).reshape(PROMPTS, -1)

  draw = dataclasses.replace(whole, look=oracle)
  method = steering.pruned(particles=COUNT, looks=(1, 3), keep=(0.5, 0.5))
  pixels, trace = steer(method, draw)
  best, _ = steer(steering.best_of_n(particles=COUNT), whole)
  np.testing.assert_allclose(pixels, best, atol=1e-6)
  np.testing.assert_allclose(trace.score, final.max(-1), atol=1e-6)
  assert asked == [4, 2]
  assert (trace.network_evaluations, trace.reward_calls) == (4 + 2 * 2 + 3, 7)
  assert method.least_steps == 4


def test_the_cost_of_pruning_is_the_published_one():
  """TTSnap: 9.9 TFLOPs a step, 1.2 a score, 51.864 a start of 20 steps."""
  counts = pruning.survivors(100, (0.4, 0.4, 0.5))
  velocities, calls = pruning.cost(counts, (2, 6, 11), 19)
  assert counts == (100, 40, 16, 8)
  assert (9.9 * velocities + 1.2 * calls) / 100 == pytest.approx(51.864)
  assert pruning.survivors(2, (0.1, 1.0)) == (2, 1, 1)
