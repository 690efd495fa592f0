"""The KL that the align job adds is that of the sampler's authors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.flow import rollout, schedule, steppers
from jaxreward.jobs import align, align_steps, setup
from jaxreward.numerics import Mean
from tests import tiny
from tests.jobs.test_semantics import linear_policy
from tests.regularizers.test_kl_forms import PROGRAMS, SHIFT, STEPS

ROWS = 3


@pytest.mark.parametrize(
  ("model", "form"),
  [
    ("sd35_medium", "without_dt"),
    ("flux_dev", "without_dt"),
    ("kontext", "without_dt"),
    ("qwen_image", "without_dt"),
    ("wan_t2v", "exact"),
    ("wan22_t2v", "exact"),
  ],
)
def test_the_recipes_have_the_form_of_their_authors(model, form):
  config = tiny.load(f"align_public.py:{model},objective=flow_grpo,tiny")
  assert align.kl_form(config) == form


@pytest.mark.parametrize(
  ("given", "form"),
  [
    ({"rollout.sampler.name": "cps"}, "without_variance"),
    ({"rollout.sampler.name": "dance_sde"}, "exact"),
    ({"objective.kl_form": "velocity"}, "velocity"),
    ({"rollout.sampler.name": "cps", "objective.kl_form": "exact"}, "exact"),
  ],
)
def test_a_sampler_or_a_field_of_ones_own_changes_it(given, form):
  spec = "align_public.py:sd35_medium,objective=flow_grpo,tiny"
  assert align.kl_form(tiny.load(spec, given)) == form


def test_the_scenes_keep_the_exact_form():
  assert align.kl_form(tiny.load("align_scenes.py:flow_grpo,smoke")) == "exact"


def micro_of(table, index, x, target):
  step = jax.tree.map(lambda row: jnp.asarray(row[index]), table)
  zero = jnp.zeros(ROWS)
  return align_steps.Micro(
    x_t=x, target=target, t=zero, old_log_prob=zero, advantage=zero,
    mask=jnp.ones(ROWS, bool), prompt_index=jnp.zeros(ROWS, int), facts=step,
  )  # fmt: skip


@pytest.mark.parametrize(
  "name", ["flow_grpo", "flow_grpo_wan", "verl_omni_dance", "flow_cps_sd3"]
)
def test_the_loss_is_the_scripts(name):
  """beta * kl_loss at one step, of a policy that is a line."""
  sampler, level, step, divide, form = PROGRAMS[name]
  table = steppers.REGISTRY[sampler](
    schedule.timesteps(STEPS, SHIFT), noise_level=level
  )
  x, target = np.random.default_rng(0).normal(0, 1, (2, ROWS, 2, 2, 1))
  theta = {"a": 0.9, "b": 0.3, "c": 0.2}
  base = {"a": 0.8, "b": 0.1, "c": 0.25}
  index, beta, word = 4, 0.04, 3
  policy = linear_policy()
  keep = lambda trained, base: trained
  trainable = setup.Trainable(policy, policy, keep, keep, keep)
  nothing = lambda *_: (Mean.of(jnp.zeros(ROWS), jnp.ones(ROWS, bool)), {})
  plan = align_steps.Plan(
    table=table, trained=(index,), prompts=1, group=ROWS, updates=1,
    layout=rollout.make_layout(1, ROWS, ROWS), guidance_scale=1.0,
    on_steps=True,
  )  # fmt: skip
  loss_fn = align_steps.step_loss(trainable, nothing, plan, beta, form)
  frozen = align_steps.Frozen(base=base, old=None, words=jnp.full((1, 2), word))
  loss, metrics = jax.jit(loss_fn)(
    theta, micro_of(table, index, jnp.float32(x), jnp.float32(target)), frozen
  )

  def mean_of(p):
    t = float(table.t[index])
    v = p["a"] * x + p["b"] * t + p["c"] * word
    return step(x, v, index, level)

  mean, std, sqrt_dt = mean_of(theta)
  d = ((mean - mean_of(base)[0]) ** 2).mean((1, 2, 3))
  want = divide(d, std, sqrt_dt).mean()
  np.testing.assert_allclose(metrics["kl"].value(), want, rtol=1e-4)
  np.testing.assert_allclose(loss.value(), beta * want, rtol=1e-4)
