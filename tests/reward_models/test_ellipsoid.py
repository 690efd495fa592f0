"""The head "ellipsoid" against ridge regression in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.reward_models import HEADS, heads
from jaxreward.setup import reward_model
from tests import tiny

RNG = np.random.default_rng(0)
D = 5


def test_deviation_is_that_of_ridge_regression():
  z, rows = RNG.normal(size=(7, D)), RNG.normal(size=(40, D))
  design = 0.5 * np.eye(D) + rows.T @ rows
  want = np.sqrt(np.einsum("bi,ij,bj->b", z, np.linalg.inv(design), z))
  factor = jnp.asarray(np.linalg.cholesky(design), jnp.float32)
  got = heads.deviation(jnp.asarray(z, jnp.float32), factor)
  np.testing.assert_allclose(got, want, rtol=1e-4)
  # The released code took V^-1 for its square root.
  released = np.linalg.norm(z @ np.linalg.inv(design), axis=1)
  assert (np.abs(np.asarray(got) / released - 1) > 0.5).all()
  # The predictive deviation of w | y, y = w . z + noise of deviation s.
  s, w = 0.3, RNG.normal(size=(20000, D)) / np.sqrt(0.5) * 0.3
  y = w @ rows.T + s * RNG.normal(size=(20000, 40))
  fit = np.linalg.solve(design, rows.T @ y.T)
  spread = (z @ fit - z @ w.T).std(1)
  np.testing.assert_allclose(s * want, spread, rtol=0.05)


@pytest.mark.job
@pytest.mark.turns(3)
def test_rows_seen_again_and_again_are_less_in_doubt():
  head = HEADS["ellipsoid"](hidden=D, ridge=2.0)
  features = {"joint": RNG.normal(size=(3, 2, 4)).astype(np.float32)}
  params = head.init(jax.random.key(0), features)
  params = {**params, "out": jnp.arange(1.0, D + 1)}
  at_first = head.score(head.outputs(params, features))
  one = {"joint": features["joint"][:1], "mask": np.array([[True, False]])}
  total = head.statistics(params, one)
  last = np.asarray(at_first[1])
  for times in (1, 2, 8):
    fitted = head.fitted(params, times * total)
    value, std = head.score(head.outputs(fitted, features))
    np.testing.assert_array_equal(value, at_first[0])
    assert (np.asarray(std) <= last + 1e-6).all()
    assert std[0, 0] < last[0, 0] - 1e-3
    last = np.asarray(std)
  z = np.asarray(at_first[1]) * np.sqrt(2.0)  # V = 2 I: |z| / sqrt(2)
  want = 1 / np.sqrt(1 / z[0, 0] ** 2 * 2 + 8)  # one direction alone
  np.testing.assert_allclose(last[0, 0], want, rtol=1e-4)
  assert set(params) == {"layer", "out"}  # nothing else is trained


def test_the_factor_is_saved_with_what_is_trained():
  model = reward_model.make(
    tiny.load("recipes/prefpaint_ellipsoid_weight.py:smoke")
  )
  trained, saved = model.param_shapes["head"], model.saved_shapes["head"]
  width = saved["out"].shape[0]
  assert saved.keys() - trained.keys() == {"factor"}
  assert saved["factor"].shape == (width, width)
