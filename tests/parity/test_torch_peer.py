"""The PyTorch model of the benchmark is the Flax model, value and gradient."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import objectives, regularizers
from jaxreward.flow import log_prob, rollout, schedule, steppers
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.scenes import grammar

torch = pytest.importorskip("torch")
BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
torch_peer = pytest.importorskip("torch_peer")

pytestmark = pytest.mark.parity
SIZES = dict(width=32, depth=2, heads=2, mlp_ratio=2, text_layers=1)
PROMPTS, GROUP = 3, 4
STEP = 2
CLIP, KL = 1e-3, 0.3


@functools.cache
def models():
  """(policy, parameters, reference parameters, two PyTorch models)."""
  policy = scene_dit.make_policy(**SIZES)
  params, base = (
    shaken(jax.jit(policy.init)(jax.random.key(0)), seed) for seed in (1, 2)
  )
  peers = [
    torch_peer.load_flax(
      torch_peer.SceneDiT(len(grammar.VOCAB), grammar.MAX_WORDS, **SIZES), p
    )
    for p in (params, base)
  ]
  return policy, params, base, *peers


def shaken(params, seed):
  """Moves everything, since layers that start at zero would hide the rest."""
  draw = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), params
  )


@functools.cache
def arrays():
  """x_t, x_next, stored log-probabilities, advantages, tokens, index."""
  draw = np.random.default_rng(0)
  rows = PROMPTS * GROUP
  prompts = grammar.prompts("train")
  prompts = prompts[:: len(prompts) // PROMPTS][:PROMPTS]
  x = draw.normal(size=(2, rows, 36, 36, 3)).astype(np.float32)
  x[1] = x[0] + 0.2 * x[1]
  advantage = draw.normal(size=rows).astype(np.float32)
  index = np.repeat(np.arange(PROMPTS), GROUP)
  tokens = np.asarray(grammar.batch(prompts).tokens)
  return x[0], x[1], advantage, tokens, index


def table():
  return steppers.flow_sde(schedule.timesteps(8, 2.5), noise_level=0.7)


def facts():
  return jax.tree.map(lambda x: jnp.asarray(x)[STEP], table())


def moments(params):
  policy = models()[0]
  x_t, x_next, _, tokens, index = arrays()
  cond = rollout.gather_cond(policy.encode(params, jnp.asarray(tokens)), index)
  return log_prob.step_log_prob(
    policy, params, cond, None, x_t, x_next, facts()
  )


@functools.cache
def stored():
  """Log-probabilities near the present ones, on both sides of the clip."""
  noise = np.random.default_rng(3).normal(size=PROMPTS * GROUP)
  found = np.asarray(jax.jit(moments)(models()[1])[0])
  return (found + CLIP * noise).astype(np.float32)


def loss(params, base, old):
  *_, advantage, _, _ = arrays()
  mask = np.ones(PROMPTS * GROUP, bool)
  log_p, mean = moments(params)
  _, anchor = moments(base)
  value, _ = objectives.REGISTRY["flow_grpo"](
    log_p, old, advantage, mask, clip_range=CLIP
  )
  step = facts()
  penalty = regularizers.step_kl(
    mean, anchor, step.std, step.t - step.t_next, step.c_v, mask
  )
  return value.value() + KL * penalty.value()


@functools.cache
def of_torch():
  """(loss, gradients by name)."""
  *_, model, reference = models()
  x_t, x_next, advantage, tokens, index = map(torch.from_numpy, arrays())
  tokens = tokens.long()
  batch = torch_peer.Batch(
    x_t, x_next, torch.from_numpy(stored()), advantage, tokens, index
  )
  words = reference.encode(tokens).rows(index)
  step = torch_peer.steps_of(table())[STEP]
  value = torch_peer.grpo_loss(model, reference, words, batch, step, CLIP, KL)
  value.backward()
  grads = {k: p.grad.numpy() for k, p in model.named_parameters()}
  return value.item(), grads


def test_velocity_is_the_same():
  policy, params, _, model, _ = models()
  x, _, _, tokens, index = arrays()
  t = np.linspace(0, 1, len(x), dtype=np.float32)

  @jax.jit
  def velocity(params, x, t):
    cond = rollout.gather_cond(
      policy.encode(params, jnp.asarray(tokens)), index
    )
    return policy.velocity(params, x, t, cond)

  with torch.no_grad():
    words = model.encode(torch.from_numpy(tokens).long())
    actual = model(
      torch.from_numpy(x),
      torch.from_numpy(t),
      words.rows(torch.from_numpy(index)),
    )
  expected = np.asarray(velocity(params, x, t))
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-5)
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_loss_and_gradient_are_the_same():
  _, params, base, *_ = models()
  expected, grads = jax.jit(jax.value_and_grad(loss))(params, base, stored())
  actual, found = of_torch()
  assert actual == pytest.approx(float(expected), rel=1e-4)
  wanted = torch_peer.torch_names(jax.device_get(grads))
  assert wanted.keys() == found.keys()
  whole = np.sqrt(sum((g**2).sum() for g in wanted.values()))
  for name, grad in wanted.items():
    error = np.linalg.norm(found[name] - grad)
    assert error < 1e-3 * np.linalg.norm(grad) + 1e-6 * whole, name


def test_the_clip_binds_for_some_and_not_for_others():
  inside = np.abs(stored() - np.asarray(jax.jit(moments)(models()[1])[0]))
  assert 0 < (inside < CLIP).sum() < len(inside)


def test_group_advantage_is_the_same():
  from jaxreward import advantages

  reward = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
  expected = advantages.group(reward, np.ones((5, 7), bool))
  actual = torch_peer.group_advantage(torch.from_numpy(reward))
  np.testing.assert_allclose(actual, expected, atol=1e-5)
