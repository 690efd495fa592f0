"""Runs that are killed at any moment and started again with the same command."""

import json
import pathlib
import random
import re
import signal
import time

import jax
import pytest

from jaxreward import setup
from jaxreward.training import weights
from tests import tiny

PATIENCE = 400.0  # seconds; machines that run tests may be busy

SMALL = (
  tiny.MODEL
  | tiny.FAST
  | {"eval.samples": 12, "eval.quick_samples": 12, "checkpoint.every": 2}
)
ALIGN = SMALL | tiny.REWARD | {"align.iterations": 14, "eval.every": 5}
RUNS = {
  "pretrain": (
    "pretrain_scenes.py:smoke",
    SMALL | {"pretrain.steps": 14, "optimizer.warmup_steps": 2},
  ),
  "flow_grpo": ("align_scenes.py:flow_grpo,smoke", dict(ALIGN)),
  # Its step is linear in the gradient, so that it is nearly the same elsewhere.
  "diffusion_nft": (
    "align_scenes.py:smoke",
    ALIGN | {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-2},
  ),
  "preferences": ("recipes/flow_dpo_offline.py:smoke", dict(ALIGN)),
  "edits": (
    "align_edits.py:smoke",
    SMALL | {"align.iterations": 14, "eval.every": 5},
  ),
}
LAST = 14


def soon(names, *chosen):
  """The names as cases, slow but those chosen."""
  return [
    name if name in chosen else pytest.param(name, marks=pytest.mark.slow)
    for name in names
  ]


def arguments(name, workdir, **more):
  spec, overrides = RUNS[name]
  return tiny.flags(spec, workdir, overrides, more)


def finish(process) -> tuple[int, str]:
  """Exit code and stderr of a process that is left to end."""
  _, err = process.communicate(timeout=PATIENCE)
  return process.returncode, err


def wait_for(process, ready, what):
  """Polls until `ready()`; False if the process ends first."""
  end = time.monotonic() + PATIENCE
  while not ready():
    if process.poll() is not None:
      return False
    assert time.monotonic() < end, f"{what} never came"
    time.sleep(0.002)
  return True


def rows_written(workdir) -> int:
  path = pathlib.Path(workdir) / "metrics.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


def writing_a_checkpoint(workdir) -> bool:
  """Whether a step is there under a name that it has until it is whole."""
  folder = next((pathlib.Path(workdir) / "checkpoints").glob("*"), None)
  if folder is None:
    return False
  return any(not p.name.isdigit() for p in folder.iterdir())


def whole_steps(workdir) -> list[int]:
  folder = next((pathlib.Path(workdir) / "checkpoints").glob("*"), None)
  if folder is None:
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def kill(process) -> bool:
  """SIGKILL; False if the process had ended by itself."""
  process.send_signal(signal.SIGKILL)
  process.communicate(timeout=PATIENCE)
  return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory):
  """Policies to start from: an untrained one draws nothing but grey."""
  for name, (spec, overrides) in RUNS.items():
    if name == "pretrain":
      continue
    config = tiny.load(spec, overrides)
    policy = setup.make_policy(config)
    params = tiny.shaken(jax.jit(policy.init)(jax.random.key(0)), scale=0.1)
    path = tmp_path_factory.mktemp("base") / "policy.safetensors"
    weights.save_params(path, params)
    overrides["init.checkpoint"] = str(path)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """Working directory of a run that nobody disturbed."""
  done = {}

  def get(name):
    if name not in done:
      workdir = tmp_path_factory.mktemp(name) / "run"
      code, err = finish(tiny.start(arguments(name, workdir)))
      assert code == 0, err
      done[name] = workdir
    return done[name]

  return get


def assert_same_run(workdir, expected):
  """The record byte for byte, and what came out of it."""
  for name in ("metrics.jsonl", "policy.safetensors", "evaluation.json"):
    found = (pathlib.Path(workdir) / name).read_bytes()
    assert found == (pathlib.Path(expected) / name).read_bytes(), name


def assert_is_a_run(workdir):
  rows = tiny.rows(workdir)
  assert [row["step"] for row in rows] == list(range(LAST + 1))
  assert len({json.dumps(row | {"step": 0}) for row in rows}) == len(rows)
  assert all("nonfinite" not in row for row in rows)
  if "advantage_abs" in rows[-1]:  # something is learned all the way
    assert min(row["advantage_abs"] for row in rows[1:]) > 0.05
    assert min(row["grad_norm"] for row in rows[1:]) > 1e-4


