"""Rows that feeds make of a rollout: what belongs together stays together."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds
from jaxreward.errors import UserError
from jaxreward.feeds import pairs
from jaxreward.flow import rollout, steppers
from jaxreward.types import Trajectory

P, G = 3, 4
SIGNAL = np.array(
  [[0.1, 0.9, 0.5, 0.3], [2.0, 2.0, 2.0, 2.0], [5.0, -1.0, 0.0, 4.0]],
  np.float32,
)


def plan_of(name, microbatch=5, **changes):
  layout = rollout.make_layout(P, G, microbatch)
  plan = feeds.Plan(
    table=steppers.flow_sde(np.linspace(1.0, 0.0, 4)),
    trained=changes.pop("trained", (0, 1, 2)), prompts=P, group=G, updates=1, guidance_scale=1.0, shift=2.5,
    feed=feeds.FEEDS[name], layout=layout, rows=layout, **changes,
  )  # fmt: skip
  size, each = plan.feed.size(plan), plan.feed.per_group(plan)
  if size > 1:
    rows = rollout.make_layout(P, each, max(microbatch // size, 1))
    plan = dataclasses.replace(plan, rows=rows)
  return plan


def trajectory_of(plan, steps=1):
  """Latents whose last entry says which sample they are."""
  size = len(plan.layout.mask)
  number = np.arange(size, dtype=np.float32)
  latents = np.broadcast_to(number[:, None], (steps, size, 2)).copy()
  return Trajectory(
    latents=jnp.asarray(latents), log_probs=jnp.zeros((3, size)),
    velocities=None, prompt_index=jnp.asarray(plan.layout.prompt_index),
    member=jnp.asarray(plan.layout.member), mask=jnp.asarray(plan.layout.mask),
  )  # fmt: skip


def credit_of(advantage=SIGNAL, mask=None):
  mask = np.ones((P, G), bool) if mask is None else mask
  advantage = np.where(mask if np.ndim(advantage) == 2 else mask[..., None],
                       advantage, np.nan)  # fmt: skip
  return feeds.Credit(jnp.asarray(SIGNAL), jnp.asarray(advantage), mask)


def make(name, credit=None, steps=1, **changes):
  plan = plan_of(name, **changes)
  ids = np.arange(7, 7 + P).astype(np.uint32)
  rows = plan.feed.make(
    trajectory_of(plan, steps), credit or credit_of(), ids, plan,
    jax.random.key(0),
  )  # fmt: skip
  return rows, plan


@pytest.mark.parametrize("count", [1, 2])
def test_pairs_are_the_best_beside_the_worst(count):
  chosen, rejected, valid = pairs.choose(SIGNAL, np.ones((P, G), bool), count)
  expected = {
    (0, 1, 0),
    (0, 2, 3),
    (2, 0, 1),
    (2, 3, 2),
  }  # (prompt, better, worse): those of the equal group are left out
  got = {
    (p, int(chosen[p, i]), int(rejected[p, i]))
    for p in range(P) for i in range(count) if valid[p, i]
  }  # fmt: skip
  first = {(0, 1, 0), (2, 0, 1)}
  assert got == (expected if count == 2 else first)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_skip_what_does_not_count(seed):
  rng = np.random.default_rng(seed)
  signal, mask = rng.normal(size=(6, 7)), rng.random((6, 7)) > 0.4
  dirty = np.where(mask, signal, np.nan)
  chosen, rejected, valid = pairs.choose(jnp.asarray(dirty), mask, 3)
  for p in range(6):
    order = sorted(np.flatnonzero(mask[p]), key=lambda g: -signal[p, g])
    want = [(order[i], order[-1 - i]) for i in range(min(3, len(order) // 2))]
    got = [
      (int(chosen[p, i]), int(rejected[p, i])) for i in range(3) if valid[p, i]
    ]
    assert got == want


def test_pairs_know_their_rewards_and_those_of_their_group():
  mask = np.ones((P, G), bool)
  mask[2, 1] = False  # of 5, -1, 0 and 4 the worst
  stats = {k: np.asarray(x) for k, x in pairs.signals(SIGNAL, mask, 2).items()}
  _, _, valid = pairs.choose(SIGNAL, mask, 2)
  np.testing.assert_array_equal(valid, [[1, 1], [0, 0], [1, 0]])
  np.testing.assert_allclose(stats["signal_chosen"][0], [0.9, 0.5])
  np.testing.assert_allclose(stats["signal_rejected"][0], [0.1, 0.3])
  np.testing.assert_allclose(stats["group_gap"][[0, 2]], [[0.5] * 2, [5.0] * 2])
  stds = [SIGNAL[0].std(), 0.0, SIGNAL[2, [0, 2, 3]].std()]
  want = np.repeat(np.array(stds)[:, None], 2, 1)
  np.testing.assert_allclose(stats["group_std"], want, rtol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_last_members_are_the_real_ones():
  rows, _ = make("noised", real=1)
  member = np.asarray(rows["x0"])[0, :, 0].astype(int) % G
  np.testing.assert_array_equal(rows["real"][0], member == G - 1)
  rows, _ = make("lists", microbatch=8, real=2)
  np.testing.assert_array_equal(
    rows["real"], np.broadcast_to(np.arange(G) >= G - 2, rows["real"].shape)
  )
  assert not np.asarray(make("noised")[0]["real"]).any()


@pytest.mark.turns(2)
def test_both_of_a_pair_share_noise_and_time():
  rows, plan = make("pairs", pairs=2)
  t = np.asarray(rows["t"])[..., None]
  for side in ("chosen", "rejected"):
    x0 = rows[f"x_{side}"] - t * rows[f"u_{side}"]
    np.testing.assert_allclose(x0[..., 0], x0[..., 1], atol=1e-5)
    noise = rows[f"x_{side}"] + (1 - t) * rows[f"u_{side}"]
    if side == "chosen":
      first, better = noise, x0
  np.testing.assert_allclose(first, noise, atol=1e-5)
  numbers = np.round(np.stack([better[..., 0], x0[..., 0]], -1)).astype(int)
  real = np.asarray(rows["mask"])
  got = {tuple(row) for row in numbers[real].tolist()}
  assert got == {(1, 0), (2, 3), (8, 9), (11, 10)}
  assert real.sum() == 4 * len(plan.trained)


@pytest.mark.turns(2)
def test_a_list_is_one_prompt_under_one_noise():
  rows, plan = make("lists", microbatch=8)
  t = np.asarray(rows["t"])[..., None]
  x0 = np.asarray(rows["x_t"] - t * rows["u"])
  noise = np.asarray(rows["x_t"] + (1 - t) * rows["u"])
  mask = np.asarray(rows["mask"])
  prompt = np.asarray(rows["prompt_index"])
  assert mask.sum() == P * G * len(plan.trained)
  members = np.round(x0[..., 0]).astype(int)
  np.testing.assert_array_equal(members[mask] // G, prompt[mask])
  np.testing.assert_allclose(noise, noise[:, :, :1] + 0 * noise, atol=1e-5)
  spread = np.abs(noise[:, 0, 0] - noise[:, 1, 0]).max()
  assert spread > 0.1  # prompts have noise of their own


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["noised", "pairs", "lists"])
def test_rows_do_not_depend_on_the_micro_batch(name):
  key = {"pairs": "u_chosen", "lists": "u", "noised": "noise"}[name]
  found = []
  for microbatch in (4, 12):
    rows, plan = make(name, microbatch=microbatch, pairs=2)
    count = P * plan.feed.per_group(plan)
    found.append([np.asarray(rows[k])[:, :count] for k in ("t", key)])
  for a, b in zip(*found, strict=True):
    np.testing.assert_array_equal(a, b)


def test_credit_of_steps_goes_to_its_step():
  advantage = np.arange(P * G * 3, dtype=np.float32).reshape(P, G, 3)
  rows, plan = make("steps", credit_of(advantage), steps=4)
  expected = advantage.reshape(P * G, 3).T
  np.testing.assert_array_equal(rows["advantage"][:, : P * G], expected)
  one, _ = make("steps", credit_of(advantage[..., 0]), steps=4)
  same = np.broadcast_to(advantage[..., 0].reshape(-1), (3, P * G))
  np.testing.assert_array_equal(one["advantage"][:, : P * G], same)
  assert len(plan.trained) == 3


def test_each_sample_trains_steps_of_its_own():
  """Two of three: no step twice, each as often, with what belongs to it."""
  advantage = np.arange(P * G * 3, dtype=np.float32).reshape(P, G, 3)
  whole, _ = make("steps", credit_of(advantage), steps=4)
  rows, plan = make(
    "steps", credit_of(advantage), steps=4, trained=(0, 1), among=(0, 1, 2)
  )
  t = np.asarray(plan.table.t)
  index = np.argmax(np.asarray(rows["t"])[..., None] == t, -1)
  assert index.shape == (2, len(plan.layout.mask))
  assert (index[0] != index[1]).all()
  assert len({*map(tuple, index.T)}) > 3  # not the same for all samples
  sample = np.arange(index.shape[1])
  for name in ("advantage", "mask", "x_t", "old_log_prob", "sample"):
    np.testing.assert_array_equal(
      rows[name], np.asarray(whole[name])[index, sample]
    )
  for name in ("std", "c_x", "c_v", "t", "t_next"):
    np.testing.assert_array_equal(
      getattr(rows["step"], name), np.asarray(getattr(plan.table, name))[index]
    )
  micros = feeds.cut(rows, plan)
  assert micros["step"].std.shape == micros["advantage"].shape
  assert micros["is_first"].shape == micros["advantage"].shape[:2]


def test_all_steps_drawn_are_all_steps():
  """Of three, three: the rows of each sample, in an order of its own."""
  whole, plan = make("steps", steps=4)
  rows, _ = make("steps", steps=4, among=(0, 1, 2))
  order = np.argsort(-np.asarray(rows["t"]), axis=0)
  for name in ("t", "x_t", "x_next", "advantage", "old_log_prob"):
    ordered = np.asarray(rows[name])[order, np.arange(order.shape[1])]
    np.testing.assert_array_equal(ordered, whole[name])
  del plan


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", ["steps", "noised", "lists", "tail"])
def test_failed_samples_are_masked_and_hold_no_nan(name):
  mask = np.ones((P, G), bool)
  mask[2, 1] = False
  rows, _ = make(name, credit_of(mask=mask), steps=4)
  kept = np.asarray(rows["mask"])
  assert kept.reshape(kept.shape[0], -1).sum(1).tolist() == [11] * len(kept)
  for key in ("x_t", "u", "x0"):
    if key in rows:
      assert np.isfinite(rows[key]).all()


def test_a_latent_that_is_not_finite_is_masked_too():
  plan = plan_of("noised")
  trajectory = trajectory_of(plan)
  latents = trajectory.latents.at[0, 5].set(jnp.nan)
  trajectory = dataclasses.replace(trajectory, latents=latents)
  rows = plan.feed.make(
    trajectory, credit_of(), np.arange(P), plan, jax.random.key(0)
  )
  assert not np.asarray(rows["mask"])[:, 5].any()
  assert np.isfinite(rows["x_t"]).all()


class Told(feeds.Arrays):
  """Rows under a velocity that tells the sample, the time and the prompt."""

  def __init__(self, prompts):
    index = np.arange(prompts).repeat(2)
    self.rows = {
      "x_t": np.arange(len(index))[:, None], "prompt_index": index,
      "t": 1 / (1 + np.arange(len(index))),
    }  # fmt: skip
    self.plan = types.SimpleNamespace(prompts=prompts)

  def network(self, role):
    assert role == "policy"
    return types.SimpleNamespace(
      velocity=lambda x, t, index: 10 * x + (t + 100 * index)[:, None]
    )


@pytest.mark.parametrize("prompts", [3, 6])
def test_other_prompts_are_those_that_follow(prompts):
  arrays = Told(prompts)
  got = feeds.FEEDS["dataset"].offers["v_others"](arrays)
  assert got.shape == (2 * prompts, min(3, prompts - 1), 1)
  for row, j in np.ndindex(got.shape[:2]):
    other = (row // 2 + 1 + j) % prompts
    assert other != row // 2
    want = 10 * row + 1 / (1 + row) + 100 * other
    assert float(got[row, j, 0]) == pytest.approx(want, rel=1e-6)


def test_one_prompt_has_no_others():
  with pytest.raises(UserError, match="prompts=1: "):
    feeds.FEEDS["dataset"].offers["v_others"](Told(1))
