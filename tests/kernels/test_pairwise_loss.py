"""Losses and win rates over all pairs against float64 and pairs one by one."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.reward_models import preference_losses
from pallas_kernels import pairwise_loss as kernel
from tests.kernels import oracles

SLOW = pytest.mark.slow
FORMS = ("xla", "interpret", "interpret_triton")
CHOICES = {
  "half": {"ties": "half"},
  "skip": {"ties": "skip"},
  "margin": {"ties": "half", "margin": 0.7, "label_noise": 0.1},
  "rao_kupper": {"ties": "rao_kupper", "threshold": 1.5},
  "width": {"ties": "half", "tie_width": 1.0},
}
ORACLE_NAMES = {"label_noise": "noise", "threshold": "k", "tie_width": "width"}


def draw(groups, members, seed=0):
  """Scores, ratings with many ties, masks."""
  r = np.random.default_rng(seed)
  scores = r.normal(0.0, 3.0, (groups, members)).astype(np.float32)
  ratings = r.integers(0, 4, (groups, members)).astype(np.float32)
  return scores, ratings, r.random((groups, members)) > 0.15


def expected_loss(scores, ratings, mask, options):
  options = {ORACLE_NAMES.get(k, k): v for k, v in options.items()}
  return oracles.pairwise_loss(scores, ratings, mask, **options)


def oracle_gradient(scores, ratings, mask, options):
  """Central differences in float64, a candidate at a time."""
  basis = np.eye(scores.size).reshape(scores.size, *scores.shape)
  total = lambda s: expected_loss(s, ratings, mask, options)[0]
  return oracles.slopes(total, scores, basis, 1e-5).reshape(scores.shape)


def value_and_grad(scores, ratings, mask, **options):
  def loss(s):
    mean = kernel.pairwise_loss(s, ratings, mask, **options)
    return mean.total, mean

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(scores)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "form", ["interpret", "interpret_triton", pytest.param("xla", marks=SLOW)]
)
@pytest.mark.parametrize("choice", list(CHOICES))
def test_loss_and_gradient_equal_float64(choice, form):
  scores, ratings, mask = draw(3, 11)
  options = CHOICES[choice]
  total, count = expected_loss(scores, ratings, mask, options)
  slope = oracle_gradient(scores, ratings, mask, options)
  dirty = np.where(mask, scores, np.nan)
  (found, mean), gradient = value_and_grad(
    dirty, ratings, mask, implementation=form, **options
  )
  assert float(found) == pytest.approx(total, rel=1e-5)
  assert float(mean.weight) == count
  assert oracles.relative(gradient, slope) < 1e-5
  assert (np.asarray(gradient)[~mask] == 0).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (5, 3), (2, 130)])
def test_odd_sizes(shape, form):
  scores, ratings, mask = draw(*shape, seed=1)
  total, count = expected_loss(scores, ratings, mask, {"ties": "half"})
  (found, mean), _ = value_and_grad(scores, ratings, mask, implementation=form)
  assert float(found) == pytest.approx(total, rel=1e-5)
  assert float(mean.weight) == count


@pytest.mark.turns(3)
@pytest.mark.parametrize("choice", ["half", "margin", "rao_kupper"])
def test_equals_the_plain_loss_on_gathered_pairs(choice):
  scores, ratings, _ = draw(2, 9)
  options = dict(CHOICES[choice])
  i, j = np.triu_indices(9, 1)
  prob = (np.sign(ratings[:, i] - ratings[:, j]) + 1) / 2
  name = "rao_kupper" if choice == "rao_kupper" else "bradley_terry"
  plain = getattr(preference_losses, name)
  how = {k: v for k, v in options.items() if k != "ties"}

  def loss(s):
    return plain(jnp.stack([s[:, i], s[:, j]], -1), prob, **how).value()

  def fused(s):
    mean = kernel.pairwise_loss(
      s, ratings, implementation="interpret", **options
    )
    return mean.value()

  expected, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(scores))
  found, gradient = jax.jit(jax.value_and_grad(fused))(jnp.asarray(scores))
  assert float(found) == pytest.approx(float(expected), rel=1e-5)
  assert oracles.relative(gradient, slope) < 1e-5


@pytest.mark.parametrize("form", FORMS[1:])
def test_large_scores_stay_finite(form):
  scores = np.array([[500.0, -500.0, 3e4, 0.0]], np.float32)
  ratings = np.array([[0.0, 1.0, 2.0, 2.0]], np.float32)
  total, _ = expected_loss(scores, ratings, ratings >= 0, {"ties": "half"})
  (found, _), gradient = value_and_grad(
    scores, ratings, None, implementation=form
  )
  assert float(found) == pytest.approx(total, rel=1e-6)
  assert np.isfinite(gradient).all() and np.asarray(gradient).any()


def test_an_unrated_candidate_is_in_no_pair():
  scores, ratings, mask = draw(2, 6)
  unrated = np.where(mask, ratings, np.nan)
  (masked, _), slope = value_and_grad(scores, ratings, mask)
  (found, _), gradient = value_and_grad(scores, unrated, None)
  assert found == masked and (gradient == slope).all()


@pytest.mark.turns(2)
def test_a_full_group_of_4096():
  """Against float64 by rows, loss and gradient."""
  scores, ratings, mask = draw(1, 4096, seed=2)
  (found, mean), gradient = value_and_grad(
    scores, ratings, mask, implementation="interpret"
  )
  s, r = scores[0][mask[0]].astype(np.float64), ratings[0][mask[0]]
  d, gap = s[:, None] - s, r[:, None] - r
  p = (np.sign(gap) + 1) / 2
  loss = p * np.logaddexp(0.0, -d)
  np.fill_diagonal(loss, 0.0)
  slope = np.zeros(4096)
  slope[mask[0]] = (0.5 * (1 + np.tanh(d / 2)) - p).sum(1)
  assert float(found) == pytest.approx(loss.sum(), rel=1e-5)
  assert float(mean.weight) == len(s) * (len(s) - 1) / 2
  assert oracles.relative(gradient[0], slope) < 1e-5


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("form", "temperature"),
  [
    ("xla", 0.3),
    ("interpret", 0.3),
    ("interpret", 0.0),
    ("interpret_triton", 1.0),
    ("interpret_triton", 0.0),
  ],
)
def test_win_rates_equal_float64(form, temperature):
  scores, _, mask = draw(3, 13)
  scores = np.round(scores)  # with ties
  mask[2] = np.arange(13) == 4
  dirty = np.where(mask, scores, np.nan)
  weights = np.random.default_rng(5).normal(size=scores.shape)

  def total(s):
    rate = kernel.win_rate(
      s, mask, temperature=temperature, implementation=form
    )
    return (rate * weights).sum(), rate

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, found), gradient = run(dirty)
  expected = oracles.win_rate(scores, mask, temperature)
  assert oracles.relative(found, expected) < 1e-5
  slope = np.zeros(scores.shape)
  if temperature:
    slope = oracles.slopes(
      lambda s: (oracles.win_rate(s, mask, temperature) * weights).sum(),
      scores,
      np.eye(39).reshape(39, 3, 13),
      1e-5,
    ).reshape(3, 13)
  assert oracles.relative(gradient, slope) < 1e-5


def test_half_precision_is_summed_in_float32():
  scores, ratings, mask = draw(2, 64)
  half = jnp.asarray(scores, jnp.bfloat16)
  (found, _), gradient = value_and_grad(half, ratings, mask)
  (same, _), slope = value_and_grad(half.astype(jnp.float32), ratings, mask)
  assert found == same and found.dtype == jnp.float32
  assert gradient.dtype == jnp.bfloat16
  assert oracles.relative(gradient.astype(jnp.float32), slope) < 4e-3


def test_vmap_and_axes_equal_a_loop():
  scores, ratings, mask = (x.reshape(3, 2, 7) for x in draw(6, 7))

  def both(s, r, m):
    (loss, _), slope = value_and_grad(s, r, m, implementation="interpret")
    return loss, slope

  loss, slope = jax.jit(jax.vmap(both))(scores, ratings, mask)
  whole, same = both(scores, ratings, mask)
  np.testing.assert_allclose(loss.sum(), whole, rtol=1e-6)
  np.testing.assert_allclose(slope, same, rtol=1e-5, atol=1e-6)
  rate = jax.jit(kernel.win_rate)
  flat, every = rate(scores[0, 0], mask[0, 0]), rate(scores, mask)
  np.testing.assert_allclose(flat, every[0, 0], rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "word"),
  [
    ({"ties": "halve"}, 'did you mean "half"'),
    ({"tie_width": -1.0}, "0 or above"),
    ({"ties": "rao_kupper", "threshold": 1.0}, "above 1"),
    ({"ties": "rao_kupper", "margin": 1.0}, "no margin"),
    ({"mask": np.ones((2, 4), bool)}, "every candidate"),
  ],
)
def test_a_wrong_choice_is_one_line(options, word):
  scores, ratings, _ = draw(2, 5)
  with pytest.raises(UserError) as error:
    inspect.unwrap(kernel.pairwise_loss)(scores, ratings, **options)
  assert word in str(error.value) and "\n" not in str(error.value)


def test_a_group_too_large_is_one_line():
  with pytest.raises(UserError, match="4096"):
    kernel.win_rate(np.zeros((1, 4097), np.float32))
  with pytest.raises(UserError, match="temperature"):
    kernel.win_rate(np.zeros((1, 4), np.float32), temperature=-1.0)
