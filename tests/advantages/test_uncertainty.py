"""Credit weighed by a reward's doubt, and maps of places, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, rewards
from jaxreward.errors import UserError
from jaxreward.setup import credits
from jaxreward.tasks.scenes import grammar

RNG = np.random.default_rng(0)
P, G = 3, 5


def test_confident_weighs_the_whitened_reward():
  signal = RNG.normal(1, 2, (P, G)).astype(np.float32)
  mask = RNG.random((P, G)) > 0.2
  doubt = RNG.uniform(0, 20, (P, G)).astype(np.float32)
  doubt[0, 0], mask[0, 0] = np.nan, True  # the reward does not know
  low = {"a": doubt, "b": np.zeros((P, G), np.float32)}
  dirty = np.where(mask, signal, np.nan).astype(np.float32)
  got = advantages.REGISTRY["confident"](dirty, mask, low, clip=1.5)
  kept = signal[mask].astype(np.float64)
  z = (signal - kept.mean()) / (kept.std() + 1e-4)
  u = np.where(np.isnan(doubt), np.inf, doubt)
  weight = np.clip(np.exp(0.7 - 0.05 * u), 1.0, 2.21)
  want = np.where(mask, weight * np.clip(z, -1.5, 1.5), 0)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_published_weights_of_doubt():
  """exp(.7) = 2.01 without doubt, the floor of 1 from u = 14 on, none above."""
  signal = np.array([[0.0, 1.0]], np.float32)
  mask = np.ones((1, 2), bool)
  of = lambda u: float(
    advantages.confident(signal, mask, {"r": np.full((1, 2), u, np.float32)})[
      0, 1
    ]
  )
  plain = float(advantages.whitened(signal, mask)[0, 1])
  assert of(0.0) / plain == pytest.approx(np.exp(0.7), rel=1e-5)
  assert of(7.0) / plain == pytest.approx(np.exp(0.35), rel=1e-5)
  assert of(14.0) == pytest.approx(plain, rel=1e-5) == of(1e6)
  unknown = {"r": np.full((1, 2), np.nan, np.float32)}
  got = advantages.confident(signal, mask, unknown, slope=0.0)
  assert float(got[0, 1]) == pytest.approx(plain, rel=1e-5)
  with pytest.raises(UserError, match="least"):
    advantages.confident(signal, mask, {}, least=3.0)


def test_doubt_that_no_reward_has_is_refused_before_anything_is_drawn():
  advantage = advantages.as_advantage(advantages.confident)
  images = jax.ShapeDtypeStruct((2, 3, 4, 4, 3), jnp.float32)
  prompts = grammar.batch(grammar.prompts("train")[:2])
  value = lambda images, prompts: images.mean((2, 3, 4))
  sure = rewards.build({"r": value})
  with pytest.raises(UserError, match="how unsure"):
    credits.require_stds(advantage, sure, images, prompts)
  credits.require_stds(
    advantages.as_advantage(advantages.group), sure, images, prompts
  )
  doubt = lambda *x: rewards.Scores(value(*x), std=value(*x))
  unsure = rewards.build({"r": doubt})
  credits.require_stds(advantage, unsure, images, prompts)


def credit(signal, places, **options):
  advantage = advantages.REGISTRY["regional"](**options)
  mask = np.isfinite(signal)
  offers = dict(signal=signal, mask=mask, places=places)
  value, columns, _ = advantages.with_columns(advantage, offers, None)
  np.testing.assert_array_equal(value, mask)
  return np.asarray(columns["place_weight"])


def test_the_published_map():
  """A box of .6 and a whole of .2: .48; a box of -1 is as neutral as none."""
  box = np.full((1, 2, 2, 2), np.nan, np.float32)
  box[0, 0, 0, 0], box[0, 1] = 0.6, -1.0
  signal = np.array([[0.6, 1.0]], np.float32)  # (g + 1) / 2
  got = credit(signal, {"r": box})
  np.testing.assert_allclose(got[0, 0, 0], [0.48, 0.3], rtol=1e-6)
  np.testing.assert_allclose(got[0, 1], 0.5)  # nothing is repelled
  np.testing.assert_allclose(credit(signal, {}), 0.5 * signal[..., None, None])
  signed = credit(signal, {"r": box}, signed=True)
  np.testing.assert_allclose(signed[0, 1], -1.0)
  np.testing.assert_allclose(signed[0, 0, 0, 0], 0.36, rtol=1e-6)


def test_maps_of_several_rewards_are_averaged_on_the_finer_grid():
  signal = np.array([[1.0, np.nan]], np.float32)
  coarse = np.full((1, 2, 1, 1), 1.0, np.float32)
  fine = np.full((1, 2, 4, 4), 0.0, np.float32)
  got = credit(signal, {"a": coarse, "b": fine})
  assert got.shape == (1, 2, 4, 4)
  np.testing.assert_allclose(got[0, 0], 0.75)  # (1 + .5) / 2
  assert not got[0, 1].any()
