"""Latents that lead to a sample: the ODE backwards, and a straight field."""

import types

import jax.numpy as jnp
import numpy as np

from jaxreward import feeds, objectives
from jaxreward.feeds import pairs

SHAPE = (3, 2, 2, 1)
T = np.array([0.2, 0.6, 1.0], np.float32)


class Arrays(feeds.Arrays):
  """Rows under a field given in closed form, as the feed asks for them."""

  def __init__(self, field, x0, noise):
    t = T.reshape(-1, 1, 1, 1)
    self.rows = {
      "x_chosen": jnp.asarray((1 - t) * x0 + t * noise),
      "u_chosen": jnp.asarray(noise - x0),
      "x_rejected": jnp.asarray((1 - t) * (x0 + 1) + t * noise),
      "u_rejected": jnp.asarray(noise - x0 - 1),
      "t": jnp.asarray(T),
      "prompt_index": jnp.zeros(3, jnp.int32),
    }
    self.field = field

  def network(self, role):
    scale = {"policy": 1.0, "reference": -3.0}[role]
    return types.SimpleNamespace(
      velocity=lambda x, t, index: scale * self.field(x, t),
      plain=lambda index: self.field,
    )

  def once(self, key, compute):
    del key
    return compute()


def draw():
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, *SHAPE)).astype(np.float32)


def test_a_straight_field_leaves_no_error():
  x0, noise = draw()
  v = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
  arrays = Arrays(lambda x, t: jnp.asarray(v), x0, noise)
  offers = pairs.FEED.offers
  at, target = (
    offers["v_inverted_chosen"](arrays), offers["u_inverted_chosen"](arrays),
  )  # fmt: skip
  np.testing.assert_allclose(target, at, atol=2e-5)
  loss, _ = objectives.inpo(at, at, at, at, target, target, np.ones(3, bool))
  np.testing.assert_allclose(loss.value(), np.log(2), rtol=1e-5)


def test_ten_steps_of_euler_end_at_the_rows_own_time():
  """v = a x + t, in float64; the noise of the row does not matter."""
  x0, noise = draw()
  field = lambda x, t: 0.5 * x + t.reshape(-1, 1, 1, 1)
  x, t = x0.astype(np.float64), T.astype(np.float64)
  for k in range(10):
    x = x + (t / 10).reshape(-1, 1, 1, 1) * field(x, t * (k + 1) / 10)
  want = (x - x0) / t.reshape(-1, 1, 1, 1)
  for other in (noise, -2 * noise):
    arrays = Arrays(field, x0, other)
    got = pairs.FEED.offers["u_inverted_chosen"](arrays)
    np.testing.assert_allclose(got, want, atol=2e-5)
  fine = np.exp(0.5 * t)  # x(t) of v = x / 2 + t, by variation of constants
  exact = fine.reshape(-1, 1, 1, 1) * x0 + (4 * (fine - 1) - 2 * t).reshape(
    -1, 1, 1, 1
  )
  assert np.abs(x - exact).max() < 0.12  # first order


def test_each_side_has_its_own_latents_and_each_network_its_own_velocity():
  """v = x: of the loser, one above the winner, all are one step of growth above."""
  arrays = Arrays(lambda x, t: x, *draw())
  growth = (1 + T.reshape(-1, 1, 1, 1) / 10) ** 10
  offers = {k: np.asarray(f(arrays)) for k, f in pairs.INVERTED.items()}
  for name, scale in (("v", 1.0), ("v_ref", -3.0)):
    won, lost = (
      offers[f"{name}_inverted_{side}"] for side in ("chosen", "rejected")
    )
    np.testing.assert_allclose(
      won, scale * growth * draw()[0], rtol=1e-4, atol=1e-5
    )
    gap = np.broadcast_to(scale * growth, won.shape)
    np.testing.assert_allclose(lost - won, gap, rtol=1e-4, atol=1e-4)
  gap = offers["u_inverted_rejected"] - offers["u_inverted_chosen"]
  want = (growth - 1) / T.reshape(-1, 1, 1, 1)
  np.testing.assert_allclose(
    gap, np.broadcast_to(want, gap.shape), rtol=1e-3, atol=1e-4
  )


def test_another_reference_is_offered_by_its_name():
  named = feeds.with_references(feeds.FEEDS["pairs"], ["slow"])
  assert {"v_slow_chosen", "v_slow_rejected"} <= set(named.offers)
  lists = feeds.with_references(feeds.FEEDS["lists"], ["slow"])
  assert "group_v_slow" in lists.offers
  assert feeds.with_references(feeds.FEEDS["tail"], ["slow"]).offers.keys() == (
    feeds.FEEDS["tail"].offers.keys()
  )
