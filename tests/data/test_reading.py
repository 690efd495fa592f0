"""Odd but sound text: every reader of lines takes it alike."""

import json
import math
import os

import pytest

from jaxreward import paths, reading
from jaxreward.data import sources, wordings
from jaxreward.errors import UserError
from jaxreward.rewards import objects, references
from jaxreward.rewards.remote import questions
from jaxreward.tasks import free
from jaxreward.tasks.scenes import grammar

EXAMPLE = '{"prompt": "a cross"}'
MARK = b"\xef\xbb\xbf"
# What Python's splitlines takes for ends of lines and a file does not.
INSIDE = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


def rows(tmp_path, data: bytes) -> list[dict]:
  (tmp_path / "a.jsonl").write_bytes(data)
  return [row for _, row in reading.rows(tmp_path / "a.jsonl", EXAMPLE)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", MARK])
def test_line_ends_and_marks(tmp_path, start, end):
  lines = [b'{"prompt": "a"}', b"", b" ", b'{"prompt": "b"}']
  found = rows(tmp_path, start + end.join(lines))
  assert [row["prompt"] for row in found] == ["a", "b"]
  places = [where for where, _ in reading.lines(tmp_path / "a.jsonl")]
  assert [where[-6:] for where in places] == ["line 1", "line 4"]


def test_files_put_together_keep_their_marks_to_themselves(tmp_path):
  one = MARK + b'{"prompt": "a"}\n'
  assert [row["prompt"] for row in rows(tmp_path, one + one)] == ["a", "a"]


@pytest.mark.parametrize("character", INSIDE)
def test_other_separators_stand_within_a_string(tmp_path, character):
  line = json.dumps({"prompt": f"a{character}b"}, ensure_ascii=character < " ")
  assert rows(tmp_path, line.encode()) == [{"prompt": f"a{character}b"}]


def test_both_halves_are_a_character(tmp_path):
  assert rows(tmp_path, b'{"prompt": "\\ud83d\\ude00"}')[0]["prompt"] == "😀"


def test_every_reader_takes_a_separator_in_a_prompt(tmp_path):
  prompt = "a dog\u2028on a mat"
  row = {
    "prompt": prompt, "image": "a.png", "questions": ["a dog?"],
    "include": [{"class": "dog", "count": 1}],
  }  # fmt: skip
  path = tmp_path / references.FILE
  path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
  assert list(references.rows(str(tmp_path))) == [prompt]
  assert list(objects.facts_of_file(str(path))) == [prompt]
  words = " ".join(prompt.split())
  assert list(questions.read_questions(str(path))) == [words]
  assert [p.text for p in sources.all_prompts(str(path), free.parse)] == [words]


def test_a_prompt_may_begin_with_a_hash_in_json_alone(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"prompt": "#1 of all dogs"}')
  (tmp_path / "a.txt").write_text("#1 of all dogs\na cat")
  read = lambda name: sources.all_prompts(str(tmp_path / name), free.parse)
  assert [p.text for p in read("a.jsonl")] == ["#1 of all dogs"]
  assert [p.text for p in read("a.txt")] == ["a cat"]


def test_comments_and_odd_characters_are_told_once(tmp_path, caplog):
  caplog.set_level("INFO", "absl")
  path = tmp_path / "a.txt"
  path.write_text("# a\n# b\na cat\x07\na d\ufffdg\n", encoding="utf-8")
  for _ in range(2):
    sources.all_prompts(str(path), free.parse)
  said = [record.getMessage() for record in caplog.records]
  assert sum("2 lines that begin with #" in line for line in said) == 1
  assert sum("'\\x07' in" in line and line[0] == "2" for line in said) == 1


def test_records_of_other_libraries_may_hold_what_json_does_not(tmp_path):
  path = tmp_path / "config.json"
  path.write_bytes(MARK + b'{"a": [0.0, Infinity], "b": 1, "b": 2}')
  assert reading.record(path, foreign=True)["b"] == 2
  with pytest.raises(UserError, match="no number of JSON"):
    reading.record(path)


SAME = (
  "A red  circle.", " a red circle ", "a\u00a0red circle", "a red cir\u00adcle",
  "A RED CIRCLE . ",
)  # fmt: skip


@pytest.mark.parametrize("text", SAME)
def test_wordings_that_find_one_entry(text):
  entries = wordings.ByPrompt({"a red circle": 1, "a blue circle": 2}, "f")
  assert entries.get(text, 0) == 1
  turned = wordings.ByPrompt({text: 1}, "f")
  assert turned.get("a red circle", 0) == 1


def test_accents_find_each_other_and_the_own_words_come_first():
  entries = wordings.ByPrompt({"un caf\u00e9": 1, "Un Caf\u00e9": 2}, "f")
  assert entries.get("un cafe\u0301", 0) == 0  # either could be meant
  assert entries.get("Un Caf\u00e9", 0) == 2
  alone = wordings.ByPrompt({"un caf\u00e9": 1}, "f")
  assert alone.get("un cafe\u0301", 0) == 1
  assert alone.get("un cafe", 0) == 0


def test_a_prompt_without_an_entry_is_told_with_the_nearest(caplog):
  entries = wordings.ByPrompt({"a red circle": 1}, "facts=f")
  for text in ("a red circus", "a red circus", *"abcdefg", ""):
    assert entries.get(text, 0) == 0
  said = [record.getMessage() for record in caplog.records]
  assert said[0] == (
    'facts=f: no entry for the prompt "a red circus"'
    ' (did you mean "a red circle"?)'
  )
  assert len(said) == wordings.NAMED + 1
  with pytest.raises(UserError, match="nor for any other"):
    entries.require_some(["a red circus"])
  entries.require_some(["a red circus", "A red circle"])


@pytest.mark.parametrize("text", ["é", "犬", "👍🏽", "a\u200bb", "-", "#"])
def test_what_can_be_seen_is_a_prompt(text):
  assert wordings.check_prompt(text, "f") == text


def test_home_folders(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "p.txt").write_text("a cross")
  assert paths.expand("~/p.txt") == str(tmp_path / "p.txt")
  assert [p.text for p in sources.all_prompts("~/p.txt", grammar.parse)] == [
    "a cross"
  ]
  assert sources.all_prompts(
    f"{tmp_path}/p.txt/", grammar.parse
  )  # as a shell completes it
  assert paths.expand("gs://a/~b") == "gs://a/~b"
  assert paths.within("d", "~/1.png", "f") == str(tmp_path / "1.png")
  assert paths.within("d", "1.png", "f") == os.path.join("d", "1.png")


def test_a_name_that_begins_with_a_tilde(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "~p.txt").write_text("a cross")
  assert sources.all_prompts("~p.txt", grammar.parse) == sources.all_prompts(
    "./~p.txt", grammar.parse
  )


@pytest.mark.parametrize(
  "name", ["a[1]", "*", "a?", "a b", "50%", "a#b", "ü", "{a}", "a\nb", "a\\b"]
)
def test_prompts_and_entries_in_folders_of_any_name(tmp_path, name):
  folder = tmp_path / name
  folder.mkdir()
  row = {"prompt": "a cross", "questions": ["a cross?"]}
  (folder / "train.jsonl").write_text(json.dumps(row))
  assert [p.text for p in sources.all_prompts(str(folder), grammar.parse)] == [
    "a cross"
  ]
  assert list(questions.read_questions(str(folder))) == ["a cross"]


@pytest.mark.parametrize(
  ("value", "number"), [(1, 1.0), ("0.5", 0.5), (-2.5, -2.5)]
)
def test_numbers_come_as_numbers_or_text(value, number):
  assert reading.number(value) == number


@pytest.mark.parametrize("value", [True, None, "much", [1], 10**400, "nan"])
def test_what_is_no_number_is_nan(value):
  assert math.isnan(reading.number(value))
