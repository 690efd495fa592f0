"""A run goes on with the files that it began with."""

import json

import pytest
from etils import epath
from ml_collections import ConfigDict

from jaxreward import inputs
from jaxreward.errors import UserError


def config_of(folder, **more):
  return ConfigDict(
    {
      "data": {"source": str(folder / "p.txt"), "grammar": "free"},
      "rewards": {
        "mine": {"fn": f"{folder}/my.py:score", "cache": str(folder)}
      },
      "model": {"name": "scene_dit"},
      **more,
    }
  )


def test_files_are_recorded_once_and_compared(tmp_path, caplog):
  (tmp_path / "p.txt").write_text("a red circle\n")
  (tmp_path / "my.py").write_text("def score(images, prompts): ...")
  run = epath.Path(tmp_path) / "run"
  run.mkdir()
  config = config_of(tmp_path)
  inputs.check(run, config)
  kept = (run / "inputs.json").read_bytes()
  assert sorted(json.loads(kept)) == ["data.source", "rewards.mine.fn"]
  inputs.check(run, config)
  assert (run / "inputs.json").read_bytes() == kept
  (tmp_path / "my.py").write_text("def score(images, prompts): pass")
  inputs.check(run, config)  # code may be mended
  assert "my.py" in caplog.text and "has changed" in caplog.text
  (tmp_path / "p.txt").write_text("a blue circle\n")
  with pytest.raises(UserError, match=r"config\.data\.source="):
    inputs.check(run, config)
  (run / "inputs.json").unlink()
  inputs.check(run, config)


@pytest.mark.parametrize(
  "damaged", ["[1]", "{", '{"a":' * 100_000, '{"data.source": 3}', "\0"]
)
def test_a_damaged_record_is_written_anew(tmp_path, damaged):
  (tmp_path / "p.txt").write_text("a red circle\n")
  config, run = config_of(tmp_path), epath.Path(tmp_path)
  (run / "inputs.json").write_text(damaged)
  inputs.check(run, config)
  assert json.loads((run / "inputs.json").read_text()) == inputs.digests(config)


def test_a_change_at_an_end_of_a_large_file_is_seen(tmp_path):
  path = tmp_path / "w.safetensors"
  size = inputs._WHOLE + 10
  path.write_bytes(bytes(size))
  before = inputs.digest(path)
  for at in (0, size - 1):
    with path.open("r+b") as file:
      file.seek(at)
      file.write(b"\1")
    assert inputs.digest(path) != before
    before = inputs.digest(path)
