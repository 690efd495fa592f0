"""Trackers show what metrics.jsonl says, and never stop a run."""

import pathlib
import struct
import time

import pytest
from etils import epath
from tensorboardX import crc32c
from tensorboardX.proto.event_pb2 import Event

from jaxreward import config as config_lib
from jaxreward.errors import UserError
from jaxreward.setup import tracking
from jaxreward.training import trackers, writers

ROW = {"loss": 0.5, "bad": float("nan"), "big": 1e300, "text": "a"}


def config_of(**sections):
  config = config_lib.load("configs/align_scenes.py:smoke")
  with config.unlocked():
    config.trackers = sections
  return config


def write_twice(
  workdir, *, steps=(1, 2, 3), again=(3, 4), pause=0.0, **sections
):
  """Steps, and after a stop those from a checkpoint of step 2 on."""
  workdir = epath.Path(workdir)
  views = tracking.openers(config_of(**sections), workdir, "align")
  with writers.MetricsWriter(workdir, "align", trackers=views) as writer:
    for step in steps:
      writer.write(step, {**ROW, "loss": step / 2})
  time.sleep(pause)
  with writers.MetricsWriter(workdir, "align", trackers=views) as writer:
    writer.truncate(2)
    for step in again:
      writer.write(step, {**ROW, "loss": step / 2})
    writer.write_timings(4, {"sample": 2.0})


def read_events(folder: pathlib.Path) -> list:
  found = []
  for path in sorted(folder.iterdir()):
    data = path.read_bytes()
    while data:
      length, crc = struct.unpack("<QI", data[:12])
      body = data[12 : 12 + length]
      for part, sum_ in (
        (data[:8], crc),
        (body, struct.unpack("<I", data[12 + length : 16 + length])[0]),
      ):
        rotated = (sum_ - 0xA282EAD8) & 0xFFFFFFFF
        plain = ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF
        assert plain == crc32c.crc32c(part)
      found.append(Event.FromString(body))
      data = data[16 + length :]
  return found


def test_tensorboard_shows_the_same_numbers(tmp_path):
  write_twice(tmp_path, steps=(), again=(5,), view={"fn": "tensorboard"})
  found = read_events(tmp_path / "tensorboard" / "align")
  shown = {
    (e.step, v.tag): v.simple_value for e in found for v in e.summary.value
  }
  assert shown == {
    (5, "loss"): 2.5,
    (5, "big"): float("inf"),
    (4, "seconds/sample"): 2.0,
  }
  assert found[0].file_version == "brain.Event:2"
  assert [e.step for e in found if e.HasField("session_log")] == [3]


def refuse(run: trackers.Run, *, text: str = "no"):
  """A tracker that cannot be opened."""
  raise RuntimeError(f"{text}: {run.name}")


class Recorder:
  """What a tracker was told, by working directory."""

  def __init__(self, run):
    self.path = run.workdir / "told.txt"
    self._tell(f"open {run.purge_step} {run.settings['seed']}")

  def _tell(self, line):
    text = self.path.read_text() if self.path.exists() else ""
    self.path.write_text(f"{text}{line}\n")

  def write(self, step, scalars):
    self._tell(f"{step} {sorted(scalars)}")

  def publish(self):
    self._tell("publish")

  def close(self):
    self._tell("close")


def record(run: trackers.Run) -> trackers.Tracker:
  """A tracker of one's own."""
  return Recorder(run)


def test_one_of_your_own_beside_one_that_fails(tmp_path, caplog):
  here = f"{__name__}."
  write_twice(
    tmp_path, again=(3,), mine={"fn": here + "record"},
    bad={"fn": here + "refuse", "text": "out of order"},
  )  # fmt: skip
  assert (tmp_path / "told.txt").read_text().splitlines() == [
    "open None 0", *(f"{i} ['big', 'loss']" for i in (1, 2, 3)), "close",
    "open 3 0", "3 ['big', 'loss']", "4 ['seconds/sample']", "close",
  ]  # fmt: skip
  assert (
    caplog.text.count("tracker bad is off: RuntimeError: out of order") == 2
  )
  rows = writers.read_rows(tmp_path / "metrics.jsonl")
  assert [r["step"] for r in rows] == [1, 2, 3]


@pytest.mark.parametrize(
  ("section", "line"),
  [
    ("wandb", r"config\.trackers\.x='wandb': a tracker is a section"),
    ({"fn": "wanbd"}, r"config\.trackers\.x\.fn.*wandb"),
    ({"fn": "tensorboard", "project": "a"}, r"trackers\.x\.project"),
    ({}, r'config\.trackers\.x lacks "fn"'),
  ],
)
def test_what_is_wrong_is_told(section, line):
  with pytest.raises(UserError, match=line):
    tracking.bind(config_of(x=section))


def test_a_package_that_is_missing_is_told(monkeypatch):
  monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
  for name in ("wandb", "mlflow"):
    with pytest.raises(UserError, match=rf'fn="{name}".*jaxreward\[{name}\]'):
      tracking.bind(config_of(x={"fn": name}))


@pytest.mark.extras
def test_mlflow_shows_the_same_numbers(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  uri = str(tmp_path / "store")
  workdir = tmp_path / "a"
  workdir.mkdir()
  write_twice(workdir, view={"fn": "mlflow", "uri": uri, "experiment": "e"})
  client = mlflow.MlflowClient(tracking_uri=uri)
  place = client.get_experiment_by_name("e").experiment_id
  (run,) = client.search_runs([place])
  rows = client.get_metric_history(run.info.run_id, "loss")
  assert {m.step: m.value for m in rows} == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}
  assert run.info.status == "FINISHED"
  assert run.data.params["rollout.group"] == "4"
  assert "bad" not in run.data.metrics


def read_offline(path: pathlib.Path):
  """Records of a run that W&B keeps: blocks of 32 KiB, in pieces if need be."""
  data, place, body = path.read_bytes(), 7, b""
  while place < len(data):
    if (rest := 32768 - place % 32768) < 7:
      place += rest
      continue
    _, length, kind = struct.unpack("<IHB", data[place : place + 7])
    body += data[place + 7 : place + 7 + length]
    place += 7 + length
    if kind in (1, 4):  # whole, or the last piece
      yield body
      body = b""


@pytest.mark.extras
def test_weights_and_biases_shows_the_same_numbers(tmp_path):
  wandb = pytest.importorskip("wandb")
  from wandb.proto.wandb_internal_pb2 import Record

  # Its folders are named by the second.
  write_twice(tmp_path, pause=1.0, view={"fn": "wandb", "mode": "offline"})
  wandb.teardown()  # its own process has written all
  shown = {}
  for path in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb")):
    for data in read_offline(path):
      items = Record.FromString(data).history.item
      row = {"/".join([i.key, *i.nested_key]).strip("/"): i for i in items}
      if "loss" in row:
        step = float(row["step"].value_json)
        shown[step] = float(row["loss"].value_json)
  assert shown == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}
