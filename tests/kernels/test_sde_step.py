"""Fused SDE step against float64, the plain steppers, and its own replay."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.flow import log_prob, steppers
from pallas_kernels import sde_step as kernel
from pallas_kernels.sde_step import tpu
from tests.kernels import oracles

FORMS = ("xla", "interpret", "interpret_triton")
SHAPES = ((1, 3), (3, 5, 7, 4), (2, 16, 16, 4), (4, 40, 64))
FAST = ((3, 5, 7, 4), (4, 40, 64))
TIMES = np.linspace(1.0, 0.1, 5)
TABLES = {
  name: steppers.REGISTRY[name](TIMES)
  for name in ("flow_sde", "dance_sde", "cps", "ode")
}


def step_of(name="flow_sde", i=1):
  return jax.tree.map(lambda x: jnp.asarray(x[i]), TABLES[name])


def draw(shape, seed=0, dtype=jnp.float32):
  r = np.random.default_rng(seed)
  return [jnp.asarray(r.normal(size=shape), dtype) for _ in range(3)]


def exact(x, v, step):
  """The step's mean in float64 from the same constants."""
  wide = lambda y: np.asarray(y, np.float64)
  return wide(step.c_x) * wide(x) + wide(step.c_v) * wide(v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
  "shape",
  [
    pytest.param(s, marks=() if s in FAST else pytest.mark.slow) for s in SHAPES
  ],
)
def test_step_and_log_prob_equal_float64(shape, form):
  x, v, noise = draw(shape)
  step = step_of()
  found, log_p = jax.jit(
    lambda *a: kernel.sde_step(*a, step, implementation=form)
  )(x, v, noise)
  mean = exact(x, v, step)
  std = float(step.std)
  assert oracles.relative(found, mean + std * np.asarray(noise)) < 1e-6
  expected = oracles.log_prob(np.asarray(found), mean, std, True)
  np.testing.assert_allclose(log_p, expected, rtol=1e-5)
  again = jax.jit(lambda *a: kernel.transition(*a, step, implementation=form))(
    x, v, found
  )
  np.testing.assert_allclose(again, expected, rtol=1e-5)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("form", "name"),
  [
    ("interpret", "flow_sde"),
    ("interpret", "ode"),
    ("interpret_triton", "dance_sde"),
    ("interpret_triton", "cps"),
  ],
)
def test_equals_the_plain_steppers(name, form):
  x, v, noise = draw((3, 6, 5))
  step = step_of(name)
  run = jax.jit(lambda *a: kernel.sde_step(*a, step, implementation=form))
  found, log_p = run(x, v, noise)
  plain = steppers.mean(x, v, step) + step.std * noise
  np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-6)
  expected = log_prob.transition(x, v, found, step)
  np.testing.assert_allclose(log_p, expected, rtol=1e-5)
  if name == "ode":
    assert (np.asarray(log_p) == 0).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_replay_finds_the_same_bits(form, dtype):
  """In programs of their own, with the gradient taken along."""
  for seed, shape in enumerate(FAST):
    x, v, noise = draw(shape, seed, dtype)
    step = step_of(i=1 + seed % 3)
    x_next, log_p = jax.jit(
      lambda *a: kernel.sde_step(*a, step, implementation=form)  # noqa: B023
    )(x, v, noise)

    def replay(v, x, x_next):
      found = kernel.transition(x, v, x_next, step, implementation=form)  # noqa: B023
      return found.sum(), found

    whole = jax.jit(jax.value_and_grad(replay, has_aux=True))
    (_, again), _ = whole(v, x, x_next)
    np.testing.assert_array_equal(log_p, again)
    assert x_next.dtype == dtype and log_p.dtype == jnp.float32


@pytest.mark.parametrize(
  ("form", "name"),
  [("xla", "cps"), ("interpret", "flow_sde"), ("interpret_triton", "cps")],
)
def test_replay_gradient_equals_finite_differences(name, form):
  x, v, x_next = draw((2, 5, 4))
  step = step_of(name)
  weights = np.array([0.7, -1.3])

  def loss(*operands):
    log_p = kernel.transition(*operands, step, implementation=form)
    return (log_p * weights).sum()

  gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(x, v, x_next)
  operands = [np.asarray(y, np.float64) for y in (x, v, x_next)]

  def total(which, y):
    parts = [*operands]
    parts[which] = y
    mean = exact(parts[0], parts[1], step)
    found = oracles.log_prob(parts[2], mean, float(step.std), name != "cps")
    return (found * weights).sum()

  basis = np.eye(40).reshape(40, 2, 5, 4)
  for which, gradient in enumerate(gradients):
    expected = oracles.slopes(
      lambda y, w=which: total(w, y), operands[which], basis, 1e-4
    )
    assert oracles.relative(gradient, expected.reshape(2, 5, 4)) < 1e-5


