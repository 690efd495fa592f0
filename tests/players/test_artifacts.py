"""A detector of artefacts: its loss in float64, its copies, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreward import advantages, players

RNG = np.random.default_rng(0)
SIDE = 12


def test_the_loss_in_float64():
  clean, bad = RNG.normal(0, 2, (2, 6)).astype(np.float32)
  mask = np.array([1, 1, 0, 1, 1, 1], bool)
  dirty = np.where(mask, bad, np.nan).astype(np.float32)
  loss, metrics = players.told_apart(clean, dirty, mask)
  c, b = clean[mask].astype(np.float64), bad[mask].astype(np.float64)
  want = (np.log1p(np.exp(-c)) + np.log1p(np.exp(b))).mean() / 2
  np.testing.assert_allclose(loss.value(), want, rtol=1e-5)
  right = ((c > 0) + 1.0 * (b < 0)).mean() / 2
  np.testing.assert_allclose(metrics["accuracy"].value(), right, rtol=1e-6)


def test_it_decides_where_the_reward_does_not():
  reward = np.ones((1, 4), np.float32)
  clean = np.array([[0.1, 0.9, 0.5, 0.5]], np.float32)
  mask = np.ones((1, 4), bool)
  both = advantages.group(reward + clean, mask)
  np.testing.assert_allclose(both, advantages.group(clean, mask), atol=1e-5)


def pictures(count):
  """Squares of two colours on plain grounds."""
  colours = RNG.uniform(0.2, 0.8, (2, count, 1, 1, 3))
  images = np.tile(colours[0], (1, SIDE, SIDE, 1))
  images[:, 3:8, 4:9] = colours[1]
  return images.astype(np.float32)


@pytest.mark.job
@pytest.mark.turns(3)
def test_spoilt_copies_differ_and_depend_on_their_key_alone():
  images, keys = pictures(40), jax.random.split(jax.random.key(3), 40)
  got = np.asarray(players.spoilt(keys, images, 0.2))
  assert got.min() >= 0 and got.max() <= 1
  assert (np.abs(got - images).mean((1, 2, 3)) > 0.01).all()
  order = RNG.permutation(40)
  again = players.spoilt(keys[order], images[order], 0.2)
  np.testing.assert_array_equal(again, got[order])


@pytest.mark.job
@pytest.mark.turns(3)
def test_it_learns_to_see_artefacts_on_other_images():
  player = players.artifact_detector(width=8, depth=2, hidden=16)
  sizes = players.Sizes((SIDE, SIDE, 3), (SIDE, SIDE, 3), None)
  tx = optax.adam(1e-2)

  def value(params, images, keys):
    rows = dict(real_image=images, keys=keys)
    arrays = players.Arrays(player, params, rows)
    mask = jnp.ones(len(keys), bool)
    loss, metrics = player.loss(
      arrays("clean_logit"), arrays("spoilt_logit"), mask
    )
    return loss.value(), metrics["accuracy"].value()

  train, other = jnp.asarray(pictures(128)), jnp.asarray(pictures(64))
  keys_of = lambda seed, *shape: jax.random.key_data(
    jax.random.split(jax.random.key(seed), shape)
  )

  @jax.jit
  def learn(params):
    def step(carry, keys):
      params, state = carry
      grads = jax.grad(lambda p: value(p, train, keys)[0])(params)
      updates, state = tx.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(
      step, (params, tx.init(params)), keys_of(0, 120, 128)
    )
    arrays = players.Arrays(
      player, params, {"image": other, "real_image": other}
    )
    scores, logits = arrays("clean_score"), arrays("clean_logit")
    return value(params, other, keys_of(1, 64))[1], scores, logits

  accuracy, scores, logits = learn(player.init(jax.random.key(0), sizes))
  assert accuracy > 0.8
  want = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  np.testing.assert_allclose(scores, want, rtol=1e-5)
  assert (np.asarray(scores) > 0.5).mean() > 0.7
