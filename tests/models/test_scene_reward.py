"""Scenes' reward models: shapes, symmetries, a trunk from a policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.policies import scene_dit
from jaxreward.models.vision import scene_reward
from jaxreward.reward_models import RewardModel, scalar, scenes
from jaxreward.setup import reward_model
from jaxreward.tasks.scenes import grammar
from jaxreward.training import sharding
from jaxreward.training.mesh import make_mesh
from tests import tiny

SIZES = dict(width=16, depth=2, heads=1, stem=8)


def make(**sizes):
  return RewardModel(scenes(**(SIZES | sizes)), scalar(hidden=32))


@pytest.fixture(scope="module")
def scorer():
  return make()


@pytest.fixture(scope="module")
def params(scorer):
  return jax.jit(scorer.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def awake(params):
  """The same with every zero kernel drawn, so that everything matters."""

  def fill(path, x):
    key = jax.random.fold_in(jax.random.key(7), len(str(path)))
    return x if x.ndim < 2 or x.any() else 0.3 * jax.random.normal(key, x.shape)

  return jax.tree_util.tree_map_with_path(fill, params)


@pytest.fixture(scope="module")
def inputs():
  images = np.random.default_rng(0).random((2, 3, 36, 36, 3))
  texts = ("a red circle", "a cross above a square")
  tokens = np.stack([grammar.tokenize(t) for t in texts])
  return jnp.asarray(images, jnp.float32), jnp.asarray(tokens)


@pytest.fixture(scope="module")
def score(scorer):
  return jax.jit(scorer.score_groups)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_fresh_scorer_has_no_opinion(score, params, inputs):
  scores, unsure = score(params, *inputs)
  assert unsure is None
  assert scores.shape == (2, 3)
  assert scores.dtype == jnp.float32
  np.testing.assert_array_equal(scores, 0.0)


@pytest.mark.turns(2)
def test_groups_are_single_scores_side_by_side(score, awake, inputs):
  images, tokens = inputs
  groups, _ = score(awake, images, tokens)
  for g in range(3):
    alone, _ = score(awake, images[:, g : g + 1], tokens)
    np.testing.assert_allclose(alone[:, 0], groups[:, g], rtol=1e-4, atol=1e-5)
  turned, _ = score(awake, images[:, ::-1], tokens)
  np.testing.assert_allclose(turned, groups[:, ::-1], rtol=1e-4, atol=1e-5)


def test_picture_place_and_words_all_matter(score, awake, inputs):
  images, tokens = inputs
  base = np.asarray(score(awake, images, tokens)[0])
  words, _ = score(awake, images, tokens[::-1])
  moved, _ = score(awake, jnp.roll(images, 12, 2), tokens)
  for other in (words, moved):
    assert np.abs(np.asarray(other) - base).min() > 1e-4


@pytest.mark.turns(2)
def test_the_gradient_is_finite_where_the_largest_is_computed_twice():
  """As a compiler does that fuses features into what reads them."""
  config = tiny.load("recipes/refl.py:smoke")
  model = reward_model.make(config)
  params = tiny.shaken(tiny.drawn(model.init, jax.random.key(0)))
  tokens = jnp.asarray(tiny.prompts_of(config).tokens)
  images = np.random.default_rng(0).random((len(tokens), 2, 36, 36, 3))
  images = jnp.asarray(images.clip(0.25, 0.75), jnp.float32)
  score = lambda x, params: model.score_groups(params, x, tokens)[0].sum()
  slope = np.asarray(jax.jit(jax.grad(score))(images, params))
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_trunk_of_a_deeper_policy(params):
  policy = scene_dit.make_policy(width=16, depth=3, heads=1)
  base = tiny.drawn(policy.init, jax.random.key(5))
  params = params["backbone"]
  found = scene_reward.init_from_policy(params, base)
  np.testing.assert_array_equal(
    found["patch_in"]["kernel"], base["patch_in"]["kernel"]
  )
  for name in ("qkv", "up"):
    np.testing.assert_array_equal(
      found["blocks"][name]["kernel"], base["blocks"][name]["kernel"][:2]
    )
  kv = base["text"]["kv"]["kernel"].reshape(16, 3, 32)[:, :2]
  np.testing.assert_array_equal(
    found["text"]["kv"]["kernel"], kv.reshape(16, 64)
  )
  np.testing.assert_array_equal(
    found["stem_in"]["kernel"], params["stem_in"]["kernel"]
  )
  same = jax.tree.map(lambda a, b: a.shape == b.shape, found, params)
  assert all(jax.tree.leaves(same))


def test_a_policy_of_another_width_is_refused(params):
  base = scene_dit.make_policy(width=32, depth=2, heads=1)
  with pytest.raises(UserError, match=r"is \(.*reward_model\.backbone\.width"):
    scene_reward.init_from_policy(
      params["backbone"], tiny.drawn(base.init, jax.random.key(0))
    )


@pytest.mark.parametrize(
  ("sizes", "field"), [(dict(patch=7), "patch=7"), (dict(width=15), "width=15")]
)
def test_sizes_that_do_not_fit(sizes, field):
  with pytest.raises(UserError, match=f"reward_model.backbone.{field}"):
    make(**sizes)


@pytest.mark.turns(2)
def test_bfloat16_is_close(awake, score, inputs):
  low = make(dtype="bfloat16")
  a, _ = score(awake, *inputs)
  b, _ = jax.jit(low.score_groups)(awake, *inputs)
  assert b.dtype == jnp.float32
  np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.abs(a).max()) + 0.05)


def test_every_parameter_has_one_sharding_rule(scorer, params):
  mesh = make_mesh(data=2, fsdp=4)
  specs = sharding.param_specs(params, scorer.sharding_rules, mesh)
  assert specs["backbone"]["blocks"]["qkv"]["kernel"] == jax.P(None, "fsdp")
  assert specs["head"]["head_out"]["kernel"] == jax.P()