@pytest.mark.job
@pytest.mark.parametrize("name", soon(RUNS, "diffusion_nft"))
@pytest.mark.turns(4)
def test_killed_at_random_moments(name, unbroken, tmp_path):
  """After some row and a while; the rest of the run is as if nothing was."""
  expected = unbroken(name)
  assert_is_a_run(expected)
  rng, workdir, killed = random.Random(name), tmp_path / "run", 0
  for after in (rng.randint(1, 3), rng.randint(6, 9)):
    process = tiny.start(arguments(name, workdir))
    if wait_for(process, lambda n=after: rows_written(workdir) >= n, "a row"):
      moment = time.monotonic() + rng.uniform(0.0, 0.15)
      while time.monotonic() < moment and rows_written(workdir) < LAST - 4:
        time.sleep(0.002)
    killed += kill(process)
  assert killed == 2
  code, err = finish(tiny.start(arguments(name, workdir)))
  assert code == 0, err
  assert_same_run(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "diffusion_nft"])
def test_killed_while_a_checkpoint_is_written(name, unbroken, tmp_path):
  """A step that is not whole is not taken for one."""
  expected, workdir = unbroken(name), tmp_path / "run"
  process = tiny.start(arguments(name, workdir))
  half_way = lambda: (
    whole_steps(workdir)[-1:] >= [4] and writing_a_checkpoint(workdir)
  )
  assert wait_for(process, half_way, "a checkpoint")
  assert kill(process)
  before = whole_steps(workdir)[-1]
  code, err = finish(tiny.start(arguments(name, workdir)))
  assert code == 0, err
  first = re.search(rf" (\d+)/{LAST}\b", err)
  assert first and int(first[1]) == before + 1  # went on, did not begin again
  assert "resuming" in err
  assert_same_run(workdir, expected)


@pytest.mark.job
@pytest.mark.parametrize(
  ("signum", "code"),
  [
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    (signal.SIGTERM, 143),
  ],
)
@pytest.mark.turns(4)
def test_asked_to_stop(signum, code, unbroken, tmp_path):
  """Saves the step it is in, says so, and goes on from there."""
  expected, workdir = unbroken("diffusion_nft"), tmp_path / "run"
  more = {"checkpoint.every": 0}  # the stop alone saves
  process = tiny.start(arguments("diffusion_nft", workdir, **more))
  assert wait_for(process, lambda: rows_written(workdir) >= 4, "a row")
  process.send_signal(signum)
  found, err = finish(process)
  assert found == code, err
  assert "Traceback" not in err
  saved = int(re.search(rf"saved at step (\d+) of {LAST}", err)[1])
  assert whole_steps(workdir) == [saved]
  assert rows_written(workdir) == saved + 1
  assert not (workdir / "policy.safetensors").exists()
  code, err = finish(tiny.start(arguments("diffusion_nft", workdir, **more)))
  assert code == 0, err
  assert int(re.search(rf" (\d+)/{LAST}\b", err)[1]) == saved + 1
  assert_same_run(workdir, expected)


@pytest.mark.slow
def test_started_again_when_finished_and_with_another_config(unbroken):
  workdir = unbroken("diffusion_nft")
  kept = {p.name: p.read_bytes() for p in workdir.glob("*.json*")}
  code, err = finish(tiny.start(arguments("diffusion_nft", workdir)))
  assert code == 0, err
  assert {p.name: p.read_bytes() for p in workdir.glob("*.json*")} == kept
  more = {"seed": 5}
  code, err = finish(tiny.start(arguments("diffusion_nft", workdir, **more)))
  lines = [line for line in err.splitlines() if line.startswith("error: ")]
  assert code == 2 and len(lines) == 1
  assert "seed: 0 -> 5" in lines[0]
  assert "Traceback" not in err
  assert {p.name: p.read_bytes() for p in workdir.glob("*.json*")} == kept


@pytest.mark.slow
def test_a_second_process_is_kept_out(tmp_path):
  workdir = tmp_path / "run"
  first = tiny.start(arguments("diffusion_nft", workdir))
  try:
    assert wait_for(first, lambda: (workdir / ".lock").exists(), "the lock")
    wait_for(first, lambda: (workdir / "config.json").exists(), "the config")
    code, err = finish(tiny.start(arguments("diffusion_nft", workdir)))
    assert code == 2
    assert f"is in use by process {first.pid}" in err
  finally:
    kill(first)


@pytest.mark.slow
def test_the_same_command_on_eight_devices(unbroken, tmp_path):
  """And a run that begins on one device goes on over eight."""
  workdir = tmp_path / "run"
  mesh = {"mesh.data": 4, "mesh.fsdp": 2}
  process = tiny.start(arguments("diffusion_nft", workdir))
  assert wait_for(process, lambda: rows_written(workdir) >= 8, "a row")
  assert kill(process)
  process = tiny.start(arguments("diffusion_nft", workdir, **mesh), devices=8)
  code, err = finish(process)
  assert code == 0, err
  found, expected = tiny.rows(workdir), tiny.rows(unbroken("diffusion_nft"))
  assert len(found) == len(expected)
  first = int(re.search(rf" (\d+)/{LAST}\b", err)[1])
  assert found[:first] == expected[:first]
  for got, want in zip(found, expected, strict=True):
    assert got["step"] == want["step"] and got.keys() == want.keys()
    if "loss" in want:
      assert got["loss"] == pytest.approx(want["loss"], rel=0.02)
