"""Working directories in a bucket: who may use one, and what is written."""

import json
import os

import numpy as np
import pytest
from etils import epath

from jaxreward import buckets, files, main, workdirs
from jaxreward.errors import Lost, UserError
from jaxreward.setup import tracking
from jaxreward.training import weights, writers
from tests import gcs, tiny

pytestmark = pytest.mark.extras
CONFIG = f"--config={tiny.CONFIGS / 'align_scenes.py'}:smoke"
WHERE = "gs://bucket/runs/a"


@pytest.fixture(scope="module")
def server():
  pytest.importorskip("gcsfs")
  pytest.importorskip("google.cloud.storage")
  with (
    gcs.serve("bucket") as (bucket, env),
    pytest.MonkeyPatch.context() as own,
  ):
    for name, value in env.items():
      own.setenv(name, value)
    yield bucket
    assert bucket.unknown == []


@pytest.fixture
def bucket(server):
  """An empty one, which this process reaches."""
  server.objects.clear()
  workdirs.find(WHERE)
  return server


def refusal(workdir, capfd) -> str:
  """The one line with which main refuses a working directory."""
  assert main.main([CONFIG, f"--workdir={workdir}"]) == 2
  lines = [x for x in capfd.readouterr().err.splitlines() if "error" in x]
  assert len(lines) == 1 and lines[0].startswith(f"error: --workdir={workdir}")
  return lines[0]


@pytest.mark.parametrize(
  "workdir",
  ["gs:/bucket/a", "gs://bucket", "gs://bucket/", "gs://My_B/a", "s3://b/a"],
)
def test_a_wrong_name_is_refused(workdir, capfd):
  assert "looks like gs://my-bucket/my-run" in refusal(workdir, capfd)


def test_a_missing_extra_is_named(capfd, monkeypatch):
  monkeypatch.setattr(buckets, "_NEEDED", ("google.cloud.no_such_thing",))
  assert "pip install 'jaxreward[gcs]'" in refusal(WHERE, capfd)


def test_a_bucket_that_is_not_there(bucket, capfd):
  found = refusal("gs://other-bucket/a", capfd)
  assert "there is no bucket other-bucket" in found
  assert not bucket.objects


def test_a_bucket_of_others(bucket, capfd, monkeypatch):
  monkeypatch.setattr(bucket, "is_closed", True)
  found = refusal(WHERE, capfd)
  assert "this account may not use bucket bucket" in found
  assert "storage.legacyBucketReader" in found


def test_a_server_that_does_not_answer(bucket, capfd, monkeypatch):
  monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
  monkeypatch.setattr(buckets, "_PATIENCE", 1.0)
  assert "bucket bucket cannot be reached" in refusal(WHERE, capfd)


def test_an_object_is_written_whole_and_read_again(bucket):
  """Also one that takes several requests."""
  path = epath.Path(WHERE) / "folder" / "file"
  for size in (0, 10, 11 << 20):
    data = np.random.default_rng(size).bytes(size)
    files.write_atomic(path, data)
    assert bucket.read("runs/a/folder/file") == data == path.read_bytes()


def test_parameters_come_back(bucket):
  tree = {"a": {"b": np.arange(6.0, dtype=np.float32)}}
  path = epath.Path(WHERE) / "policy.safetensors"
  weights.save_params(path, tree)
  found = weights.load_params(path, tree)
  np.testing.assert_array_equal(found["a"]["b"], tree["a"]["b"])
  with pytest.raises(UserError, match="no such file"):
    weights.load_params(epath.Path(WHERE) / "none.safetensors", tree)


def write_rows(workdir):
  """Rows 1 to 3, a stop, and 3 to 4 again from a checkpoint of step 2."""
  views = tracking.openers(
    tiny.load("align_scenes.py:smoke"), epath.Path(workdir), "align"
  )
  with writers.MetricsWriter(workdir, "align", trackers=views) as writer:
    for step in (1, 2, 3):
      writer.write(step, {"loss": 1.0 / step})
  with writers.MetricsWriter(workdir, "align", trackers=views) as writer:
    writer.truncate(2)
    for step in (3, 4):
      writer.write(step, {"loss": 2.0 / step})


