"""A run goes on with the files that it began with."""

import json

import pytest
from etils import epath
from ml_collections import ConfigDict

from jaxreward import inputs, workdirs
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


def go_on(run, config, **more):
  inputs.check(run, config, workdirs.read_record(run / inputs.FILE), **more)


def test_files_are_recorded_once_and_compared(tmp_path, caplog):
  (tmp_path / "p.txt").write_text("a red circle\n")
  (tmp_path / "my.py").write_text("def score(images, prompts): ...")
  run = epath.Path(tmp_path) / "run"
  run.mkdir()
  config = config_of(tmp_path)
  go_on(run, config)
  kept = (run / "inputs.json").read_bytes()
  assert sorted(json.loads(kept)) == ["data.source", "rewards.mine.fn"]
  go_on(run, config)
  assert (run / "inputs.json").read_bytes() == kept
  (tmp_path / "my.py").write_text("def score(images, prompts): pass")
  go_on(run, config)  # code may be mended
  assert "my.py" in caplog.text and "has changed" in caplog.text
  (tmp_path / "p.txt").write_text("a blue circle\n")
  with pytest.raises(UserError, match=r"config\.data\.source="):
    go_on(run, config)
  (run / "inputs.json").unlink()
  go_on(run, config)


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


def test_what_runs_write_below_a_folder_is_no_change(tmp_path):
  """A folder of data may hold the working directory, and those of others."""
  (tmp_path / "train.txt").write_text("a red circle\n")
  config = ConfigDict({"data": {"source": str(tmp_path)}})
  run, other = epath.Path(tmp_path) / "runs/a", tmp_path / "runs/b"
  run.mkdir(parents=True)
  go_on(run, config)
  other.mkdir()
  for name in ("config.json", ".lock", "metrics.jsonl"):
    (run / name).write_text("{}")
    (other / name).write_text("{}")
  go_on(run, config)
  (tmp_path / "train.txt").write_text("a tan circle\n")
  with pytest.raises(UserError, match="has changed"):
    go_on(run, config)


def test_words_are_no_files(tmp_path, monkeypatch):
  """Only fields of files, paths, and names with a suffix name one."""
  monkeypatch.chdir(tmp_path)
  for name in ("align", "my.py", "weights"):
    (tmp_path / name).write_text("x")
  (tmp_path / "scenes").mkdir()
  (tmp_path / "refs").mkdir()
  config = ConfigDict(
    {
      "job": "align", "jobs": ("align",), "data": {"source": "scenes"},
      "rewards": {"a": {"fn": "my.py:f", "references": "refs"}},
      "init": {"checkpoint": "weights"},
    }
  )  # fmt: skip
  assert sorted(inputs.digests(config)) == [
    "init.checkpoint", "rewards.a.fn", "rewards.a.references"
  ]  # fmt: skip


def test_a_job_that_reads_weights_alone_asks_for_no_data(tmp_path):
  (tmp_path / "p.txt").write_text("a red circle\n")
  (tmp_path / "w.safetensors").write_text("1")
  init = {"checkpoint": str(tmp_path / "w.safetensors")}
  config = config_of(tmp_path, init=init)
  run = epath.Path(tmp_path) / "run"
  run.mkdir()
  go_on(run, config)
  (tmp_path / "p.txt").write_text("a blue circle\n")
  go_on(run, config, with_data=False)
  (tmp_path / "w.safetensors").write_text("2")
  with pytest.raises(UserError, match=r"config\.init\.checkpoint="):
    go_on(run, config, with_data=False)


def test_folders_of_any_names_and_sizes(tmp_path, monkeypatch):
  """Names that are not UTF-8; many files; more bytes than are read whole."""
  monkeypatch.setattr(inputs, "_IN_ALL", 100)
  monkeypatch.setattr(inputs, "_MOST", 3)
  names = ("a\udce9", "b.png", "c.png", "d.png", "e.png")
  for name in names:
    (tmp_path / name).write_bytes(bytes(4 * inputs._ENDS))
  before = inputs.digest(tmp_path)
  assert before.startswith("3 files:")
  for name, at, is_seen in (
    (names[0], 0, True), (names[2], -1, True), (names[1], 2, False),
    (names[3], 0, False),
  ):  # fmt: skip
    data = bytearray(4 * inputs._ENDS)
    data[at if at < 1 else at * inputs._ENDS] = 1
    (tmp_path / name).write_bytes(data)
    now = inputs.digest(tmp_path)
    assert (now != before) == is_seen
    before = now
