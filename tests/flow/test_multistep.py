"""Solvers that remember: against diffusers, and what any of them must do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.flow import multistep, sampler, schedule, steppers
from tests import tiny

SHIFT = 3.0
KINDS = {
  "unipc": lambda times: multistep.solver(times),
  "unipc_1": lambda times: multistep.solver(times, order=1),
  "dpmpp_2m": lambda times: multistep.solver(times, corrector=False),
}


def peer(kind):
  import diffusers

  flow = dict(
    flow_shift=SHIFT, use_flow_sigmas=True, prediction_type="flow_prediction"
  )
  if kind == "dpmpp_2m":
    return diffusers.DPMSolverMultistepScheduler(**flow)
  return diffusers.UniPCMultistepScheduler(
    **flow, solver_order=1 if kind == "unipc_1" else 2
  )


def field(x, t, lib):
  """A velocity that is no line in x or t."""
  return lib.sin(2 * x) + x * t - 0.3 * lib.cos(5 * t + x)


@pytest.mark.parity
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_step_is_that_of_diffusers(kind, steps):
  torch = pytest.importorskip("torch")
  scheduler = peer(kind)
  scheduler.set_timesteps(steps)
  made = schedule.Schedule(SHIFT, "unipc")
  times, told = made.times(steps), made.network_times(steps)
  if kind != "dpmpp_2m":  # whose grid is another
    np.testing.assert_allclose(times, scheduler.sigmas.numpy(), atol=2e-6)
    np.testing.assert_array_equal(
      np.round(told * 1000), scheduler.timesteps.numpy()
    )
  solver = KINDS[kind](scheduler.sigmas.numpy())
  x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("f4")
  theirs, ours = torch.tensor(x), jnp.asarray(x)
  memory = multistep.start(ours)
  advance = jax.jit(multistep.advance)
  for i, t in enumerate(scheduler.timesteps):
    v = field(theirs, scheduler.sigmas[i], torch)
    theirs = scheduler.step(v, t, theirs, return_dict=False)[0]
    at = jax.tree.map(lambda s, i=i: jnp.asarray(s)[i], solver)
    v = field(ours, scheduler.sigmas[i].numpy(), jnp)
    ours, memory = advance(ours, v, memory, at)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def solve(solver, velocity, x):
  """The recurrence in float64; `velocity` takes x and the number of the step."""
  last = m1 = m2 = np.zeros_like(x)
  for i, sigma in enumerate(np.float64(solver.sigma)):
    m = x - sigma * velocity(x, i)
    terms = x, last, m, m1, m2
    last = sum(map(np.multiply, np.float64(solver.correct[i]), terms))
    terms = last, m, m1
    x = sum(map(np.multiply, np.float64(solver.predict[i]), terms))
    m1, m2 = m, m1
  return x


def test_the_scan_is_the_recurrence_and_tells_the_network_its_times():
  policy = tiny.small_policy()
  shape = policy.latent_shape
  seen = dataclasses.replace(
    policy,
    velocity=lambda params, x, t, cond: field(x, t[:, None, None, None], jnp),
  )
  times = schedule.Schedule(SHIFT, "unipc").times(5)
  told = np.linspace(0.9, 0.1, 5, dtype=np.float32)
  table = dataclasses.replace(steppers.unipc(times), network_t=told)
  keys = jax.random.split(jax.random.key(0), 2)
  drawn = jax.jit(
    lambda: tiny.sample_rows(
      seen, None, keys, jnp.zeros(2), None, table, is_recorded=True
    )
  )()
  x, latents, log_probs = drawn.latents[-1], drawn.latents, drawn.log_probs
  start = np.float64(sampler.initial_noise(keys, shape))
  want = solve(table.solver, lambda x, i: field(x, told[i], np), start)
  np.testing.assert_allclose(x, want, atol=2e-5)
  assert latents.shape == (6, 2, *shape) and not np.any(log_probs)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", list(KINDS))
def test_one_sample_is_reached_exactly(kind, steps):
  """Where the network names one sample at all times, every solver ends there."""
  goal, start = np.array([-0.4, 3.0]), np.array([1.7, 0.2])
  solver = KINDS[kind](schedule.timesteps(steps, SHIFT, grid="unipc"))
  velocity = lambda x, i: (x - goal) / np.float64(solver.sigma[i])
  np.testing.assert_allclose(solve(solver, velocity, start), goal, atol=1e-5)


@pytest.mark.parametrize(
  ("kind", "order"), [("unipc_1", 1.9), ("dpmpp_2m", 1.9), ("unipc", 2.8)]
)
def test_errors_fall_with_the_order(kind, order):
  """Twice the steps leave less than 2 ** -order of the error."""
  x, ends = np.linspace(-1, 1, 7), []
  for steps in (40, 80, 2000):
    # Away from noise itself, where lambda is almost infinite.
    times = np.append(np.linspace(0.9, 0.02, steps), 0.0)
    solver = KINDS[kind](times)
    at = lambda x, i, times=times: field(x, times[i], np)
    ends.append(solve(solver, at, x))
  errors = [np.abs(e - ends[-1]).max() for e in ends[:2]]
  assert errors[1] < errors[0] * 2**-order


def test_the_predictor_alone_takes_the_limit_at_noise_itself():
  """Then m of pure noise has no say in the second step, nor x in the first."""
  times = np.float64(schedule.timesteps(4, SHIFT))
  predict = multistep.solver(times, corrector=False).predict
  np.testing.assert_allclose(
    predict[0], [times[1], 1 - times[1], 0.0], atol=1e-7
  )
  ratio = times[2] / times[1]
  of_m = (1 - times[2]) - ratio * (1 - times[1])
  np.testing.assert_allclose(predict[1], [ratio, of_m, 0.0], atol=1e-7)
  assert abs(predict[2][2]) > 0.05


def test_what_is_no_solver_is_refused():
  with pytest.raises(UserError, match=r"sampler\.order=3: expected 1 or 2"):
    steppers.unipc(schedule.timesteps(4), order=3)
