"""Losses of groups with a reference image in them against float64 loops."""

import jax
import numpy as np
import pytest

from jaxreward import advantages, objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

R, G, L = 3, 4, (2, 2, 1)
REAL = np.broadcast_to(np.arange(G) == G - 1, (R, G))


def draw(seed=0):
  rng = np.random.default_rng(seed)
  v, old, u = rng.normal(size=(3, R, G, *L))
  mask = rng.random((R, G)) > 0.2
  mask[0], mask[1, -1] = True, False  # one group has lost its image
  return v, old, u, rng.normal(size=(R, G)), mask


def error(x, u, r, i):
  return np.mean((x[r, i] - u[r, i]) ** 2)


def check(loss, want, v):
  got, slope = jax.value_and_grad(loss)(v.astype(np.float32))
  np.testing.assert_allclose(got, want(v), rtol=1e-4)
  np.testing.assert_allclose(
    slope, numeric_gradient(want, v), rtol=1e-3, atol=1e-4
  )


def seppo(v, old, u, mask, beta):
  total = 0.0
  for r in range(R):
    gain = [error(old, u, r, i) - error(v, u, r, i) for i in range(G)]
    if not mask[r, -1]:
      continue
    sign = 1.0 if gain[-1] >= 0 else -1.0
    for j in np.flatnonzero(mask[r, :-1]):
      total += np.logaddexp(0, -beta / 2 * (gain[-1] - sign * gain[j]))
  return total


@pytest.mark.turns(2)
def test_seppo():
  v, old, u, _, mask = draw(1)
  v[0, -1] = old[0, -1] * 0.2 + u[0, -1] * 0.8  # fits its image better
  fixed = [x.astype(np.float32) for x in (old, u)]
  loss = lambda v: objectives.seppo(v, *fixed, REAL, mask, beta=3.0)[0].total
  check(loss, lambda v: seppo(v, old, u, mask, 3.0), v)
  mean, metrics = objectives.seppo(
    v.astype(np.float32), *fixed, REAL, mask, beta=3.0
  )
  assert mean.weight == (REAL[:, -1] & mask[:, -1]) @ mask[:, :-1].sum(1)
  signs = [
    error(old, u, r, G - 1) >= error(v, u, r, G - 1)
    for r in range(R)
    if mask[r, -1]
  ]
  np.testing.assert_allclose(metrics["losing"].value(), np.mean(signs))


def test_seppo_at_the_older_policy_is_log_two_and_takes_samples_for_losers():
  v, _, u, _, _ = (x.astype(np.float32) for x in draw(2))
  ones = np.ones((R, G), bool)
  loss = lambda v, old: objectives.seppo(v, old, u, REAL, ones, beta=2.0)[0]
  np.testing.assert_allclose(loss(v, v).value(), np.log(2), rtol=1e-6)
  slope = np.asarray(jax.grad(lambda x: loss(x, v).total)(v))
  towards = np.sum(slope * (v - u), axis=(2, 3, 4))
  assert (towards[:, -1] > 0).all() and (towards[:, :-1] < 0).all()


def grao(v, u, a, mask, imitation, alignment):
  total = 0.0
  for r in range(R):
    has = mask[r, -1]
    best, far = (a[r, -1], error(v, u, r, G - 1)) if has else (0.0, 0.0)
    for i in np.flatnonzero(mask[r, :-1]):
      l = error(v, u, r, i)
      total += a[r, i] * l + imitation * best * far
      if has:
        total += alignment * (a[r, i] - best) * (l - far)
  return total


def test_grao():
  v, _, u, a, mask = draw(3)
  fixed = [x.astype(np.float32) for x in (u, a)]
  loss = lambda v: (
    objectives.grao(v, *fixed, REAL, mask, imitation=0.7, alignment=0.3)[
      0
    ].total
  )
  check(loss, lambda v: grao(v, u, a, mask, 0.7, 0.3), v)


def test_grao_without_its_weights_is_the_policy_gradient_of_drawn_members():
  v, _, u, a, mask = (x.astype(np.float32) for x in draw(4))
  mask = mask > 0
  slope = jax.grad(
    lambda v: (
      objectives.grao(v, u, a, REAL, mask, imitation=0.0, alignment=0.0)[
        0
      ].total
    )
  )(v)
  want = (a * (mask & ~REAL))[..., None, None, None] * 2 * (v - u) / 4
  np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)


def test_a_reference_in_the_group_teaches_where_the_policy_fails():
  """ViSurf: alone right it gets all the credit, and none where all are right."""
  mask = np.ones((2, 5), bool)
  reward = np.array([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], np.float32)
  got = np.asarray(advantages.group(reward, mask, epsilon=0.0))
  np.testing.assert_allclose(got[0], [-0.5] * 4 + [2.0], rtol=1e-5)
  assert not got[1].any()


def test_padding_reaches_neither_value_nor_gradient():
  v, old, u, a, mask = (x.astype(np.float32) for x in draw(5))
  mask = mask > 0
  rows = mask[..., None, None, None]
  for loss in (
    lambda v: objectives.seppo(v, old, u, REAL, mask)[0].total,
    lambda v: objectives.grao(v, u, a, REAL, mask)[0].total,
  ):
    clean = jax.value_and_grad(loss)(v)
    dirty = jax.value_and_grad(loss)(np.where(rows, v, np.nan))
    for x, y in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(x, y)


def test_options_that_are_refused():
  v, old, u, a, mask = draw(6)
  with pytest.raises(UserError, match="beta=0"):
    objectives.seppo(v, old, u, REAL, mask, beta=0.0)
  with pytest.raises(UserError, match="alignment=-1"):
    objectives.grao(v, u, a, REAL, mask, alignment=-1.0)
