"""Tasks with a picture: their words, splits and pictures."""

import jax
import numpy as np
import pytest

from jaxreward.data.prompts import SPLITS
from jaxreward.models.policies import scene_dit
from jaxreward.tasks.scenes import edits, grammar, render

SOME = edits.all_prompts()[::13]


def of_kind(kind, prompts=SOME):
  number = edits.FIRST + edits.KINDS.index(kind)
  return [p for p in prompts if p.category == number]


@pytest.mark.job
@pytest.mark.turns(3)
def test_texts_fit_the_policy_and_tasks_are_distinct():
  every = edits.all_prompts()
  assert len({p.prompt_id for p in every}) == len(every)
  for prompt in every:
    ids = grammar.tokenize(prompt.text, edits=True)
    assert ids.max() < scene_dit.VOCABULARY + scene_dit.EDIT_WORDS
    if prompt.category != edits.FIRST + edits.KINDS.index("identity"):
      with pytest.raises(grammar.UserError, match="vocabulary"):
        grammar.tokenize(prompt.text)
  assert len(grammar.EDIT_WORDS) == scene_dit.EDIT_WORDS


def test_no_combination_is_in_two_splits():
  splits = {split: edits.prompts(split) for split in SPLITS}
  meanings = [{p.meaning for p in found} for found in splits.values()]
  assert not set.intersection(*meanings[:2])
  assert not meanings[0] & meanings[2] and not meanings[1] & meanings[2]
  for split, share in (("validation", 0.1), ("heldout", 0.2)):
    for kind in edits.KINDS:
      found, all_of = of_kind(kind, splits[split]), of_kind(kind, every())
      assert len(found) / len(all_of) == pytest.approx(share, abs=0.02)


def every():
  return edits.all_prompts()


def test_the_picture_is_the_same_each_time_and_not_that_of_another_task():
  first, again = (edits.draw(SOME[:7]) for _ in range(2))
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
    assert a.shape == (7, render.SIZE, render.SIZE, 3) and a.dtype == np.float32
    assert a.min() >= 0 and a.max() <= 1
  assert len(np.unique(first[0].reshape(7, -1), axis=0)) == 7


def test_the_host_draws_what_the_renderer_draws():
  """The detector is held to the renderer, and so its ground truth to this."""
  prompts = of_kind("upscale")[:12]
  _, answer = edits.draw(prompts)
  expected = edits.expected(prompts)
  looks = [edits._look(p.pictures) for p in prompts]
  cells = [[t.cell for t in p.pictures.after] for p in prompts]
  scene = render.Scene(
    present=expected.shape >= 0, shape=expected.shape,
    colour=np.zeros((12, 4, 3), np.float32), centre=expected.centre,
    radius=np.ones((12, 4), np.float32),
    background=np.array([x.background for x in looks], np.float32),
  )  # fmt: skip
  for i, look in enumerate(looks):
    n = len(cells[i])
    palette = render.PALETTE[expected.colour[i, :n]]
    scene.colour[i, :n] = np.clip(palette + look.tint[cells[i]], 0, 1)
    scene.radius[i, :n] = look.radius[cells[i]]
  drawn = jax.jit(render.render)(scene)
  np.testing.assert_allclose(answer, drawn, atol=2e-6)


@pytest.mark.parametrize("kind", ["recolour", "remove", "add", "move"])
def test_an_edit_changes_the_cells_that_it_names_and_nothing_else(kind):
  prompts = of_kind(kind)
  source, answer = edits.draw(prompts)
  white = edits.changes(prompts)
  np.testing.assert_array_equal(source * (1 - white), answer * (1 - white))
  inside = np.abs(source - answer).reshape(len(prompts), -1).max(1)
  assert (inside > 0.2).all()
  cells = 2 if kind == "move" else 1
  assert (white[..., 0].sum((1, 2)) == cells * render.CELL**2).all()
  np.testing.assert_array_equal(edits.targets(prompts, answer), answer)


def test_the_answers_are_what_the_words_say():
  """The objects of source and answer, against the words read one by one."""
  names = {name: i for i, name in enumerate(grammar.COLOURS)}
  shapes = {name: i for i, name in enumerate(grammar.SHAPES)}
  for prompt in SOME:
    words = prompt.text.split()
    before, after = set(prompt.pictures.before), set(prompt.pictures.after)
    if words[0] == "make":
      (old,), (new,) = before - after, after - before
      assert (old.colour, old.shape) == (names[words[2]], shapes[words[3]])
      assert new == old._replace(colour=names[words[4]])
    elif words[0] in ("remove", "add", "move"):
      thing = names[words[2]], shapes[words[3]]
      gone, come = before - after, after - before
      assert len(gone) == (words[0] != "add")
      assert len(come) == (words[0] != "remove")
      assert {(t.colour, t.shape) for t in gone | come} == {thing}
      for new in come:
        row, column = edits.ROWS.index(words[4]), edits.COLUMNS.index(words[5])
        assert new.cell == 3 * row + column
        assert new.cell not in {t.cell for t in before}
      assert all((t.colour, t.shape) != thing for t in before & after)


def test_a_picture_to_sharpen_is_the_mean_of_squares():
  prompts = of_kind("upscale")
  source, answer = edits.draw(prompts)
  squares = answer.reshape(len(prompts), 12, 3, 12, 3, 3).mean((2, 4))
  np.testing.assert_allclose(source[:, ::3, ::3], squares, atol=1e-6)
  np.testing.assert_array_equal(source[:, 1::3, 2::3], source[:, ::3, ::3])
  assert np.isnan(edits.changes(prompts)).all()


def test_an_identity_task_has_no_exact_answer():
  prompts = of_kind("identity")
  _, answer = edits.draw(prompts)
  assert np.isnan(edits.targets(prompts, answer)).all()
  assert np.isnan(edits.changes(prompts)).all()
  expected = edits.expected(prompts)
  assert (expected.subject >= 0).all()
  assert ((expected.shape >= 0).sum(1) == 1).all()
