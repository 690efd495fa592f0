"""The grammar: what it can say, that it reads what it says, and its splits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar

ALL = grammar.all_prompts()
SPLITS = {split: grammar.prompts(split) for split in SPLITS}


def _picture(prompt):
  """What the picture must show, however it is worded; not by `combination`."""
  things = [f"{n}/{c}/{s}" for n, c, s in prompt.items]
  name = grammar.RELATIONS[prompt.relation]
  if name == "none":
    return frozenset(things)
  if name in ("right of", "below"):
    things = things[::-1]
    name = {"right of": "left of", "below": "above"}[name]
  return (things[0], name, things[1])


def test_number_of_prompts():
  pairs = 4 * 3
  coloured = pairs * 5 * 4
  expected = [4, pairs, 3 * 4 * 6, 20, 4 * (pairs + coloured), coloured]
  assert [sum(p.category == k for p in ALL) for k in range(6)] == expected


def test_texts_and_tokens_are_unique():
  assert len({p.text for p in ALL}) == len(ALL)
  assert len({p.prompt_id for p in ALL}) == len(ALL)
  tokens = np.stack([grammar.tokenize(p.text) for p in ALL])
  assert len(np.unique(tokens, axis=0)) == len(ALL)
  assert tokens.min() == 0 and tokens.max() == len(grammar.VOCAB) - 1
  assert tokens.shape[1] == grammar.MAX_WORDS and tokens.dtype == np.int32


def test_tokens_spell_the_text():
  for prompt in ALL:
    words = [grammar.VOCAB[i] for i in grammar.tokenize(prompt.text) if i]
    assert " ".join(words) == prompt.text


def test_vocabulary_has_no_repeats():
  assert len(set(grammar.VOCAB)) == len(grammar.VOCAB)


def test_parse_reads_what_the_grammar_says():
  for prompt in ALL[::3]:
    assert grammar.parse(prompt.text) == prompt


def test_parse_forgives_case_spaces_and_a_full_stop():
  for text in ("A Red  circle.", " a red circle", "a red circle"):
    assert grammar.parse(text) == grammar.parse("a red circle")


def test_prompts_mean_what_they_say():
  prompt = grammar.parse("a red circle left of a blue cross")
  assert prompt.category == grammar.KINDS.index("position")
  assert prompt.items == ((1, 0, 0), (1, 2, 3))
  assert grammar.RELATIONS[prompt.relation] == "left of"
  assert grammar.parse("three yellow squares").items == ((3, 3, 1),)


def test_splits_cover_everything_once():
  joined = [p.text for split in SPLITS.values() for p in split]
  assert sorted(joined) == sorted(p.text for p in ALL)
  assert all(p.split == split for split, ps in SPLITS.items() for p in ps)


def test_no_meaning_is_in_two_splits_in_any_wording():
  pictures = {s: {_picture(p) for p in ps} for s, ps in SPLITS.items()}
  for a, b in itertools.combinations(pictures, 2):
    assert not pictures[a] & pictures[b]


def test_every_kind_is_in_every_split_in_its_share():
  for kind in range(6):
    total = {_picture(p) for p in ALL if p.category == kind}
    for split, share in (("heldout", 0.2), ("validation", 0.1)):
      part = {_picture(p) for p in SPLITS[split] if p.category == kind}
      assert part
      assert abs(len(part) - share * len(total)) <= 1


def test_kinds_can_be_chosen():
  some = grammar.prompts("train", ("two", "counting"))
  assert {p.category for p in some} == {1, 2}
  assert set(some) <= set(SPLITS["train"])
  with pytest.raises(UserError, match='did you mean "counting"'):
    grammar.prompts("train", ("counting2",))
  with pytest.raises(UserError, match='did you mean "heldout"'):
    grammar.prompts("held_out")


def test_batch_is_padded_and_masked():
  chosen = [grammar.parse("two circles"), grammar.parse("a cross and a circle")]
  batch = grammar.batch(chosen, 4)
  assert batch.mask.tolist() == [True, True, False, False]
  assert batch.extras.items[:2].tolist() == [
    [[2, -1, 0], [0, 0, 0]],
    [[1, -1, 3], [1, -1, 0]],
  ]
  assert not batch.tokens[2:].any() and not batch.ids[2:].any()
  assert batch.ids[:2].tolist() == [p.prompt_id for p in chosen]
  with pytest.raises(UserError):
    grammar.batch(chosen, 1)
  with pytest.raises(UserError):
    grammar.batch([])


@pytest.mark.job
@pytest.mark.turns(3)
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(grammar.VOCAB[1:]), max_size=10))
def test_any_words_are_a_prompt_or_a_clear_error(words):
  text = " ".join(words)
  try:
    prompt = grammar.parse(text)
  except UserError as error:
    assert "\n" not in str(error) and f'"{text[:50]}' in str(error)
  else:
    assert prompt.text == text
    assert sum(item[0] for item in prompt.items) <= grammar.MAX_OBJECTS


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_prompt_or_a_clear_error(text):
  try:
    grammar.parse(text)
  except UserError:
    pass


@pytest.mark.parametrize(
  ("text", "wanted"),
  [
    ("a red cirkle", 'did you mean "circle"'),
    ("a red circles", '"circles" is not one of circle'),
    ("two circle", '"circle" is not one of circles'),
    ("red circle", "does not begin with"),
    ("", "does not begin with"),
    ("a red blue circle", "4 words"),
    ("a circle and a square and a cross", "more than two items"),
    ("three circles and two squares", "more than 4 objects"),
    ("a circle and a circle", "two different colours"),
    ("a red circle and a circle", "two different colours"),
    ("a red circle and a red circle", "two different colours"),
  ],
)
def test_wrong_prompts(text, wanted):
  with pytest.raises(UserError, match=wanted):
    grammar.parse(text)


def test_two_of_one_shape_in_two_colours():
  prompt = grammar.parse("a red circle and a blue circle")
  assert prompt.category == grammar.KINDS.index("attribution")
  assert prompt.split == "heldout"  # not of the grammar, so never trained on
