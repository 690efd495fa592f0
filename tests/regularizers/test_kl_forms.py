"""The KL of published programs, each written again in float64 from its script.

A program is one sampler's step, here in the operations and names of the file
that its test names, and what that program divides by.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import regularizers
from jaxreward.errors import UserError
from jaxreward.flow import schedule, steppers
from jaxreward.regularizers import kl
from tests.regularizers.test_kl import numeric_gradient

STEPS, SHIFT = 10, 3.0
ROWS, SHAPE = 2, (2, 3)


def sigmas():
  u = 1 - np.arange(STEPS + 1) / STEPS
  return SHIFT * u / (1 + (SHIFT - 1) * u)


def sde_mean(sample, output, sigma, dt, s):
  """As in sd3_sde_with_logprob.py; dt is negative."""
  return (
    sample * (1 + s**2 / (2 * sigma) * dt)
    + output * (1 + s**2 * (1 - sigma) / (2 * sigma)) * dt
  )


def flow_sde(sample, output, i, level):
  """(mean, std_dev_t, sqrt(-dt)) of sde_type "sde"."""
  sigma, dt = sigmas()[i], sigmas()[i + 1] - sigmas()[i]
  below = sigmas()[1] if sigma == 1 else sigma
  s = np.sqrt(sigma / (1 - below)) * level
  return sde_mean(sample, output, sigma, dt, s), s, np.sqrt(-dt)


def wan(sample, output, i, level):
  """As in wan_pipeline_with_logprob.py, which has no level."""
  sigma, dt = sigmas()[i], sigmas()[i + 1] - sigmas()[i]
  s = sigmas()[-1] + (sigmas()[1] - sigmas()[-1]) * sigma
  return sde_mean(sample, output, sigma, dt, s), s, np.sqrt(-dt)


def dance(sample, output, i, level):
  """flux_step of DanceGRPO; std_dev_t is the whole deviation."""
  sigma, dsigma = sigmas()[i], sigmas()[i + 1] - sigmas()[i]
  x0 = sample - sigma * output
  score = -(sample - x0 * (1 - sigma)) / sigma**2
  mean = sample + dsigma * output - 0.5 * level**2 * score * dsigma
  return mean, level * np.sqrt(-dsigma), np.sqrt(-dsigma)


def cps(sample, output, i, level):
  """sde_type "cps"; std_dev_t is the whole deviation."""
  sigma, sigma_prev = sigmas()[i], sigmas()[i + 1]
  std = sigma_prev * np.sin(level * np.pi / 2)
  x0, x1 = sample - sigma * output, sample + output * (1 - sigma)
  mean = x0 * (1 - sigma_prev) + x1 * np.sqrt(sigma_prev**2 - std**2)
  return mean, std, np.sqrt(sigma - sigma_prev)


def over_std(d, std, sqrt_dt):
  return d / (2 * std**2)


def over_std_dt(d, std, sqrt_dt):
  return d / (2 * (std * sqrt_dt) ** 2)


def bare(d, std, sqrt_dt):
  return d


# What the scripts compute: sampler, its noise level, step, divisor, our form.
PROGRAMS = {
  # yifan123/flow_grpo scripts/train_sd3.py; of its later tree train_flux.py,
  # train_flux_kontext.py, train_qwenimage.py, train_qwenimage_edit.py,
  # train_bagel.py; verl-omni diffusion_algos.py KLLoss with "sde"
  "flow_grpo": ("flow_sde", 0.7, flow_sde, over_std, "without_dt"),
  # flow_grpo scripts/train_wan2_1.py, FlowCPS scripts/train_wan2_1.py
  "flow_grpo_wan": ("linear_sde", 1.0, wan, over_std_dt, "exact"),
  # verl-omni KLLoss with "dance_sde"; DanceGRPO has no KL
  "verl_omni_dance": ("dance_sde", 0.3, dance, over_std, "exact"),
  # FlowCPS scripts/train_sd3.py, train_flux.py
  "flow_cps_sd3": ("cps", 0.8, cps, bare, "without_variance"),
  # FlowCPS scripts/train_qwenimage.py, train_qwenimage_edit.py,
  # train_flux_kontext.py, train_sd3_fast.py; flow_grpo train_*_fast.py with
  # "cps"; the level of FlowCPS for pictures that are edited
  "flow_cps_qwen": ("cps", 1.2, cps, over_std, "exact"),
  "flow_cps_edit": ("cps", 1.8, cps, over_std, "exact"),
  # Flow-Factory trainers/grpo.py, kl_type "x-based"
  "flow_factory_x": ("flow_sde", 0.7, flow_sde, bare, "without_variance"),
  "flow_factory_x_cps": ("cps", 0.8, cps, bare, "without_variance"),
  "flow_factory_x_dance": ("dance_sde", 0.3, dance, bare, "without_variance"),
}


def case(seed):
  draw = np.random.default_rng(seed).normal(0, 1, (3, ROWS, *SHAPE))
  x, v, shift = draw.astype(np.float32)
  return x, v, (v + 0.5 * shift).astype(np.float32)


def ours(table, index, x, v_ref, form):
  """Loss of v, by the table's step and `form`."""
  step = jax.tree.map(lambda row: jnp.asarray(row[index]), table)
  reference = steppers.mean(x, v_ref, step)
  return lambda v: (
    regularizers.step_kl(
      steppers.mean(x, v, step), reference, step.std, step.t - step.t_next,
      step.c_v, np.ones(ROWS, bool), form=form,
    ).value()
  )  # fmt: skip


