"""Trees of samples: which leaves share what, and what pairs of them tell."""

import collections

import jax
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.setup import branches, drawn_preferences
from tests import tiny

RECIPE = "recipes/tree_preference_rm.py"


def forks_of(members: tuple[int, ...]) -> np.ndarray:
  """Forks that two leaves pass together, [N, N]; all of them for a leaf itself."""
  leaf = np.arange(members[0])
  paths = np.stack([leaf // size for size in (*members, 1)])
  return (paths[:, :, None] == paths[:, None]).sum(0) - 1


def test_the_recipe_forks_in_two_at_three_steps():
  table, share = drawn_preferences.plan_of(tiny.load(RECIPE))
  assert share.members == (8, 4, 2) and share.steps == (1, 4, 7)
  assert (np.asarray(table.std)[7:] > 0).any()
  depth = forks_of(share.members)
  counts = collections.Counter(depth[np.triu_indices(8, 1)].tolist())
  # Of the 7 others, 4 part at the first fork, 2 at the second, 1 at the last.
  assert counts == {0: 8 * 4 // 2, 1: 8 * 2 // 2, 2: 8 * 1 // 2}


def left_over(effects: np.ndarray, pairs: np.ndarray, noise: float) -> float:
  """Mean variance of r(a) - r(b) over pairs after some comparisons.

  Args:
    effects: [N, E], rewards are effects @ independent standard normals.
    pairs: [K, 2], those compared.
    noise: variance of an answer.
  """
  seen = effects[pairs[:, 0]] - effects[pairs[:, 1]]
  covariance = np.linalg.inv(np.eye(effects.shape[1]) + seen.T @ seen / noise)
  first, second = np.triu_indices(len(effects), 1)
  asked = effects[first] - effects[second]
  return float(np.einsum("pe,ef,pf->p", asked, covariance, asked).mean())


@pytest.mark.parametrize("count", [4, 16, 64])
def test_as_many_comparisons_leave_less_unknown_on_a_tree(count):
  """Rewards add up along a path; chains are as uncertain, one by one."""
  members, rng = (8, 4, 2), np.random.default_rng(0)
  leaf = np.arange(8)
  blocks = [np.eye(8 // size)[leaf // size] for size in (4, 2, 1)]
  tree = np.concatenate(blocks, 1) / np.sqrt(3)
  chains = np.eye(8)
  np.testing.assert_allclose((tree**2).sum(1), (chains**2).sum(1))
  np.testing.assert_allclose(3 * tree @ tree.T, forks_of(members))
  pairs = np.stack([rng.permutation(8)[:2] for _ in range(count)])
  assert left_over(tree, pairs, 0.5) < left_over(chains, pairs, 0.5)


def test_leaves_of_a_drawn_tree_part_where_they_should():
  """Images of twins are closer than those that parted at the root."""
  config = tiny.load(f"{RECIPE}:smoke", tiny.MODEL)
  prompts = list(setup.load_prompts(config, "train")[:6])
  policy = tiny.small_policy()
  params = tiny.drawn(policy.init, jax.random.key(0))
  images = drawn_preferences.sample_policy(config, policy, params, prompts)
  assert images.shape[:2] == (6, 2 * 4)  # at two guidance scales
  x = np.asarray(images[:, :4], np.float64).reshape(6, 4, -1)
  far = lambda a, b: np.abs(x[:, a] - x[:, b]).mean()
  assert 0 < far(0, 1) < far(0, 2) and 0 < far(2, 3) < far(1, 3)


def test_samples_that_do_not_fill_a_tree_are_refused():
  config = tiny.load(RECIPE, {"train_reward.sampling.samples": 6})
  with pytest.raises(UserError, match=r"sampling\.samples=6"):
    drawn_preferences.plan_of(config)
  config = tiny.load(RECIPE)
  with config.unlocked():
    config.train_reward.sampling.sampler = {"name": "ode"}
  with pytest.raises(UserError, match="draws no noise"):
    drawn_preferences.plan_of(config)
  config = tiny.load(RECIPE, {"train_reward.sampling.branch.steps": -1})
  with pytest.raises(UserError, match=r"branch\.steps=-1"):
    table = setup.step_table(config, "rollout")
    branches.make_share(config, "train_reward.sampling", 8, table)
