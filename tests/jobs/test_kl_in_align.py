"""The KL that the align job adds is that of the sampler's authors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward import feeds, regularizers, setup
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.numerics import Mean
from jaxreward.setup import align_methods, updates
from jaxreward.training import step as step_lib
from tests import tiny
from tests.jobs.test_semantics import linear_policy
from tests.regularizers.test_kl_forms import PROGRAMS, SHIFT, STEPS

ROWS = 3


def form_in(config) -> str:
  """The form of the term that a run of this config would add."""
  with config.unlocked():
    config.regularizers.kl = config.regularizers.get(
      "kl", ConfigDict(dict(fn="step_kl", weight=0.1))
    )
  fn, _ = align_methods.bind_regularizers(config, "steps")["kl"]
  options = {**fn.func.keywords, **fn.keywords}
  return regularizers.form_of(
    options.get("form", "authors"), options["sampler"]
  )


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
  assert form_in(config) == form


@pytest.mark.parametrize(
  ("given", "form"),
  [
    ({"rollout.sampler.name": "cps"}, "without_variance"),
    ({"rollout.sampler.name": "dance_sde"}, "exact"),
    ({"regularizers.kl.form": "velocity"}, "velocity"),
    ({"rollout.sampler.name": "cps", "regularizers.kl.form": "exact"}, "exact"),
  ],
)
def test_a_sampler_or_a_field_of_ones_own_changes_it(given, form):
  spec = "align_public.py:sd35_medium,objective=flow_grpo,tiny"
  assert form_in(tiny.load(spec, given)) == form


def test_the_scenes_keep_the_exact_form():
  assert form_in(tiny.load("align_scenes.py:flow_grpo,smoke")) == "exact"


def rows_of(table, index, x, target):
  step = jax.tree.map(lambda row: jnp.asarray(row[index]), table)
  zero = jnp.zeros(ROWS)
  return dict(
    x_t=x, x_next=target, old_log_prob=zero, advantage=zero,
    mask=jnp.ones(ROWS, bool), prompt_index=jnp.zeros(ROWS, int), step=step,
    shares={"kl": jnp.float32(1)},
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
  nothing = lambda mask: (Mean.of(jnp.zeros(ROWS), mask), {})
  layout = rollout.make_layout(1, ROWS, ROWS)
  plan = feeds.Plan(
    table=table, trained=(index,), prompts=1, group=ROWS, updates=1,
    layout=layout, rows=layout, guidance_scale=1.0, feed=feeds.FEEDS["steps"],
  )  # fmt: skip
  term = functools.partial(regularizers.step_kl, form=form, sampler=sampler)
  loss_fn = updates.Loss(trainable, plan, nothing, {"kl": (term, beta)})
  frozen = updates.Frozen(base=base, old=base, words=jnp.full((1, 2), word))
  loss, metrics = jax.jit(loss_fn)(
    theta, rows_of(table, index, jnp.float32(x), jnp.float32(target)), frozen
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


@pytest.mark.turns(3)
@pytest.mark.parametrize("counts", [(4,), (2, 2), (1, 1, 1, 1)])
def test_a_term_weighs_as_much_however_rows_are_split(counts):
  """An objective of pairs that lie in some micro-batches and not in others."""
  policy = linear_policy()
  keep = lambda trained, base: trained
  trainable = setup.Trainable(policy, policy, keep, keep, keep)
  # Its weight is a number of pairs: 3 of them in the first row alone.
  pairs = lambda log_prob, advantage, mask: (
    Mean(jnp.sum(log_prob * advantage), jnp.sum(advantage)), {},
  )  # fmt: skip
  term = lambda log_prob, mask: Mean.of(jnp.square(log_prob), mask)
  table = steppers.flow_sde(schedule.timesteps(STEPS, SHIFT))
  layout = rollout.make_layout(1, 4, 4)
  plan = feeds.Plan(
    table=table, trained=(2,), prompts=1, group=4, updates=1, layout=layout,
    rows=layout, guidance_scale=1.0, feed=feeds.FEEDS["steps"],
  )  # fmt: skip
  loss_fn = updates.Loss(trainable, plan, pairs, {"kl": (term, 0.5)})
  x, target = np.random.default_rng(1).normal(size=(2, 4, 2, 2, 1))
  at = jax.tree.map(lambda row: jnp.asarray(row[2]), table)
  advantage = jnp.float32([3, 0, 0, 0])
  mask = jnp.array([True, True, False, True])
  split = lambda x: x.reshape(len(counts), -1, *x.shape[1:])
  micros = dict(
    x_t=split(jnp.float32(x)), x_next=split(jnp.float32(target)),
    advantage=split(advantage), mask=split(mask),
    prompt_index=split(jnp.zeros(4, int)),
    step=jax.tree.map(lambda y: jnp.broadcast_to(y, (len(counts),)), at),
  )  # fmt: skip
  theta = {"a": 0.9, "b": 0.3, "c": 0.2}
  theta = jax.tree.map(jnp.float32, theta)
  frozen = updates.Frozen(base=theta, old=theta, words=jnp.full((1, 2), 3))

  @jax.jit
  def mean_and_slope(theta, micros):
    micros = loss_fn.prepare(theta, micros, frozen)
    loss, _, grads = step_lib.accumulate(loss_fn, theta, micros, frozen)
    return loss.value(), grads

  def whole(theta):
    rows = jax.tree.map(
      lambda y: y.reshape(-1, *y.shape[2:]),
      {k: v for k, v in micros.items() if k != "step"},
    ) | {"step": at}
    value = loss_fn.arrays(theta, rows, frozen)("log_prob")
    penalty = jnp.sum(jnp.where(mask, value**2, 0.0)) / 3
    return jnp.sum(value * advantage) / 3 + 0.5 * penalty

  got, want = mean_and_slope(theta, micros), jax.value_and_grad(whole)(theta)
  for ours, theirs in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
