"""From which network, latents and time each array of a feed comes."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds

NETWORKS = {"policy": 100.0, "old": 200.0, "reference": 300.0}
POINTS = {"x_t": 1.0, "x_near": 2.0, "x_chosen": 3.0, "x_rejected": 4.0}
TIMES = {"t": 0.25, "near_t": 0.125}


class Told(feeds.Arrays):
  """Networks whose velocity tells them, the latents and the time."""

  def __init__(self, name):
    shape = (2, 3) if name == "lists" else (2,)
    self.rows = {
      **{k: jnp.full((*shape, 5), x) for k, x in POINTS.items()},
      **{k: jnp.full(shape, t) for k, t in TIMES.items()},
      "prompt_index": jnp.zeros(shape, jnp.int32),
    }
    self.plan = types.SimpleNamespace(is_on_policy=False)
    self._feed, self._cache = feeds.FEEDS[name], {}
    self._more, self._predictions = {}, {}

  def network(self, role):
    number = NETWORKS[role]
    return types.SimpleNamespace(
      velocity=lambda x, t, index: number + x + t[:, None],
      step=lambda rows: (jnp.float32(number), jnp.float32(-number)),
    )


VELOCITIES = (
  *(
    (feed, name, role, "x_t", "t")
    for feed in ("noised", "predicted", "dataset")
    for name, role in (
      ("v", "policy"), ("v_old", "old"), ("v_reference", "reference"),
    )
    if name in feeds.FEEDS[feed].offers
  ),
  ("predicted", "near_v", "policy", "x_near", "near_t"),
  ("pairs", "v_chosen", "policy", "x_chosen", "t"),
  ("pairs", "v_rejected", "policy", "x_rejected", "t"),
  ("pairs", "v_ref_chosen", "reference", "x_chosen", "t"),
  ("pairs", "v_ref_rejected", "reference", "x_rejected", "t"),
  ("lists", "group_v", "policy", "x_t", "t"),
  ("lists", "group_v_old", "old", "x_t", "t"),
  ("lists", "group_v_reference", "reference", "x_t", "t"),
)  # fmt: skip


@pytest.mark.parametrize(("feed", "name", "role", "at", "time"), VELOCITIES)
def test_velocities(feed, name, role, at, time):
  want = NETWORKS[role] + POINTS[at] + TIMES[time]
  got = np.asarray(Told(feed)(name))
  np.testing.assert_array_equal(got, np.full(got.shape, want))


def test_steps():
  arrays = Told("steps")
  for name, want in (
    ("log_prob", 100), ("reference_log_prob", 300), ("mean", -100),
    ("old_mean", -200), ("reference_mean", -300),
  ):  # fmt: skip
    assert float(arrays(name)) == want
