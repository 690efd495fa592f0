"""DGPO and reward backpropagation against float64 and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxreward import objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

R, G, L = 3, 4, (2, 2, 1)


def draw(seed=0):
  rng = np.random.default_rng(seed)
  v, ref, u = rng.normal(size=(3, R, G, *L))
  advantage = rng.normal(size=(R, G))
  mask = rng.random((R, G)) > 0.25
  mask[0] = True
  return v, ref, u, advantage, mask


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def reference(v, ref, u, advantage, mask, beta):
  """Row by row, as the authors' scatter over groups adds up."""
  total, weights, margins = 0.0, [], []
  for r in range(R):
    keep = np.flatnonzero(mask[r])
    if not len(keep):
      continue
    l = [np.mean((v[r, i] - u[r, i]) ** 2) for i in keep]
    l_ref = [np.mean((ref[r, i] - u[r, i]) ** 2) for i in keep]
    moved = sum(
      advantage[r, i] * beta * (a - b) / len(keep)
      for i, a, b in zip(keep, l, l_ref, strict=True)
    )
    weights.append(sigmoid(moved))
    margins.append(moved / beta)
    total += sum(
      weights[-1] * advantage[r, i] * a for i, a in zip(keep, l, strict=True)
    )
  return total, np.sum(weights), np.sum(margins)


@pytest.mark.parametrize("beta", [0.5, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_dgpo_equals_float64(beta, seed):
  v, ref, u, advantage, mask = draw(seed)
  dirty = np.where(mask[..., None, None, None], v, np.nan)
  loss, metrics = objectives.dgpo(
    *(x.astype(np.float32) for x in (dirty, ref, u, advantage)), mask,
    beta=beta,
  )  # fmt: skip
  total, weight, margin = reference(v, ref, u, advantage, mask, beta)
  np.testing.assert_allclose(loss.total, total, rtol=2e-4, atol=1e-5)
  assert loss.weight == mask.sum()
  np.testing.assert_allclose(
    metrics["group_weight"].total, weight, rtol=2e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    metrics["group_margin"].total, margin, rtol=2e-4, atol=1e-5
  )


def test_its_gradient_is_that_of_the_log_sigmoid_over_beta():
  v, ref, u, advantage, _ = draw(1)
  mask, beta = np.ones((R, G), bool), 3.0
  arrays = [jnp.asarray(x, jnp.float32) for x in (ref, u, advantage)]

  def ours(v):
    loss, _ = objectives.dgpo(v, *arrays, mask, beta=beta)
    return loss.total / G

  def whole(v):
    """-log sigmoid(-beta / G sum A (l - l_ref)) / beta."""
    error = lambda x: jnp.mean(jnp.square(x - arrays[1]), (2, 3, 4))
    moved = jnp.mean(arrays[2] * (error(v) - error(arrays[0])), 1)
    return jnp.sum(jax.nn.softplus(beta * moved)) / beta

  v = jnp.asarray(v, jnp.float32)
  got, want = jax.grad(ours)(v), jax.grad(whole)(v)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_padding_of_groups_reaches_neither_value_nor_gradient():
  v, ref, u, advantage, mask = (np.float32(x) for x in draw(4))
  mask = mask > 0
  mask[1] = False  # a group of padding
  rows = mask[..., None, None, None]
  total = lambda v, advantage: (
    objectives.dgpo(v, ref, u, advantage, mask)[0].total
  )
  clean, slope = jax.value_and_grad(total)(jnp.asarray(v), advantage)
  dirty = jnp.asarray(np.where(rows, v, np.nan))
  got, padded = jax.value_and_grad(total)(
    dirty, np.where(mask, advantage, np.nan)
  )
  np.testing.assert_array_equal(got, clean)
  np.testing.assert_array_equal(padded, slope)
  assert not np.any(np.where(rows, 0, padded))


def test_at_the_reference_the_weight_is_one_half():
  v, _, u, advantage, mask = draw(2)
  _, metrics = objectives.dgpo(v, v, u, advantage, mask)
  assert float(metrics["group_weight"].value()) == 0.5


def test_dgpo_without_advantages_teaches_nothing():
  v, ref, u, advantage, mask = draw(3)
  slope = jax.grad(
    lambda v: objectives.dgpo(v, ref, u, 0 * advantage, mask)[0].total
  )(jnp.asarray(v, jnp.float32))
  assert not np.any(slope)


def test_a_beta_of_zero_is_refused():
  with pytest.raises(UserError, match=r"objective.beta=0"):
    objectives.dgpo(*draw(), beta=0)


def test_backpropagation_is_minus_the_mean_score():
  scores = np.array([1.0, 2.0, np.nan, 4.0], np.float32)
  mask = np.isfinite(scores)
  loss, metrics = objectives.align_prop(scores, mask, scale=0.5)
  assert float(loss.value()) == pytest.approx(-0.5 * 7 / 3)
  assert float(metrics["tail_reward"].value()) == pytest.approx(7 / 3)
  slope = jax.grad(
    lambda s: objectives.align_prop(s, mask, scale=0.5)[0].total
  )(jnp.asarray(scores))
  np.testing.assert_array_equal(slope, np.where(mask, -0.5, 0.0))


def rank_reference(v, ref, u, psi, mask, beta):
  total = 0.0
  for r in range(R):
    keep = np.flatnonzero(mask[r])
    s = {
      i: np.mean((v[r, i] - u[r, i]) ** 2) - np.mean((ref[r, i] - u[r, i]) ** 2)
      for i in keep
    }
    place = {i: 1 + sum(psi[r, j] > psi[r, i] for j in keep) for i in keep}
    for i in keep:
      for j in keep:
        if psi[r, i] > psi[r, j]:
          gain = abs(2 ** psi[r, i] - 2 ** psi[r, j])
          cost = abs(1 / np.log(1 + place[i]) - 1 / np.log(1 + place[j]))
          total += gain * cost * np.logaddexp(0, beta * (s[i] - s[j]))
  return total


def test_rank_dpo_in_value_and_gradient():
  v, ref, u, _, mask = draw(5)
  psi = np.round(np.random.default_rng(0).random((R, G)) * 3) / 3
  arrays = [x.astype(np.float32) for x in (ref, u, psi)]
  loss = lambda v: objectives.rank_dpo(v, *arrays, mask, beta=2.0)[0].total
  got, slope = jax.value_and_grad(loss)(v.astype(np.float32))
  want = lambda v: rank_reference(v, ref, u, psi, mask, 2.0)
  np.testing.assert_allclose(got, want(v), rtol=1e-5)
  numeric = numeric_gradient(want, v)
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-5)


def test_rank_dpo_ignores_the_order_of_the_list_and_equal_labels():
  v, ref, u, psi, mask = (x.astype(np.float32) for x in draw(6))
  mask = mask > 0
  run = lambda *x: objectives.rank_dpo(*x, beta=2.0)[0].total
  order = np.array([2, 0, 3, 1])
  moved = [x[:, order] for x in (v, ref, u, psi, mask)]
  np.testing.assert_allclose(run(v, ref, u, psi, mask), run(*moved), rtol=1e-5)
  assert run(v, ref, u, 0 * psi, mask) == 0
  dirty = np.where(mask[..., None, None, None], v, np.nan)
  assert run(dirty, ref, u, np.where(mask, psi, np.nan), mask) == run(
    v, ref, u, psi, mask
  )


def test_crd():
  v, old, u, advantage, mask = draw(7)

  def want(v):
    total = 0.0
    for r in range(R):
      at = np.flatnonzero(mask[r])
      if not len(at):
        continue
      error = lambda x, r=r, at=at: np.array(
        [np.mean((x[r, i] - u[r, i]) ** 2) for i in at]
      )
      rho = 2.0 * (error(old) - error(v))
      gap = rho - rho.mean() - (advantage[r, at] - advantage[r, at].mean())
      total += np.sum(gap**2)
    return total

  fixed = [x.astype(np.float32) for x in (old, u, advantage)]
  loss = lambda v: objectives.crd(v, *fixed, mask, beta=2.0)[0].total
  got, slope = jax.value_and_grad(loss)(v.astype(np.float32))
  np.testing.assert_allclose(got, want(v), rtol=1e-5)
  numeric = numeric_gradient(want, v)
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-4)
  # A constant added to all rewards of a prompt changes nothing.
  more = objectives.crd(
    v.astype(np.float32), *fixed[:2], fixed[2] + 3, mask, beta=2.0
  )[0]
  np.testing.assert_allclose(more.total, got, rtol=1e-4)
  with pytest.raises(UserError, match="beta=0"):
    objectives.crd(v, *fixed, mask, beta=0.0)