@pytest.mark.parametrize("form", FORMS[1:])
def test_step_gradient_equals_the_plain_one(form):
  """Pathwise: what a reward on x_{t'} and its log-probability send back."""
  operands = draw((2, 6, 3))
  step = step_of()
  pull = np.random.default_rng(3).normal(size=(2, 6, 3)).astype(np.float32)

  def plain(x, v, noise):
    mean = steppers.mean(x, v, step)
    x_next = mean + step.std * noise
    log_p = steppers.log_prob(x_next, mean, step)
    return (x_next * pull).sum() + 5 * log_p.sum()

  def fused(*a):
    x_next, log_p = kernel.sde_step(*a, step, implementation=form)
    return (x_next * pull).sum() + 5 * log_p.sum()

  found = jax.jit(jax.grad(fused, (0, 1, 2)))(*operands)
  expected = jax.jit(jax.grad(plain, (0, 1, 2)))(*operands)
  for a, b in zip(found, expected, strict=True):
    assert oracles.relative(a, b) < 1e-5


@pytest.mark.turns(3)
@pytest.mark.parametrize("form", FORMS)
def test_every_sample_may_be_at_its_own_step(form):
  x, v, noise = draw((3, 7, 5))
  rows = jax.tree.map(
    lambda *y: jnp.stack([jnp.asarray(z) for z in y]),
    step_of(i=0), step_of("cps", 2), step_of("ode", 1),
  )  # fmt: skip
  run = jax.jit(functools.partial(kernel.sde_step, implementation=form))
  found, log_p = run(x, v, noise, rows)
  for b, step in enumerate((step_of(i=0), step_of("cps", 2), step_of("ode"))):
    one = [y[b : b + 1] for y in (x, v, noise)]
    alone, density = run(*one, step)
    np.testing.assert_allclose(found[b], alone[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(log_p[b], density[0], rtol=1e-5)
  total = lambda y: kernel.transition(
    x, y, found, rows, implementation=form
  ).sum()
  gradient = jax.jit(jax.grad(total))(v)
  assert (np.asarray(gradient[2]) == 0).all() and np.asarray(gradient[:2]).any()


@pytest.mark.turns(2)
def test_a_last_block_may_be_short(monkeypatch):
  """Rows of a block beyond the latents hold anything."""
  x, v, noise = draw((2, 128 * 11))
  want = kernel.sde_step(x, v, noise, step_of(), implementation="interpret")
  monkeypatch.setattr(tpu, "ROWS", 8)
  got = kernel.sde_step(x, v, noise, step_of(), implementation="interpret")
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


def test_half_precision_is_summed_in_float32():
  """A running sum in bfloat16 would stall at 256."""
  x, v, noise = draw((2, 64, 64), dtype=jnp.bfloat16)
  x_next, log_p = kernel.sde_step(x, v, noise, step_of())
  mean = exact(x, v, step_of())
  std = float(step_of().std)
  expected = oracles.log_prob(np.asarray(x_next, np.float64), mean, std, True)
  np.testing.assert_allclose(log_p, expected, rtol=1e-5)


def test_vmap_equals_a_loop():
  x, v, noise = (y.reshape(3, 2, 10) for y in draw((6, 10)))
  step = step_of()
  run = lambda *a: kernel.sde_step(*a, step, implementation="interpret")
  found, log_p = jax.jit(jax.vmap(run))(x, v, noise)
  run = jax.jit(run)
  for i in range(3):
    alone, density = run(x[i], v[i], noise[i])
    np.testing.assert_allclose(found[i], alone, rtol=1e-6)
    np.testing.assert_allclose(log_p[i], density, rtol=1e-6)


def test_shapes_that_differ_are_one_line():
  x, v, noise = draw((2, 3))
  for fused in (kernel.sde_step, kernel.transition):
    plain = inspect.unwrap(fused)  # without the tests' own check of shapes
    with pytest.raises(UserError, match="has shape") as error:
      plain(x, v, noise[:1], step_of())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="v has shape"):
      plain(x, v[:, :2], noise, step_of())