def test_rows_are_those_of_a_folder(bucket, tmp_path):
  write_rows(tmp_path)
  write_rows(WHERE)
  expected = (tmp_path / "metrics.jsonl").read_bytes()
  assert bucket.read("runs/a/metrics.jsonl") == expected
  (name,) = [p.name for p in (tmp_path / "tensorboard" / "align").iterdir()]
  events = [n for n in bucket.objects if "/tensorboard/" in n]
  assert {n.count("/") for n in events} == {4}
  assert name.split(".")[0] == "events"
  assert max(len(bucket.read(n)) for n in events) > 0


def test_rows_are_published_when_asked_and_now_and_then(bucket, monkeypatch):
  writer = writers.MetricsWriter(WHERE, "align")
  count = lambda: (bucket.read("runs/a/metrics.jsonl") or b"").count(b"\n")
  writer.write(1, {"loss": 1.0})
  assert count() == 0
  writer.publish()
  assert count() == 1
  monkeypatch.setattr(files, "_EVERY", -1.0)
  writer.write(2, {"loss": 1.0})
  assert count() == 2


def test_an_outage_delays_rows_and_stops_a_checkpoint(bucket, monkeypatch):
  """What could not be written now and then is there the next time."""
  writer = writers.MetricsWriter(WHERE, "align")
  writer.write(1, {"loss": 1.0})
  write = epath.Path.write_bytes
  with monkeypatch.context() as outage:
    outage.setattr(files, "_EVERY", -1.0)
    outage.setattr(type(epath.Path(WHERE)), "write_bytes", _refuse)
    writer.write(2, {"loss": 1.0})
    with pytest.raises(Lost, match="the same command goes on"):
      writer.publish()
  assert write is epath.Path.write_bytes
  writer.close()
  assert bucket.read("runs/a/metrics.jsonl").count(b"\n") == 2


def _refuse(path, data):
  raise ConnectionError("no route")


def test_who_starts_last_holds_it(bucket):
  config = tiny.load("align_scenes.py:smoke")
  with workdirs.take(epath.Path(WHERE), config):
    buckets.require_held()
    mine = bucket.read("runs/a/.lock")
    assert json.loads(mine)["process"] == os.getpid()
    writer = writers.MetricsWriter(WHERE, "align")
    writer.write(1, {"loss": 1.0})
    bucket.put("runs/a/.lock", b'{"host": "h", "process": 7, "id": "x"}', {})
    with pytest.raises(UserError, match="taken over by process 7 on h"):
      writer.publish()
    assert bucket.read("runs/a/metrics.jsonl") is None
  assert "runs/a/.lock" in bucket.objects
  with workdirs.take(epath.Path(WHERE), config):
    pass
  assert "runs/a/.lock" not in bucket.objects
  buckets.require_held()


def test_another_config_or_something_else_is_refused(bucket):
  config = tiny.load("align_scenes.py:smoke")
  with workdirs.take(epath.Path(WHERE), config):
    pass
  other = tiny.load("align_scenes.py:smoke", {"seed": 5})
  with pytest.raises(UserError, match="seed: 0 -> 5"):
    with workdirs.take(epath.Path(WHERE), other):
      pass
  bucket.put("runs/b/notes.txt", b"mine", {})
  with pytest.raises(UserError, match=r"other files \(notes.txt\)"):
    with workdirs.take(epath.Path("gs://bucket/runs/b"), config):
      pass
  assert "runs/b/.lock" not in bucket.objects


def test_folders_are_copied_replaced_and_moved(bucket):
  folder = epath.Path(WHERE) / "export" / "final"
  for names in (("a/x", "b"), ("a/y", "c")):
    with files.replaced_folder(folder) as beside:
      for name in names:
        files.write_atomic(beside / name, name)
  assert set(bucket.objects) == {
    "runs/a/export/final/a/y", "runs/a/export/final/c",
  }  # fmt: skip
  files.move_folder(folder, folder.parent / "old" / "final")
  assert bucket.read("runs/a/export/old/final/a/y") == b"a/y"
  assert not folder.exists()


def test_a_judge_keeps_its_answers_in_a_folder(bucket):
  config = tiny.load(
    "align_scenes.py:smoke",
    {
      "rewards.asked.fn": "judge_pointwise",
      "rewards.asked.url": "http://127.0.0.1:9/v1",
      "rewards.asked.model": "m",
    },
  )
  from jaxreward.setup import rewards

  with pytest.raises(UserError, match=f"--workdir={WHERE} has to be a folder"):
    rewards.load(config, epath.Path(WHERE))
