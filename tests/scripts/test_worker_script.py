"""What runs on a TPU host, with a Python that only remembers."""

import subprocess
import time

import pytest

PYTHON = """\
#!/usr/bin/env bash
printf '%s\\n' "$JAX_COORDINATOR_PORT $*" >>"$HOME/runs"
trap 'exit 143' TERM
code=$(head -n 1 "$HOME/codes")
sed -i 1d "$HOME/codes"
echo "the last words"
if [[ $code == wait ]]; then
  while true; do read -rt 0.05 <> <(:) || true; done
fi
exit "$code"
"""
FLAGS = ["--config=configs/x.py", "--config.data.source=my prompts.txt"]


@pytest.fixture
def host(stubs):
  python = stubs.folder / "jaxreward-env" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text(PYTHON)
  python.chmod(0o755)
  yield stubs
  stubs.run("worker.sh", "stop")


def codes(host, *values) -> None:
  (host.folder / "codes").write_text("".join(f"{v}\n" for v in values))


def runs(host) -> list[str]:
  path = host.folder / "runs"
  return path.read_text().splitlines() if path.exists() else []


def status(host) -> str:
  return host.run("worker.sh", "status").out.splitlines()[0]


def settles(host, expected: str) -> None:
  deadline = time.monotonic() + 60
  while status(host) != expected:
    assert time.monotonic() < deadline, status(host)
    time.sleep(0.05)


def starts(host, count: int) -> None:
  deadline = time.monotonic() + 60
  while len(runs(host)) < count:
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_a_run_is_started_once_and_ends(host):
  codes(host, "wait")
  first = host.run("worker.sh", "start", *FLAGS)
  assert "started, log in" in first.out
  starts(host, 1)
  again = host.run("worker.sh", "start", *FLAGS)
  assert "already running" in again.out
  assert status(host) == "running"
  host.run("worker.sh", "stop")
  settles(host, "stopped")
  assert runs(host) == [f"8476 -m jaxreward.main {' '.join(FLAGS)}"]


def test_a_crash_is_started_again(host):
  codes(host, 1, 137, 0)
  host.run("worker.sh", "start", *FLAGS)
  settles(host, "done")
  assert len(runs(host)) == 3
  assert "the last words" in host.run("worker.sh", "status").out


def test_restarts_have_an_end(host):
  codes(host, *[9] * 9)
  host.run("worker.sh", "start", *FLAGS, JAXREWARD_RESTARTS="2")
  settles(host, "failed with exit code 9")
  assert len(runs(host)) == 3


def test_a_mistake_in_the_flags_is_not_repeated(host):
  codes(host, 2, 0)
  host.run("worker.sh", "start", *FLAGS)
  settles(host, "failed with exit code 2")
  assert len(runs(host)) == 1


def test_a_run_that_was_told_to_save_stays_stopped(host):
  codes(host, 143, 0)
  host.run("worker.sh", "start", *FLAGS)
  settles(host, "stopped")
  assert len(runs(host)) == 1


def test_a_host_that_was_started_again_says_so(host):
  assert status(host) == "absent"
  (host.folder / "jaxreward.status").write_text("running\n")
  assert status(host) == "stopped without a word"
  assert "not running" in host.run("worker.sh", "stop").out


def test_a_host_that_runs_keeps_its_files(host):
  codes(host, "wait")
  host.run("worker.sh", "start", *FLAGS)
  starts(host, 1)
  command = ["flock", "-n", "-E", "0", "jaxreward.lock", "touch", "replaced"]
  subprocess.run(command, cwd=host.folder, check=True)
  assert not (host.folder / "replaced").exists()
  host.run("worker.sh", "stop")
  settles(host, "stopped")
  waiting = ["flock", "-w", "30", *command[4:]]  # it lets go a moment later
  subprocess.run(waiting, cwd=host.folder, check=True)
  assert (host.folder / "replaced").exists()


def test_install_makes_the_environment(stubs):
  stubs.add("python3", '#!/bin/sh\nprintf \'%s\\n\' "$*" >>"$STUBS/pythons"\n')
  result = stubs.run("worker.sh", "install")
  assert result.code == 0, result.err
  lines = (stubs.folder / "pythons").read_text().splitlines()
  assert lines[0] == "-m pip install --user --quiet uv"
  assert lines[1].startswith("-m uv venv") and "--python=3.11" in lines[1]
  assert lines[2].endswith("[tpu,gcs]")
  printed = stubs.run("worker.sh", "install", "--dry-run").out.splitlines()
  assert len(printed) == 3 and printed[0].startswith("'python3' '-m' 'pip'")


def test_install_that_fails_says_where(stubs):
  stubs.add("python3", "#!/bin/sh\nexit 1\n")
  result = stubs.run("worker.sh", "install")
  assert result.code == 1
  assert "python3 failed: python3 -m pip install --user" in result.err
