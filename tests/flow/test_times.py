"""Densities of times against those of diffusers, by their distributions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.flow import times

U = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)


def drawn(name, **options):
  return np.asarray(times.DENSITIES[name](jnp.asarray(U), **options))


def test_logit_normal_has_its_density():
  t = drawn("logit_normal", mean=0.5, std=0.8)
  assert (0 < t).all() and (t < 1).all() and (np.diff(t) >= 0).all()
  logit = np.log(t / (1 - t)).astype(np.float64)
  np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 0.8], atol=2e-3)


def test_mode_is_the_formula_of_the_paper_and_stays_inside():
  for scale in (-1.0, 0.0, 0.81, 1.29, 1.75):
    t = drawn("mode", scale=scale)
    want = 1 - U - scale * (np.cos(np.pi / 2 * U.astype(float)) ** 2 - 1 + U)
    np.testing.assert_allclose(t, want, atol=1e-6)
    assert (np.diff(t) <= 1e-6).all() and t.min() > -1e-6 and t.max() < 1 + 1e-6
  np.testing.assert_allclose(drawn("mode", scale=0.0), 1 - U, atol=1e-6)


@pytest.mark.parametrize(
  ("name", "options"),
  [("logit_normal", {"std": 0.0}), ("mode", {"scale": 1.8})],
)
def test_what_is_no_density_is_refused(name, options):
  with pytest.raises(UserError, match="it must"):
    drawn(name, **options)
