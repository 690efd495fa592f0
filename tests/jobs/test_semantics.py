"""What is averaged, which policy draws, and the KL that is reported."""

import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds, rng
from jaxreward.flow import sampler, schedule, steppers
from jaxreward.jobs import evaluate
from jaxreward.tasks.scenes import grammar
from jaxreward.training import async_rollout
from jaxreward.types import Policy
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 2)]

NFT, GRPO = "align_scenes.py:smoke", "align_scenes.py:flow_grpo,smoke"
TERM = {NFT: "velocity_distance", GRPO: "step_kl"}


def iteration_of(spec, *overrides):
  config = tiny.load(spec, tiny.MODEL, tiny.REWARD, tiny.FAST, *overrides)
  return tiny.Iteration(config, tiny.mesh_of(1))


@pytest.mark.parametrize("split", ["times", "samples"])
@pytest.mark.parametrize("rows", [2, 6, 24])
def test_what_optimizer_steps_share_out(split, rows):
  """Each pair of sample and time once, whatever the micro-batch."""
  iteration = iteration_of(
    GRPO,
    {"rollout.prompts": 3, "rollout.group": 5, "rollout.microbatch": rows,
     "align.updates": 2, "align.split": split},
  )  # fmt: skip
  plan, times = iteration.plan, len(iteration.plan.trained)
  trajectory, _, _ = iteration.sample(iteration.state)
  numbers = jnp.arange(1.0, 3 * 5 + 1).reshape(3, 5)
  credit = feeds.Credit(numbers, numbers, numbers > 0)
  rows_of = plan.feed.make(trajectory, credit, None, plan, None)
  micro = types.SimpleNamespace(**feeds.cut(rows_of, plan))
  shape = (2, times * plan.layout.chunks // 2)
  assert micro.advantage.shape[:2] == micro.step.t.shape == shape
  seen = []
  for u in range(2):
    number, t = np.broadcast_arrays(
      np.asarray(micro.advantage[u]) - 1, np.asarray(micro.step.t[u])[:, None]
    )
    real = np.asarray(micro.mask[u])
    seen.append(set(zip(number[real].tolist(), t[real].tolist(), strict=True)))
    assert real.sum() == len(seen[u])
  every = range(3 * 5)
  samples = [{n for n, _ in one} for one in seen]
  if split == "times":
    assert samples == [set(every)] * 2
    assert not {t for _, t in seen[0]} & {t for _, t in seen[1]}
  else:
    assert samples == [set(every[0::2]), set(every[1::2])]
    assert [len({t for _, t in one}) for one in seen] == [times] * 2
  assert len(seen[0] | seen[1]) == 15 * times
  # The rows' own latents and times belong together.
  of = {
    (b, float(plan.table.t[k])): np.asarray(trajectory.latents[k, b])
    for b in every
    for k in plan.trained
  }
  for u in range(2):
    for i in range(shape[1]):
      for m in np.flatnonzero(micro.mask[u, i]):
        name = int(micro.advantage[u, i, m]) - 1, float(micro.step.t[u, i])
        np.testing.assert_array_equal(micro.x_t[u, i, m], of[name])


def test_an_old_policy_that_is_the_trained_one_at_first():
  """min(rate * step, decay), the published schedule."""
  given = {"objective.old_decay": 0.25, "objective.old_rate": 0.2}
  iteration = iteration_of(NFT, given)
  state = iteration.state
  for decay in (0.0, 0.2, 0.25):
    old = tiny.flat(state.old)
    state, _, _ = iteration.step(iteration.copy(state))
    expected = decay * old + (1 - decay) * tiny.flat(state.params)
    np.testing.assert_allclose(tiny.flat(state.old), expected, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_the_old_policy_follows_once_per_iteration(decay):
  iteration = iteration_of(NFT, {"objective.old_decay": decay})
  old = tiny.flat(iteration.state.old)
  state, _, _ = iteration.step(iteration.state)
  new = tiny.flat(state.params)
  assert (new != old).any()
  expected = decay * old + (1 - decay) * new
  np.testing.assert_allclose(tiny.flat(state.old), expected, atol=1e-6)
  again, _, _ = iteration.step(iteration.copy(state))
  expected = decay * expected + (1 - decay) * tiny.flat(again.params)
  np.testing.assert_allclose(tiny.flat(again.old), expected, atol=1e-6)


@pytest.mark.parametrize("spec", [NFT, GRPO])
def test_who_draws_the_samples(spec):
  """The old policy for NFT, the trained parameters for a ratio objective."""
  iteration = iteration_of(spec)
  state = iteration.state
  other = jax.tree.map(lambda x: x * 1.5, iteration.state.params)
  drawn, _, _ = iteration.sample(state)
  trained_moved, _, _ = iteration.sample(state.replace(params=other))
  ema_moved, _, _ = iteration.sample(state.replace(ema=other))
  assert tiny.same_bits(drawn, ema_moved)
  same = tiny.same_bits(drawn, trained_moved)
  if spec == NFT:
    assert same
    old_moved, _, _ = iteration.sample(tiny.with_old(state, other))
    assert not tiny.same_bits(drawn, old_moved)
  else:
    assert not same
    assert state.old is None


def test_the_loss_of_nft_reads_the_old_policy():
  iteration = iteration_of(NFT, {"align.updates": 1})
  trajectory, _, images = iteration.sample(iteration.state)
  scores = {"redness": tiny.redness(images, None)}
  _, metrics = iteration.update(iteration.state, trajectory, scores)
  assert tiny.numbers(metrics)["velocity_shift"] < 1e-12  # old is trained, yet
  other = jax.tree.map(lambda x: x * 1.2, iteration.state.old)
  moved = tiny.with_old(iteration.state, other)
  _, metrics = iteration.update(moved, trajectory, scores)
  assert tiny.numbers(metrics)["velocity_shift"] > 1e-6


@pytest.mark.parametrize("spec", [NFT, GRPO])
def test_kl_penalty_is_zero_at_the_reference_and_pulls_back(spec):
  overrides = {"align.updates": 1} | tiny.kl(TERM[spec], 1.0)
  iteration = iteration_of(spec, overrides)
  _, first, _ = iteration.step(iteration.state)
  assert tiny.numbers(first)["kl"] == pytest.approx(0.0, abs=1e-10)
  away = jax.tree.map(lambda x: x * 1.1, iteration.state.params)
  state = iteration.state.replace(params=away)
  if state.old is not None:
    state = tiny.with_old(state, iteration.copy(away))
  _, moved, _ = iteration.step(state)
  assert tiny.numbers(moved)["kl"] > 1e-6


@pytest.mark.optimized
def test_a_skipped_update_changes_nothing():
  """Not finite velocities: parameters, moments and average stay, bit for bit."""
  iteration = iteration_of(NFT)
  trajectory, _, images = iteration.sample(iteration.state)
  scores = {"redness": tiny.redness(images, None)}
  broken = jax.tree.map(lambda x: x, iteration.state)
  old = jax.tree.map(lambda x: x * jnp.nan, broken.old)
  before = jax.device_get(iteration.state)
  state, metrics = iteration.update(
    tiny.with_old(broken, old), trajectory, scores
  )
  assert tiny.numbers(metrics)["skipped_updates"] == 1.0
  assert tiny.same_bits(state.params, before.params)
  assert tiny.same_bits(state.opt_state, before.opt_state)
  assert tiny.same_bits(state.ema, before.ema)
  assert int(state.step) == 1


# KL of the paths


def linear_policy():
  """v = a x + b t + c, on [2, 2, 1] pictures; the prompt's number scales c."""

  def velocity(params, x_t, t, cond):
    shift = (params["b"] * t + params["c"] * cond)[:, None, None, None]
    return params["a"] * x_t + shift

  return Policy(
    init=lambda key: {"a": 0.0, "b": 0.0, "c": 0.0},
    encode=lambda params, tokens: jnp.asarray(tokens)[:, 0].astype(float),
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x,
    latent_shape=(2, 2, 1),
  )


def reference_kl(p, q, noise, level, times, word):
  """float64 NumPy: the sum over steps of KL of Gaussians of equal variance."""
  x, total = noise[0], np.zeros(len(word))
  for i, (t, t_next) in enumerate(itertools.pairwise(times)):
    below = t_next if t >= 1 else t
    s = level * np.sqrt(t / (1 - below))
    delta = t - t_next
    std = s * np.sqrt(delta)

    def mean(theta, x=x, t=t, s=s, delta=delta):
      shift = (theta["b"] * t + theta["c"] * word)[:, None, None, None]
      v = theta["a"] * x + shift
      drift = v + s**2 / (2 * t) * (x + (1 - t) * v)
      return x - delta * drift

    difference = mean(p) - mean(q)
    total += (difference**2).sum((1, 2, 3)) / (2 * std**2)
    x = mean(p) + std * noise[i + 1]
  return total.mean()


@pytest.mark.parametrize("microbatch", [5, 12, 100])  # padded, whole, few rows
def test_path_kl_is_the_closed_form_of_every_step(microbatch):
  policy = linear_policy()
  times = schedule.timesteps(5, 2.5)
  table = steppers.flow_sde(times, noise_level=0.7)
  chosen = grammar.prompts("heldout")[:3]
  batch, group = grammar.batch(chosen), 4
  key = jax.random.key(7)
  p = {"a": 0.9, "b": 0.3, "c": 0.2}
  q = {"a": 0.8, "b": 0.1, "c": 0.25}
  found = evaluate.path_kl(
    policy, p, policy, q, key, batch, table, group, microbatch
  )
  noise = path_noise(key, batch, group, len(table.t))
  word = np.repeat(np.asarray(batch.tokens)[:, 0], group).astype(float)
  expected = reference_kl(p, q, noise, 0.7, times.astype(np.float64), word)
  assert expected > 0.01
  np.testing.assert_allclose(float(found), expected, rtol=1e-4)


def path_noise(key, batch, group, steps):
  """The draws that belong to (prompt, member, step), in float64."""
  rows = len(batch.ids)
  ids, members = np.repeat(batch.ids, group), np.tile(np.arange(group), rows)
  keys = rng.sample_keys(key, ids, members)
  numbers = [sampler.INITIAL_NOISE, *range(steps)]
  draws = [rng.normal_each(rng.fold_each(keys, n), (2, 2, 1)) for n in numbers]
  return [np.asarray(d, np.float64) for d in draws]


def test_path_kl_of_equal_parameters_is_zero():
  iteration = iteration_of(NFT)
  params = iteration.parts.base
  table = steppers.flow_sde(schedule.timesteps(4, 2.5))
  batch = grammar.batch(grammar.prompts("heldout")[:2])
  args = jax.random.key(0), batch, table, 2, 4
  policy = iteration.policy
  same = evaluate.path_kl(policy, params, policy, params, *args)
  assert float(same) < 1e-6
  other = jax.tree.map(lambda x: x * 1.05, params)
  assert float(evaluate.path_kl(policy, other, policy, params, *args)) > 0


@pytest.mark.optimized
def test_kl_reported_is_zero_when_nothing_is_learned(tmp_path, small_model):
  config = tiny.load(
    NFT, tiny.MODEL, tiny.REWARD, tiny.FAST,
    {"optimizer.learning_rate": 0.0, "optimizer.name": "sgd"},
    {"align.iterations": 1},
  )  # fmt: skip
  workdir = tiny.run(config, tmp_path / "run")
  found = json.loads((workdir / "evaluation.json").read_text())
  before = found["before"]["guidance_scale=1.0"]
  after = found["after"]["guidance_scale=1.0"]
  assert after.pop("kl") < 1e-6
  assert after == before  # same prompts, same seeds, same pictures
  assert found["difference"]["value"] == 0.0


# Samples that are drawn ahead


@pytest.mark.parametrize("spec", [NFT, GRPO])
def test_samples_drawn_ahead_are_those_of_an_update_ago(spec):
  """Iteration by iteration, against states that were kept on the way."""
  iteration = iteration_of(spec, {"align.overlap": True, "align.iterations": 4})
  drawn = []

  def draw(params, n, _):
    drawn.append((n, tiny.flat(params)))
    with jax.set_mesh(iteration.mesh):
      return iteration.parts.draw(
        params, jnp.int32(n), iteration.parts.base, iteration.batch
      )

  samples, state, kept = async_rollout.Samples(draw, 4), iteration.state, []
  for n in range(4):
    kept.append(tiny.flat(async_rollout.draw_params(state)))
    trajectory, _, images = samples.of(state, n)
    scores = {"redness": tiny.redness(images, None)}
    state, metrics = iteration.update(state, trajectory, scores)
    gap = tiny.numbers(metrics).get("log_prob_gap")
    # Iteration 0 has no policy before its own.
    assert gap is None or (gap == 0.0) == (n == 0)
    samples.begin_next(state, n + 1)
    assert [m for m, _ in drawn] == list(range(min(n + 3, 4)))
  assert (kept[1] != kept[0]).any()
  for n, params in drawn:
    np.testing.assert_array_equal(params, kept[max(n - 1, 0)])


def test_without_overlap_samples_are_drawn_when_they_are_asked_for():
  iteration = iteration_of(GRPO)
  drawn = []
  samples = async_rollout.Samples(lambda params, n, _: drawn.append(n) or n, 9)
  assert iteration.state.sampler_params is None
  assert samples.of(iteration.state, 3) == 3
  samples.begin_next(iteration.state, 4)
  assert drawn == [3]
