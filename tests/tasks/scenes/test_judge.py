"""Whether edits are carried out and the rest is kept, on pictures known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.tasks.scenes import detect, edits, grammar, judge

SOME = edits.all_prompts()[::61]
KIND = np.array([grammar.EDIT_CATEGORIES[p.category] for p in SOME])
look = jax.jit(lambda images, batch: judge.look(images, batch).scores())


def batch_of(prompts):
  batch = grammar.batch(prompts)
  extras = dataclasses.replace(batch.extras, edit=edits.expected(prompts))
  return dataclasses.replace(batch, extras=extras)


def scores(images, prompts=SOME):
  """One program for all: rows are repeated up to a fixed number."""
  rows = np.resize(np.arange(len(prompts)), len(SOME))
  batch = jax.tree.map(lambda x: x[rows], batch_of(prompts))
  found = look(images[rows], batch)
  return {k: np.asarray(v)[: len(prompts)] for k, v in found.items()}


@pytest.fixture(scope="module")
def pictures():
  return edits.draw(SOME)


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_answer_is_right(pictures):
  found = scores(pictures[1])
  np.testing.assert_array_equal(found["strict"], 1)
  np.testing.assert_array_equal(found["execution"], 1)
  same = KIND == "identity"
  np.testing.assert_array_equal(found["preservation"][~same], 1)
  np.testing.assert_allclose(found["dense"][~same], 1, atol=1e-6)
  assert found["subject"][same].min() > 0.9
  assert np.isnan(found["subject"][~same]).all()
  assert np.isnan(found["preservation"][same]).all()


@pytest.mark.turns(2)
def test_a_source_that_is_handed_back_is_wrong(pictures):
  """It keeps everything and does nothing."""
  found = scores(pictures[0])
  edit = np.isin(KIND, ["recolour", "remove", "add", "move"])
  assert found["strict"][KIND != "upscale"].max() == 0
  assert found["strict"][KIND == "upscale"].mean() < 0.1
  np.testing.assert_array_equal(found["execution"][edit], 0)
  np.testing.assert_array_equal(found["preservation"][KIND == "recolour"], 1)
  assert found["dense"][edit].max() <= 0.26
  assert found["subject"][KIND == "identity"].min() > 0.9


def test_an_edit_that_spoils_the_rest_is_executed_and_not_preserved():
  """The answer, with every object that should be kept in another colour."""
  chosen = [
    p for p in SOME if grammar.EDIT_CATEGORIES[p.category] in edits.KINDS[:4]
  ]
  wrong = []
  for p in chosen:
    after = tuple(
      t if i == p.pictures.changed else t._replace(colour=(t.colour + 1) % 5)
      for i, t in enumerate(p.pictures.after)
    )
    task = dataclasses.replace(p.pictures, after=after)
    wrong.append(dataclasses.replace(p, pictures=task))
  found = scores(edits.draw(wrong)[1], chosen)
  np.testing.assert_array_equal(found["execution"], 1)
  np.testing.assert_array_equal(found["preservation"], 0)
  np.testing.assert_array_equal(found["strict"], 0)


@pytest.mark.turns(3)
@pytest.mark.parametrize("what", ["body", "spot", "shape"])
def test_another_subject_is_not_the_same(what):
  chosen = [
    p for p in SOME if grammar.EDIT_CATEGORIES[p.category] == "identity"
  ]
  wrong = []
  for p in chosen:
    task, (old, other) = p.pictures, p.pictures.after
    others = [c for c in range(5) if c not in (old.colour, task.mark)]
    if what == "body":
      old = old._replace(colour=others[0])
    elif what == "spot":
      task = dataclasses.replace(task, mark=others[0])
    else:
      old = old._replace(shape=(old.shape + 1) % 4)
    before = (task.before[0]._replace(colour=old.colour, shape=old.shape),)
    task = dataclasses.replace(task, before=before, after=(old, other))
    wrong.append(dataclasses.replace(p, pictures=task))
  found = scores(edits.draw(wrong)[1], chosen)
  assert found["subject"].max() < judge.ALIKE - 0.05
  assert found["strict"].max() == 0


def test_an_object_too_many_or_none_at_all(pictures):
  prompts = [p for p in SOME if p.text.startswith("remove")]
  source, answer = edits.draw(prompts)
  empty = np.broadcast_to(answer[:, :1, :1], answer.shape)
  found = scores(empty, prompts)
  np.testing.assert_array_equal(found["execution"], 1)
  np.testing.assert_array_equal(found["preservation"], 0)
  held = scores(source, prompts)["preservation"]
  np.testing.assert_allclose(held, np.exp(-0.5), rtol=1e-6)


@pytest.mark.job
@pytest.mark.turns(3)
def test_prompts_without_a_picture_are_judged_as_before():
  prompts = grammar.prompts("train")[:200:10]
  batch = grammar.batch(prompts)
  images = jax.random.uniform(jax.random.key(0), (len(prompts), 36, 36, 3))
  found = look(images, batch)
  verdict = jax.jit(lambda x: detect.judge(detect.detect(x), batch))(images)
  assert set(found) == {"strict", "dense"}
  np.testing.assert_array_equal(found["dense"], verdict.dense)


def test_rows_are_repeated_without_their_pictures():
  prompts = SOME[:3]
  batch = batch_of(prompts).replace(source=jnp.zeros((3, 4, 4, 3)))
  twice = judge.repeat(batch, 2)
  assert twice.source is None
  np.testing.assert_array_equal(twice.ids, np.repeat(batch.ids, 2))
  np.testing.assert_array_equal(
    twice.extras.edit.centre, np.repeat(batch.extras.edit.centre, 2, 0)
  )
