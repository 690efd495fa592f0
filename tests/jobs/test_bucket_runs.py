"""Align in a bucket: killed, stopped, taken over; equal to a run in a folder."""

import json
import pathlib
import re
import signal

import pytest

from tests import bucket_runs, gcs, tiny

pytest.importorskip("gcsfs")
pytest.importorskip("google.cloud.storage")

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
# A policy that compiles in a moment.
PROGRAM = """
import sys
from jaxreward import main
main.configure_logging()
from jaxreward import setup
from tests import tiny
setup.make_policy = lambda config: tiny.small_policy()
sys.exit(main.main(sys.argv[1:]))
"""


def start(workdir, env, count=1):
  return bucket_runs.Run(PROGRAM, env, workdir, GIVEN, count=count)


@pytest.fixture
def bucket():
  """(a folder in a bucket, the environment of processes that find it)."""
  with gcs.serve("bucket") as (found, env):
    yield bucket_runs.Folder(found, "runs/first"), env
    assert found.unknown == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """The same run in a folder, which nobody disturbed."""
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  code, err = start(workdir, {}).finish()
  assert code == 0, err
  return workdir


def assert_same_run(there, expected, exact=True):
  """As in a folder; on other meshes the rows alone, to rounding."""
  found = there.files()
  if exact:
    for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json"):
      assert found[name] == (pathlib.Path(expected) / name).read_bytes(), name
  rows = [json.loads(line) for line in found["metrics.jsonl"].splitlines()]
  assert [row["step"] for row in rows] == list(range(LAST + 1))
  for row, other in zip(rows, tiny.rows(expected), strict=True):
    assert row.keys() == other.keys()
    if "reward" in row:
      assert row["reward"] == pytest.approx(other["reward"], rel=0.02)
  mine = json.loads(found["config.json"])
  assert mine == json.loads((expected / "config.json").read_text())
  folder = {
    str(p.relative_to(expected)) for p in expected.rglob("*") if p.is_file()
  }
  own = ("checkpoints/", "tensorboard/", ".lock")
  same = lambda names: {n for n in names if not n.startswith(own)}
  assert same(found) == same(folder)
  assert any(n.startswith("tensorboard/align/events.") for n in found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_in_the_middle(bucket, unbroken, count):
  there, env = bucket
  run = start(there.path, env, count)
  run.wait_for(lambda: 4 in there.steps())
  run.kill()
  last = max(there.steps())
  code, err = start(there.path, env, count).finish()
  assert code == 0, err
  first = re.search(rf" (\d+)/{LAST}\b", err)
  assert first and int(first[1]) == last + 1
  assert_same_run(there, unbroken, exact=count == 1)


@pytest.mark.slow
def test_taken_over_and_asked_to_stop(bucket, unbroken):
  """Who starts last goes on; the other ends before its next checkpoint."""
  there, env = bucket
  run = start(there.path, env)
  run.wait_for(lambda: 2 in there.steps())
  there.put(".lock", b'{"host": "h", "process": 7}')
  code, err = run.finish()
  assert code == 2 and "Traceback" not in err
  assert "was taken over by process 7 on h" in err.splitlines()[-1]
  assert ".lock" in there.files()  # it is another's
  run = start(there.path, env)
  run.wait_for(lambda: 4 in there.steps())
  run.processes[0].send_signal(signal.SIGTERM)
  code, err = run.finish()
  assert code == 143 and "Traceback" not in err, err
  saved = int(re.search(rf"saved at step (\d+) of {LAST}", err)[1])
  assert max(there.steps()) == saved
  assert there.files()["metrics.jsonl"].count(b"\n") == saved + 1
  assert ".lock" not in there.files()
  code, err = start(there.path, env).finish()
  assert code == 0 and "was in use" not in err, err
  assert_same_run(there, unbroken)
