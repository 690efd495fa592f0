"""Tokenizers of whole words, beside the library `tokenizers`."""

import pytest

from jaxreward.models.vlm import prompts, words

tokenizers = pytest.importorskip("tokenizers")
TOKENS = words.make(
  ("Answer with one word: yes or no.", "Answer with"), ("a", "Red", "?", "1")
)
TEXTS = (
  prompts.chat("Answer with one word: yes or no.\na RED circle?", 2, system=""),
  "Answer with 1, or a red1 <think>a</think>", "answer with", "",
)  # fmt: skip


def test_the_file_says_what_the_tokenizer_does(tmp_path):
  TOKENS.save(tmp_path)
  peer = tokenizers.Tokenizer.from_file(str(tmp_path / words.FILE))
  for text in TEXTS:
    ids = TOKENS(text)["input_ids"]
    assert ids == peer.encode(text, add_special_tokens=False).ids, text
  assert words.read(tmp_path) == TOKENS
  assert peer.token_to_id("<unk>") == TOKENS.unk_token_id


def test_a_phrase_is_one_token_and_the_longest_is_taken():
  ids = TOKENS("Answer with one word: yes or no. a")["input_ids"]
  phrase = TOKENS.ids["Answer with one word: yes or no."]
  assert ids == [phrase, TOKENS.ids["a"]]
  assert TOKENS("other")["input_ids"] == [TOKENS.unk_token_id]


def test_other_tokenizers_are_left_to_transformers(tmp_path):
  assert words.read(tmp_path) is None
  (tmp_path / words.FILE).write_text('{"model": {"type": "BPE"}}')
  assert words.read(tmp_path) is None
