"""Scores of a dataset's images as a condition of the policy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards as rewards_lib
from jaxreward import rng, setup
from jaxreward.setup import offline, prompt_encoding, row_scores
from jaxreward.types import Policy
from tests import tiny

RECIPE = "recipes/multi_reward_condition.py:smoke"


def channel(i):
  """A reward: the mean of a colour."""
  return lambda images, prompts: images[..., i].mean((2, 3))


def rewards_of(**functions):
  return rewards_lib.build(functions, dict.fromkeys(functions, 1.0))


def test_a_share_is_embedded_as_published():
  """Frequencies 10000^(-i / half) of 5 s, cosines first; nothing for no score."""
  shares = np.array([[1.0, 0.35], [0.0, np.nan]])
  found = row_scores.features(shares, 12)
  for k, s in enumerate(shares[0]):
    for i in range(3):
      angle = 5 * s / 10000 ** (i / 3)
      want = np.cos(angle), np.sin(angle)
      np.testing.assert_allclose(
        found[0, [6 * k + i, 6 * k + 3 + i]], want, 1e-6
      )
  np.testing.assert_array_equal(found[1], [1] * 3 + [0] * 9)


def test_conditions_part_modes_and_their_absence_mixes_them():
  """The best x0 that is linear in the condition, of data at +1 or -1 by its score.

  Modes of shares 1 and 1/5, 3 rows of the first to 1 of the other, a tenth of each
  without a condition: asked for, a mode is drawn exactly, and without the mix.
  """
  shares, modes = np.array([1.0] * 3 + [0.2]), np.array([1.0] * 3 + [-1.0])
  x = row_scores.features(np.tile(shares, 10)[:, None], 8).astype(np.float64)
  x[-4:] = 0
  x = np.concatenate([x, np.ones((40, 1))], 1)
  weights = np.linalg.lstsq(x, np.tile(modes, 10), rcond=None)[0]
  drawn = lambda *s: row_scores.features(np.array([s]).T, 8) @ weights[:-1]
  np.testing.assert_allclose(drawn(1.0, 0.2) + weights[-1], [1, -1], atol=1e-6)
  np.testing.assert_allclose(weights[-1], 0.5, atol=1e-6)


@pytest.mark.turns(2)
def test_rows_bring_the_shares_of_their_scores():
  """Against counting, with a reward that fails for some images."""
  config = tiny.load(
    RECIPE,
    {"rollout.prompts": 12, "data.scored.rows": 24, "data.scored.drop": 0.3},
  )
  plain, red, green = offline.batches(config), channel(0), channel(1)
  means = (
    np.concatenate([plain(n).images.mean((1, 2, 3)) for n in (0, 1)]) / 255
  )
  limit = np.median(means[:, 1])

  def fails(images, prompts):
    value = green(images, prompts)
    return jnp.where(value > limit, jnp.nan, value)

  read = row_scores.conditioned(config, plain, rewards_of(task=red, look=fails))
  lows = means[means[:, 1] <= limit, 1]
  want = np.zeros((12, 2))
  for i, row in enumerate(plain(3).images.mean((1, 2, 3)) / 255):
    rounded = 1e-6  # the scores are of single precision
    want[i, 0] = np.mean(means[:, 0] <= row[0] + rounded)
    want[i, 1] = (
      np.mean(lows <= row[1] + rounded) if row[1] <= limit else np.nan
    )
  assert np.isnan(want[:, 1]).any() and np.isfinite(want[:, 1]).any()
  batch = read(3)
  is_dropped = ~batch.prompts.user.any(1)
  assert 0 < is_dropped.sum() < 12
  np.testing.assert_allclose(
    batch.prompts.user[~is_dropped],
    row_scores.features(want, 16)[~is_dropped],
    atol=1e-6,
  )
  np.testing.assert_array_equal(batch.images, plain(3).images)
  np.testing.assert_array_equal(read(3).prompts.user, batch.prompts.user)


def test_images_are_right_or_beside_it():
  """One of the two that the task draws, of either kind."""
  config = tiny.load(RECIPE, {"rollout.prompts": 12, "data.caption_drop": 0.0})
  rows = offline.batches(config)(0)
  key = rng.stream_key(config.seed, "dataset", 0)
  draw = setup.make_task(config).draw
  both = np.asarray(draw(key, rows.prompts, with_worse=True))
  same = (rows.images == both).all((2, 3, 4))
  assert same.any(1).all() and (same.sum(0) > 2).all()


def test_what_is_asked_for_reaches_the_images(monkeypatch):
  """A policy whose red is the first cosine of the first score, green of the other."""
  config = tiny.load(RECIPE, {"eval.num_steps": 2})

  def velocity(params, x_t, t, cond):
    x0 = jnp.stack([cond[:, 0], cond[:, 8], 0 * cond[:, 0]], -1)[:, None, None]
    return (x_t - x0) / jnp.maximum(t, 0.05)[:, None, None, None]

  policy = Policy(
    init=lambda key: {},
    encode=lambda params, prompts: prompts["user"],
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x * 0.5 + 0.5,
    latent_shape=(36, 36, 3),
    user=16,
  )
  monkeypatch.setattr(row_scores, "TESTED", 4)
  rewards = rewards_of(task=channel(0), look=channel(1))
  results = row_scores.evaluate(config, policy, {}, rewards)
  high, low = 0.5 + 0.5 * np.cos(5.0), 1.0
  want = {
    "asked": (high, high),
    "least task": (low, high),
    "least look": (high, low),
  }
  for name, (red, green) in want.items():
    np.testing.assert_allclose(results[name]["task"], red, atol=1e-5)
    np.testing.assert_allclose(results[name]["look"], green, atol=1e-5)


def test_samples_ask_for_the_best_and_rows_keep_their_own():
  config = tiny.load(RECIPE)
  policy = setup.make_policy(config)
  encode = prompt_encoding.make_encode(config, policy)
  batch = tiny.prompts_of(config)
  best = row_scores.features(np.ones((1, 2)), 16)
  np.testing.assert_array_equal(
    encode(batch).user, np.repeat(best, len(batch.ids), 0)
  )
  own = np.zeros((len(batch.ids), 16), np.float32)
  kept = encode(dataclasses.replace(batch, user=own)).user
  np.testing.assert_array_equal(kept, own)


@pytest.mark.parametrize("asked", [0.0, 0.4])
def test_any_share_may_be_asked_for(asked):
  config = tiny.load(RECIPE, {"data.scored.ask": asked})
  want = row_scores.features(np.full((2, 2), asked), 16)
  np.testing.assert_array_equal(row_scores.asked(config, 2), want)