def test_consistent_dpo():
  v, ref, u, _, mask = draw(7)
  mask[1], mask[2] = False, np.arange(G) == 1  # none, and one without a pair

  def want(v, ranked=v):
    total = 0.0
    for r in range(R):
      at = np.flatnonzero(mask[r])
      if len(at) < 2:
        continue
      error = lambda x, r=r, at=at: np.array(
        [np.mean((x[r, i] - u[r, i]) ** 2) for i in at]
      )
      judged = error(ranked)
      agreed = (scipy.stats.kendalltau(judged, error(ref))[0] + 1) / 2
      gain = 1.5 * (error(ref) - error(v))  # beta is 3
      h = gain[judged.argmin()] - gain[judged.argmax()]
      total += agreed * np.logaddexp(0, -h)
      total += (1 - agreed) * np.logaddexp(0, h)
    return total

  v32, ref32, u32 = (x.astype(np.float32) for x in (v, ref, u))
  v32 = np.where(mask[..., None, None, None], v32, np.nan)
  run = lambda v, ref=ref32: objectives.consistent_dpo(
    v, ref, u32, mask, beta=3.0
  )
  got, slope = jax.value_and_grad(lambda v: run(v)[0].total)(v32)
  np.testing.assert_allclose(got, want(v), rtol=1e-5)
  numeric = numeric_gradient(want, v)
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-4)
  assert run(v32)[0].weight == 1  # the only group with a pair
  # Beside its own copy the policy is sure: log 2, and C is 1.
  same, metrics = run(v32, v32)
  np.testing.assert_allclose(same.value(), np.log(2), rtol=1e-6)
  assert metrics["consistency"].value() == 1
  # Beside a copy of the opposite order C is 0: the pair is turned, and its h, above 0
  # here, costs more than log 2.
  away = v32 - u32
  size = np.square(away).mean((2, 3, 4), keepdims=True)
  turned, metrics = run(v32, u32 + away / size)
  assert metrics["consistency"].value() == 0
  assert turned.value() > np.log(2)
  assert not np.asarray(run(u32)[0].weight)  # equal ones make no pair
  with pytest.raises(UserError, match="beta=0"):
    objectives.consistent_dpo(v, ref, u, mask, beta=0.0)
