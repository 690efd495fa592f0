"""Texts as bytes, and prompts in any words."""

import numpy as np
import pytest

from jaxreward.data import sources, texts
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks import free
from jaxreward.tasks.scenes import grammar


def test_texts_come_back():
  said = ["", "a red circle", "ein blaues Haus, größer", "犬" * 30]
  stored = texts.encode(said, rows=6)
  assert stored.dtype == np.uint8 and stored.shape == (6, 128)
  assert texts.decode(stored) == [*said, "", ""]


def test_a_batch_carries_its_words():
  prompts = grammar.prompts("train")[:5]
  batch = grammar.batch(prompts, 7)
  assert texts.decode(batch.text) == [*(p.text for p in prompts), "", ""]


@pytest.fixture
def own(tmp_path):
  path = tmp_path / "prompts.txt"
  lines = [f"a photo of  {n} cats in the rain" for n in range(30)]
  path.write_text("\n".join([*lines, lines[3]]))
  return str(path)


def test_prompts_in_any_words_are_split_by_their_text(own):
  found = {
    split: sources.load_prompts(own, split, free.parse) for split in SPLITS
  }
  said = [p.text for split in found.values() for p in split]
  assert len(said) == len(set(said)) == 30
  assert "a photo of 3 cats in the rain" in said
  assert all(found.values())
  assert {p.category for p in found["train"]} == {free.CATEGORY}
  assert len(sources.all_prompts(own, free.parse)) == 30
  with pytest.raises(UserError, match=r"prompts\.txt, line 1"):
    sources.load_prompts(own, "train", grammar.parse)


def test_a_batch_of_them_has_words_and_nothing_to_judge(own):
  batch = free.TASK.rows(sources.load_prompts(own, "train", free.parse))
  assert batch.tokens is None and batch.extras is None
  assert len(set(batch.ids.tolist())) == len(batch.ids)
  assert texts.decode(batch.text)[0].startswith("a photo of")
