"""Losses of pairs on stored steps against all pairs in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import methods, objectives
from jaxreward.errors import UserError
from tests.differences import numeric_gradient

# Rows of an optimizer step: T steps of P G samples, in micro-batches.
T, P, G, M = 3, 2, 3, 4
B = 8  # two rows of padding
N = T * B // M


def draw(seed, spread=0.05):
  """Columns [T, B] as NumPy arrays; the reference is not far away."""
  rng = np.random.default_rng(seed)
  old = rng.normal(size=(T, B))
  sample = np.broadcast_to(np.arange(B), (T, B))
  advantage = np.round(rng.normal(size=B), 1)
  advantage[1] = advantage[0]  # a tie
  mask = np.arange(B) < P * G
  mask[4] = False  # a failed sample
  arrays = {
    "log_prob": old + spread * rng.normal(size=(T, B)),
    "old_log_prob": old,
    "reference_log_prob": old + spread * rng.normal(size=(T, B)),
    "advantage": np.broadcast_to(np.where(mask, advantage, np.nan), (T, B)),
    "prompt": np.minimum(sample // G, P - 1),
    "sample": sample,
    "mask": np.broadcast_to(mask, (T, B)),
  }
  return arrays, np.array([0.9, 0.6, 0.3])


def loss_of(name, arrays, times, **options):
  """(value, slope by log_prob) of an optimizer step."""
  fn = objectives.REGISTRY[name]
  partial = functools.update_wrapper(functools.partial(fn, **options), fn)
  prepare = methods.prepare_of(partial)
  cut = lambda x: x.reshape(N, M)
  cast = lambda x: x.astype(np.float32) if x.dtype == float else x
  micros = {k: cut(cast(np.asarray(x))) for k, x in arrays.items()}
  t = np.repeat(times, B // M).astype(np.float32)

  def offered(log_prob, n, names, columns=None):
    of = lambda k: log_prob[n] if k == "log_prob" else micros[k][n]
    made = columns or {}
    return {
      k: made[k][n] if k in made else t[n] if k == "t" else of(k) for k in names
    }

  @jax.jit
  def run(log_prob):
    read = methods.asks(prepare.read)
    rows = [
      prepare.read(**offered(jax.lax.stop_gradient(log_prob), n, read))
      for n in range(N)
    ]
    columns = prepare.finish(
      {k: jnp.stack([jnp.asarray(r[k]) for r in rows]) for k in rows[0]}
    )
    parts = [
      partial(**offered(log_prob, n, methods.asks(fn), columns))[0]
      for n in range(N)
    ]
    return sum(p.total for p in parts) / sum(p.weight for p in parts)

  return jax.value_and_grad(run)(jnp.asarray(micros["log_prob"]))


def pairs(arrays):
  for a, b in itertools.combinations(range(P * G), 2):
    if arrays["mask"][0, a] and arrays["mask"][0, b] and a // G == b // G:
      yield a, b, arrays["advantage"][0, a] - arrays["advantage"][0, b]


def check(name, reference, arrays, times, **options):
  value, slope = loss_of(name, arrays, times, **options)
  log_prob = arrays["log_prob"]
  np.testing.assert_allclose(value, reference(log_prob), rtol=1e-4)
  want = numeric_gradient(reference, log_prob)
  np.testing.assert_allclose(
    np.asarray(slope).reshape(T, B), want, rtol=2e-3,
    atol=2e-4 * np.abs(want).max(),
  )  # fmt: skip
  assert np.abs(want).max() > 0


@pytest.mark.turns(2)
@pytest.mark.parametrize("clip_range", [0.06, 0.9])
def test_d3po(clip_range):
  arrays, times = draw(0)
  beta = 3.0

  def reference(log_prob):
    total, count = 0.0, 0
    ratio = np.exp(log_prob - arrays["reference_log_prob"])
    move = np.log(np.clip(ratio, 1 - clip_range, 1 + clip_range))
    for a, b, gap in pairs(arrays):
      if gap:
        z = beta * np.sign(gap) * (move[:, a] - move[:, b])
        total, count = total + np.logaddexp(0, -z).sum(), count + T
    return total / count

  check("d3po", reference, arrays, times, beta=beta, clip_range=clip_range)


def test_d3po_at_the_reference_is_log_two():
  arrays, times = draw(1)
  arrays["reference_log_prob"] = arrays["log_prob"]
  value, _ = loss_of("d3po", arrays, times)
  np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


@pytest.mark.turns(2)
@pytest.mark.parametrize("clip_range", [0.02, 10.0])
def test_prdp(clip_range):
  arrays, times = draw(2)
  beta = 5.0
  ref, old = arrays["reference_log_prob"], arrays["old_log_prob"]

  def reference(log_prob):
    move, start = log_prob - ref, old - ref
    near = np.clip(move, start - clip_range, start + clip_range)
    total, count = 0.0, 0
    for a, b, gap in pairs(arrays):
      errors = [
        (m[:, a].sum() - m[:, b].sum() - gap / beta) ** 2 for m in (move, near)
      ]
      total, count = total + max(errors), count + 1
    return beta**2 * total / count

  check("prdp", reference, arrays, times, beta=beta, clip_range=clip_range)


@pytest.mark.turns(2)
def test_prdp_by_hand():
  """At the reference, rewards 2 and 0: 4, which is .04 of beta 10, times 100."""
  arrays, times = draw(3)
  arrays["log_prob"] = arrays["old_log_prob"] = arrays["reference_log_prob"]
  arrays["advantage"] = np.broadcast_to(
    np.array([2.0, 0] + [np.nan] * 6), (T, B)
  )
  arrays["mask"] = np.broadcast_to(np.arange(B) < 2, (T, B))
  value, _ = loss_of("prdp", arrays, times, beta=10.0, clip_range=1.0)
  np.testing.assert_allclose(value, 4.0, rtol=1e-5)
  moved = arrays["advantage"] + 7  # a constant for the prompt
  same, _ = loss_of(
    "prdp", arrays | {"advantage": moved}, times, beta=10.0, clip_range=1.0
  )
  np.testing.assert_allclose(same, value, rtol=1e-5)


def test_rebel():
  arrays, times = draw(4)
  eta = 4.0

  def reference(log_prob):
    move = (log_prob - arrays["old_log_prob"]).sum(0)
    errors = [
      (eta * (move[a] - move[b]) - gap) ** 2 for a, b, gap in pairs(arrays)
    ]
    return np.mean(errors)

  check("rebel", reference, arrays, times, eta=eta)


def test_rebel_at_the_sampling_policy_is_the_square_of_the_gaps():
  arrays, times = draw(5)
  arrays["log_prob"] = arrays["old_log_prob"]
  value, _ = loss_of("rebel", arrays, times)
  want = np.mean([gap**2 for *_, gap in pairs(arrays)])
  np.testing.assert_allclose(value, want, rtol=1e-5)


def test_what_is_refused():
  arrays, times = draw(0)
  with pytest.raises(UserError, match="clip_range"):
    loss_of("d3po", arrays, times, clip_range=1.0)
