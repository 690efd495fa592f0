"""Evaluation as text and JSON."""

import errno
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.evaluation import tables

NUMBERS = {
  "strict": 0.5625,
  "n": 480,
  "interval": [0.518, 0.606],
  "kinds": {"single": {"accuracy": 0.7, "n": 80, "low": 0.6, "high": 0.8}},
  "rewards": {"detector": 0.61},
  "texture": 0.01234,
  "diversity": math.nan,
}
EVALUATION = {
  "before": {"guidance_scale=1.0": NUMBERS, "guidance_scale=2.5": {}},
  "after": {"guidance_scale=1.0": NUMBERS | {"strict": 0.81, "rewards": {}}},
  "reward_model": {"accuracy": 0.93, "low": 0.91, "high": 0.95, "n": 1000},
}


def test_json_is_strict_and_faithful():
  value = {
    "nan": math.nan,
    "list": [math.inf, 1.5, None],
    "numpy": np.float32(0.5),
    "array": np.array([[1.0, np.nan]]),
    "jax": jnp.arange(2),
    "int": np.int64(3),
    "flag": np.bool_(True),
    7: (1, "é"),
  }
  got = json.loads(
    tables.to_json(value), parse_constant=lambda text: pytest.fail(text)
  )
  assert got == {
    "nan": None,
    "list": [None, 1.5, None],
    "numpy": 0.5,
    "array": [[1.0, None]],
    "jax": [0, 1],
    "int": 3,
    "flag": True,
    "7": [1, "é"],
  }


def test_table_columns_line_up():
  lines = tables.evaluation_table(EVALUATION).splitlines()
  assert lines[0].endswith("  after, guidance 1")
  body = lines[:-1]
  ends = [len(line) for line in body]
  assert len(set(ends)) == 1
  row = next(line for line in lines if line.startswith("strict"))
  assert "0.562 [0.518, 0.606]" in row and "0.810" in row and "–" in row
  assert any(line.startswith("texture") and "0.0123" in line for line in lines)
  assert "0.930 [0.910, 0.950]" in lines[-1]


def test_a_kind_that_rests_on_one_meaning_says_so():
  kinds = {
    name: NUMBERS["kinds"]["single"] | {"clusters": count}
    for name, count in (("single", 1), ("colours", 4))
  }
  _, rows = tables.evaluation_rows({"after": {"plain": {"kinds": kinds}}})
  assert [row[0] for row in rows[:2]] == ["single (one meaning)", "colours"]


def test_table_of_little():
  assert tables.evaluation_table({}) == ""
  only = {"reward_model": {"accuracy": 0.9, "n": 5}}
  assert tables.evaluation_table(only).endswith("0.900, n 5")


@pytest.mark.parametrize(
  "value,text",
  [(None, "–"), (math.nan, "–"), (480, "480"), (0.0, "0.000"), (1e-5, "1e-05")],
)
def test_cell(value, text):
  assert tables.cell(value) == text


def test_setting_label():
  assert tables.setting_label("guidance_scale=3.0") == "guidance 3"
  assert tables.setting_label("sampler=ode") == "sampler ode"
  assert tables.setting_label("plain") == "plain"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "deep" / "evaluation.json"
  tables.write_json(path, {"a": 1})

  def full(source, target):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr("jaxreward.files.os.replace", full)
  with pytest.raises(UserError, match="No space left"):
    tables.write_json(path, {"a": 2})
  monkeypatch.undo()
  assert json.loads(path.read_text()) == {"a": 1}
  assert [p.name for p in path.parent.iterdir()] == ["evaluation.json"]
