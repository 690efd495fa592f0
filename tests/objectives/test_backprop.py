"""ReFL: value, and a gradient that ends at the margin."""

import jax
import numpy as np

from jaxreward import objectives


def test_refl_in_value_and_gradient():
  scores = np.array([0.5, 1.9, 2.5, np.nan, -3.0], np.float32)
  mask = np.isfinite(scores)
  loss = lambda s: objectives.refl(s, mask, margin=2.0, scale=0.5)[0].total
  value, slope = jax.value_and_grad(loss)(scores)
  np.testing.assert_allclose(value, 0.5 * (1.5 + 0.1 + 0 + 5), rtol=1e-6)
  np.testing.assert_array_equal(slope, [-0.5, -0.5, 0, 0, -0.5])
  mean, metrics = objectives.refl(scores, mask)
  assert mean.weight == 4
  assert metrics["satisfied"].value() == 0.25
  np.testing.assert_allclose(
    metrics["tail_reward"].value(), np.nanmean(scores), rtol=1e-6
  )


def test_far_below_the_margin_it_is_backpropagation():
  scores, mask = np.zeros(3, np.float32), np.ones(3, bool)
  slopes = [
    jax.grad(lambda s, fn=fn: fn(s, mask, scale=0.1)[0].total)(scores)
    for fn in (objectives.refl, objectives.align_prop)
  ]
  np.testing.assert_array_equal(*slopes)
