"""Weighted particles follow p exp(scale r): on a chain with countable states."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.steering import weights

STEPS, STATES, TILT = 3, 3, 1.3
# reward of what a partial chain promises, and of a whole one
RNG = np.random.default_rng(0)
FIRST = np.array([0.5, 0.3, 0.2])
MOVE = RNG.dirichlet(np.ones(STATES), STATES)
REWARD = np.array([-1.7, -0.4, -1.1])  # of a state; all negative


def tilted() -> np.ndarray:
  """p(x) exp(scale r(x)) / Z of the last state, by enumeration."""
  mass = np.zeros(STATES)
  for path in itertools.product(range(STATES), repeat=STEPS):
    p = FIRST[path[0]] * np.prod(
      [MOVE[a, b] for a, b in itertools.pairwise(path)]
    )
    mass[path[-1]] += p * np.exp(TILT * REWARD[path[-1]])
  return mass / mass.sum()


def walk(potential, threshold, count=4096, sets=4):
  """Weighted histogram of the last state of particles, and their lineages."""

  @jax.jit
  def run(key):
    keys = jax.random.split(key, 2 * STEPS).reshape(STEPS, 2)
    first = jnp.log(jnp.asarray(FIRST))
    x = jax.random.categorical(keys[0, 0], first, shape=(sets, count))
    lineage = weights.start((sets, count))
    for step in range(STEPS):
      if step:
        x = jax.random.categorical(keys[step, 0], jnp.log(MOVE)[x])
      lineage = weights.reweigh(
        lineage, jnp.asarray(REWARD, jnp.float32)[x], potential=potential,
        scale=TILT, is_last=step == STEPS - 1,
      )  # fmt: skip
      few = weights.effective_number(lineage.log_weight) < threshold * count
      each = jax.random.split(keys[step, 1], sets)
      parents = weights.systematic(each, lineage.log_weight)
      if step < STEPS - 1:
        parents = jnp.where(few[:, None], parents, jnp.arange(count))
        again = weights.select(lineage, parents)
        lineage = jax.tree.map(
          lambda a, b, few=few: jnp.where(few[:, None], a, b), again, lineage
        )
        x = jnp.take_along_axis(x, parents, -1)
    weight = weights.normalized(lineage.log_weight)
    seen = [(weight * (x == k)).sum(-1).mean() for k in range(STATES)]
    return jnp.stack(seen), lineage, x

  return jax.device_get(run(jax.random.key(1)))


@pytest.mark.turns(3)
@pytest.mark.parametrize("potential", weights.POTENTIALS)
def test_particles_follow_the_tilted_law(potential):
  """With every look, with few and without any: weights are carried."""
  want = tilted()
  for threshold in (1.1, 0.7, 0.0):
    got, *_ = walk(potential, threshold)
    np.testing.assert_allclose(got, want, atol=0.02)
  flat = FIRST @ np.linalg.matrix_power(MOVE, STEPS - 1)
  assert np.abs(want - flat).max() > 0.1  # the law does change


@pytest.mark.turns(3)
@pytest.mark.parametrize("potential", weights.POTENTIALS)
def test_potentials_telescope_along_a_lineage(potential):
  """Whatever was paid on the way, a lineage has paid scale r(x_0) in the end."""
  _, lineage, x = walk(potential, 0.0, count=16)
  np.testing.assert_allclose(lineage.paid, TILT * REWARD[x], rtol=1e-5)
  np.testing.assert_allclose(lineage.log_weight, lineage.paid, rtol=1e-5)


def test_the_best_score_selects_among_negative_rewards():
  """A start at 0 in its place would make all potentials equal."""
  score = jnp.array([[-3.0, -1.0]])
  lineage = weights.reweigh(
    weights.start((1, 2)), score, potential="max", scale=1.0, is_last=False
  )
  np.testing.assert_allclose(lineage.log_weight, score)


@pytest.mark.turns(2)
def test_resampling_is_proportional_and_a_failed_score_has_no_child():
  log_weight = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125], [1, 1, 1, 1]]))
  keys = jax.random.split(jax.random.key(0), 2)
  parents = weights.systematic(keys, log_weight)
  counts = [np.bincount(p, minlength=4) for p in np.asarray(parents)]
  np.testing.assert_array_equal(counts[0][:2], [2, 1])
  np.testing.assert_array_equal(counts[1], [1, 1, 1, 1])
  lineage = weights.reweigh(
    weights.start((1, 3)), jnp.array([[0.1, jnp.nan, 0.2]]),
    potential="difference", scale=2.0, is_last=False,
  )  # fmt: skip
  parents = weights.systematic(keys[:1], lineage.log_weight)
  assert 1 not in np.asarray(parents)
  nothing = jnp.full((1, 3), -jnp.inf)
  np.testing.assert_allclose(weights.normalized(nothing), 1 / 3)


def test_the_effective_number_is_that_of_its_limits():
  both = jnp.array([[0.0, 0.0, 0.0], [0.0, -jnp.inf, -jnp.inf]])
  np.testing.assert_allclose(weights.effective_number(both), [3, 1], rtol=1e-6)


def test_an_unknown_potential_is_refused():
  with pytest.raises(UserError, match=r"difference, max, sum, last"):
    weights.check_potential("maximum")


def test_a_look_that_fails_for_a_whole_set_changes_nothing():
  """Neither weights nor the best score, which a start at 0 would lift."""
  score = jnp.array([[-3.0, -1.0], [jnp.nan, jnp.nan]])
  lineage = weights.reweigh(
    weights.start((2, 2)), score, potential="max", scale=1.0, is_last=False
  )
  np.testing.assert_allclose(lineage.log_weight, [[-3, -1], [0, 0]])
  assert np.isneginf(np.asarray(lineage.best)[1]).all()
  later = weights.reweigh(
    lineage, jnp.array([[-2.0, -2.0], [-3.0, -1.0]]), potential="max",
    scale=1.0, is_last=False,
  )  # fmt: skip
  np.testing.assert_allclose(later.log_weight[1], [-3, -1])
