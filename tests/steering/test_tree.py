"""Tree search: soft values, the tilted law by enumeration, and limits."""

import math

import numpy as np
import pytest

from jaxreward import steering
from jaxreward.steering.tree import Tree
from tests.steering.test_methods import (
  STEPS,
  mean_score,
  particles,
  samples,
  steer,
)


def test_the_soft_value_is_the_published_one():
  """lambda 2, children of value 1 and 0: 0.716890, and 0.880797 for the best."""
  tree = Tree([True], tilt=2.0, width=2.0, growth=0.0)
  for source, reward in enumerate((1.0, 0.0)):
    path = tree.descend([0.0], is_greedy=True)
    assert path == [0]  # another child is due
    tree.insert(path, source, reward)
  assert tree.value[0] == pytest.approx(0.716890, abs=1e-6)
  assert tree.shares(0)[0] == pytest.approx(0.880797, abs=1e-6)
  assert tree.source[tree.descend([0.88], is_greedy=False)[-1]] == 0
  assert tree.source[tree.descend([0.89], is_greedy=False)[-1]] == 1
  assert tree.source[tree.descend([0.99], is_greedy=True)[-1]] == 0


def test_its_leaves_follow_the_tilted_law():
  """Two steps of three states each, against p exp(lambda r) / Z."""
  random = np.random.default_rng(0)
  first = np.array([0.5, 0.3, 0.2])
  move = random.dirichlet(np.ones(3), 3)
  reward, tilt = random.normal(size=(3, 3)), 1.5
  want = first[:, None] * move * np.exp(tilt * reward)
  want /= want.sum()
  tree = Tree([True, True], tilt, width=2.0, growth=0.6)
  states = {0: ()}
  for index in range(4000):
    path = tree.descend(random.uniform(size=2).tolist(), is_greedy=False)
    chain = list(states[path[-1]])
    while len(chain) < 2:
      p = move[chain[0]] if chain else first
      chain.append(int(random.choice(3, p=p)))
    whole = tree.insert(path, index, float(reward[tuple(chain)]))
    states |= {n: tuple(chain[:k]) for k, n in enumerate(whole)}
  got = np.zeros((3, 3))
  for node, share in zip(tree.children[0], tree.shares(0), strict=True):
    leaves = zip(tree.children[node], tree.shares(node), strict=True)
    for leaf, part in leaves:
      got[states[leaf]] += share * part
  assert np.abs(got - want).sum() / 2 < 0.05
  plain = first[:, None] * move
  assert np.abs(plain - want).sum() / 2 > 0.2


def test_failed_rewards_leave_the_others_their_shares():
  tree = Tree([True], tilt=2.0, width=2.0, growth=0.0)
  tree.insert([0], 0, -math.inf)
  assert tree.value[0] == -np.inf and tree.shares(0) == [1.0]
  tree.insert([0], 1, 0.5)
  np.testing.assert_allclose(tree.shares(0), [0, 1])
  assert tree.value[0] == pytest.approx(0.5 - np.log(2) / 2)


@pytest.mark.turns(2)
@pytest.mark.parametrize("pick", ["best", "drawn"])
def test_one_rollout_is_plain_sampling(pick):
  draw = particles(count=1)
  pixels, trace = steer(steering.tree_search(rollouts=1, pick=pick), draw)
  np.testing.assert_allclose(pixels, samples(draw)[:, :, 0], atol=1e-6)
  assert (trace.network_evaluations, trace.reward_calls) == (STEPS, 1)


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_search_scores_higher_than_as_many_samples():
  """What it reports is the score of the images, and it costs no more."""
  draw = particles(count=1, group=32)
  method = steering.tree_search(rollouts=8, width=2.0)
  pixels, trace = steer(method, draw)
  score = np.clip(pixels, 0, 1).mean((2, 3, 4))
  np.testing.assert_allclose(trace.score, score, atol=1e-6)
  assert trace.network_evaluations <= 8 * STEPS and trace.reward_calls == 8
  plain = mean_score(
    steering.best_of_n(particles=8), particles(count=8, group=32)
  )
  assert score.mean() > plain
