"""The entry point: flags, exit codes, working directories, signals, sweeps."""

import errno
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import main as main_lib
from jaxreward import workdirs
from jaxreward.errors import UserError
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent
_started: list[subprocess.Popen] = []

CONFIG = """
import pathlib
from ml_collections import ConfigDict

def get_config(arg=None):
  here = pathlib.Path(__file__).parent
  return ConfigDict(dict(
    job=f"{here}/job.py:run", arg=arg or "", seed=0, kind="write", steps=2,
    checkpoint=dict(keep=2)))
"""

JOB = """
import errno, os, signal, sys, time
import jax
from absl import logging
from jaxreward.errors import UserError
from jaxreward.training.interrupt import GracefulStop

def run(config, workdir):
  with open(workdir / "log.txt", "a") as file:
    file.write(f"{config.seed}\\n")
  kind = config.kind
  if kind == "user_error":
    raise UserError("mend this")
  if kind == "bug":
    raise RuntimeError("a bug")
  if kind == "full":
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")
  if kind == "interrupt":
    raise KeyboardInterrupt
  if kind == "jax":
    bits = jax.random.bits(jax.random.key(config.seed), (2,))
    cache = jax.config.jax_compilation_cache_dir
    (workdir / "jax.txt").write_text(
        f"{jax.config.jax_default_prng_impl} "
        f"{jax.config.jax_threefry_partitionable} {cache}")
  if kind == "wait":
    with GracefulStop() as stop:
      (workdir / "ready").write_text("")
      for step in range(4000):
        time.sleep(0.05)
        if stop.requested:
          (workdir / "saved").write_text(str(step))
          stop.exit(f"saved step {step}")
  if kind == "stubborn":
    with GracefulStop():
      (workdir / "ready").write_text("")
      time.sleep(300)
  if kind == "fork":
    if os.fork() == 0:
      time.sleep(20)
      os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def config(tmp_path) -> str:
  (tmp_path / "cfg.py").write_text(CONFIG)
  (tmp_path / "job.py").write_text(JOB)
  return str(tmp_path / "cfg.py")


def command(*arguments: str) -> list[str]:
  return [sys.executable, "-m", "jaxreward.main", *arguments]


def start(*arguments: str, **kwargs) -> subprocess.Popen:
  env = os.environ | {"PYTHONPATH": str(ROOT)} | kwargs.pop("env", {})
  process = subprocess.Popen(
    command(*arguments),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=env,
    **kwargs,
  )
  _started.append(process)
  return process


@pytest.fixture(autouse=True)
def _leave_no_process_behind():
  yield
  while _started:
    process = _started.pop()
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def wait_for(path: pathlib.Path, seconds: float = 120.0) -> None:
  end = time.monotonic() + seconds
  while not path.exists():
    assert time.monotonic() < end, f"{path} never came"
    time.sleep(0.02)


def error_of(capfd) -> str:
  """The one line that a failed command wrote."""
  lines = [
    line
    for line in capfd.readouterr().err.splitlines()
    if line.startswith("error: ")
  ]
  assert len(lines) == 1
  return lines[0].removeprefix("error: ")


# configs of earlier runs


def test_fields_that_came_later_are_filled_in():
  now = ConfigDict(
    dict(rollout=dict(a=1, b=dict(name="x", c=2)), video=dict(frames=8),
         rewards=dict(detector=dict(fn="detector")), model=dict(name="m", d=3),
         job="export", export=dict(step="best"), mesh=dict(data=1),
         processes=dict(detect=False))
  )  # fmt: skip
  then = ConfigDict(
    dict(rollout=dict(a=5), rewards=dict(mine=dict(fn="f")),
         model=dict(name="other"), job="align", mesh=dict(data=4))
  )  # fmt: skip
  found = main_lib._of_run(now, then)
  assert found.rollout.to_dict() == {"a": 5, "b": {"name": "x", "c": 2}}
  assert found.video.frames == 8 and list(found.rewards) == ["mine"]
  assert found.model.to_dict() == {"name": "other"}
  assert found.job == "export" and found.mesh.data == 1


# flags


def test_flags_take_both_forms():
  flags = main_lib.parse_flags(
    "--config=a.py:x --workdir w --config.a.b -1 --config.c=d=e"
    " --config.profile --dry-run --config.e".split()
  )
  assert flags == main_lib.Flags(
    config="a.py:x",
    workdir="w",
    overrides=(("a.b", "-1"), ("c", "d=e"), ("profile", "true"), ("e", "true")),
    dry_run=True,
  )


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    (["--confg=x"], 'unknown flag --confg (did you mean "--config"?)'),
    (["--work-dir=x"], '(did you mean "--workdir"?)'),
    (["--seed=3"], "--config.seed=VALUE"),
    (["stray"], 'unexpected "stray"'),
    (["--workdir"], "--workdir needs a value"),
  ],
)
def test_wrong_flags_are_one_line(argv, expected):
  with pytest.raises(UserError) as caught:
    main_lib.parse_flags(argv)
  assert expected in str(caught.value)


def test_help_is_printed(capfd):
  assert main_lib.main(["--help"]) == 0
  assert "--workdir=DIR" in capfd.readouterr().out


# running


def test_a_run_leaves_its_config_and_is_resumed(config, tmp_path):
  argv = [f"--config={config}:tiny", f"--workdir={tmp_path}/deep/er"]
  argv += ["--config.seed=3"]
  assert main_lib.main(argv) == 0
  workdir = tmp_path / "deep" / "er"
  saved = json.loads((workdir / "config.json").read_text())
  assert (saved["seed"], saved["arg"]) == (3, "tiny")
  assert main_lib.main([*argv, "--config.checkpoint.keep=5"]) == 0
  assert (workdir / "log.txt").read_text() == "3\n3\n"
  assert json.loads((workdir / "config.json").read_text())["checkpoint"] == {
    "keep": 5
  }


def test_another_config_is_refused_and_nothing_is_lost(config, tmp_path, capfd):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  assert main_lib.main(argv) == 0
  before = (tmp_path / "w" / "config.json").read_bytes()
  assert main_lib.main([*argv, "--config.seed=1", "--config.steps=9"]) == 2
  text = error_of(capfd)
  assert "holds a run with another config" in text
  assert "seed: 0 -> 1; steps: 2 -> 9" in text
  assert (tmp_path / "w" / "config.json").read_bytes() == before
  assert (tmp_path / "w" / "log.txt").read_text() == "0\n"


def test_a_folder_of_something_else_is_refused(config, tmp_path, capfd):
  assert main_lib.main([f"--config={config}", f"--workdir={tmp_path}"]) == 2
  text = error_of(capfd)
  assert "holds no run but other files (cfg.py, job.py)" in text
  assert not (tmp_path / "config.json").exists()


def test_a_damaged_config_json_is_named(config, tmp_path, capfd):
  (tmp_path / "w").mkdir()
  for text in ("{", "[1]", ""):
    (tmp_path / "w" / "config.json").write_text(text)
    argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
    assert main_lib.main(argv) == 2
    assert "config.json is damaged" in error_of(capfd)


def test_a_workdir_that_cannot_be_written_is_named(config, tmp_path, capfd):
  for workdir in (f"{config}/run", "/proc/run", "/sys/run"):
    assert main_lib.main([f"--config={config}", f"--workdir={workdir}"]) == 2
    assert f"cannot write to --workdir={workdir}: " in error_of(capfd)


def test_a_read_only_workdir_is_named(config, tmp_path, capfd, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")

  monkeypatch.setattr("jaxreward.workdirs._lock", refuse)
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  assert main_lib.main(argv) == 2
  assert "w: Permission denied" in error_of(capfd)


@pytest.mark.parametrize(
  ("argv", "expected"),
  [
    ([], "--config is missing"),
    (["--config=configs/nonsuch.py"], "configs/nonsuch.py: no such file"),
    (["--dry-run"], "--dry-run goes with --sweep"),
  ],
)
def test_missing_parts_are_one_line(argv, expected, capfd):
  assert main_lib.main([*argv, "--workdir=unused"]) == 2
  assert expected in error_of(capfd)
  assert not os.path.exists("unused")


def test_a_missing_workdir_and_an_unknown_job(config, capfd):
  assert main_lib.main([f"--config={config}"]) == 2
  assert "--workdir is missing" in error_of(capfd)
  assert main_lib.main([f"--config={config}", "--config.job=algin"]) == 2
  assert 'did you mean "align"' in error_of(capfd)


def test_a_check_runs_and_writes_nothing(config, tmp_path, capfd, monkeypatch):
  monkeypatch.chdir(tmp_path)
  argv = [f"--config={config}", "--check"]
  files = sorted(tmp_path.rglob("*.*"))
  assert main_lib.main(argv) == 0
  assert "in order; nothing was run" in capfd.readouterr().out
  assert main_lib.main([*argv, "--workdir=w"]) == 0
  assert main_lib.main([*argv, "--config.stps=3"]) == 2
  assert 'did you mean "steps"' in error_of(capfd)
  assert main_lib.main([*argv, f"--workdir={config}"]) == 2
  assert "cannot read --workdir" in error_of(capfd)
  assert sorted(tmp_path.rglob("*.*")) == files
  assert main_lib.main([argv[0], "--workdir=w"]) == 0
  before = (tmp_path / "w" / "log.txt").read_text()
  assert main_lib.main([*argv, "--workdir=w", "--config.seed=1"]) == 2
  assert "holds a run with another config" in error_of(capfd)
  assert main_lib.main([*argv, "--workdir=w"]) == 0
  assert (tmp_path / "w" / "log.txt").read_text() == before


def test_a_check_of_a_job_reads_its_config_and_files(
  tmp_path, capfd, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  spec = f"--config={tiny.CONFIGS}/align_scenes.py:flow_grpo,smoke"
  critic = ["--config.players.c.fn=critic", "--config.players.c.width=4"]
  assert main_lib.main([spec, "--check", *critic]) == 0
  assert "in order; nothing was run" in capfd.readouterr().out
  assert main_lib.main([spec, "--check", "--config.data.source=no.txt"]) == 2
  assert "no.txt" in error_of(capfd)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("kind", "code", "expected"),
  [
    ("user_error", 2, "error: mend this"),
    ("full", 2, "error: the disk is full: some/file"),
    ("interrupt", 130, "interrupted"),
  ],
)
def test_what_a_job_raises_sets_the_exit_code(
  config, tmp_path, capfd, kind, code, expected
):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  assert main_lib.main([*argv, f"--config.kind={kind}"]) == code
  text = capfd.readouterr().err
  assert expected in text and "Traceback" not in text


def test_the_command_is_kept_and_is_no_part_of_the_run(config, tmp_path):
  argv = [f"--config={config}:smoke", f"--workdir={tmp_path}/a b"]
  spoken = tmp_path / "a b" / "command.txt"
  assert main_lib.main([*argv, "--config.seed", "3"]) == 0
  first = shlex.split(spoken.read_text())
  assert first == ["python", "-m", "jaxreward.main", *argv, "--config.seed=3"]
  identity = (tmp_path / "a b" / "config.json").read_bytes()
  more = [*argv, "--config.seed=3", "--config.checkpoint.keep=2"]
  assert main_lib.main(more) == 0  # goes on with the same run
  assert shlex.split(spoken.read_text())[3:] == more
  assert (tmp_path / "a b" / "config.json").read_bytes() == identity
  assert main_lib.main([*argv, "--config.seed=4"]) == 2
  assert shlex.split(spoken.read_text())[3:] == more


def test_a_bug_keeps_its_traceback(config, tmp_path):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  with pytest.raises(RuntimeError, match="a bug"):
    main_lib.main([*argv, "--config.kind=bug"])


def test_a_relative_config_is_found_from_anywhere(tmp_path, monkeypatch):
  (tmp_path / "repository" / "configs").mkdir(parents=True)
  (tmp_path / "repository" / "configs" / "x.py").write_text(CONFIG)
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  monkeypatch.setattr("jaxreward.binding._REPOSITORY", tmp_path / "repository")
  assert main_lib.config_lib.load("configs/x.py:a").arg == "a"


@pytest.mark.job
@pytest.mark.turns(3)
def test_jax_is_set_up_in_a_fresh_process(config, tmp_path):
  env = dict(os.environ, XDG_CACHE_HOME=str(tmp_path / "cache"))
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  env |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # it is quick here
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  done = subprocess.run(
    command(*argv, "--config.kind=jax"),
    env=env,
    cwd="/",
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  impl, partitionable, cache = (tmp_path / "w" / "jax.txt").read_text().split()
  assert (impl, partitionable) == ("threefry2x32", "True")
  assert cache.startswith(str(tmp_path / "cache" / "jaxreward" / "jax"))
  assert list(pathlib.Path(cache).iterdir())


def test_a_run_of_an_older_version_says_what_to_do(tmp_path, capfd):
  """Its config lacks a field that every config has by now."""
  new = tiny.load("align_scenes.py:smoke")
  old = json.loads(config_lib.to_json(new))
  del old["align"]["pairs"], old["regularizers"]
  workdir = epath.Path(tmp_path / "w")
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(old))
  with pytest.raises(UserError) as caught, workdirs.take(workdir, new):
    raise AssertionError
  line = str(caught.value)
  assert "another version" in line and "align.pairs" in line
  assert "start again in another --workdir" in line


# processes and signals


@pytest.mark.job
@pytest.mark.turns(3)
def test_two_processes_cannot_share_a_workdir(config, tmp_path, capfd):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  argv += ["--config.kind=wait"]
  first = start(*argv)
  wait_for(tmp_path / "w" / "ready")
  assert main_lib.main(argv) == 2
  assert f"is in use by process {first.pid}" in error_of(capfd)
  first.kill()
  first.wait()
  assert (tmp_path / "w" / ".lock").exists()
  changed = [*argv[:2], "--config.kind=write"]
  assert main_lib.main(changed) == 2  # not the lock: another config
  assert "holds a run with another config" in error_of(capfd)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_forked_worker_does_not_keep_the_lock(config, tmp_path, capfd):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  first = start(*argv, "--config.kind=fork")
  assert first.wait(120) == -signal.SIGKILL
  assert main_lib.main(argv) == 2
  assert "holds a run with another config" in error_of(capfd)


@pytest.mark.job
@pytest.mark.turns(3)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_saves_and_exits(config, tmp_path, signum):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  run = start(*argv, "--config.kind=wait")
  wait_for(tmp_path / "w" / "ready")
  run.send_signal(signum)
  _, err = run.communicate(timeout=120)
  assert run.returncode == 128 + signum
  assert (tmp_path / "w" / "saved").exists()
  assert "Traceback" not in err and "the same command goes on" in err


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_second_signal_quits_at_once(config, tmp_path):
  argv = [f"--config={config}", f"--workdir={tmp_path}/w"]
  run = start(*argv, "--config.kind=stubborn")
  wait_for(tmp_path / "w" / "ready")
  began = time.monotonic()
  run.send_signal(signal.SIGINT)
  time.sleep(0.3)
  assert run.poll() is None
  run.send_signal(signal.SIGINT)
  _, err = run.communicate(timeout=120)
  assert run.returncode == 130 and time.monotonic() - began < 100
  assert "Traceback" not in err


# sweeps


def sweep_file(tmp_path: pathlib.Path, body: str) -> str:
  path = tmp_path / "sweep.py"
  path.write_text(f"def get_sweep():\n  return {body}\n")
  return str(path)


def test_a_dry_sweep_prints_commands_that_run(config, tmp_path, capfd):
  sweep = sweep_file(tmp_path, "[{'seed': s, 'arg': 'a b'} for s in (1, 2)]")
  argv = [f"--config={config}", f"--workdir={tmp_path}/w", f"--sweep={sweep}"]
  argv += ["--dry-run", "--config.steps=4"]
  assert main_lib.main(argv) == 0
  lines = capfd.readouterr().out.splitlines()
  assert len(lines) == 2 and not (tmp_path / "w").exists()
  words = shlex.split(lines[1])
  assert words[:3] == ["python", "-m", "jaxreward.main"]
  assert main_lib.main(words[3:]) == 0
  saved = json.loads((tmp_path / "w" / "1" / "config.json").read_text())
  assert (saved["seed"], saved["steps"], saved["arg"]) == (2, 4, "a b")


def test_an_entry_of_a_sweep_may_name_another_config(config, tmp_path, capfd):
  other = tmp_path / "other.py"
  other.write_text(pathlib.Path(config).read_text())
  body = f"[{{'config': {str(other)!r}, 'seed': 3}}, {{'seed': 4}}]"
  sweep = sweep_file(tmp_path, body)
  argv = [f"--config={config}", f"--workdir={tmp_path}/w", f"--sweep={sweep}"]
  assert main_lib.main([*argv, "--dry-run"]) == 0
  first, second = map(shlex.split, capfd.readouterr().out.splitlines())
  assert f"--config={other}" in first and "--config.seed=3" in first
  assert f"--config={config}" in second and not any(
    "other" in w for w in second
  )


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_sweep_runs_in_order_and_stops_at_a_failure(
  config, tmp_path, capfd, monkeypatch
):
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  kinds = "('write', 'user_error', 'write')"
  sweep = sweep_file(tmp_path, f"[{{'kind': k}} for k in {kinds}]")
  argv = [f"--config={config}", f"--workdir={tmp_path}/w", f"--sweep={sweep}"]
  assert main_lib.main(argv) == 2
  assert (tmp_path / "w" / "0" / "log.txt").exists()
  assert (tmp_path / "w" / "1" / "log.txt").exists()
  assert not (tmp_path / "w" / "2").exists()


def test_a_wrong_sweep_entry_is_named_before_anything_runs(
  config, tmp_path, capfd
):
  sweep = sweep_file(tmp_path, "[{'seed': 1}, {'sed': 1}]")
  argv = [f"--config={config}", f"--workdir={tmp_path}/w", f"--sweep={sweep}"]
  assert main_lib.main(argv) == 2
  text = error_of(capfd)
  assert "entry 1: config.sed" in text and 'did you mean "seed"' in text
  assert not (tmp_path / "w").exists()


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_sweep_hands_sigterm_down(config, tmp_path):
  sweep = sweep_file(tmp_path, "[{'kind': 'wait'}, {'kind': 'write'}]")
  run = start(
    f"--config={config}", f"--workdir={tmp_path}/w", f"--sweep={sweep}"
  )
  wait_for(tmp_path / "w" / "0" / "ready")
  run.send_signal(signal.SIGTERM)
  run.communicate(timeout=120)
  assert run.returncode == 143
  assert (tmp_path / "w" / "0" / "saved").exists()
  assert not (tmp_path / "w" / "1").exists()
