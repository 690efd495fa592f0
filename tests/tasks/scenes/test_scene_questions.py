"""Questions about scenes: their answers are what is drawn."""

import re

import jax
import numpy as np
import pytest

from jaxreward.tasks.scenes import detect, grammar, judge, questions


@pytest.fixture(scope="module")
def batch():
  drawn = questions.Questions("heldout")
  return drawn(np.random.default_rng(0), 96)


def images_of(batch):
  return questions.draw(jax.random.split(jax.random.key(1), 96), batch.look)


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_detector_agrees_with_the_exact_answer(batch):
  rows = grammar.batch(batch.prompts)
  images = images_of(batch)
  strict = judge.look(images, rows).scores()["strict"]
  np.testing.assert_array_equal(np.asarray(strict) == 1, batch.is_right)
  assert 0.3 < np.mean(batch.is_right) < 0.7


@pytest.mark.turns(2)
def test_a_thought_names_what_the_detector_finds(batch):
  """Every object, by colour and shape, whatever else was asked."""
  images = images_of(batch)
  found = detect.detect(images)
  count = 0
  for i, (asked,) in enumerate(batch.groups["long"]):
    if asked.kind != "thought":
      continue
    words = re.findall(r"(\w+) (\w+) \w+ \w+", asked.answer)
    at = np.flatnonzero(found.present[i])
    names = [
      (grammar.COLOURS[found.colour[i, j]], grammar.SHAPES[found.shape[i, j]])
      for j in at
    ]  # fmt: skip
    assert sorted(words) == sorted(names)
    count += 1
  assert count > 20


def test_answers_of_parts_by_other_means(batch):
  """Each is found anew from the drawn attributes and the question's words."""
  look, seen = batch.look, set()
  for i, row in enumerate(batch.groups["short"]):
    on = look.present[i]
    shape, colour = look.shape[i][on], look.colour[i][on]
    named = lambda word: np.isin(shape, [grammar.SHAPES.index(word)])  # noqa: B023
    for kind, question, _, answer in row:
      seen.add((kind, answer))
      if kind == "count":
        noun = re.search(r"How many (\w+) are", question)[1]
        word = "cross" if noun == "crosses" else noun[:-1]
        right = len(shape) if word == "object" else int(named(word).sum())
        assert answer == str(right)
      if kind == "colour":
        word = re.search(r"What colour is the (\w+)\?", question)[1]
        (only,) = colour[named(word)]
        assert answer == grammar.COLOURS[only]
      if kind == "exists":
        c, s = re.search(r"Is there a (\w+) (\w+)\?", question).groups()
        there = (named(s) & (colour == grammar.COLOURS.index(c))).any()
        assert answer == ("yes" if there else "no")
  assert {("exists", "yes"), ("exists", "no"), ("count", "2")} <= seen
  assert {"relation", "score", "colour"} <= {kind for kind, _ in seen}


def test_a_comparison_turned_round_has_the_other_answer():
  prompt = grammar.parse("a red circle left of a blue square")
  right = questions.made_for(prompt, np.random.default_rng(0))
  worse = (right[0]._replace(colour=1), right[1])
  assert questions.errors(right, prompt) == 0
  assert questions.errors(worse, prompt) == 1
  assert questions.errors(worse[:1], prompt) == 2
  assert questions.errors((*right, right[0]._replace(shape=2)), prompt) == 1
  turned = [
    t._replace(cell=o.cell) for t, o in zip(right, right[::-1], strict=True)
  ]
  assert questions.errors(tuple(turned), prompt) == 1
  first = questions.compared(right, worse, prompt)
  second = questions.compared(worse, right, prompt)
  assert (first.answer, second.answer) == ("first", "second")
  assert questions.compared(worse, worse, prompt).answer == "tie"
