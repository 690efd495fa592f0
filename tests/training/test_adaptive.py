"""Weights of terms that adapt, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.training.adaptive import Adaptive


def test_a_weight_grows_to_its_bound_and_shrinks_again():
  adapt = Adaptive(target=2.0, least=0.1, most=0.4, rate=0.5, limit=0.3)
  weight = want = 0.1
  terms = [2.2, 9.0, 9.0, 2.0, *[9.0] * 12, 1.5, 0.0, np.nan, *[0.0] * 30]
  for term in terms:
    weight = adapt.after(jnp.float32(weight), jnp.float32(term))
    if np.isfinite(term):
      error = min(max(term / 2 - 1, -0.3), 0.3)
      want = min(max(want * (1 + 0.5 * error), 0.1), 0.4)
    np.testing.assert_allclose(weight, want, rtol=1e-5)
    assert 0.1 - 1e-6 <= want <= 0.4 + 1e-6
  assert want == pytest.approx(0.1)


def test_at_its_target_it_stays():
  adapt = Adaptive(target=2.0, least=0.1, most=0.4)
  np.testing.assert_allclose(adapt.after(jnp.float32(0.2), jnp.float32(2)), 0.2)


@pytest.mark.parametrize(
  "options",
  [
    dict(target=0.0),
    dict(target="a"),
    dict(least=0.0),
    dict(least=2.0),
    dict(rate=9.0),
  ],
)
def test_what_cannot_adapt_is_refused(options):
  with pytest.raises(UserError, match=next(iter(options))):
    Adaptive(**dict(target=1.0, least=0.1, most=1.0) | options)
