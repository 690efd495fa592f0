"""Files of prompts, pairs, facts, references, questions and templates.

The same faults in every reader of JSON lines, and what each has of its own.
"""

import gzip
import io
import json
import os
import zipfile

from jaxreward import reading
from tests.bad_inputs.table import Row

PROMPTS = "sample_scenes.py"
PAIRS = "train_reward_scenes.py"
SCORES = "evaluate_scenes.py:smoke"
JUDGE = {"rewards.x.url": "http://localhost:1/v1", "rewards.x.model": "m"}
RECORD = {"prompt": "a cross"}


def _reader(name, spec, file, field, row, **given):
  return name, dict(spec=spec, file=file, field=field, row=row, given=given)


# Of each reader: config, its file, the field that names it, a sound line.
READERS = dict(
  [
    _reader("prompts", PROMPTS, "p.jsonl", "data.source", RECORD),
    _reader(
      "pairs", PAIRS, "p.jsonl", "train_reward.source",
      RECORD | {"image_a": "1.png", "image_b": "2.png", "label": "a"},
    ),
    _reader(
      "facts", SCORES, "f.jsonl", "rewards.x.facts",
      RECORD | {"include": [{"class": "cross", "count": 1}]},
      **{"rewards.x.fn": "objects", "rewards.x.weights": "x"},
    ),
    _reader(
      "references", SCORES, "r/references.jsonl", "rewards.x.references",
      RECORD | {"image": "a.png"}, **{"rewards.x.fn": "psnr"},
    ),
    _reader(
      "questions", SCORES, "q.jsonl", "rewards.x.questions",
      RECORD | {"questions": ["Is there a cross?"]},
      **{"rewards.x.fn": "judge_checklist"}, **JUDGE,
    ),
  ]
)  # fmt: skip


def _zipped(text: str) -> bytes:
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    archive.writestr("a.jsonl", text)
  return out.getvalue()


def _with(row: dict, **changes) -> str:
  return json.dumps(row | changes, ensure_ascii=False)


def _end(row: dict, more: str) -> str:
  return json.dumps(row)[:-1] + more + "}"


def _third(row: dict, text: str) -> str:
  """A sound line, a blank one, and a third."""
  return f"{json.dumps(row)}\n\n{text}\n"


# fault -> (content of a row, words of the line)
FAULTS = {
  "UTF-16": (
    lambda r: b"\xff\xfe" + json.dumps(r).encode("utf-16-le"),
    ("is UTF-16; save it as UTF-8",),
  ),
  "UTF-16, big end first": (
    lambda r: b"\xfe\xff" + json.dumps(r).encode("utf-16-be"),
    ("is UTF-16; save it as UTF-8",),
  ),
  "UTF-32": (
    lambda r: b"\xff\xfe\0\0" + json.dumps(r).encode("utf-32-le"),
    ("is UTF-32; save it as UTF-8",),
  ),
  "UTF-32, big end first": (
    lambda r: b"\0\0\xfe\xff" + json.dumps(r).encode("utf-32-be"),
    ("is UTF-32; save it as UTF-8",),
  ),
  "UTF-16 without a mark": (
    lambda r: json.dumps(r).encode("utf-16-le"),
    ("line 1: byte 2 is NUL", "save the file as UTF-8"),
  ),
  "Latin-1": (
    lambda r: _third(r, _with({"prompt": "caf\xe9"})).encode("latin-1"),
    ("line 3: byte 16 is not UTF-8",),
  ),
  "surrogates as bytes": (
    lambda r: _third(r, "@").encode().replace(b"@", b"\xed\xa0\x80"),
    ("line 3: byte 1 is not UTF-8",),
  ),
  "gzip": (
    lambda r: gzip.compress(json.dumps(r).encode()),
    ("compressed by gzip; unpack it",),
  ),
  "zip": (lambda r: _zipped(json.dumps(r)), ("is a zip archive",)),
  "parquet": (lambda r: b"PAR1\x15\x04\0\0PAR1", ("is a parquet table",)),
  "NUL in a string": (
    lambda r: _third(r, json.dumps(r | {"prompt": "a\0b"})),
    ("line 3", "holds NUL"),
  ),
  "half a character": (
    lambda r: _third(r, json.dumps(r | {"prompt": "a \ud83d cross"})),
    ("line 3", "\\ud83d", "half a character"),
  ),
  "half a character in a key": (
    lambda r: _third(r, _end(r, ', "\\udc00": 1')),
    ("line 3", "half a character"),
  ),
  "depth": (
    lambda r: _third(r, '{"prompt": ' + "[" * 100_000),
    ("line 3", "nested too deeply"),
  ),
  "infinity by overflow": (
    lambda r: _third(r, _end(r, ', "x": 1e999')),
    ("line 3", "1e999 is too large"),
  ),
  "5000 digits": (
    lambda r: _third(r, _end(r, f', "x": {"9" * 5000}')),
    ("line 3", "is too large"),
  ),
  "NaN": (
    lambda r: _third(r, _end(r, ', "x": NaN')),
    ("line 3", "NaN is no number of JSON"),
  ),
  "Infinity": (
    lambda r: _third(r, _end(r, ', "x": [-Infinity]')),
    ("line 3", "-Infinity is no number of JSON"),
  ),
  "a key twice": (
    lambda r: _third(r, _end(r, ', "prompt": "a circle"')),
    ("line 3", '"prompt" appears twice'),
  ),
  "a comma too many": (
    lambda r: _third(r, _end(r, ",")),
    ("line 3", "is not JSON", "a line reads like"),
  ),
  "a bare word": (lambda r: _third(r, "a cross"), ("line 3", "is not JSON")),
  "a comment": (
    lambda r: _third(r, "# mine"),
    ("line 3: `# mine` is not JSON",),
  ),
  "a list": (lambda r: _third(r, "[1, 2]"), ("line 3", "is not an object")),
  "an array": (
    lambda r: json.dumps([r, r]),
    ("is one JSON array", "jq -c '.[]'"),
  ),
  "an array over lines": (
    lambda r: json.dumps([r, r], indent=1),
    ("is one JSON array", "jq -c '.[]'"),
  ),
  "an object over lines": (
    lambda r: json.dumps(r, indent=1),
    ("one JSON object over several lines", "jq -c"),
  ),
  "an empty file": (lambda r: b"", ()),
  "blank lines": (lambda r: " \n\r\n\t\n", ()),
  "a long prompt": (
    lambda r: _with(r, prompt="a cross " * 400_000),
    ("line 1", "3,200,000 characters; at most 50,000"),
  ),
  "one line of millions": (
    lambda r: _end(r, f', "x": "{"x" * 5_000_000}"'),
    ("line 1 has 5,0", "at most 4,194,304"),
  ),
  "an invisible prompt": (
    lambda r: _third(r, _with(r, prompt="\u200b\u00ad\ufeff")),
    ("line 3", "looks empty", "U+200B"),
  ),
  "an empty prompt": (
    lambda r: _third(r, _with(r, prompt=" \u00a0 ")),
    ("line 3", "prompt", "is empty"),
  ),
  "another key": (
    lambda r: _third(r, json.dumps({"promt": "a cross"})),
    ("line 3", "prompt"),
  ),
  "a number for a prompt": (
    lambda r: _third(r, _with(r, prompt=3)),
    ("line 3", "is 3, which is not text"),
  ),
}
EMPTY = {
  "prompts": "there is no prompt",
  "pairs": "none of its rows",
  "facts": "it holds no record",
  "references": "it holds no line",
  "questions": 'no line has "questions"',
}


