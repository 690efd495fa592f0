"""Classifier-free guidance: its two fixed points, and linearity between."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.flow import guidance
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.scenes import grammar
from tests import tiny

ROWS = 4


@pytest.fixture(scope="module")
def case():
  policy = scene_dit.make_policy(width=16, depth=1, heads=1, text_layers=1)
  # Output and modulation start at zero: move them, or every velocity is equal.
  params = tiny.shaken(tiny.drawn(policy.init, jax.random.key(0)), scale=0.1)
  params = jax.tree.map(jnp.asarray, params)
  prompts = grammar.batch(grammar.prompts("train")[: ROWS * 50 : 50])
  x = jax.random.normal(jax.random.key(2), (ROWS, *policy.latent_shape))
  t = jnp.linspace(0.2, 1.0, ROWS)
  tokens = jnp.asarray(prompts.tokens)
  return policy, params, x, t, tokens


def velocity(case, scale):
  policy, params, x, t, tokens = case

  @jax.jit
  def run(params, x, t, tokens):
    cond, uncond = guidance.conditioning(policy, params, tokens, scale)
    return guidance.guided_velocity(policy, params, x, t, cond, uncond, scale)

  return np.asarray(run(params, x, t, tokens))


def plain(case, tokens):
  policy, params, x, t, _ = case
  return np.asarray(
    jax.jit(
      lambda p, x, t, tokens: policy.velocity(p, x, t, policy.encode(p, tokens))
    )(params, x, t, tokens)
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_scale_one_is_the_conditional_pass_bit_for_bit(case):
  np.testing.assert_array_equal(velocity(case, 1.0), plain(case, case[-1]))


@pytest.mark.turns(2)
def test_scale_one_runs_no_unconditional_pass(case):
  policy, params, _, _, tokens = case
  assert guidance.conditioning(policy, params, tokens, 1.0)[1] is None


@pytest.mark.turns(2)
def test_scale_zero_is_the_empty_prompt(case):
  empty = plain(case, jnp.zeros_like(case[-1]))
  assert np.isfinite(empty).all()
  np.testing.assert_allclose(velocity(case, 0.0), empty, atol=2e-5)


@pytest.mark.job
@pytest.mark.turns(3)
def test_velocity_is_linear_in_the_scale(case):
  at = {s: np.float64(velocity(case, s)) for s in (0.0, 2.0, 3.5)}
  cond, uncond = np.float64(plain(case, case[-1])), at[0.0]
  assert np.abs(cond - uncond).max() > 1e-2  # the prompt matters
  for scale in (2.0, 3.5):
    expected = uncond + scale * (cond - uncond)
    np.testing.assert_allclose(at[scale], expected, atol=1e-4)


@pytest.mark.job
@pytest.mark.turns(3)
def test_gradient_reaches_both_passes(case):
  """d v / d cond and d v / d uncond are scale and 1 - scale times the pass's."""
  policy, params, x, t, tokens = case
  cond = policy.encode(params, tokens)
  empty = policy.encode(params, jnp.zeros_like(tokens[:1]))

  def guided(pooled, blank):
    v = guidance.guided_velocity(
      policy,
      params,
      x,
      t,
      cond | {"pooled": pooled},
      empty | {"pooled": blank},
      3.0,
    )
    return v.sum()

  def alone(whole, pooled):
    return policy.velocity(params, x, t, whole | {"pooled": pooled}).sum()

  both = jax.jit(jax.grad(guided, (0, 1)))(cond["pooled"], empty["pooled"])
  spread = jax.tree.map(lambda u, c: jnp.broadcast_to(u, c.shape), empty, cond)
  own = jax.jit(jax.grad(alone, 1))
  np.testing.assert_allclose(
    both[0], 3.0 * own(cond, cond["pooled"]), rtol=1e-3, atol=1e-4
  )
  np.testing.assert_allclose(
    both[1][0],
    -2.0 * own(spread, spread["pooled"]).sum(0),
    rtol=1e-3,
    atol=1e-3,
  )


def test_what_the_empty_prompt_lacks_is_the_samples_own():
  """A picture to edit stands in both passes, the words in one."""

  def velocity(params, x, t, cond):
    return x * 0 + cond["word"] + 10 * cond["picture"]

  policy = scene_dit.make_policy(width=16, depth=1, heads=1, text_layers=1)
  policy = dataclasses.replace(policy, velocity=velocity)
  rows = jnp.arange(3.0)[:, None]
  cond = {"word": rows + 1, "picture": rows}
  found = guidance.guided_velocity(
    policy, None, jnp.zeros((3, 1)), jnp.zeros(3), cond,
    {"word": jnp.full((1, 1), 0.5)}, 3.0,
  )  # fmt: skip
  np.testing.assert_allclose(
    found, 0.5 + 3 * (rows + 0.5) + 10 * rows, rtol=1e-6
  )


def test_a_policy_guides_by_its_own_formula():
  """Passes, scale and times as they are go to `Policy.guide`."""
  policy = scene_dit.make_policy(width=16, depth=1, heads=1, text_layers=1)
  policy = dataclasses.replace(
    policy,
    velocity=lambda params, x, t, cond: x * 0 + cond,
    guide=lambda v, u, scale, t: 100 * v + 10 * u + scale + t[:, None],
  )
  run = lambda scale: guidance.guided_velocity(
    policy, None, jnp.zeros((2, 1)), jnp.asarray([0.25, 0.5]),
    jnp.full((2, 1), 3.0), jnp.full((1, 1), 2.0), scale,
  )  # fmt: skip
  np.testing.assert_allclose(run(4.0), [[324.25], [324.5]])
  np.testing.assert_allclose(run(jnp.asarray(4.0)), [[324.25], [324.5]])
  np.testing.assert_allclose(run(1.0), 3.0)  # one pass, nothing to guide
