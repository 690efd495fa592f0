"""One-step predictions: exact on a point mass, gradients by finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward import feeds, objectives
from jaxreward.data import texts
from jaxreward.errors import UserError
from jaxreward.feeds import Credit
from jaxreward.flow import rollout, steppers
from jaxreward.rewards import build
from jaxreward.setup import controls
from jaxreward.types import Policy, PromptBatch
from tests.differences import numeric_gradient

PROMPTS, GROUP, SIDE, C = 2, 3, (2, 2, 2), 0.7
TOKENS = np.array([[0], [1]], np.int32)
FEED = feeds.FEEDS["predicted"]


def policy_of(kind="mass") -> Policy:
  """v = (x - c) / t, of data that is c alone, or v = x (a + b t) + c.

  "worded" is the second with the prompt's token added.
  """

  def mass(params, x, t, cond):
    return (x - params[2]) / jnp.maximum(t, 1e-6)[:, None, None, None]

  def affine(params, x, t, cond):
    return x * (params[0] + params[1] * t)[:, None, None, None] + params[2]

  def worded(params, x, t, cond):
    return affine(params, x, t, cond) + cond[:, None, None, None]

  return Policy(
    init=lambda key: jnp.array([0.3, -0.2, C]),
    encode=lambda params, tokens: tokens[:, 0] * 1.0,
    velocity={"mass": mass, "affine": affine, "worded": worded}[kind],
    to_pixels=lambda x, decoder=None: x,
    latent_shape=SIDE,
  )


def plan_of(**options):
  layout = rollout.make_layout(PROMPTS, GROUP, 6)
  plan = feeds.Plan(
    table=steppers.ode(np.linspace(1.0, 0.0, 5)), trained=(0, 1),
    layout=layout, rows=layout, prompts=PROMPTS, group=GROUP, updates=1,
    guidance_scale=1.0, feed=FEED, gap=0.2, t_min=0.3,
  )  # fmt: skip
  return dataclasses.replace(plan, **options)


def rows_of(plan, policy, **sampling):
  """(rows of the first time, [B, ...]; trajectory)."""
  params = policy.init(None)
  trajectory = plan.sampler(policy, plan.layout).sample(
    params, jax.random.key(0), TOKENS, np.arange(PROMPTS), **sampling
  )
  ones = np.ones((PROMPTS, GROUP), np.float32)
  rows = FEED.make(
    trajectory, Credit(ones, ones, ones > 0), np.arange(PROMPTS), plan,
    jax.random.key(1),
  )  # fmt: skip
  return jax.tree.map(lambda x: x[0], rows), trajectory


def score(latents, index, of="own"):
  if of == "errors":
    return jnp.sin(latents).reshape(len(latents), -1), latents
  assert of in ("own", "other")
  sign = {"own": 1.0, "other": -0.5}[of]
  return sign * jnp.sin(latents).mean((1, 2, 3)), latents


def arrays_of(plan, policy, params, rows):
  network = lambda: feeds.Network(policy, params, TOKENS, plan)
  feed = feeds.with_references(FEED, ["target"])
  roles = dict.fromkeys(("policy", "reference", "target"), network)
  return feeds.Arrays(feed, rows, roles, plan, score)


@pytest.mark.job
@pytest.mark.turns(3)
def test_on_a_point_mass_every_prediction_is_the_sample():
  plan, policy = plan_of(), policy_of()
  rows, trajectory = rows_of(plan, policy)
  arrays = arrays_of(plan, policy, policy.init(None), rows)
  np.testing.assert_allclose(trajectory.latents[-1], C, atol=1e-5)
  assert np.all(rows["near_t"] < rows["t"])
  for name in ("x0_hat", "near_x0_hat"):
    np.testing.assert_allclose(arrays(name), C, atol=1e-4)
  want = np.sin(C)
  for name in ("scores", "near_scores", "denoised_scores", "inverted_scores"):
    np.testing.assert_allclose(arrays(name), want, atol=1e-4)
  for name in ("errors", "near_errors"):
    np.testing.assert_allclose(arrays(name), np.full((6, 8), want), atol=1e-4)
  for name in ("denoised_other_scores", "inverted_other_scores"):
    np.testing.assert_allclose(arrays(name), -0.5 * want, atol=1e-4)
  # The teacher agrees with it wherever it is noised again.
  for point in ("again", "beyond_again"):
    t = np.asarray(arrays(f"{point}_t"))
    x0 = arrays(f"x_{point}") - t[:, None, None, None] * arrays(
      f"v_target_{point}"
    )
    np.testing.assert_allclose(x0, C, atol=1e-4)
    assert np.all((t >= 0.02) & (t <= np.maximum(rows["t"], 0.02)))
  np.testing.assert_allclose(arrays("x_beyond"), rows["x_near"], atol=1e-5)
  # The ODE is straight, so that a jump of any length agrees with two.
  v = {
    name: arrays(f"v{name}") for name in ("", "_reference", "_target_solved")
  }
  for segments in (1, 3):
    mean, metrics = objectives.consistency_reward(
      v[""], v["_reference"], v["_target_solved"], rows["x_t"],
      arrays("x_solved"), rows["t"], rows["near_t"], arrays("scores"),
      rows["mask"], segments=segments,
    )  # fmt: skip
    assert metrics["consistency"].value() < 1e-6
    np.testing.assert_allclose(mean.value(), -want, atol=1e-4)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "name", ["scores", "near_scores", "denoised_scores", "inverted_scores"]
)
def test_the_gradient_is_that_of_one_evaluation(name):
  plan, policy = plan_of(), policy_of("affine")
  params = policy.init(None)
  rows, _ = rows_of(plan, policy)
  value, slope = jax.value_and_grad(
    lambda p: arrays_of(plan, policy, p, rows)(name).sum()
  )(params)
  wide = {
    k: np.asarray(rows[k], np.float64)
    for k in ("x_t", "x_near", "t", "near_t", "noise")
  }
  t, s = (wide[k][:, None, None, None] for k in ("t", "near_t"))

  def reference(p):
    v = lambda x, time: x * (p[0] + p[1] * time) + p[2]
    x, near = wide["x_t"], wide["x_near"]
    x0 = {
      "scores": x - t * v(x, t),
      "near_scores": near - s * v(near, s),
      "denoised_scores": (x - (t - s) * v(x, t) - s * wide["noise"]) / (1 - s),
      "inverted_scores": (near + (t - s) * v(near, s) - t * wide["noise"])
      / (1 - t),
    }[name]
    return np.sin(x0).mean((1, 2, 3)).sum()

  np.testing.assert_allclose(value, reference(np.asarray(params)), rtol=1e-4)
  np.testing.assert_allclose(
    slope, numeric_gradient(reference, params), rtol=2e-3, atol=1e-4
  )


@pytest.mark.turns(2)
def test_what_distillation_reads_at_the_renoised_prediction():
  """A gradient through x, none through the time, and words taken out."""
  plan, policy = plan_of(), policy_of("worded")
  params = policy.init(None)
  rows, _ = rows_of(plan, policy)
  arrays = arrays_of(plan, policy, params, rows)
  x0, x, t, noise = (
    np.asarray(arrays(k), np.float64)
    for k in ("x0_hat", "x_again", "again_t", "again_noise")
  )
  wide = t[:, None, None, None]
  np.testing.assert_allclose(x, (1 - wide) * x0 + wide * noise, atol=1e-5)
  assert (t < rows["t"]).all() and np.unique(t).size == t.size
  a, b, c = np.asarray(params, np.float64)
  plain = x * (a + b * wide) + c
  token = TOKENS[rows["prompt_index"], 0][:, None, None, None]
  np.testing.assert_allclose(
    arrays("v_reference_again"), plain + token, atol=1e-5
  )
  np.testing.assert_allclose(arrays("v_empty_again"), plain, atol=1e-5)

  total = lambda p: arrays_of(plan, policy, p, rows)("x_again").sum()
  slope = jax.grad(total)(params)  # x0_hat = x_t - t v, of c: -t each
  want = -((1 - t) * rows["t"] * np.prod(SIDE)).sum()
  np.testing.assert_allclose(slope[2], want, rtol=1e-4)


def test_predictions_of_players_are_of_the_one_step_sample():
  plan, policy = plan_of(), policy_of("affine")
  rows, _ = rows_of(plan, policy)
  arrays = feeds.Arrays(
    FEED, rows, {"policy": lambda: feeds.Network(
      policy, policy.init(None), TOKENS, plan
    )}, plan,
    predictions={"latent_score": lambda x0, rows: x0.sum((1, 2, 3)) + rows["t"]},
  )  # fmt: skip
  want = arrays("x0_hat").sum((1, 2, 3)) + rows["t"]
  np.testing.assert_allclose(arrays("latent_score"), want, rtol=1e-6)


def test_saliency_is_the_size_of_the_slope_summed_over_channels():
  plan, policy = plan_of(), policy_of("affine")
  rows, _ = rows_of(plan, policy)
  scale = jnp.array([3.0, -5.0])  # slopes of both signs in every place
  arrays = arrays_of(plan, policy, policy.init(None), rows)
  arrays.score = lambda x, index: ((scale * jnp.sin(x)).sum((1, 2, 3)), x)
  x0 = np.asarray(arrays("x0_hat"), np.float64)
  want = np.abs(np.cos(x0) * np.asarray(scale)).sum(-1, keepdims=True)
  np.testing.assert_allclose(
    arrays("saliency"), np.broadcast_to(want, x0.shape), rtol=1e-4
  )


@pytest.mark.turns(2)
def test_noise_may_be_that_of_the_rollout():
  policy = policy_of()
  path = dataclasses.replace(FEED, keeps="steps")
  rows, trajectory = rows_of(plan_of(noise="path", feed=path), policy)
  steps = np.asarray(trajectory.latents)
  times = np.linspace(1.0, 0.0, 5)
  for b, (x, t) in enumerate(zip(rows["x_t"], rows["t"], strict=True)):
    (i,) = np.flatnonzero(np.isclose(times, t))
    np.testing.assert_array_equal(x, steps[i, b])
  again = (1 - rows["t"][:, None, None, None]) * rows["x0"]
  again += rows["t"][:, None, None, None] * rows["noise"]
  np.testing.assert_allclose(again, rows["x_t"], atol=1e-5)

  first, start = rows_of(plan_of(noise="first"), policy, tail=4)
  np.testing.assert_array_equal(first["noise"], start.latents[0])
  np.testing.assert_array_equal(start.latents[0], steps[0])
  np.testing.assert_array_equal(start.latents[1], steps[-1])


def test_a_path_has_the_log_probabilities_that_drew_it():
  table = steppers.dance_sde(np.linspace(1.0, 0.0, 5))
  feed = feeds.FEEDS["steps"]
  plan, policy = plan_of(table=table, feed=feed), policy_of("affine")
  trajectory = plan.sampler(policy, plan.layout).sample(
    policy.init(None), jax.random.key(0), TOKENS, np.arange(PROMPTS)
  )
  network = feeds.Network(policy, policy.init(None), TOKENS, plan)
  got = network.path_log_probs(
    jnp.moveaxis(trajectory.latents, 0, 1), trajectory.prompt_index
  )
  np.testing.assert_allclose(got.T, trajectory.log_probs, atol=1e-6)
  assert np.any(got)


def test_rewards_of_any_scale_pull_alike():
  """g = (3, 4) and (.1, 0): the direction is (1.6, .8)."""
  slopes = {"strong": np.array([3.0, 4.0]), "weak": np.array([0.1, 0.0])}

  def score(images):
    scores = {k: (images * g).sum(1) for k, g in slopes.items()}
    return scores | {"flat": jnp.zeros(len(images))}, weights

  images = jnp.array([[1.0, 2.0], [0.5, -1.0]])
  for factor in (1.0, 100.0):
    slopes["weak"] = factor * np.array([0.1, 0.0])
    weights = {"strong": 1.0, "weak": 1.0, "flat": 1.0}
    value, slope = jax.value_and_grad(lambda x: controls.pull(x, score).sum())(
      images
    )
    np.testing.assert_allclose(slope, [[1.6, 0.8]] * 2, rtol=1e-6)
    np.testing.assert_allclose(value, 1.6 * 1.5 + 0.8, rtol=1e-6)
  weights = {"strong": 0.0, "weak": jnp.array([2.0, -1.0]), "flat": 1.0}
  slope = jax.grad(lambda x: controls.pull(x, score).sum())(images)
  np.testing.assert_allclose(slope, [[2, 0], [-1, 0]], atol=1e-6)


def prompts_of(lines):
  ids = np.arange(len(lines), dtype=np.uint32)
  return PromptBatch(ids, ids, ids >= 0, text=texts.encode(lines))


def test_words_for_and_against_are_rows_of_their_own():
  rewards = build(
    {"words": lambda images, prompts, **_: images[..., 0, 0, 0]},
    prepares={
      "words": lambda lines: {"size": np.array([len(x) for x in lines])}
    },
  )
  plain = controls.contexts(rewards, prompts_of(["ab", "abc"]))
  wordy = controls.contexts(
    rewards, prompts_of(["ab", "abc"]), ("Real", "Painting")
  )
  np.testing.assert_array_equal(plain["words"].rows["size"], [2, 3])
  np.testing.assert_array_equal(
    wordy["words"].rows["size"], [2, 3, 8, 9, 12, 13]
  )
  index, plan = np.array([0, 1, 1]), plan_of()
  for of, row in (("own", [0, 1, 1]), ("other", [1, 0, 0])):
    for got in controls.rows(index, of, plan):
      np.testing.assert_array_equal(got, row)
  plan = plan_of(is_controlled=True)
  for of, row in (("own", [2, 3, 3]), ("other", [4, 5, 5])):
    got = controls.rows(index, of, plan)
    np.testing.assert_array_equal(got[0], index)
    np.testing.assert_array_equal(got[1], row)


def test_words_that_nobody_reads_are_refused():
  rewards = build({"look": lambda images, prompts: images[..., 0, 0, 0]})
  with pytest.raises(UserError, match="reads free text"):
    controls.require(("Real", "Painting"), rewards)
  section = ConfigDict(
    {"align": {"controls": {"positive": "", "negative": "x"}}}
  )
  with pytest.raises(UserError, match="set against it"):
    controls.words_of(section)
