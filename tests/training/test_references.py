"""Rules by which references follow, in NumPy."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import feeds
from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.training import references
from jaxreward.training.references import RULES, Earlier
from jaxreward.training.state import Reference
from jaxreward.types import Policy
from tests import tiny


def follow(rule, steps=8, metric=lambda n: 0.0):
  """Values of a reference to parameters 1, 2, ... (0 at first)."""
  reference = Reference({"p": jnp.zeros(2)}, jnp.int32(0))
  found = []
  for n in range(steps):
    params = {"p": jnp.full(2, n + 1.0)}
    metrics = {"kl": Mean.of(jnp.float32(metric(n)))}
    reference = rule(reference, params, jnp.int32(n), metrics)
    found.append(float(reference.params["p"][0]))
  return found


def test_fixed_and_every():
  assert follow(RULES["fixed"]()) == [0] * 8
  assert follow(RULES["every"](count=3)) == [0, 0, 3, 3, 3, 6, 6, 6]
  assert follow(RULES["every"](count=1)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_decayed_is_an_average_that_may_begin_with_the_trained_one():
  want, average = [], 0.0
  for n in range(8):
    decay = min(0.5, 0.2 * n)
    average = decay * average + (1 - decay) * (n + 1)
    want.append(average)
  got = follow(RULES["decayed"](decay=0.5, rate=0.2))
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(
  ("decay", "rate", "flat", "shares"),
  [
    (0.0, 0.0, 0, {0: 0, 500: 0}),
    (0.5, 1e-3, 0, {0: 0, 100: 0.1, 500: 0.5, 900: 0.5}),
    (0.999, 0.0075, 75, {74: 0, 75: 0, 115: 0.3, 208: 0.9975, 300: 0.999}),
  ],
)
def test_the_published_schedules_of_diffusion_nft(decay, rate, flat, shares):
  """Types 0, 1 and 2: how much of an old policy of 1 stays beside one of 0."""
  rule = RULES["decayed"](decay=decay, rate=rate, flat=flat)
  old = Reference({"p": jnp.ones(())}, jnp.int32(0))
  for n, share in shares.items():
    after = rule(old, {"p": jnp.zeros(())}, jnp.int32(n), {})
    np.testing.assert_allclose(after.params["p"], share, atol=1e-6)


def test_reset_on_a_signal_or_out_of_patience():
  rule = RULES["reset"](above=0.1, patience=3)
  loud = lambda n: 0.2 if n == 1 else 0.1
  assert follow(rule, metric=loud) == [0, 2, 2, 2, 5, 5, 5, 8]
  rule = RULES["reset"](above=0.1, patience=0)
  assert follow(rule, metric=loud) == [0, 2, 2, 2, 2, 2, 2, 2]
  nothing = lambda n: np.nan
  assert follow(rule, metric=nothing) == [0] * 8


def earlier_of(slots, steps=21, count=3, seeds=400):
  """Values of the reference, [seeds, steps], to parameters 1, 2, ..."""

  def one(seed):
    options = types.SimpleNamespace(count=count, slots=slots, seed=seed)
    rule = functools.partial(Earlier.__call__, options)
    zero = {"p": jnp.zeros(())}
    first = Reference(zero, jnp.int32(0), (zero,) * slots)

    def body(reference, n):
      reference = rule(reference, {"p": n + 1.0}, n, {})
      return reference, reference.params["p"]

    return jax.lax.scan(body, first, jnp.arange(steps))[1]

  return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(seeds)))


@pytest.mark.turns(3)
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_earlier_is_any_earlier_copy_equally_often(slots, monkeypatch):
  """Copies are those of 0, 3, 6, ... iterations, whatever is kept of them."""
  key = lambda seed, name, step: jax.random.fold_in(jax.random.key(seed), step)
  monkeypatch.setattr(references.rng, "stream_key", key)
  found = earlier_of(slots)
  assert (found[:, :2] == 0).all()
  for n in (2, 8, 20):
    copies = np.arange(0, n + 2, 3)
    assert set(np.unique(found[:, n])) <= set(copies)
    share = (found[:, n, None] == copies).mean(0)
    np.testing.assert_allclose(share, 1 / len(copies), atol=0.09)


def test_a_metric_that_is_not_there_is_told():
  with pytest.raises(UserError, match="there are kl"):
    follow(RULES["reset"](metric="lk"))


def test_a_feed_offers_arrays_of_every_reference():
  feed = feeds.with_references(feeds.FEEDS["noised"], ["slow"])
  assert "v_slow" in feed.offers and "v_slow" in feed.latents
  steps = feeds.with_references(feeds.FEEDS["steps"], ["slow"])
  assert {"slow_mean", "reference_mean"} <= set(steps.offers)
  policy = Policy(
    init=lambda key: None, encode=lambda params, words: words,
    velocity=lambda params, x, t, cond: x * params, to_pixels=lambda x: x,
    latent_shape=(2,),
  )  # fmt: skip
  plan = tiny.make_plan(tiny.load("align_scenes.py:smoke"), tiny.mesh_of(1))
  words = jnp.zeros((1, 1), jnp.int32)
  rows = {
    "x_t": jnp.ones((3, 2)), "t": jnp.ones(3),
    "prompt_index": jnp.zeros(3, jnp.int32),
  }  # fmt: skip
  network = lambda scale: (
    lambda: feeds.Network(policy, jnp.float32(scale), words, plan)
  )
  networks = {"slow": network(3.0), "reference": network(2.0)}
  arrays = feeds.Arrays(feed, rows, networks, plan)
  np.testing.assert_array_equal(arrays("v_slow"), 3 * np.ones((3, 2)))
  np.testing.assert_array_equal(arrays("v_reference"), 2 * np.ones((3, 2)))


@pytest.mark.job
def test_a_reference_that_moves_is_the_trained_network_afterwards():
  """The KL is to it, and is 0 again after every iteration."""
  given = {
    "references.reference.rule": "every", "references.reference.count": 1,
    "align.updates": 1, "optimizer.learning_rate": 1e-2,
  } | tiny.kl("step_kl", 0.3)  # fmt: skip
  config = tiny.load(
    "align_scenes.py:flow_grpo,smoke", tiny.FAST, tiny.REWARD, given
  )
  one = tiny.Iteration(config, tiny.mesh_of(1))
  state, first, _ = one.step(one.state)
  moved = state.references["reference"].params
  assert tiny.same_bits(moved, state.params)
  assert not tiny.same_bits(moved, one.state.params)
  held = one.copy(state)
  _, second, _ = one.step(state)
  assert tiny.numbers(first)["kl"] == tiny.numbers(second)["kl"] == 0.0
  # One that is elsewhere pulls.
  away = held.references["reference"].replace(params=one.state.params)
  _, third, _ = one.step(held.replace(references={"reference": away}))
  assert tiny.numbers(third)["kl"] > 0
