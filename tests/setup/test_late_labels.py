"""Judges that are asked while the policy learns."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.setup import late_labels, players
from jaxreward.training import state as training
from tests import tiny

TOTAL, LAG = 5, 2


class Host:
  """A judge on the host that answers when it may; what it was asked is kept."""

  def __init__(self):
    self.may, self.asked = threading.Event(), []
    self.may.set()

  def __call__(self, images, prompts):
    del prompts
    assert self.may.wait(60)
    value = images.mean((2, 3, 4))
    self.asked.append(float(value[0, 0]))
    return np.where(value < 0.1, np.nan, value)


@pytest.fixture(scope="module")
def batch():
  return tiny.prompts_of(config())


def config():
  given = {"rollout.prompts": 3, "rollout.group": 4}
  return tiny.load("align_scenes.py:smoke", given)


def images_of(n):
  return jnp.full((3, 4, 2, 2, 3), 0.05 + 0.1 * n, jnp.float32)


def judges_of(batch, fn, lag=LAG, is_host=True):
  vars(fn).update(is_host=is_host) if is_host else None
  role = players.Role("s", None, None, judge="j", lag=lag)
  mesh = tiny.mesh_of(1)
  plan = tiny.make_plan(config(), mesh)
  return late_labels.Judges(
    (role,), rewards.build({"j": fn}), lambda n: batch, plan, TOTAL, mesh
  )


def labels(due):
  return np.asarray(due().labels["s"].labels)


def test_a_step_waits_for_the_labels_of_lag_iterations_ago_alone(batch):
  host = Host()
  with judges_of(batch, host) as judges:
    due = judges(0, images_of(0), batch)
    host.may.clear()
    assert np.isnan(labels(due)).all()  # without waiting
    due = judges(1, images_of(1), batch)
    assert np.isnan(labels(due)).all()
    due = judges(2, images_of(2), batch)
    host.may.set()
    assert np.isnan(labels(due)).all()  # it failed: darker than 0.1
    got = [labels(judges(n, images_of(n), batch)) for n in (3, 4)]
  for n, value in zip((1, 2), got, strict=True):
    np.testing.assert_allclose(value, 0.05 + 0.1 * n, rtol=1e-6)
  # Labels that would come after the last iteration are not asked for.
  np.testing.assert_allclose(host.asked, [0.05, 0.15, 0.25], rtol=1e-6)


@pytest.mark.parametrize("is_host", [True, False])
def test_a_resumed_run_asks_again_for_what_was_to_come(batch, is_host):
  fn = Host() if is_host else lambda images, prompts: images.mean((2, 3, 4))
  ring = jnp.stack([images_of(n).reshape(12, 2, 2, 3) for n in (2, 1)])
  pending = training.Pending(ring, jnp.zeros(1))
  player = training.Player(None, None, None, jnp.int32(0), pending=pending)
  state = training.TrainState(
    jnp.int32(3), jnp.int32(3), None, None, None, players={"s": player}
  )
  with judges_of(batch, fn, is_host=is_host) as judges:
    judges.resume(state, 3)  # iterations 1 and 2, at places 1 and 0
    got = [labels(judges(n, images_of(n), batch)) for n in (3, 4)]
  for n, value in zip((1, 2), got, strict=True):
    np.testing.assert_allclose(value, 0.05 + 0.1 * n, rtol=1e-6)


def test_a_judge_has_one_question_at_a_time_however_slow_another_is(batch):
  slow, fast, all_said = Host(), [], threading.Event()
  slow.may.clear()
  inside, most = [], []

  def once(images, prompts):
    inside.append(1)
    most.append(len(inside))
    value = slow(images, prompts)
    inside.pop()
    return value

  def quick(images, prompts):
    del prompts
    fast.append(1)
    if len(fast) == 2:
      all_said.set()
    return images.mean((2, 3, 4))

  for fn in (once, quick):
    fn.is_host = True
  roles = tuple(
    players.Role(name, None, None, judge=name, lag=LAG) for name in "ab"
  )
  mesh = tiny.mesh_of(1)
  plan = tiny.make_plan(config(), mesh)
  named = rewards.build({"a": once, "b": quick})
  with late_labels.Judges(
    roles, named, lambda n: batch, plan, TOTAL, mesh
  ) as judges:
    dues = [judges(n, images_of(n), batch) for n in (1, 2)]
    try:
      assert all_said.wait(60)
    finally:
      slow.may.set()
    judges(3, images_of(3), batch)()
  assert len(dues) == 2 and max(most) == 1


def test_without_lag_a_step_has_its_own_labels(batch):
  with judges_of(batch, Host(), lag=0) as judges:
    for n in range(1, TOTAL):
      value = labels(judges(n, images_of(n), batch))
      np.testing.assert_allclose(value, 0.05 + 0.1 * n, rtol=1e-6)


def several(images, prompts):
  del prompts
  return {"a": images[..., 0, 0, 0], "b": images[..., 0, 0, 0]}


def test_a_judge_says_one_thing(batch):
  with judges_of(batch, several, lag=0, is_host=False) as judges:
    with pytest.raises(UserError, match="it returned several scores"):
      judges(0, images_of(0), batch)()


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"judge": "jugde"}, 'judge=jugde.*did you mean "judge"'),
    ({"lag": -1}, "lag=-1"),
    ({"lag": 4}, "no label would arrive"),
    ({"floor": 1.5}, "floor=1.5: expected 0 to 1"),
    ({"fn": "discriminator"}, "learns from no judge"),
  ],
)
def test_wrong_options_of_a_judged_player(given, words):
  given = {f"players.student.{k}": v for k, v in given.items()}
  config = tiny.load("recipes/oni_async_distilled_judge.py:smoke", given)
  with pytest.raises(UserError, match=words):
    players.bind(config)
