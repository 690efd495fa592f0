"""Optimizers: schedules, decay masks, Muon on stacks, refused updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreward.errors import UserError
from jaxreward.training import optimizer

NAMES = ("adamw", "muon", "sgd")


def params_of(seed=0):
  """A small model as Linen stores it: scanned blocks, a head, a table."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
  return {
    "blocks": {
      "up": {"kernel": draw(3, 4, 6), "bias": draw(3, 6)},
      "down": {
        "kernel": draw(3, 6, 4),
        "bias": draw(3, 4),
        "lora": {"a": draw(3, 6, 2), "b": draw(3, 2, 4)},
      },
    },
    "head": {"kernel": draw(4, 2), "bias": draw(2)},
    "embedding": draw(7, 4),
  }


def test_schedule_values():
  rate = optimizer.make_schedule(
    learning_rate=2.0, schedule="cosine", warmup_steps=4, total_steps=14
  )
  want = {0: 0.5, 1: 1.0, 3: 2.0, 4: 2.0, 9: 1.0, 14: 0.0, 50: 0.0}
  for step, value in want.items():
    np.testing.assert_allclose(rate(step), value, atol=1e-6)
  rate = optimizer.make_schedule(
    learning_rate=1.0, schedule="linear", total_steps=10, final_scale=0.1
  )
  for step, value in {0: 1.0, 5: 0.55, 10: 0.1, 99: 0.1}.items():
    np.testing.assert_allclose(rate(jnp.int32(step)), value, atol=1e-6)
  rate = optimizer.make_schedule(learning_rate=0.3, warmup_steps=2)
  for step, value in {0: 0.15, 1: 0.3, 10**6: 0.3}.items():
    np.testing.assert_allclose(rate(step), value, rtol=1e-6)


def test_cosine_agrees_with_optax_after_the_warm_up():
  ours = optimizer.make_schedule(
    learning_rate=0.1, schedule="cosine", total_steps=20
  )
  theirs = optax.cosine_decay_schedule(0.1, 20)
  for step in range(22):
    np.testing.assert_allclose(ours(step), theirs(step), atol=1e-7)


def test_matrices_are_found_by_name_not_by_rank():
  mask = optimizer.matrix_mask(params_of())
  assert mask == {
    "blocks": {
      "up": {"kernel": True, "bias": False},
      "down": {
        "kernel": True,
        "bias": False,
        "lora": {"a": True, "b": True},
      },
    },
    "head": {"kernel": True, "bias": False},
    "embedding": False,
  }


