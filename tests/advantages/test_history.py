"""Credit with a state: the history of every prompt, and the contract."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import advantages
from jaxreward.data.repeats import distinct_ids
from jaxreward.errors import UserError
from jaxreward.flow import steppers
from jaxreward.types import PromptBatch

IDS = np.array([4, 90, 17, 4_000_000_000], np.uint32)
G = 3


class Reference:
  """Deques of the newest rewards, in float64, prompt by prompt."""

  def __init__(self, size, least):
    self.size, self.least, self.seen = size, least, {}

  def __call__(self, ids, signal, mask):
    out = np.zeros(signal.shape)
    for p, prompt in enumerate(ids):
      ring = self.seen.setdefault(
        int(prompt), collections.deque(maxlen=self.size)
      )
      ring.extend(signal[p][mask[p]].tolist())
    for p, prompt in enumerate(ids):
      history = np.array(self.seen[int(prompt)])
      if len(history) < max(self.least, 1):
        history = signal[mask]
      out[p] = (signal[p] - history.mean()) / (history.std() + 1e-6)
    return np.where(mask, np.clip(out, -10, 10), 0.0)


def tracker(**options):
  bound = advantages.per_prompt(**options)
  sizes = advantages.Sizes(2, G, 5, lambda: IDS)

  @jax.jit
  def update(signal, mask, ids, state):
    offers = dict(
      signal=signal, mask=mask, prompt_ids=ids, scores={}, steps=None
    )
    return advantages.credit(bound, offers, state)

  return bound.init(sizes), update


@pytest.mark.turns(3)
@pytest.mark.parametrize(("size", "least"), [(4, 2), (8, 8), (2, 0), (1, 1)])
def test_it_equals_queues_in_float64(size, least):
  state, update = tracker(buffer_size=size, min_count=least)
  reference = Reference(size, least)
  rng = np.random.default_rng(size)
  for _ in range(6):
    ids = rng.choice(IDS, 2, replace=False)
    signal = rng.normal(3.0, 2.0, (2, G)).astype(np.float32)
    mask = rng.random((2, G)) > 0.2
    mask[0, 0] = True
    dirty = np.where(mask, signal, np.nan).astype(np.float32)
    got, state = update(dirty, mask, ids, state)
    want = reference(ids, signal.astype(np.float64), mask)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_stands_twice_has_one_history():
  state, update = tracker(buffer_size=6, min_count=6)
  zero = np.zeros(2, np.int32)
  batch = PromptBatch(
    ids=IDS[[1, 1]], category=zero, mask=np.ones(2, bool),
  )  # fmt: skip
  ids = np.asarray(distinct_ids(batch).ids)
  assert ids[0] != ids[1]
  signal = np.arange(6.0, dtype=np.float32).reshape(2, G)
  got, state = update(signal, np.ones((2, G), bool), ids, state)
  want = (signal - 2.5) / np.arange(6).std()
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert state.count.tolist().count(6) == 1


def test_a_prompt_that_is_not_known_changes_nothing():
  state, update = tracker()
  signal = np.ones((2, G), np.float32)
  unknown = np.array([1, 2], np.uint32)
  _, after = update(signal, np.ones((2, G), bool), unknown, state)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "options", [{"buffer_size": 0}, {"buffer_size": 4, "min_count": 5}]
)
def test_a_buffer_that_cannot_be_is_refused(options):
  with pytest.raises(UserError, match="buffer_size"):
    advantages.per_prompt(**options)


def offers():
  return dict(
    signal=jnp.ones((2, G)), mask=jnp.ones((2, G), bool), scores={},
    prompt_ids=IDS[:2], steps=steppers.ode(np.linspace(1.0, 0.0, 5)),
  )  # fmt: skip


def test_a_plain_function_is_wrapped_and_asks_by_name():
  def by_step(signal, steps, mask):
    return signal[..., None] * steps.t

  wrapped = advantages.as_advantage(by_step)
  assert wrapped.init(None) is None
  value, state = advantages.credit(wrapped, offers(), None)
  assert value.shape == (2, G, 4) and state is None


def test_an_argument_that_nobody_offers_is_told():
  def wrong(signal, rewards):
    return signal

  with pytest.raises(UserError, match=r'reads "rewards".*signal, mask, scores'):
    advantages.as_advantage(wrong)


def test_a_shape_that_is_no_credit_is_refused():
  wrapped = advantages.as_advantage(lambda signal: signal[0])
  with pytest.raises(UserError, match=r"expected \[P, G\] or \[P, G, T\]"):
    advantages.credit(wrapped, offers(), None)