def _row(reader: str, fault: str) -> Row:
  of, (content, says) = READERS[reader], FAULTS[fault]
  named = of["file"].removesuffix("references.jsonl").rstrip("/")
  return Row(
    f"{reader}: {fault}",
    says or (EMPTY[reader],),
    {of["file"]: content(of["row"])},
    of["spec"],
    {of["field"]: f"{{here}}/{named}"} | of["given"],
  )


# How a path can be wrong, the same for all that name one.
PLACES = {
  "no file": ("{here}/no.jsonl", ("no such file or folder",)),
  "a home of nobody": ("~nobody-at-all/p.jsonl", ("home folder",)),
  "file://": ("file:///p.jsonl", ("without file://",)),
  "a path of Windows": ("C:\\data\\p.jsonl", ("backslash",)),
  "a variable": ("$HOME/p.jsonl", ("environment variables are not expanded",)),
  "NUL in a path": ("a\0b.jsonl", ("no NUL",)),
  "a long name": ("x" * 300, ("too long",)),
}


def _place(reader: str, fault: str) -> Row:
  of, (path, says) = READERS[reader], PLACES[fault]
  return Row(
    f"{reader}: {fault}", says, {}, of["spec"],
    {of["field"]: path} | of["given"],
  )  # fmt: skip


def _text(name: str, content, *says: str, file: str = "p.txt") -> Row:
  """A file of prompts in plain lines."""
  return Row(
    f"{file}: {name}", says, {file: content}, PROMPTS,
    {"data.source": f"{{here}}/{file}"},
  )  # fmt: skip


def _own(reader: str, name: str, row: str, *says: str) -> Row:
  """What one reader alone asks of a line."""
  of = READERS[reader]
  named = of["file"].removesuffix("references.jsonl").rstrip("/")
  return Row(
    f"{reader}: {name}", says, {of["file"]: row}, of["spec"],
    {of["field"]: f"{{here}}/{named}"} | of["given"],
  )  # fmt: skip


def _template(name: str, content, *says: str) -> Row:
  return Row(
    f"template: {name}", says, {"t.txt": content}, SCORES,
    {"rewards.x.fn": "judge_pointwise", "rewards.x.templates": "('{here}/t.txt',)"}
    | JUDGE,
  )  # fmt: skip


def _folder(path):
  path.mkdir()


def _refuse(here, monkeypatch):
  """The administrator may read everything, so the refusal is made up."""

  def refused(path):
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(reading, "_require_file", refused)


