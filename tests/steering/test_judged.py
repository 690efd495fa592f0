"""Choices by what a judge says on the way, on numbers and stages alone."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import steering
from jaxreward.errors import UserError
from jaxreward.steering import judged
from jaxreward.types import PromptBatch

BATCH = PromptBatch(
  np.zeros(1, np.uint32), np.zeros(1, np.int32), np.ones(1, bool)
)


class Chains(steering.Particles):
  """Sets of chains whose every step is right with probability p, on the host.

  A state is how many steps have been right so far, or -1 once one was wrong.
  """

  def __init__(self, group, count, steps, chance, look=None, clear=None):
    given = dict(
      group=group, count=count, steps=steps, look=look, clear=clear,
      chance=chance, rng=np.random.default_rng(0), drawn=[], asked=[],
    )  # fmt: skip
    vars(self).update(given)

  def init(self, *_):
    return np.zeros((1, self.group, self.count), int)

  def select(self, state, parents):
    return np.take_along_axis(state, np.asarray(parents), -1)

  def advance(self, params, state, first, last, scale):
    for _ in range(first, last):
      right = self.rng.random(state.shape) < self.chance
      state = np.where(right & (state >= 0), state + 1, -1)
      self.drawn.append(self.count)
    return state, state

  def lookahead(self, params, state, taken, jumps, scale):
    return state

  def pixels(self, guess, decoder):
    return guess

  def scores(self, pixels, prompts, by=None):
    self.asked.append(by)
    return (by or (lambda x: jnp.asarray(x) >= 0))(pixels).astype(float)

  def finish(self, params, state, position, prompts, decoder, scale):
    state, _ = self.advance(params, state, position, self.steps, scale)
    return state, self.scores(state, prompts)

  def take(self, pixels, member):
    return np.take_along_axis(pixels, np.asarray(member)[..., None], -1)[..., 0]


def success(method, draw):
  pixels, trace = method.run(draw, {}, BATCH)
  return float((pixels == draw.steps).mean()), trace


@pytest.mark.parametrize("branches", [1, 5])
def test_the_best_of_k_at_every_stage_multiplies_their_chances(branches):
  """(1 - (1 - p)^K)^S with an exact verifier of steps, p^S for K = 1."""
  steps, chance = 3, 0.4
  draw = Chains(20000, branches, steps, chance)
  method = steering.lookahead_beams(beams=1, branches=branches, lookahead=1)
  got, _ = success(method, draw)
  want = (1 - (1 - chance) ** branches) ** steps
  assert got == pytest.approx(want, abs=0.01)
  assert sum(draw.drawn) == branches * steps


def test_of_steps_the_least_the_mean_or_the_last_decides():
  values = np.array([[0.9, 0.4, 0.5], [0.2, 0.5, 0.5], [0.6, 0.8, 0.5]])
  best = {
    how: int(judged.aggregated(values, how).argmax())
    for how in judged.AGGREGATES
  }
  assert best == {"min": 2, "mean": 0, "last": 1}


def test_the_best_of_n_by_steps_with_an_exact_judge_of_chains():
  """1 - (1 - p^S)^N, whatever is made of the steps: what was wrong stays wrong."""
  chance, count, looks = 0.5, 4, (1, 2)

  def latest(state):
    return 0.5 * (jnp.asarray(state) >= 0)

  for how in ("min", "last"):
    draw = Chains(20000, count, 3, chance, latest)
    method = steering.stepwise(
      particles=count, looks=looks, aggregate=how, by="steps"
    )
    got, trace = success(method, draw)
    assert got == pytest.approx(1 - (1 - chance**3) ** count, abs=0.012)
    # What is reported is the rewards' score, not that of the one that chooses.
    assert float(trace.score.mean()) == pytest.approx(got)
    assert trace.reward_calls == count * 4
    assert trace.network_evaluations == count * 3
    assert draw.asked.count(latest) == 3


def test_who_is_asked_once_keeps_the_answer():
  chance, asked = jnp.zeros(3), jnp.zeros(3, bool)
  looks = [([0, 1, 0], [0.1, 0.8, 0.2]), ([1, 1, 0], [0.3, 0.0, 0.9])]
  for clear, answer in looks:
    chance, asked = judged.asked_once(
      chance, asked, np.array(clear, bool), np.array(answer)
    )
  np.testing.assert_allclose(chance, [0.3, 0.8, 0])
  assert asked.tolist() == [True, True, False]
  failed = judged.asked_once(
    chance, asked, np.ones(3, bool), np.array([1.0, 1.0, -np.inf])
  )
  np.testing.assert_array_equal(failed[0], chance)
  np.testing.assert_array_equal(failed[1], asked)


def test_a_sample_is_asked_at_the_look_at_which_it_is_clear():
  """Clear after two right steps: whoever is not by then is never given up."""
  count, chance = 4, 0.5
  answered = []

  def may_become(state):
    answered.append(np.asarray(state))
    return jnp.zeros(np.shape(state))  # always no

  is_clear = lambda state: jnp.asarray(state) >= 2
  draw = Chains(5000, count, 3, chance, may_become, is_clear)
  method = steering.potential(
    particles=count, looks=(1, 2), by="may", clear="clear"
  )
  got, trace = success(method, draw)
  clear = answered[1] >= 2
  assert not (answered[0] >= 2).any() and clear.any()
  # Where one is not clear, and so wrong, it alone is left; else the outcome decides.
  want = clear.all(-1).mean() * (1 - (1 - chance) ** count)
  assert got == pytest.approx(want, abs=0.01)
  assert trace.reward_calls == count * 5


def test_survivors_alone_are_chosen_among():
  outcome = np.array([0.9, 0.6, 0.7])
  pick = lambda chance, asked: int(
    judged.survivor(outcome, np.array(chance), np.array(asked, bool), 0.5)
  )
  every = [1, 1, 1]
  assert pick([0.6, 0.6, 0.6], every) == 0  # the best of N
  assert pick([0.4, 0.6, 0.6], every) == 2
  assert pick([0.1, 0.3, 0.2], every) == 1  # nobody is left: the likeliest
  assert pick([0.0, 0.6, 0.6], [0, 1, 1]) == 0  # it was never clear
  assert pick([0.0, 0.0, 0.0], every) == 0  # all alike: the outcome decides
  assert pick([0.0, 0.0, 0.0], [0, 0, 0]) == 0  # no answer of any
  outcome[0] = -np.inf  # it failed
  assert pick([0.6, 0.6, 0.6], every) == 2
  assert pick([0.4, 0.2, 0.3], every) == 2
  assert pick([0.4, 0.3, 0.3], every) == 2


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_a_false_no_costs_the_product_of_its_rate(wrong):
  """Of N right-or-wrong samples; each no to a right one is drawn by itself."""
  count, chance = 3, 0.3
  noise = np.random.default_rng(1)

  def may_become(state):
    right = np.asarray(state) >= 0
    return jnp.asarray(right & (noise.random(right.shape) >= wrong))

  draw = Chains(20000, count, 2, chance, may_become)
  method = steering.potential(particles=count, looks=(1,), by="may")
  got, trace = success(method, draw)
  # A sample that is right at the look ends right with probability p.
  kept = chance * (1 - wrong)
  lost = chance * wrong
  want = 0.0
  for stays in range(count + 1):
    share = (
      math.comb(count, stays) * kept**stays * (1 - kept) ** (count - stays)
    )
    if stays:
      want += share * (1 - (1 - chance) ** stays)
    else:  # all alike: the outcome decides
      want += share * (1 - (1 - chance * lost / (1 - kept)) ** count)
  assert got == pytest.approx(want, abs=0.012)
  assert trace.reward_calls == count * 2


@pytest.mark.parametrize(
  ("make", "says"),
  [
    (lambda: steering.stepwise(looks=()), "steering.looks"),
    (lambda: steering.stepwise(looks=(3, 2)), "steering.looks"),
    (lambda: steering.stepwise(aggregate="max"), 'aggregate="max"'),
    (lambda: steering.potential(looks=(0,)), "steering.looks"),
    (lambda: steering.potential(), 'steering.by=""'),
    (lambda: steering.potential(threshold=1.5, by="a"), "threshold=1.5"),
    (lambda: steering.potential(particles=0), "particles=0"),
  ],
)
def test_refused(make, says):
  with pytest.raises(UserError, match=says):
    make()
