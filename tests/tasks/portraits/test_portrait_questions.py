"""Questions about portraits: their answers are what is drawn."""

import re

import jax
import numpy as np
import pytest

from jaxreward.rewards.remote import questions as question_files
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import edits, judge, questions, words


@pytest.fixture(scope="module")
def batch():
  return questions.Questions("heldout")(np.random.default_rng(0), 96)


@pytest.mark.turns(2)
def test_the_reading_of_a_clean_picture_is_what_was_asked_about(batch):
  look = batch.look
  images = questions.draw(jax.random.split(jax.random.key(1), 96), look)
  images = np.asarray(images)
  assert images.shape == (96, 48, 48, 3)
  assert 0 <= images.min() and images.max() <= 1
  is_clean = (look.way == 0) & (look.source == 0)
  assert 40 < is_clean.sum() < 90
  read = judge.read(images[is_clean], look.count[is_clean])
  rows, count = look.rows[is_clean], look.count[is_clean]
  is_there = np.arange(at.PEOPLE) < count[:, None]
  same = (np.asarray(read.rows) == rows)[is_there][:, : at.BACKGROUND_AT]
  assert same.mean() > 0.99
  error = np.asarray(
    judge.read(images[look.way > 0], look.count[look.way > 0]).error
  )
  assert np.median(error) > 2 * np.median(read.error)


def test_answers_of_parts_by_other_means(batch):
  """Each is found anew from the drawn attributes and the question's words."""
  look, seen = batch.look, set()
  for i, row in enumerate(batch.groups["short"]):
    count = int(look.count[i])
    rows = look.rows[i][:count]
    for kind, question, _, answer in row:
      seen.add((kind, answer))
      asked = question.split("answer: ")[1].split("?")[0]
      if kind == "people":
        assert answer == str(count)
      elif kind == "colour":
        noun = re.search(r"colour is the (\w+)", asked)[1]
        side = re.search(r"on the (left|right)", asked)
        who = words.SIDES.index(side[1]) if side else 0
        name = {"hair": 1, "shirt": 7, "background": 8}[noun]
        assert answer == at.VALUES[at.NAMES[name]][rows[who][name]]
      else:
        side = re.search(r" on the (left|right)", asked)
        said = re.sub(r" on the (left|right)|Is there | are there", "", asked)
        said = said.replace("How many people", "a person")
        ((name, value),) = words.parse(said)[0].items()
        has = rows[:, name] == value
        if side:
          has = has[[words.SIDES.index(side[1])]]
        right = (
          str(has.sum())
          if kind == "count"
          else questions.judge_questions.yes(bool(has.any()))
        )
        assert answer == right
  assert {("exists", "yes"), ("exists", "no"), ("count", "2")} <= seen
  assert {("people", "1"), ("people", "2")} <= seen


def test_an_edit_is_done_where_its_answer_is_shown_and_nothing_else_changes():
  prompt = next(
    p for p in edits.prompts("train") if p.text == "make the hair red"
  )
  edit, rng = prompt.pictures, np.random.default_rng(0)
  picture = questions.Picture(edits.answer(edit), edit.count, rng)

  def told():
    said = {}
    while len(said) < 4:
      for x in questions.about_edit(picture, edit, prompt.text, rng):
        high = (
          int(re.search(r"to (\d+) \(perf", x.question)[1]) if x.begun else 0
        )
        low = (
          int(re.search(r"from (\d+) \(not", x.question)[1]) if x.begun else 0
        )
        value = (
          (int(x.answer[:-1]) - low) / (high - low) if x.begun else x.answer
        )
        said[x.kind] = value
    return said

  right = dict(done="yes", kept="yes", following=1, keeping=1)
  assert told() == right
  picture.rows[0, at.SHIRT_AT] = (picture.rows[0, at.SHIRT_AT] + 1) % 6
  assert told() == right | dict(
    kept="no", keeping=pytest.approx(2 / 3, abs=0.1)
  )
  picture.rows = edit.before
  assert told() == right | dict(done="no", following=0)


def test_what_is_right_is_what_the_judges_of_pictures_say():
  people = words.parse(
    "a person with red hair on the left and a person smiling on the right"
  )
  rng = np.random.default_rng(0)
  for _ in range(20):
    rows = questions.made_for(people, rng)
    assert questions.errors(rows, 2, people) == 0
    assert questions.errors(rows, 1, people) == 2
    assert (
      questions.errors(*questions.changed(rows, 2, people, rng), people)
      or (rows[0, :8] == rows[1, :8]).any()
    )
    wrong = questions.altered(people, rng)
    assert wrong != people


def test_the_questions_that_ship_are_those_of_all_local_edits():
  known = question_files.read_questions("package:portrait_edit_questions")
  texts = set()
  for prompt in edits.all_prompts():
    line = edits.question(prompt)
    if line is None:
      continue
    (entry,) = line["questions"]
    (asked,) = known[prompt.text]
    assert (asked.text, dict(asked.answers)) == (
      entry["question"], entry["answers"],
    )  # fmt: skip
    texts.add(prompt.text)
  assert texts == set(known)


def test_a_question_is_answered_by_what_the_edit_asks_for():
  for prompt in edits.all_prompts()[::37]:
    line = edits.question(prompt)
    if line is None:
      continue
    place, name, value = (
      int(x) for x in prompt.pictures.instruction.split("(")[1][:-1].split(",")
    )
    row = max(place, 0)
    assert prompt.pictures.rows[row, name] == value
    assert prompt.pictures.before[row, name] != value
    ((word, worth),) = [
      x for x in line["questions"][0]["answers"].items() if x[1]
    ]
    assert worth == 1
    if name == at.BACKGROUND_AT:
      assert word == at.VALUES["background"][value]
    else:
      gone = name in (at.EYES_AT, at.BEARD_AT) and value == at.NONE
      assert word == ("no" if gone else "yes")
