"""Rewards that read source, target and task of the prompts themselves."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxreward import rewards, tasks
from jaxreward.composition import sums
from jaxreward.errors import UserError
from jaxreward.rewards import consistency, fidelity, identity, references
from jaxreward.setup import rewards as reward_setup
from jaxreward.setup import updates
from jaxreward.tasks.scenes import edits, grammar, judge
from tests import tiny
from tests.rewards import folders

KINDS = {name: number for number, name in grammar.EDIT_CATEGORIES.items()}


def one_of_each():
  every = edits.all_prompts()
  return [next(p for p in every if p.category == k) for k in KINDS.values()]


@pytest.fixture(scope="module")
def batch():
  """Six prompts, one of each kind, with their pictures."""
  prompts = one_of_each()
  return tasks.TASKS["edits"].batch(prompts)


@pytest.fixture(scope="module")
def images(batch):
  """[6, 2, ...]: the answer, and the answer with noise."""
  _, answer = edits.draw(one_of_each())
  noise = 0.1 * np.random.default_rng(0).standard_normal(answer.shape)
  noisy = np.clip(answer + noise, 0, 1)
  return np.stack([answer, noisy], 1).astype(np.float32)


def of_folder(batch, field):
  """What a folder with the same pictures would have given."""
  given = np.asarray(getattr(batch, field))
  known = np.isfinite(given).all((1, 2, 3))[:, None]
  return {"reference": np.nan_to_num(given)[:, None], "known": known}


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("reward", "field"),
  [
    (fidelity.psnr_reward, "target"),
    (fidelity.ssim_reward, "target"),
    (fidelity.rendered_equivalence, "target"),
    (fidelity.condition_cycle, "source"),
  ],
)
def test_the_prompts_pictures_count_as_a_folders(reward, field, batch, images):
  found = reward(images, batch)
  own, *_ = jax.tree.leaves(found)
  same = reward(images, batch, **of_folder(batch, field))
  jax.tree.map(np.testing.assert_array_equal, found, same)
  there = np.isfinite(np.asarray(getattr(batch, field))).all((1, 2, 3))
  np.testing.assert_array_equal(np.isfinite(own).all(1), there)
  np.testing.assert_array_equal(reward.applies(batch), there)


def test_psnr_of_the_exact_answer(batch, images):
  found = fidelity.psnr_reward(images, batch)["psnr"]
  rows = np.arange(6) != list(KINDS).index("identity")
  np.testing.assert_allclose(found[rows, 0], 100, rtol=1e-6)
  error = np.square(images[:, 1].astype(np.float64) - images[:, 0])
  np.testing.assert_allclose(
    found[rows, 1], -10 * np.log10(error.mean((1, 2, 3)))[rows], rtol=1e-4
  )


def test_background_is_the_source_outside_the_edited_cells(batch, images):
  found = consistency.background(images, batch)["background"]
  outside = 1 - np.asarray(batch.changes)
  gap = np.abs(images.astype(np.float64) - np.asarray(batch.source)[:, None])
  gap = (gap * outside[:, None]).sum((2, 3, 4))
  expected = 1 - gap / outside.sum((1, 2, 3))[:, None]
  edited = slice(0, 4)
  np.testing.assert_allclose(found[edited], expected[edited], atol=1e-6)
  assert np.isnan(found[4:]).all()


@pytest.mark.extras
def test_towers_compare_with_the_source(tmp_path, batch, images):
  pytest.importorskip("transformers")
  tower = consistency.load_tower(str(folders.clip_folder(tmp_path / "clip")))
  assert tower.prepare is None
  arguments = {**tower.static, **tower.arrays}
  own = consistency.image_similarity(images, batch, **arguments)
  same = consistency.image_similarity(
    images, batch, **arguments, **of_folder(batch, "source")
  )
  np.testing.assert_array_equal(
    own["image_similarity"], same["image_similarity"]
  )
  assert np.isfinite(own["image_similarity"]).all()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_source_is_the_face_of_one_subject(batch, images):
  mean = lambda params, x: x.mean((1, 2)) + 2.0
  found = identity.identity(
    images, batch, faces=mean, params=None, side=8, windows=1
  )
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  seen = unit(2 * images.mean((2, 3)) + 1.0)
  wanted = unit(2 * np.asarray(batch.source).mean((1, 2)) + 1.0)
  expected = np.einsum("pge,pe->pg", seen, wanted)
  np.testing.assert_allclose(found["identity"], expected, atol=1e-4)


def test_without_folder_and_pictures_there_is_one_clear_line(images):
  plain = grammar.batch(grammar.prompts("train")[:6])
  for reward, field in (
    (fidelity.psnr_reward, "target"),
    (fidelity.condition_cycle, "source"),
    (consistency.background, "changes"),
  ):
    with pytest.raises(UserError, match=f"compares with the {field}"):
      reward(images, plain)


@pytest.mark.job
@pytest.mark.turns(3)
def test_parts_of_a_verdict_are_those_of_the_detector(batch, images):
  functions = {n: tasks.rewards()[n] for n in judge.PARTS}
  functions["strict"] = tasks.rewards()["strict"]
  built = rewards.build(functions)
  found, _ = rewards.score(built, images, batch)
  np.testing.assert_array_equal(found["strict"][:, 0], 1)
  np.testing.assert_array_equal(found["execution"][:, 0], 1)
  row = list(KINDS).index("identity")
  others = np.arange(6) != row
  assert np.isnan(found["subject"][others]).all() and found["subject"][row, 0]
  assert np.isnan(found["preservation"][row]).all()
  for name, part in found.items():
    given = {
      n: v for n, v in found.items() if n in tasks.TASKS["edits"].verdict
    }
    given["dense"] = part
    again, _ = rewards.score({name: built[name]}, images, batch, given)
    np.testing.assert_array_equal(again[name], part)


def test_a_weight_counts_for_its_kinds_and_where_it_applies(batch):
  weight = rewards.RowWeight(
    2.0, ((KINDS["upscale"], 0.5), (KINDS["identity"], 3.0)),
    references.has("target"),
  )  # fmt: skip
  np.testing.assert_array_equal(weight(batch)[:, 0], [0, 0, 0, 0, 0, 1.0])
  anywhere = dataclasses.replace(weight, applies=None)
  np.testing.assert_array_equal(anywhere(batch)[:, 0], [0, 0, 0, 0, 6.0, 1.0])


def test_a_cycle_applies_where_the_picture_of_its_field_is(batch, images):
  """The row of identity has a source alone, and the first here a target alone."""
  there = np.isfinite(np.asarray(batch.source)).all((1, 2, 3))
  without = np.where(np.arange(6)[:, None, None, None] == 0, np.nan, 1.0)
  batch = batch.replace(source=np.asarray(batch.source) * without)
  there &= np.arange(6) > 0
  known = np.isfinite(np.asarray(batch.target)).all((1, 2, 3))
  assert known[0] and not known[list(KINDS).index("identity")]
  for field, rows in (("source", there), ("target", known)):
    config = tiny.load(
      "align_edits.py:smoke",
      {"rewards.cycle.fn": "condition_cycle", "rewards.cycle.field": field},
    )
    entry = reward_setup.bind(config)["cycle"]
    weight = entry.weight(batch)[:, 0] != 0
    np.testing.assert_array_equal(weight, rows)
    scores = entry.fn(images, batch)["condition_cycle"]
    np.testing.assert_array_equal(np.isfinite(scores.value).all(1), rows)
    np.testing.assert_array_equal(np.isfinite(scores.errors).all((1, 2)), rows)


@pytest.mark.turns(2)
@pytest.mark.usefixtures("as_users_call")
def test_errors_that_failed_are_0_and_so_is_their_slope(batch, images):
  """As where a folder lacks a reference: the reward is known to apply."""
  cycle = lambda *x: fidelity.condition_cycle(*x, field="target")
  built = rewards.build({"cycle": cycle})
  trainable = SimpleNamespace(policy=SimpleNamespace(to_pixels=lambda x, _: x))
  plan: Any = SimpleNamespace(is_controlled=False, prompts=6)
  nothing: Any = None
  loss = updates.Loss(
    trainable, plan, nothing, {}, tuple(built.values()), {"cycle": 1.0}
  )
  contexts = rewards.contexts_of(built, batch)
  frozen = updates.Frozen({}, {}, np.zeros((6, 1)), batch, contexts)

  def total(x):
    errors, _ = loss._score(frozen, x, np.arange(6), "errors")
    return jnp.square(errors).sum(), errors

  grad = jax.grad(total, has_aux=True)
  slope, errors = grad(jnp.asarray(images[:, 1]))
  known = np.isfinite(np.asarray(batch.target)).all((1, 2, 3))
  assert np.isfinite(errors).all() and np.isfinite(slope).all()
  np.testing.assert_array_equal(np.abs(errors).max(-1) > 0, known)
  np.testing.assert_array_equal(np.abs(slope).max((1, 2, 3)) > 0, known)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "compose", [sums.weighted_sum, sums.gdpo, sums.win_rate]
)
def test_a_row_without_a_say_is_left_out_and_not_zero(compose, batch):
  """The signal of a row is that of the rewards that have a say in it."""
  rng = np.random.default_rng(0)
  a, b = rng.random((2, 6, 5)).astype(np.float32)
  b[:3] = np.nan
  rows = np.arange(6) >= 3
  weights = {"a": 1.0, "b": rewards.RowWeight(2.0, applies=lambda _: rows)}
  mask = np.ones((6, 5), bool)
  scores, found = rewards.mask_inapplicable({"a": a, "b": b}, weights, batch)
  signal, valid = compose(scores, mask, found)
  assert np.asarray(valid).all()
  whole = sums.weighted_sum if compose is sums.weighted_sum else None
  if whole:
    np.testing.assert_allclose(signal[:3], a[:3], rtol=1e-6)
    np.testing.assert_allclose(signal[3:], (a + 2 * b)[3:], rtol=1e-6)
  else:  # the order within a row of one reward is that reward's
    order = lambda x: np.argsort(np.asarray(x), axis=1)
    np.testing.assert_array_equal(order(signal[:3]), order(a[:3]))


def test_a_failure_where_a_reward_has_a_say_still_fails(batch):
  score = np.ones((6, 2), np.float32)
  score[5, 0] = score[0, 0] = np.nan
  weight = rewards.RowWeight(1.0, ((KINDS["upscale"], 1.0),))
  scores, _ = rewards.mask_inapplicable({"a": score}, {"a": weight}, batch)
  assert np.isnan(scores["a"][5, 0]) and scores["a"][0, 0] == 0


def test_a_reward_weighs_nothing_it_does_not_know(batch):
  plain = {"a": np.full((6, 2), np.nan), "b": jnp.ones((6, 2))}
  scores, found = rewards.mask_inapplicable(plain, {"a": 1.0}, batch)
  assert scores["a"] is plain["a"] and found == {"a": 1.0}


def test_a_config_says_for_which_kinds(tmp_path):
  config = tiny.load(
    "align_edits.py:smoke", {"rewards.ssim.kinds.upscale": 3.0}
  )
  loaded = rewards_of(config, tmp_path)
  ssim = loaded["ssim"].weight
  assert dict(ssim.categories)[KINDS["upscale"]] == 3.0
  assert KINDS["identity"] not in dict(ssim.categories)
  assert loaded["execution"].weight == 1.0
  assert loaded["subject"].weight.applies is not None


def rewards_of(config, workdir):
  return reward_setup.load(config, epath.Path(workdir))


@pytest.mark.parametrize(
  ("spec", "changes", "message"),
  [
    ("align_edits.py:smoke", {"rewards.ssim.kinds.upscal": 1.0},
     'kinds: "upscal" is not known.*"upscale"'),
    ("align_scenes.py:smoke", {"rewards.detector.fn": "execution"},
     "judges tasks with a picture"),
    ("align_scenes.py:smoke", {"rewards.detector.kinds": 3}, "it is a section"),
  ],
)  # fmt: skip
def test_bad_kinds_and_parts_are_refused(spec, changes, message, tmp_path):
  config = tiny.load(spec, changes)
  with pytest.raises(UserError, match=message):
    rewards_of(config, tmp_path)


def test_gradients_reach_the_pictures(batch, images):
  def total(x):
    score = fidelity.psnr_reward(x, batch)["psnr"]
    return jnp.where(jnp.isfinite(score), score, 0.0).sum()

  g = jax.grad(total)(jnp.asarray(images))
  assert np.isfinite(g).all() and np.abs(g[0, 1]).max() > 0