def table_of(sampler, level):
  times = schedule.timesteps(STEPS, SHIFT)
  given = {} if sampler == "renoise" else dict(noise_level=level)
  return steppers.REGISTRY[sampler](times, **given)


@pytest.mark.turns(3)
@pytest.mark.parametrize("index", [0, 4, STEPS - 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_value_and_gradient_are_those_of_the_script(name, index):
  sampler, level, step, divide, form = PROGRAMS[name]
  x, v, v_ref = case(index)

  def theirs(v):
    mean, std, sqrt_dt = step(np.float64(x), v, index, level)
    reference, _, _ = step(np.float64(x), np.float64(v_ref), index, level)
    d = ((mean - reference) ** 2).mean((1, 2), keepdims=True)
    return divide(d, std, sqrt_dt).mean()

  loss = ours(table_of(sampler, level), index, x, v_ref, form)
  value, grad = jax.jit(jax.value_and_grad(loss))(v)
  # Means of order 1 are rounded before they are subtracted.
  np.testing.assert_allclose(value, theirs(np.float64(v)), rtol=5e-5)
  want = numeric_gradient(theirs, v)
  np.testing.assert_allclose(
    grad, want, rtol=1e-4, atol=5e-5 * np.abs(want).max()
  )
  assert np.abs(want).max() > 0


@pytest.mark.turns(3)
@pytest.mark.parametrize("index", [0, 4, STEPS - 2])
@pytest.mark.parametrize("sampler", kl.AUTHORS)
def test_the_form_velocity_is_flow_factorys(sampler, index):
  """kl_type "v-based": mean (v - v_ref)^2, whatever the sampler."""
  x, v, v_ref = case(index)
  loss = ours(table_of(sampler, 0.7), index, x, v_ref, "velocity")
  value, grad = jax.jit(jax.value_and_grad(loss))(v)
  d = np.float64(v) - v_ref
  np.testing.assert_allclose(value, np.mean(d**2), rtol=1e-4)
  np.testing.assert_allclose(grad, 2 * d / d.size, rtol=1e-4, atol=1e-5)


def test_with_cps_the_exact_form_looks_at_the_last_step_alone():
  """What a unit of velocity costs at the last noisy step and at the first."""
  x, v, _ = case(0)
  v_ref = v - 1
  table = table_of("cps", 0.8)
  cost = lambda form, i: float(ours(table, i, x, v_ref, form)(v))
  growth = lambda form: cost(form, STEPS - 2) / cost(form, 0)
  assert growth("exact") > 500
  assert growth("without_variance") < 100


def test_each_sampler_has_the_form_of_its_authors():
  for name, (sampler, _, _, _, form) in PROGRAMS.items():
    if name in ("flow_grpo", "flow_grpo_wan", "verl_omni_dance"):
      assert regularizers.form_of("authors", sampler) == form
  assert regularizers.form_of("authors", "cps") == "without_variance"
  assert set(kl.AUTHORS) == set(steppers.NOISY)
  for sampler, form in kl.AUTHORS.items():
    assert regularizers.form_of(form, sampler) == form


@pytest.mark.parametrize(
  ("form", "sampler", "words"),
  [
    ("exakt", "flow_sde", 'did you mean "exact"'),
    (True, "flow_sde", "form=True"),
    ("without_dt", "cps", "without_variance"),
  ],
)
def test_a_form_that_does_not_fit_is_refused(form, sampler, words):
  with pytest.raises(UserError, match=words):
    regularizers.form_of(form, sampler)