def steps(transform, params, grads_of, count):
  state, traces = transform.init(params), []

  @jax.jit
  def step(params, state):
    traces.append(1)
    updates, state = transform.update(grads_of(params), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(count):
    params, state = step(params, state)
  assert len(traces) == 1
  return params


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_reaches_the_optimum_of_a_quadratic(name):
  target = params_of(1)
  transform, _ = optimizer.make_optimizer(
    name=name,
    learning_rate=0.05,
    schedule="cosine",
    warmup_steps=5,
    total_steps=250,
  )
  distance = lambda p: optax.tree.norm(jax.tree.map(jnp.subtract, p, target))
  start = params_of()
  end = steps(transform, start, jax.grad(lambda p: distance(p) ** 2), 250)
  assert distance(end) < 0.02 * distance(start)


def test_adamw_matches_float64():
  """Two steps of clip -> Adam -> decay -> rate, written out in NumPy."""
  params = {"kernel": params_of()["head"]["kernel"], "bias": jnp.ones(2)}
  grads = {"kernel": params["kernel"] * 3, "bias": jnp.full(2, 0.5)}
  transform, rate = optimizer.make_optimizer(
    learning_rate=0.1,
    schedule="linear",
    total_steps=10,
    clip_norm=0.7,
    weight_decay=0.2,
    b1=0.8,
    b2=0.95,
    eps=1e-6,
  )
  got = steps(transform, params, lambda p: grads, 2)
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
  assert norm > 0.7
  for key in params:
    p, g = (np.asarray(x[key], np.float64) for x in (params, grads))
    g = g * 0.7 / norm
    m = v = 0.0
    for n in range(2):
      m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
      update = (m / (1 - 0.8 ** (n + 1))) / (
        np.sqrt(v / (1 - 0.95 ** (n + 1))) + 1e-6
      )
      decay = 0.2 * p if key == "kernel" else 0.0
      p = p - 0.1 * (1 - n / 10) * (update + decay)
    np.testing.assert_allclose(got[key], p, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(rate(1), 0.09, rtol=1e-6)


def test_sgd_matches_float64():
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  grads = {"kernel": jnp.full((2, 2), 0.1), "bias": jnp.full(2, 0.2)}
  transform, _ = optimizer.make_optimizer(
    name="sgd",
    learning_rate=0.5,
    clip_norm=0.0,
    momentum=0.9,
    weight_decay=0.1,
  )
  got = steps(transform, params, lambda p: grads, 2)
  for key, g in (("kernel", 0.1), ("bias", 0.2)):
    p, trace = 1.0, 0.0
    for _ in range(2):
      trace = g + 0.9 * trace
      decay = 0.1 * p if key == "kernel" else 0.0
      p -= 0.5 * (g + 0.9 * trace + decay)
    np.testing.assert_allclose(got[key], np.full_like(got[key], p), rtol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_touches_matrices_only(name):
  params = params_of()
  zeros = jax.tree.map(jnp.zeros_like, params)
  transform, _ = optimizer.make_optimizer(
    name=name, learning_rate=0.1, weight_decay=0.5
  )
  got = steps(transform, params, lambda p: zeros, 1)

  def check(matrix, before, after):
    want = before * 0.95 if matrix else before
    np.testing.assert_allclose(after, want, rtol=1e-5)

  jax.tree.map(check, optimizer.matrix_mask(params), params, got)


def test_muon_orthogonalises_every_layer_of_a_stack():
  params = params_of()
  grads = params_of(2)
  transform, _ = optimizer.make_optimizer(
    name="muon", learning_rate=1.0, clip_norm=None
  )
  update = jax.jit(lambda g, p: transform.update(g, transform.init(p), p)[0])
  updates = update(grads, params)
  stacked = np.asarray(updates["blocks"]["up"]["kernel"])
  for layer in range(3):
    # Fan-out over fan-in scales each matrix; its singular values are near 1.
    values = np.linalg.svd(stacked[layer] / np.sqrt(6 / 4), compute_uv=False)
    assert np.all((values > 0.5) & (values < 1.4)), values
    alone = {"kernel": params["blocks"]["up"]["kernel"][layer]}
    grad = {"kernel": grads["blocks"]["up"]["kernel"][layer]}
    np.testing.assert_allclose(
      stacked[layer], update(grad, alone)["kernel"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.job
@pytest.mark.turns(3)
def test_muon_leaves_vectors_and_tables_to_adam():
  params, grads = params_of(), params_of(2)
  muon, _ = optimizer.make_optimizer(
    name="muon", learning_rate=0.1, adam_scale=0.5, clip_norm=None
  )
  updates, _ = muon.update(grads, muon.init(params), params)
  # A first step of Adam with Nesterov momentum has the size of the rate times
  # 1 + b1 / (1 + b1), whatever the gradient.
  for leaf in (
    updates["embedding"],
    updates["blocks"]["up"]["bias"],
    updates["head"]["bias"],
  ):
    np.testing.assert_allclose(np.abs(leaf), 0.05 * (1 + 0.9 / 1.9), rtol=1e-3)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_structure_are_kept(name):
  params = params_of()
  transform, _ = optimizer.make_optimizer(name=name, learning_rate=0.1)
  state = transform.init(params)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  _, after = jax.jit(transform.update)(params, state, params)
  assert shapes(after) == shapes(state)


def test_clipping_bounds_the_gradient():
  params = {"kernel": jnp.zeros((2, 2))}
  grads = {"kernel": jnp.full((2, 2), 50.0)}
  transform, _ = optimizer.make_optimizer(
    name="sgd", learning_rate=1.0, momentum=0.0, clip_norm=1.0
  )
  updates, _ = transform.update(grads, transform.init(params), params)
  np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-6)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", ["loss", "gradient", "infinite", "weight"])
def test_bad_updates_are_skipped_bit_for_bit(name, bad):
  params, grads = params_of(), params_of(1)
  transform, _ = optimizer.make_optimizer(
    name=name, learning_rate=0.1, weight_decay=0.1
  )
  traces = []

  @jax.jit
  def step(g, s, p, loss, weight):
    traces.append(1)
    return optimizer.apply_if_finite(
      transform, g, s, p, loss=loss, weight=weight
    )

  one = jnp.float32(1)
  params, state, metrics = step(grads, transform.init(params), params, one, one)
  metrics = {name: mean.value() for name, mean in metrics.items()}
  assert metrics["skipped_updates"] == 0
  np.testing.assert_allclose(
    metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-6
  )
  loss, weight, broken = one, one, grads
  if bad == "loss":
    loss = jnp.float32(np.nan)
  elif bad == "weight":
    weight = jnp.float32(0)
  else:
    value = np.nan if bad == "gradient" else np.inf
    broken = grads | {"embedding": grads["embedding"].at[0, 0].set(value)}
  after, new_state, metrics = step(broken, state, params, loss, weight)
  same = jax.tree.map(jnp.array_equal, (after, new_state), (params, state))
  assert all(jax.tree.leaves(same))
  metrics = {name: mean.value() for name, mean in metrics.items()}
  assert metrics["skipped_updates"] == 1
  assert metrics["grad_norm"] == 0  # nothing was weighed, nothing is NaN
  good, _, metrics = step(grads, new_state, after, one, one)
  assert metrics["skipped_updates"].total == 0
  assert not jnp.array_equal(good["embedding"], after["embedding"])
  assert len(traces) == 1


def test_errors_name_the_mend():
  make = optimizer.make_optimizer
  with pytest.raises(UserError, match=r'adamm.*did you mean "adamw"'):
    make(name="adamm", learning_rate=0.1)
  with pytest.raises(UserError, match=r'cosin.*did you mean "cosine"'):
    make(schedule="cosin", learning_rate=0.1, total_steps=3)
  with pytest.raises(UserError, match=r"warmup_steps is 5 of 5"):
    make(schedule="cosine", learning_rate=0.1, total_steps=5, warmup_steps=5)
