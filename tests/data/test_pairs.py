"""A user's file of pairs: what is read, and what is said about mistakes."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxreward.data import pairs, rows
from jaxreward.errors import UserError
from jaxreward.tasks import free
from jaxreward.tasks.scenes import grammar

TRAIN = grammar.prompts("train")[0].text
HELDOUT = grammar.prompts("heldout")[0].text


@pytest.fixture
def folder(tmp_path):
  for i in range(4):
    colour = np.full((36, 36, 3), 60 * i, np.uint8)
    Image.fromarray(colour).save(tmp_path / f"{i}.png")
  return tmp_path


def load(path):
  return pairs.load_pairs(
    path, 36, tokenize=grammar.tokenize, split_of=grammar.split_of
  )


def pair(prompt=TRAIN, a="0.png", b="1.png", label="a", **more):
  return dict(prompt=prompt, image_a=a, image_b=b, label=label) | more


def write(folder, *rows):
  path = folder / "pairs.jsonl"
  text = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text("\n".join(text) + "\n")
  return path


HELD = pair(HELDOUT, "2.png", "3.png", "b")


def test_pairs_are_read_and_split_by_prompt(folder):
  path = write(folder, pair(), "", pair(b="0.png", a="1.png", label=0.25), HELD)
  train, heldout = load(path)
  np.testing.assert_array_equal(train.members, [[0, 1], [1, 0]])
  assert train.images.dtype == np.uint8
  np.testing.assert_array_equal(train.images[:, 0, 0, 0], [0, 60])
  np.testing.assert_array_equal(train.prob[:, 0, 1], [1.0, 0.25])
  np.testing.assert_array_equal(train.prob[:, 1, 0], [0.0, 0.75])
  np.testing.assert_array_equal(heldout.prob[:, 0, 1], [0.0])
  np.testing.assert_array_equal(heldout.tokens[0], grammar.tokenize(HELDOUT))
  assert heldout.images.shape == (2, 36, 36, 3)


def test_every_wording_of_a_prompt_is_on_one_side():
  for prompt in grammar.all_prompts()[::97]:
    assert pairs.is_heldout(prompt.text, grammar.split_of) == (
      prompt.split != "train"
    )
  free = "red red red"  # words of the vocabulary that are no sentence
  assert pairs.is_heldout(free) == pairs.is_heldout(" Red red  red. ")


@pytest.mark.parametrize(
  ("row", "words"),
  [
    ("{", "is not JSON"),
    ("[1]", "is not an object"),
    ({k: v for k, v in pair().items() if k != "label"}, '"label" is missing'),
    (pair(label="c"), '"label" is "c"; it must be'),
    (pair(label=2), "from 0 to 1"),
    (pair(label=True), '"label" is true'),
    (pair(prompt=3), '"prompt" is 3, which is not text'),
    (pair(prompt="a red sircle"), 'did you mean "circle"'),
    (pair(a="9.png"), "9.png"),
    (pair(a=""), '"image_a" must be text'),
  ],
)
def test_a_mistake_is_named_by_file_and_line(folder, row, words):
  path = write(folder, pair(), row, HELD)
  with pytest.raises(UserError, match=words) as error:
    load(path)
  assert str(error.value).startswith(f"{path}, line 2: ")
  assert "\n" not in str(error.value)


def test_a_file_that_is_not_a_picture(folder):
  (folder / "bad.png").write_text("no picture")
  with pytest.raises(UserError, match=r", line 1: .*bad\.png"):
    load(write(folder, pair(a="bad.png"), HELD))


def test_a_missing_file_and_an_empty_side(folder):
  with pytest.raises(UserError, match=r"none\.jsonl: there is no such file"):
    load(folder / "none.jsonl")
  with pytest.raises(UserError, match="held-out side"):
    load(write(folder, pair()))
  with pytest.raises(UserError, match="training side"):
    load(write(folder, HELD))


def test_a_picture_on_both_sides_is_refused(folder):
  path = write(folder, pair(), pair(HELDOUT, "1.png", "2.png"))
  with pytest.raises(UserError, match=r"1\.png belongs to training and"):
    load(path)


def test_a_table_of_pairs(folder):
  path = folder / "pairs.csv"
  path.write_text(
    'prompt,image_a,image_b,label\n"a cat, a dog",0.png,1.png,b\n'
    "a cow,2.png,3.png,0.75\n"
  )
  found = rows.read_preferences(str(path), free.TASK.parse)
  assert [(r.prompt.text, r.scores) for r in found] == [
    ("a cat, a dog", (0.0, 1.0)), ("a cow", (0.75, 0.25))
  ]  # fmt: skip
  names = [str(p).rpartition("/")[2] for p in found[1].files.values()]
  assert names == ["2.png", "3.png"]


def test_preferences_without_an_answer(folder):
  path = str(write(folder, pair(label="tie")))
  with pytest.raises(
    UserError, match='no pair has an answer, all 1 are a "tie"'
  ):
    rows.read_preferences(path, free.TASK.parse)
