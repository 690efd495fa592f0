"""Prompt files: what is read, how it is split, and where errors point."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreward.data import sources
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar

ALL = grammar.all_prompts()
TEXTS = [p.text for p in ALL]


def _meaning(prompt):
  return grammar.combination(prompt.items, prompt.relation)


def _write(path, lines):
  path.write_bytes("\n".join(lines).encode())
  return str(path)


def _all_splits(source, **options):
  return {
    split: sources.load_prompts(source, split, grammar.parse, **options)
    for split in SPLITS
  }


def test_text_and_jsonl_read_the_same(tmp_path):
  texts = TEXTS[::37]
  plain = _write(tmp_path / "a.txt", ["# mine", "", *texts, "  # more", ""])
  rows = [json.dumps({"prompt": t, "tag": 3, "include": [1]}) for t in texts]
  rich = _write(tmp_path / "b.jsonl", ["", *rows])
  left, right = _all_splits(plain), _all_splits(rich)
  assert left == right
  read = {p.text for prompts in left.values() for p in prompts}
  assert read == set(texts)


def test_windows_files_are_read(tmp_path):
  path = tmp_path / "a.txt"
  text = "a red circle\r\n\r\ntwo squares\r\na cross.\r\nTwo  Circles\r\n"
  path.write_bytes(b"\xef\xbb\xbf" + text.encode())
  splits = _all_splits(str(path))
  texts = {p.text for prompts in splits.values() for p in prompts}
  assert texts == {"a red circle", "two squares", "a cross", "two circles"}


def test_each_text_counts_once(tmp_path):
  path = _write(tmp_path / "a.txt", ["a circle", "A circle.", "a circle"])
  assert (
    len(
      sources.load_prompts(path, "train", grammar.parse, validation_share=0.0)
    )
    == 1
  )


@settings(max_examples=30, deadline=None)
@given(
  st.lists(st.sampled_from(TEXTS), min_size=3, max_size=60, unique=True),
  st.floats(0.01, 0.33),
)
def test_own_file_splits_by_meaning(tmp_path_factory, texts, share):
  path = _write(tmp_path_factory.mktemp("own") / "p.txt", texts)
  meanings = {_meaning(p) for p in ALL if p.text in texts}
  if len(meanings) < 3:
    return
  splits = _all_splits(path, validation_share=share)
  assert sorted(p.text for s in splits.values() for p in s) == sorted(texts)
  sides = {k: {_meaning(p) for p in v} for k, v in splits.items()}
  assert sum(len(s) for s in sides.values()) == len(meanings)
  for split, prompts in splits.items():
    assert {p.split for p in prompts} == {split}
  expected = max(1, round(share * len(meanings)))
  assert len(sides["validation"]) == len(sides["heldout"]) == expected


def test_own_splits_do_not_depend_on_the_order_of_lines(tmp_path):
  texts = TEXTS[::11]
  one = _all_splits(_write(tmp_path / "a.txt", texts))
  other = _all_splits(_write(tmp_path / "b.txt", texts[::-1]))
  for split in SPLITS:
    assert set(one[split]) == set(other[split])


def test_every_kind_gives_its_share(tmp_path):
  some = ALL[:300]
  path = _write(tmp_path / "a.txt", [p.text for p in some])
  splits = _all_splits(path, validation_share=0.2)
  for kind in range(1, 5):
    total = {_meaning(p) for p in some if p.category == kind}
    held = {_meaning(p) for p in splits["heldout"] if p.category == kind}
    assert abs(len(held) - 0.2 * len(total)) <= 1


def test_folder_with_files_of_its_own(tmp_path):
  _write(tmp_path / "train.jsonl", [json.dumps({"prompt": "a red circle"})])
  _write(tmp_path / "validation.txt", ["a square"])
  _write(tmp_path / "test.txt", ["two crosses", "a cross"])
  splits = _all_splits(str(tmp_path))
  assert [p.text for p in splits["train"]] == ["a red circle"]
  assert [p.text for p in splits["validation"]] == ["a square"]
  assert [p.text for p in splits["heldout"]] == ["two crosses", "a cross"]


def test_folder_without_validation_takes_it_from_training(tmp_path):
  held = [p.text for p in grammar.prompts("heldout")[:50]]
  train = [p.text for p in grammar.prompts("train")[:300]]
  _write(tmp_path / "train.txt", train)
  _write(tmp_path / "test.txt", held)
  splits = _all_splits(str(tmp_path))
  assert [p.text for p in splits["heldout"]] == held
  meanings = [{_meaning(p) for p in s} for s in splits.values()]
  assert not meanings[0] & meanings[1]
  share = len(meanings[1]) / (len(meanings[0]) + len(meanings[1]))
  assert share == pytest.approx(0.1, abs=0.01)


def test_one_meaning_in_two_files_is_refused(tmp_path):
  _write(tmp_path / "train.txt", ["a cross", "a circle left of a square"])
  _write(tmp_path / "test.txt", ["", "a square right of a circle"])
  with pytest.raises(UserError) as error:
    sources.load_prompts(str(tmp_path), "train", grammar.parse)
  assert "test.txt, line 2" in str(error.value)
  assert "train.txt, line 2" in str(error.value)


BAD_LINES = [
  (".txt", "a red cirle", '"cirle"', 'did you mean "circle"'),
  (".txt", "a red", '"red" is not one of', "circle"),
  (".txt", "five circles", '"five"', "vocabulary"),
  (".txt", "five of a thing that nobody could ever draw", "8", "words"),
  (".jsonl", "{nope", "is not JSON", '{"prompt":'),
  (".jsonl", '["a circle"]', "is not an object", '{"prompt":'),
  (".jsonl", "3", "is not an object", '{"prompt":'),
  (".jsonl", '{"promt": "a circle"}', 'no key "prompt"', '"promt"'),
  (".jsonl", '{"prompt": 3}', '"prompt" is 3', "not text"),
  (".jsonl", '{"prompt": null}', '"prompt" is null', "not text"),
  (".jsonl", '{"prompt": "  "}', "the prompt is empty", "line"),
  (".jsonl", '{"prompt": "a blob"}', '"blob"', "vocabulary"),
]


@settings(max_examples=40, deadline=None)
@given(
  bad=st.sampled_from(BAD_LINES),
  before=st.lists(st.sampled_from(["", "  ", "#", "good"]), max_size=12),
  after=st.lists(st.sampled_from(["", "good"]), max_size=3),
  end=st.sampled_from(["\n", "\r\n"]),
)
def test_errors_name_file_and_line(tmp_path_factory, bad, before, after, end):
  suffix, line, *wanted = bad
  good = "a red circle"
  if suffix == ".jsonl":
    good = json.dumps({"prompt": good})
    before = [b for b in before if b != "#"]
  lines = [good if b == "good" else b for b in [*before, line, *after]]
  if line not in lines:
    lines[len(before)] = line
  path = tmp_path_factory.mktemp("bad") / f"prompts{suffix}"
  path.write_bytes(end.join(lines).encode())
  with pytest.raises(UserError) as error:
    sources.load_prompts(str(path), "train", grammar.parse)
  message = str(error.value)
  assert message.startswith(f"{path}, line {len(before) + 1}: ")
  assert "\n" not in message
  for part in wanted:
    assert part in message


@given(number=st.integers(0, 20), byte=st.integers(0x80, 0xFF))
@settings(max_examples=15, deadline=None)
def test_bytes_that_are_not_utf8_are_named(tmp_path_factory, number, byte):
  path = tmp_path_factory.mktemp("bytes") / "p.txt"
  path.write_bytes(b"a circle\n" * number + b"a red " + bytes([byte]) + b"\n")
  with pytest.raises(UserError, match=f"line {number + 1}: byte 7 is not UTF"):
    sources.load_prompts(str(path), "train", grammar.parse)


@pytest.mark.parametrize(
  ("name", "content", "wanted"),
  [
    ("empty.txt", b"", "no prompt in this file"),
    ("notes.txt", b"# only\n\n# notes\n", "no prompt in this file"),
    ("empty.jsonl", b"\n\n", "no prompt in this file"),
    ("prompts.csv", b"a circle", ".txt and .jsonl"),
  ],
)
def test_unusable_files(tmp_path, name, content, wanted):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(UserError) as error:
    sources.load_prompts(str(path), "train", grammar.parse)
  assert name in str(error.value) and wanted in str(error.value)


def test_missing_sources(tmp_path):
  _write(tmp_path / "prompts.txt", ["a circle"])
  with pytest.raises(UserError, match=r'did you mean "prompts.txt"'):
    sources.load_prompts(str(tmp_path / "prompt.txt"), "train", grammar.parse)
  with pytest.raises(UserError, match=r'did you mean "scenes"'):
    sources.load_prompts(
      "scene", "train", grammar.parse, known=("scenes", "edits")
    )
  with pytest.raises(UserError, match=r"neither train\.txt nor"):
    sources.load_prompts(str(tmp_path), "train", grammar.parse)
  with pytest.raises(UserError, match="no such file"):
    sources.load_prompts(
      str(tmp_path / "no" / "where.txt"), "train", grammar.parse
    )


def test_two_files_for_one_split(tmp_path):
  _write(tmp_path / "train.txt", ["a circle"])
  _write(tmp_path / "train.jsonl", ['{"prompt": "a circle"}'])
  with pytest.raises(UserError, match="same split"):
    sources.load_prompts(str(tmp_path), "train", grammar.parse)


def test_too_few_prompts_to_hold_any_out(tmp_path):
  path = _write(tmp_path / "p.txt", ["a circle", "a square"])
  assert len(sources.load_prompts(path, "train", grammar.parse)) == 2
  with pytest.raises(UserError, match=r"2 meanings .* test\.txt"):
    sources.load_prompts(path, "heldout", grammar.parse)


def test_wrong_names_and_shares(tmp_path):
  path = _write(tmp_path / "p.txt", ["a circle"])
  with pytest.raises(UserError, match='did you mean "train"'):
    sources.load_prompts(path, "trian", grammar.parse)
  with pytest.raises(UserError, match=r"validation_share=0\.5"):
    sources.load_prompts(path, "train", grammar.parse, validation_share=0.5)
