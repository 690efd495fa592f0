"""Runs whose working directory is a bucket, against a server of its protocol."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import gcs, tiny

pytest.importorskip("gcsfs")
pytest.importorskip("google.cloud.storage")

PATIENCE = 900.0  # seconds; machines that run tests may be busy
WHERE = "gs://bucket/runs/first"
LAST = 8
GIVEN = (
  tiny.FAST
  | tiny.REWARD
  | {
    "align.iterations": LAST,
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.num_steps": 3,
    "rollout.microbatch": 16,
    "eval.samples": 6,
    "eval.quick_samples": 6,
    "eval.every": 3,
    "checkpoint.every": 2,
  }
)
SPEC = "align_scenes.py:flow_grpo,smoke"
# A policy that compiles in a moment.
PROGRAM = """
import sys
from jaxreward import main
main.configure_logging()
from jaxreward.jobs import setup
from tests import tiny
setup.make_policy = lambda config: tiny.small_policy()
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def bucket():
  """A bucket, and the environment of processes that find it."""
  with gcs.serve("bucket") as (found, env):
    yield found, env
    assert found.unknown == []


class Run:
  """The processes of one command, on one device each."""

  def __init__(self, env, workdir, *overrides, count=1):
    port = str(free_port())
    self.processes = []
    for index in range(count):
      own = env | {"PYTHONPATH": str(tiny.ROOT), "PYTHONUNBUFFERED": "1"}
      own["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
      if count > 1:
        own |= {
          "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
          "JAX_NUM_PROCESSES": str(count),
          "JAX_PROCESS_ID": str(index),
        }
      flags = tiny.flags(SPEC, workdir, GIVEN, *overrides)
      self.processes.append(
        subprocess.Popen(
          [sys.executable, "-c", PROGRAM, *flags],
          stdout=subprocess.DEVNULL,
          stderr=subprocess.PIPE,
          text=True,
          env=own,
        )
      )

  def finish(self) -> tuple[int, str]:
    """(exit code, stderr) of the first process."""
    try:
      ends = [p.communicate(timeout=PATIENCE)[1] for p in self.processes]
    finally:
      self.kill()
    return self.processes[0].returncode, ends[0]

  def wait_for(self, ready):
    end = time.monotonic() + PATIENCE
    while not ready():
      if any(p.poll() is not None for p in self.processes):
        raise AssertionError(self.finish())
      if time.monotonic() > end:
        self.kill()
        raise AssertionError("it never came")
      time.sleep(0.001)

  def kill(self):
    for process in self.processes:
      process.kill()
    for process in self.processes:
      process.wait()


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def below(bucket, folder="") -> dict[str, bytes]:
  """Content by path in the working directory."""
  prefix = f"runs/first/{folder}"
  with bucket.lock:
    return {
      name.removeprefix(prefix): data
      for name, (_, data) in bucket.objects.items()
      if name.startswith(prefix)
    }


def steps_of(bucket) -> list[int]:
  there = below(bucket, "checkpoints/align/")
  found = (re.fullmatch(r"(\d+)/commit_success.txt", n) for n in there)
  return sorted(int(m[1]) for m in found if m)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """The same run in a folder, which nobody disturbed."""
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  code, err = Run(dict(os.environ), workdir).finish()
  assert code == 0, err
  return workdir


def assert_same_run(bucket, expected, exact=True):
  """As in a folder; on other meshes the rows alone, to rounding."""
  found = below(bucket)
  if exact:
    for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json"):
      assert found[name] == (pathlib.Path(expected) / name).read_bytes(), name
  rows = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
  assert [row["step"] for row in rows] == list(range(LAST + 1))
  for row, other in zip(rows, tiny.rows(expected), strict=True):
    assert row.keys() == other.keys()
    assert row.get("reward") == pytest.approx(other.get("reward"), rel=0.02)
  mine = json.loads(found["config.json"])
  assert mine == json.loads((expected / "config.json").read_text())
  folder = {
    str(p.relative_to(expected)) for p in expected.rglob("*") if p.is_file()
  }
  left = {n for n in folder if not n.startswith(("checkpoints/", "tensorb"))}
  assert left - {".lock"} == {
    n for n in found if not n.startswith(("checkpoints/", "tensorb"))
  }
  assert any(n.startswith("tensorboard/align/events.") for n in found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_several_moments(bucket, unbroken, count):
  """Amid a checkpoint, and after one."""
  there, env = bucket

  def half_written():
    found = below(there, "checkpoints/align/4/")
    return found and "commit_success.txt" not in found

  last = []
  for moment in (half_written, lambda: 6 in steps_of(there))[count - 1 :]:
    run = Run(env, WHERE, count=count)
    run.wait_for(moment)
    run.kill()
    rows = below(there).get("metrics.jsonl", b"").count(b"\n")
    last.append(max(steps_of(there), default=-1))
    assert rows >= last[-1] + 1  # a step that is whole has its rows
  assert last[0] < 4 or count > 1
  assert last[-1] >= 6
  code, err = Run(env, WHERE, count=count).finish()
  assert code == 0, err
  assert "was in use by process" in err
  first = re.search(rf" (\d+)/{LAST}\b", err)
  assert first and int(first[1]) == last[-1] + 1
  assert_same_run(there, unbroken, exact=count == 1)


@pytest.mark.slow
def test_asked_to_stop_and_taken_over(bucket, unbroken):
  """Who starts last goes on; the other ends before its next checkpoint."""
  there, env = bucket
  run = Run(env, WHERE)
  run.wait_for(lambda: 2 in steps_of(there))
  with there.lock:
    there.put("runs/first/.lock", b'{"host": "h", "process": 7}', {})
  code, err = run.finish()
  assert code == 2 and "Traceback" not in err
  assert "was taken over by process 7 on h" in err.splitlines()[-1]
  assert ".lock" in below(there)  # it is another's
  run = Run(env, WHERE)
  run.wait_for(lambda: 4 in steps_of(there))
  run.processes[0].send_signal(signal.SIGTERM)
  code, err = run.finish()
  assert code == 143 and "Traceback" not in err, err
  saved = int(re.search(rf"saved at step (\d+) of {LAST}", err)[1])
  assert max(steps_of(there)) == saved
  assert below(there)["metrics.jsonl"].count(b"\n") == saved + 1
  assert ".lock" not in below(there)
  code, err = Run(env, WHERE).finish()
  assert code == 0 and "was in use" not in err, err
  assert_same_run(there, unbroken)
