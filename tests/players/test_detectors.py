"""Detectors: their loss in float64, its optimum, and what several say together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreward import players
from jaxreward.errors import UserError

RNG = np.random.default_rng(0)
SIDE = 8


def test_the_loss_in_float64():
  drawn, real = RNG.normal(0, 2, (2, 6, 3)).astype(np.float32)
  mask, real_mask = np.ones((2, 6), bool)
  mask[2], real_mask[4] = False, False
  both = mask & real_mask
  dirty = np.where(mask[:, None], drawn, np.nan).astype(np.float32)
  loss, metrics = players.soft_cross_entropy(
    dirty, real, mask, real_mask, smoothing=0.05
  )
  p = lambda x: 1 / (1 + np.exp(-x[both].astype(np.float64)))
  of = lambda p, y: -(y * np.log(p) + (1 - y) * np.log(1 - p))
  want = (of(p(real), 0.95) + of(p(drawn), 0.05)).mean() / 2
  np.testing.assert_allclose(loss.value(), want, rtol=1e-5)
  right = ((real[both] > 0) + 1.0 * (drawn[both] < 0)).mean() / 2
  np.testing.assert_allclose(metrics["accuracy"].value(), right, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_the_optimum_is_the_share_of_references(smoothing):
  """p = y_r p_r + s p_g over p_r + p_g, without smoothing Bayes' posterior.

  On outcomes of shares 6 : 2 among references and 1 : 3 among samples; where both
  are alike it is 1/2, and nothing is left to gain.
  """
  real, drawn = np.array([0.75, 0.25]), np.array([0.25, 0.75])

  def value(l):
    ones = jnp.ones(1, bool)
    loss = lambda a, b: players.soft_cross_entropy(
      a[None, None], b[None, None], ones, ones, smoothing=smoothing
    )[0].value()
    return sum(
      real[i] * drawn[j] * loss(l[j], l[i]) for i in (0, 1) for j in (0, 1)
    )

  posterior = (real * (1 - smoothing) + drawn * smoothing) / (real + drawn)
  best = jnp.asarray(np.log(posterior / (1 - posterior)), jnp.float32)
  np.testing.assert_allclose(jax.grad(value)(best), 0, atol=1e-6)
  np.testing.assert_allclose(posterior.sum(), 1, atol=1e-12)


def test_pools_of_probabilities():
  logits = RNG.normal(0, 2, (5, 4)).astype(np.float32)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  of = lambda pool: players.pooled(logits, pool)
  np.testing.assert_allclose(of("mean"), p.mean(1), rtol=1e-5)
  np.testing.assert_allclose(of("least"), p.min(1), rtol=1e-5)
  np.testing.assert_allclose(of("log"), np.log(p).mean(1), rtol=1e-5)
  assert (of("least") <= of("mean")).all()
  # An image that deceives one detector earns nothing from the least of them.
  fooled = np.array([[-4, -4, 30, -4]], np.float32)
  assert players.pooled(fooled, "mean")[0] > 0.25
  assert players.pooled(fooled, "least")[0] < 0.02


@pytest.mark.job
@pytest.mark.turns(3)
def test_an_ensemble_learns_and_disagrees_where_it_has_not_seen():
  """References are warm, samples cold; between them all agree, far off they part."""
  player = players.reality(width=4, depth=1, hidden=8, heads=5, smoothing=0.0)
  sizes = players.Sizes((SIDE, SIDE, 3), (SIDE, SIDE, 3), None)
  params = player.init(jax.random.key(0), sizes)
  tx = optax.adam(1e-2)
  plain = lambda r, b, n=16: (
    np.clip(RNG.normal([r, 0.5, b], 0.05, (n, SIDE, SIDE, 3)), 0, 1)
  ).astype(np.float32)

  @jax.jit
  def learn(params, state, real, drawn):
    def value(params):
      arrays = players.Arrays(
        player, params, dict(image=drawn, real_image=real)
      )
      mask = jnp.ones(len(real), bool)
      offered = [arrays(name) for name in ("image_logits", "real_logits")]
      return player.loss(*offered, mask, mask)[0].value()

    loss, slope = jax.value_and_grad(value)(params)
    step, state = tx.update(slope, state)
    return optax.apply_updates(params, step), state, loss

  state, losses = tx.init(params), []
  for _ in range(40):
    params, state, loss = learn(params, state, plain(0.8, 0.2), plain(0.2, 0.8))
    losses.append(float(loss))
  assert losses[-1] < 0.3 * losses[0]

  def offered(name, images):
    arrays = players.Arrays(player, params, {"image": images})
    return np.asarray(arrays(name))

  assert offered("image_score", plain(0.8, 0.2)).min() > 0.5
  assert offered("image_score", plain(0.2, 0.8)).max() < 0.5
  probability = lambda x: 1 / (1 + np.exp(-offered("image_logits", x)))
  spread = lambda x: probability(x).std(1).mean()
  far = RNG.uniform(0, 1, (16, SIDE, SIDE, 3)).astype(np.float32)
  assert spread(far) > 2 * spread(plain(0.8, 0.2))


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ({"smoothing": 0.5}, r"smoothing=0\.5"),
    ({"pool": "lest"}, 'did you mean "least"'),
    ({"heads": 0}, "heads=0"),
  ],
)
def test_options_that_there_are_not(given, says):
  with pytest.raises(UserError, match=says):
    players.reality(**given)


def test_the_answer_above_the_policys_image_in_float64():
  drawn, real = RNG.normal(size=(2, 6)).astype(np.float32)
  mask, real_mask = np.ones((2, 6), bool)
  mask[2], real_mask[4] = False, False
  dirty = np.where(mask, drawn, np.nan).astype(np.float32)
  loss, metrics = players.above(dirty, real, mask, real_mask)
  gap = (real - drawn)[mask & real_mask].astype(np.float64)
  np.testing.assert_allclose(
    loss.value(), np.log1p(np.exp(-gap)).mean(), rtol=1e-5
  )
  assert float(metrics["accuracy"].value()) == pytest.approx((gap > 0).mean())
  equal, told = players.above(real, real, mask, mask)
  np.testing.assert_allclose(equal.value(), np.log(2), rtol=1e-6)
  assert float(told["accuracy"].value()) == 0.5


def _edits(rng, off, count=256):
  """Squares of by how much two sliders are off; those of an expert are near 0."""
  return np.square(off + 0.2 * rng.normal(size=(count, 2))).astype(np.float32)


def _fit(pairs, weight=(0.0, 0.0), steps=200):
  def loss(w):
    there = np.ones(len(pairs[0]), bool)
    return players.above(pairs[0] @ w, pairs[1] @ w, there, there)[0].value()

  step = jax.jit(lambda w: w - 0.3 * jax.grad(loss)(w))
  w = jnp.asarray(weight)
  for _ in range(steps):
    w = step(w)
  return np.asarray(w)


def _accuracy(w, pairs):
  return float((pairs[1] @ w > pairs[0] @ w).mean())


def test_a_ranker_is_right_where_the_policy_was_when_it_learned():
  """Perturbed by one slider it knows nothing of the other; new pairs mend that."""
  rng = np.random.default_rng(3)
  pair = lambda off: (_edits(rng, np.array(off)), _edits(rng, 0.0))
  old, new = pair([1.0, 0.0]), pair([0.0, 1.0])
  start = _fit(old)
  assert _accuracy(start, old) > 0.95 and _accuracy(start, new) < 0.65
  assert _accuracy(_fit(new, start), new) > 0.95
