"""Fused advantage and clipped loss against float64 and the plain functions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages, objectives
from jaxreward.errors import UserError
from pallas_kernels import grouped_advantage
from tests.kernels import oracles

FORMS = ("xla", "interpret", "interpret_triton")
SHAPES = ((1, 2, 1), (3, 7, 5), (5, 24, 10), (130, 3, 2), (2, 1, 3))
FAST = ((3, 7, 5), (130, 3, 2))
CLIP = 0.15


def draw(prompts, group, steps, seed=0):
  """Rewards, masks and log-probabilities, away from the kinks of the clip."""
  r = np.random.default_rng(seed)
  signal = r.normal(3.0, 2.0, (prompts, group)).astype(np.float32)
  mask = r.random((prompts, group)) > 0.2
  old = r.normal(size=(prompts, group, steps)).astype(np.float32)
  log_ratio = r.normal(0.0, 0.2, old.shape)
  near = np.abs(np.abs(np.expm1(log_ratio)) - CLIP) < 1e-3
  log_prob = (old + np.where(near, 0.0, log_ratio)).astype(np.float32)
  keep = r.random(old.shape) > 0.1
  return signal, mask, log_prob, old, keep


def spoil(signal, mask, log_prob, old, keep):
  """Whatever is masked is not a number."""
  signal = np.where(mask, signal, np.nan)
  there = mask[..., None] & keep
  return signal, np.where(there, log_prob, np.nan), np.where(there, old, np.inf)


def value_and_grad(log_prob, *rest, **options):
  def loss(x):
    mean, metrics, advantage = grouped_advantage.grouped_policy_loss(
      *rest[:2], x, *rest[2:], clip_range=CLIP, **options
    )
    return mean.value(), (metrics, advantage)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(log_prob)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "shape",
  [
    pytest.param(s, marks=() if s in FAST else pytest.mark.slow) for s in SHAPES
  ],
)
def test_loss_gradient_and_metrics_equal_float64(shape, form):
  signal, mask, log_prob, old, keep = draw(*shape)
  dirty, log_prob_in, old_in = spoil(signal, mask, log_prob, old, keep)
  (loss, (metrics, advantage)), gradient = value_and_grad(
    log_prob_in, dirty, mask, old_in, keep, implementation=form
  )
  expected = oracles.advantage(signal, mask)
  counted = mask[..., None] & keep
  value, slope, means = oracles.policy_loss(
    log_prob, old, expected, counted, 1 - CLIP, 1 + CLIP
  )
  assert oracles.relative(advantage, expected) < 1e-5
  scale = max(abs(value), np.abs(expected).mean())
  assert abs(loss - value) <= 1e-5 * scale
  assert oracles.relative(gradient, slope) < 1e-5
  assert (np.asarray(gradient)[~counted] == 0).all()
  for name, mean in means.items():
    assert float(metrics[name].value()) == pytest.approx(mean, rel=1e-5), name


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("form", "std", "baseline", "clip"),
  [
    ("interpret", "group", "group", 0.7),
    ("interpret", "batch", "leave_one_out", 0.7),
    ("interpret", "none", "leave_one_out", None),
    ("interpret_triton", "group", "leave_one_out", None),
    ("interpret_triton", "batch", "group", None),
    ("interpret_triton", "none", "group", 0.7),
  ],
)
def test_advantage_equals_float64_and_the_plain_function(
  form, std, baseline, clip
):
  signal, mask, *_ = draw(6, 5, 1)
  mask[1], mask[2] = False, np.arange(5) == 3
  dirty = np.where(mask, signal, np.nan)
  options = {"std": std, "clip": clip, "epsilon": 1e-3}

  @jax.jit
  def run(signal, mask):
    return grouped_advantage.advantage(
      signal, mask, baseline=baseline, implementation=form, **options
    )

  found = run(dirty, mask)
  expected = oracles.advantage(signal, mask, baseline=baseline, **options)
  assert oracles.relative(found, expected) < 1e-5
  plain = getattr(advantages, baseline)(dirty, mask, **options)
  np.testing.assert_allclose(found, plain, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_equal_rewards_are_exactly_zero(form):
  signal = np.full((3, 7), 0.1, np.float32) + np.arange(3)[:, None]
  mask = np.ones((3, 7), bool)

  @jax.jit
  def run(signal):
    return [
      grouped_advantage.advantage(
        signal, mask, epsilon=epsilon, implementation=form
      )
      for epsilon in (1e-4, 0.0)
    ]

  for found in run(signal.astype(np.float32)):
    assert (np.asarray(found) == 0).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_left_is_a_loss_of_zero(form):
  signal, mask, log_prob, old, _ = draw(2, 4, 3)
  nothing = np.zeros_like(mask)
  (loss, (metrics, advantage)), gradient = value_and_grad(
    np.full_like(log_prob, np.nan), signal, nothing, old, implementation=form
  )
  assert loss == 0 and metrics["ratio"].weight == 0
  assert (np.asarray(gradient) == 0).all() and (advantage == 0).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("rows", [1, 300])
def test_rows_equal_the_plain_objective(form, rows):
  _, mask, log_prob, old, _ = draw(rows, 1, 1)
  advantage = np.linspace(-2, 2, rows).astype(np.float32)
  mask = mask[:, 0]
  rest = (old[:, 0, 0], advantage, mask)
  options = {"clip_range": 0.05, "clip_range_high": 0.15}

  def total(objective, **how):
    def loss(x):
      mean, metrics = objective(x, *rest, **options, **how)
      return mean.total, (mean.weight, metrics)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return run(log_prob[:, 0, 0])

  (loss, found), slope = total(
    grouped_advantage.clipped_loss, implementation=form
  )
  (plain, expected), plain_slope = total(objectives.flow_grpo)
  np.testing.assert_allclose(loss, plain, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(slope, plain_slope, rtol=1e-6)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4)


def test_gradient_equals_finite_differences():
  signal, mask, log_prob, old, keep = draw(4, 6, 3)
  _, gradient = value_and_grad(
    log_prob, signal, mask, old, keep, implementation="interpret"
  )
  advantage = oracles.advantage(signal, mask)
  counted = mask[..., None] & keep
  directions = np.random.default_rng(1).normal(size=(8, *log_prob.shape))
  expected = oracles.slopes(
    lambda x: oracles.policy_loss(
      x, old, advantage, counted, 1 - CLIP, 1 + CLIP
    )[0],
    log_prob,
    directions,
    1e-6,
  )
  found = np.tensordot(directions, np.asarray(gradient, np.float64), 3)
  assert oracles.relative(found, expected) < 1e-5


@pytest.mark.turns(2)
@pytest.mark.parametrize("form", FORMS[1:])
def test_half_precision_is_read_and_summed_in_float32(form):
  signal, mask, log_prob, old, _ = draw(3, 8, 4)
  half = [jnp.asarray(x, jnp.bfloat16) for x in (signal, log_prob, old)]
  exact = [np.asarray(x, np.float32) for x in half]
  (loss, (_, advantage)), gradient = value_and_grad(
    half[1], half[0], mask, half[2], implementation=form
  )
  (same, (_, wide)), slope = value_and_grad(
    exact[1], exact[0], mask, exact[2], implementation=form
  )
  assert loss == same and (advantage == wide).all()
  assert gradient.dtype == jnp.bfloat16 and loss.dtype == jnp.float32
  assert oracles.relative(gradient.astype(jnp.float32), slope) < 4e-3


def test_no_gradient_reaches_rewards_or_the_past():
  signal, mask, log_prob, old, _ = draw(2, 4, 3)

  def loss(signal, old):
    mean, _, advantage = grouped_advantage.grouped_policy_loss(
      signal, mask, log_prob, old, std="batch"
    )
    return mean.total + advantage.sum()

  for gradient in jax.jit(jax.grad(loss, (0, 1)))(signal, old):
    assert (np.asarray(gradient) == 0).all()


def test_vmap_equals_a_loop():
  draws = [draw(3, 4, 2, seed) for seed in range(3)]
  signal, mask, log_prob, old, keep = map(np.stack, zip(*draws, strict=True))

  def both(*args):
    (loss, _), slope = value_and_grad(*args, implementation="interpret")
    return loss, slope

  found = jax.jit(jax.vmap(both))(log_prob, signal, mask, old, keep)
  for i in range(3):
    loss, slope = both(log_prob[i], signal[i], mask[i], old[i], keep[i])
    np.testing.assert_allclose(found[0][i], loss, rtol=1e-6)
    np.testing.assert_allclose(found[1][i], slope, rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "word"),
  [
    ({"std": "grup"}, 'did you mean "group"'),
    ({"baseline": "other"}, "leave_one_out"),
    ({"implementation": "gpu"}, "triton"),
  ],
)
def test_an_unknown_choice_is_one_line(options, word):
  signal, mask, *_ = draw(2, 3, 1)
  with pytest.raises(UserError) as error:
    grouped_advantage.advantage(signal, mask, **options)
  assert word in str(error.value) and "\n" not in str(error.value)


def test_a_group_too_large_is_one_line():
  signal, mask, *_ = draw(1, 1025, 1)
  with pytest.raises(UserError, match="1024"):
    grouped_advantage.advantage(signal, mask)
  found = grouped_advantage.advantage(signal, mask, implementation="xla")
  assert oracles.relative(found, oracles.advantage(signal, mask)) < 1e-5


def test_shapes_that_differ_are_one_line():
  signal, mask, log_prob, old, _ = draw(2, 3, 4)
  plain = inspect.unwrap(grouped_advantage.grouped_policy_loss)
  with pytest.raises(UserError, match=r"\[P, G, T\]"):
    plain(signal, mask, log_prob[:1], old[:1])