ROWS = [
  *(_row(reader, fault) for reader in READERS for fault in FAULTS),
  *(_place(reader, fault) for reader in READERS for fault in PLACES),
  _text("Latin-1", b"a cross\na caf\xe9\n", "line 2: byte 6 is not UTF-8"),
  _text("UTF-16", "a cross\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
  _text("NUL", b"a cross\na\0b\n", "line 2: byte 2 is NUL"),
  _text("gzip", gzip.compress(b"a cross\n"), "compressed by gzip"),
  _text("a picture", b"\x89PNG\r\n\x1a\n\0", "is a picture, not text"),
  _text("a PDF", b"%PDF-1.7\n", "is a PDF"),
  _text("comments alone", "# a\n#b\n", "no prompt in this file"),
  _text("nothing", "", "no prompt in this file"),
  _text("white space alone", "\ufeff \r\r\n\t\n", "no prompt in this file"),
  _text("an invisible prompt", "a cross\n\u200b\u2060\n", "line 2", "U+200B"),
  _text("a filler", "a cross\n\u3164\n", "line 2", "looks empty"),
  _text("a soft hyphen", "a cross\n\xad\n", "line 2", "U+00AD"),
  _text("old line ends", b"a cross\ra square\ra blob\r", 'line 3: prompt "a blob'),
  _text("mixed line ends", b"a cross\r\na square\n\ra blob", "line 4"),
  _text("a long prompt", "a " * 60_000, "line 1", "at most 50,000"),
  _text("a long wrong prompt", "a " * 20_000 + "blob", "has 20001 words"),
  _text("a word of a thousand", "x" * 1000, "is not in the vocabulary"),
  _text("a separator in a word", "a cr\u2028oss", 'the word "cr"'),
  _text("a folder", _folder, "neither train.txt nor train.jsonl"),
  _text("a table", "prompt\na cross\n", ".txt and .jsonl", file="p.csv"),
  Row(
    "p.txt: a folder for a file", ("train.txt: it is a folder",),
    {"d/train.txt": _folder}, PROMPTS, {"data.source": "{here}/d"},
  ),
  _text("a device", lambda path: path.symlink_to("/dev/zero"), "a device or"),
  _text("a pipe", lambda path: os.mkfifo(path), "a pipe, not a file"),
  Row(
    "p.txt: may not be read", ("Permission denied",), {"p.txt": "a cross"},
    PROMPTS, {"data.source": "{here}/p.txt"}, prepare=_refuse,
  ),
  _own("pairs", "no label", '{"prompt": "a cross", "image_a": "1", "image_b": "2"}', '"label" is missing'),
  _own("pairs", "a label of its own", _with(READERS["pairs"]["row"], label="left"), '"label" is "left"'),
  _own("pairs", "a long label", _with(READERS["pairs"]["row"], label="l" * 9999), '"label" is "lll'),
  _own("pairs", "a list of pictures", _with(READERS["pairs"]["row"], image_a=["1.png"]), '"image_a" must be text'),
  _own("pairs", "one side alone", json.dumps(READERS["pairs"]["row"]), "side"),
  _own("facts", "no include", '{"prompt": "a cross"}', "GenEval's record"),
  _own("facts", "a huge count", _with(READERS["facts"]["row"], include=[{"class": "x", "count": 10**20}]), "GenEval's record"),
  _own("facts", "a class that is no word", _with(READERS["facts"]["row"], include=[{"class": 3, "count": 1}]), "GenEval's record"),
  _own("facts", "two of one prompt", "\n".join(_with(READERS["facts"]["row"], include=[{"class": "x", "count": n}]) for n in (1, 2)), "line 2", "appears twice"),
  _own("facts", "other prompts alone", _with(READERS["facts"]["row"], prompt="a crosss"), 'no entry for the prompt "a', "nor for any other"),
  _own("references", "other prompts alone", _with(READERS["references"]["row"], prompt="a dog"), "no entry for the prompt"),
  _own("questions", "other prompts alone", _with(READERS["questions"]["row"], prompt="dogs"), "no entry for the prompt"),
  _own("questions", "no list", _with(READERS["questions"]["row"], questions="Is it?"), "a line reads like"),
  _own("questions", "a number", _with(READERS["questions"]["row"], questions=[3]), "a line reads like"),
  _own("questions", "an empty question", _with(READERS["questions"]["row"], questions=["\u200b"]), "a question looks empty"),
  _own("questions", "a weight that is no number", _with(READERS["questions"]["row"], questions=[{"question": "a?", "weight": "much"}]), "the weight 'much'"),
  _own("questions", "a weight of 0", _with(READERS["questions"]["row"], questions=[{"question": "a?", "weight": 0}]), "greater than 0"),
  _template("Latin-1", "{image} caf\xe9 {prompt}".encode("latin-1"), "byte 12 is not UTF-8"),
  _template("UTF-16", "{image}{prompt}".encode("utf-16"), "is UTF-16"),
  _template("nothing", "\n", "the text is empty"),
  _template("invisible", "\u200b", "looks empty"),
  _template("a folder", _folder, "it is a folder"),
]  # fmt: skip
