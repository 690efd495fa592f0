"""Flow matching: a float64 reference, its weightings, its minimiser."""

import jax
import numpy as np
import pytest

from jaxreward import objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

B, SHAPE = 5, (2, 3)
MASK = np.array([True, True, False, True, True])
WEIGHTS = {
  "uniform": lambda t: 1.0,
  "sigma_sqrt": lambda t: t**-2,
  "cosmap": lambda t: 2 / (np.pi * (1 - 2 * t + 2 * t**2)),
}


def case(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "v": rng.normal(0, 1, (B, *SHAPE)),
    "u": rng.normal(0, 1, (B, *SHAPE)),
    "t": rng.uniform(0.1, 1, B),
    "weight": rng.uniform(0, 2, B),
  }


def f32(arrays):
  return {k: np.asarray(a, np.float32) for k, a in arrays.items()}


def reference(c, weighting):
  each = ((c["v"] - c["u"]) ** 2).mean((1, 2)) * c["weight"]
  return (each * WEIGHTS[weighting](c["t"]))[MASK].sum()


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_matches_float64_in_value_and_gradient(weighting):
  c = case()
  loss = lambda v: objectives.flow_matching(
    **{**f32(c), "v": v}, mask=MASK, weighting=weighting
  )[0]
  mean = loss(f32(c)["v"])
  assert mean.weight == MASK.sum()
  np.testing.assert_allclose(mean.total, reference(c, weighting), rtol=1e-5)
  slope = jax.grad(lambda v: loss(v).total)(f32(c)["v"])
  numeric = numeric_gradient(
    lambda v: reference({**c, "v": v}, weighting), c["v"]
  )
  np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-5)


def test_weighted_rows_pull_to_their_weighted_mean():
  """One v for two targets: the minimiser is the weighted mean of them."""
  c = f32(case(1))
  c["v"][:] = np.average(c["u"][MASK], axis=0, weights=c["weight"][MASK])
  shared = lambda v: (
    objectives.flow_matching(**{**c, "v": np.ones((B, 1, 1)) * v}, mask=MASK)[
      0
    ].total
  )
  slope = jax.grad(shared)(c["v"][0])
  np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_a_weighting_there_is_not():
  with pytest.raises(UserError, match='did you mean "cosmap"'):
    objectives.flow_matching(**f32(case()), mask=MASK, weighting="cosmp")


def region_case():
  rng = np.random.default_rng(3)
  shape = (B, 2, 4, 1)
  return dict(
    v=rng.normal(0, 1, shape), u=rng.normal(0, 1, shape),
    place_weight=rng.uniform(-1, 1, (B, 2, 4)),
    real=np.array([False, True, True, False, False]),
  )  # fmt: skip


def region_loss(c, v, anchor):
  objective = objectives.region_matching
  columns = objective.prepare.read(c["real"], MASK)
  share = objective.prepare.finish({k: x[None] for k, x in columns.items()})
  arrays = {k: np.asarray(x, np.float32) for k, x in c.items()} | {"v": v}
  return objective(
    **{**arrays, "real": c["real"]}, share=share["share"][0], mask=MASK,
    anchor=anchor,
  )  # fmt: skip


@pytest.mark.turns(2)
def test_places_weigh_own_samples_and_references_count_whole():
  c = region_case()

  def reference(v, anchor=0.3):
    error = (v - c["u"]) ** 2
    weighted = (c["place_weight"][..., None] * error).mean((1, 2, 3))
    own, real = MASK & ~c["real"], MASK & c["real"]
    return weighted[own].mean() + anchor * error.mean((1, 2, 3))[real].mean()

  v = c["v"].astype(np.float32)
  value = lambda v: region_loss(c, v, 0.3)[0].value()
  np.testing.assert_allclose(value(v), reference(c["v"]), rtol=1e-5)
  slope = jax.grad(value)(v)
  want = numeric_gradient(reference, c["v"])
  np.testing.assert_allclose(slope, want, rtol=1e-3, atol=1e-6)


def test_a_coarse_map_is_bilinear_on_the_latents():
  """Rows of 0 and 1 become 0, 1/4, 3/4 and 1, and columns stay apart."""
  v = np.zeros((1, 4, 4, 2), np.float32)
  column = np.array([0.0, 0.25, 0.75, 1.0])
  for map_, weight in (
    ([[0, 0], [1, 1]], np.repeat(column[:, None], 4, 1)),
    ([[0, 1], [0, 1]], np.repeat(column[None], 4, 0)),
  ):
    slope = jax.grad(
      lambda u, map_=map_: objectives.region_matching(
        v, u, np.array([map_], np.float32), np.zeros(1, bool),
        np.ones(1, np.float32), np.ones(1, bool),
      )[0].value()
    )(np.ones_like(v))  # fmt: skip
    np.testing.assert_allclose(slope[0, ..., 0], weight * 2 / 32, rtol=1e-5)


def test_equal_places_without_references_are_flow_matching():
  c = region_case() | {"real": np.zeros(B, bool)}
  c["place_weight"] = np.ones((B, 1, 1))  # any resolution
  v = c["v"].astype(np.float32)
  got, _ = region_loss(c, v, 0.5)
  ones = np.ones(B, np.float32)
  want, _ = objectives.flow_matching(
    v, c["u"].astype(np.float32), ones, ones, MASK
  )
  np.testing.assert_allclose(got.value(), want.value(), rtol=1e-6)


def contrastive(c, scale, temperature, weight):
  error = lambda v: ((v - c["u"]) ** 2).mean((1, 2))
  own = error(c["v"])
  errors = np.stack([own, *(error(c["v_others"][:, j]) for j in range(3))])
  z = scale * np.exp(-errors / temperature)
  return (np.log(np.exp(z).sum(0)) - z[0] + weight * own)[MASK].sum()


@pytest.mark.turns(2)
def test_contrastive_matching():
  c = case(3) | {
    "v_others": np.random.default_rng(4).normal(size=(B, 3, *SHAPE))
  }
  del c["t"], c["weight"]
  dirty = f32(c)
  dirty["v_others"][~MASK] = np.nan
  options = dict(scale=3.0, temperature=1.5, matching_weight=0.2)

  def loss(x, name="v"):
    return objectives.contrastive_matching(
      **dirty | {name: x}, mask=MASK, **options
    )

  for name in ("v", "v_others"):
    want = lambda x, name=name: contrastive(c | {name: x}, 3.0, 1.5, 0.2)
    total = lambda x, name=name: loss(x, name)[0].total
    got, slope = jax.value_and_grad(total)(dirty[name])
    np.testing.assert_allclose(got, want(c[name]), rtol=1e-5)
    numeric = numeric_gradient(want, c[name])
    np.testing.assert_allclose(slope[MASK], numeric[MASK], rtol=2e-3, atol=1e-5)
    assert not np.asarray(slope)[~MASK].any()
  # The least there is: no error under the own prompt, large ones under others.
  dirty["v_others"] += 100
  least, metrics = objectives.contrastive_matching(
    **dirty | {"v": dirty["u"]}, mask=MASK
  )
  np.testing.assert_allclose(least.value(), np.log1p(3 * np.exp(-4)), rtol=1e-5)
  assert metrics["own_first"].value() == 1
  dirty["v_others"][:] = dirty["v"][:, None]  # prompts that change nothing
  blind, _ = objectives.contrastive_matching(**dirty, mask=MASK)
  np.testing.assert_allclose(blind.value(), np.log(4), rtol=1e-6)
  with pytest.raises(UserError, match="matching_weight=-1"):
    objectives.contrastive_matching(**dirty, mask=MASK, matching_weight=-1)
