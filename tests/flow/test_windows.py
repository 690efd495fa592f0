"""Windows of noise that move: where they lie, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rng
from jaxreward.errors import UserError
from jaxreward.flow import windows
from tests import tiny

GRPO = "align_scenes.py:flow_grpo,smoke"


def starts(fn, count, size, steps, **options):
  at = lambda n: fn(n, rng.stream_key(0, "window", n), size, steps, **options)
  return np.asarray(jax.vmap(at)(jnp.arange(count)))


def test_drawn_windows_lie_everywhere_equally_often():
  found = starts(windows.drawn, 4000, 2, 10, last=5)
  values, counts = np.unique(found, return_counts=True)
  assert values.tolist() == [0, 1, 2, 3]  # 0 ... last - size, both included
  assert np.abs(counts / 1000 - 1).max() < 0.1


def test_without_bounds_the_last_step_is_never_in_one():
  found = starts(windows.drawn, 500, 3, 8)
  assert (found.min(), found.max()) == (0, 4)


def reference_sliding(iteration, size, steps, every, stride, first, last):
  """As a list of places that is walked through again and again."""
  places, place = [], first
  while place + size <= last:
    places.append(place)
    place += stride
  return places[iteration // every % len(places)]


@pytest.mark.parametrize(
  ("size", "steps", "every", "stride", "first", "last"),
  [(4, 25, 25, 1, 0, 24), (2, 8, 3, 2, 1, 7), (1, 3, 1, 1, 0, 2),
   (3, 9, 2, 4, 0, 8)],
)  # fmt: skip
def test_sliding_windows_walk_and_start_again(
  size, steps, every, stride, first, last
):
  found = starts(
    windows.sliding, 200, size, steps, every=every, stride=stride, first=first,
    last=last,
  )  # fmt: skip
  want = [
    reference_sliding(n, size, steps, every, stride, first, last)
    for n in range(200)
  ]
  assert found.tolist() == want


def reference_states(
  count, size, last, every, least, rate, after, stride, pace
):
  """The authors' counters, moved on by one iteration at a time."""
  place, spent, found = 0, 0, []
  for _ in range(count):
    found.append(place)
    stays = every
    if pace == "linear":
      share = place / last
      stays = max(least, int(every * (1 - share) + least * share))
    elif pace == "exponential":
      stays = np.ceil(every * np.exp(-rate * max(0, place - after)))
    spent += 1
    if spent >= stays:
      place, spent = place + stride, 0
    if place >= last:  # the released code stays there once more, without steps
      place = 0
  return found


@pytest.mark.parametrize("pace", windows.PACES)
def test_shrinking_windows_are_those_of_the_authors(pace):
  """4 of 25 steps, of which 23 are trained, down to the last one."""
  options = dict(every=10, least=2, rate=0.1, after=13, stride=1)
  found = starts(
    windows.sliding, 600, 4, 25, last=23, shrinks=True, pace=pace, **options
  )
  want = reference_states(600, 4, 23, pace=pace, **options)
  assert found.tolist() == want
  assert found.max() == 22


def test_an_unknown_pace_is_refused():
  with pytest.raises(UserError, match="constant, linear, exponential"):
    windows.sliding(0, jax.random.key(0), 2, 8, pace="slow")


def test_intervals_from_the_end_grow():
  """14 to 20 of 20 steps in 100 stages, as published."""
  options = dict(least=14, stages=100, last=20)
  found = 20 - starts(windows.growing, 120, 20, 20, **options)
  want = [min(14 + n * 7 // 100, 20) for n in range(120)]
  assert found.tolist() == want
  for bad in ({"least": 0}, {"least": 4}, {"stages": 0}):
    with pytest.raises(UserError, match=next(iter(bad))):
      windows.growing(0, jax.random.key(0), 3, 5, **bad)


def test_a_growing_window_masks_what_lies_beyond_it():
  plan, _ = plan_of({
    "rollout.window_size": 3, "rollout.window_move.name": "growing",
    "rollout.window_move.stages": 2, "rollout.branch.members": 2,
    "rollout.branch.steps": -1,
  })  # fmt: skip
  for iteration, start in ((0, 3), (1, 2), (2, 1)):
    now = plan.at(jnp.int32(iteration))
    inside = (np.arange(5) >= start) & (np.arange(5) < 4)
    np.testing.assert_array_equal(np.asarray(now.table.std) > 0, inside)
    np.testing.assert_array_equal(now.counted, start + np.arange(3) < 4)
    np.testing.assert_array_equal(
      now.trained, np.minimum(start + np.arange(3), 4)
    )
    assert int(now.share.steps[0]) == start  # branches are equal up to there


@pytest.mark.parametrize(
  ("size", "steps", "options"),
  [
    (5, 5, {}),
    (2, 8, {"first": 6}),
    (2, 8, {"last": 9}),
    (1, 4, {"first": -1}),
  ],
)
def test_a_window_that_fits_nowhere_is_refused(size, steps, options):
  with pytest.raises(UserError, match="no window of"):
    windows.drawn(0, jax.random.key(0), size, steps, **options)


def plan_of(*overrides):
  config = tiny.load(
    GRPO, tiny.MODEL, tiny.REWARD, tiny.FAST,
    {"rollout.num_steps": 5, "rollout.window_size": 2, "align.updates": 1},
    *overrides,
  )  # fmt: skip
  return tiny.make_plan(config, tiny.mesh_of(1)), config


def test_the_plan_of_an_iteration_is_that_of_a_window_that_stays():
  moving, _ = plan_of({"rollout.window_move.name": "sliding",
                       "rollout.window_move.every": 2})  # fmt: skip
  for iteration in (0, 1, 2, 5, 6):
    plan = jax.jit(lambda n: _facts(moving.at(n)))(iteration)
    start = iteration // 2 % 3
    still, _ = plan_of({"rollout.window_start": start})
    for a, b in zip(
      jax.tree.leaves(plan), jax.tree.leaves(_facts(still)), strict=True
    ):
      np.testing.assert_array_equal(a, b)


def _facts(plan):
  return plan.table, jnp.asarray(plan.trained)


@pytest.mark.job
def test_an_iteration_under_a_moving_window_is_that_of_a_still_one():
  """Its pictures, its gradient and its ratio of exactly 1."""
  results = []
  for overrides in (
    {"rollout.window_move.name": "sliding", "rollout.window_move.every": 1},
    {"rollout.window_start": 1},
  ):
    plan, config = plan_of(overrides)
    one = tiny.Iteration(config, tiny.mesh_of(1), plan=plan)
    state = one.state.replace(step=one.state.step + 1)  # the second iteration
    state, metrics, trajectory = one.step(state)
    numbers = tiny.numbers(metrics)
    assert numbers.pop("window_start", 1.0) == 1.0
    assert numbers["log_prob_gap"] == 0.0
    results.append((trajectory.latents, tiny.flat(state.params), numbers))
  (a, p, first), (b, q, second) = results
  np.testing.assert_allclose(a, b, atol=1e-6)
  np.testing.assert_allclose(p, q, atol=1e-6)
  assert first.keys() == second.keys()
