"""Jobs of a SLURM cluster, with commands that only remember."""

import pathlib
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
JOB = ROOT / "tpu_scripts" / "slurm_job.sh"
FLAGS = [
  "--name=r1",
  "--nodes=2",
  "--gpus=4",
  "--time=08:00:00",
  "--partition=gpu",
  "--cpus=12",
  "--python=/bin/sh",
  "--config=configs/quickstart.py:smoke",
  "--config.data.source=my prompts.txt",
  "--workdir=runs/r1",
]
JOBS = ["--user=ada", "--name=r1"]
SQUEUE = ["squeue", *JOBS, "--noheader", "--format=%T"]


@pytest.mark.parametrize(
  ("verb", "queue", "expected"),
  [
    ("run", "", ["sbatch"]),
    ("resume", "", ["squeue", "sbatch"]),
    ("resume", "RUNNING", ["squeue"]),
    ("watch", "", ["squeue", "sacct"]),
    ("delete", "RUNNING", ["scancel"]),
  ],
)
def test_dry_run_prints_what_is_run(stubs, verb, queue, expected):
  stubs.answer("squeue", queue)
  stubs.answer("sacct", "COMPLETED")
  words = [*FLAGS, "--dry-run", *([f"--state={queue}"] if queue else [])]
  printed = stubs.run("slurm.sh", verb, *words)
  assert (printed.code, printed.err, printed.calls) == (0, "", [])
  done = stubs.run("slurm.sh", verb, *FLAGS)
  assert done.code == 0, done.err
  assert done.calls == printed.commands
  assert [c[0] for c in done.calls] == expected


def test_the_words_of_the_submission(stubs):
  (call,) = stubs.run("slurm.sh", "run", *FLAGS).calls
  log = f"{stubs.folder}/slurm_logs/r1.log"
  assert call == [
    "sbatch",
    "--parsable",
    "--job-name=r1",
    "--nodes=2",
    "--ntasks-per-node=1",
    "--gpus-per-node=4",
    "--dependency=singleton",
    "--requeue",
    "--open-mode=append",
    "--signal=B:USR1@180",
    f"--output={log}",
    f"--chdir={ROOT}",
    "--time=08:00:00",
    "--partition=gpu",
    "--cpus-per-task=12",
    str(JOB),
    "/bin/sh",
    "--config=configs/quickstart.py:smoke",
    "--config.data.source=my prompts.txt",
    f"--workdir={stubs.folder}/runs/r1",
    "--config.processes.detect=true",
  ]
  assert pathlib.Path(log).parent.is_dir()


def test_watch_follows_the_job_to_its_end(stubs):
  stubs.answer("squeue", "PENDING", "RUNNING", "")
  stubs.answer("sacct", "COMPLETED")
  result = stubs.run("slurm.sh", "watch", *FLAGS)
  assert result.code == 0, result.err
  assert [c[0] for c in result.calls] == ["squeue"] * 3 + ["sacct"]
  assert "r1: PENDING" in result.err


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", ""])
def test_watch_fails_with_the_job(stubs, state):
  stubs.answer("sacct", f"COMPLETED\\n{state}" if state else "")
  result = stubs.run("slurm.sh", "watch", *FLAGS)
  assert result.code == 1
  assert f"error: r1 ended as {state or 'no such job'}" in result.err


@pytest.mark.parametrize(
  ("verb", "fails"),
  [("resume", "squeue"), ("resume", "sbatch"), ("delete", "scancel")],
)
def test_a_call_that_fails_ends_it_with_a_line(stubs, verb, fails):
  result = stubs.run("slurm.sh", verb, *FLAGS, FAIL_AT=f" {words_of(fails)}")
  assert result.code == 1
  assert f"error: {fails} failed" in result.err.splitlines()[-1]
  assert result.calls[-1][0] == fails


def words_of(program: str) -> str:
  first = {"squeue": "--user=ada --name=r1 --noheader", "sbatch": "--parsable"}
  return first.get(program, "--user=ada")


SRUN = """\
#!/usr/bin/env bash
printf '%s\\n' "srun $*" >>"$STUBS/log"
trap 'exit 143' TERM
echo $$ >"$STUBS/srun.pid"
[[ -z ${SRUN_CODE-} ]] || exit "$SRUN_CODE"
while true; do read -rt 0.05 <> <(:) || true; done
"""
SCANCEL = """\
#!/usr/bin/env bash
printf '%s\\n' "scancel $*" >>"$STUBS/log"
kill -TERM "$(<"$STUBS/srun.pid")"
"""
SCONTROL = """\
#!/usr/bin/env bash
printf '%s\\n' "scontrol $*" >>"$STUBS/log"
"""
STARTED = "srun --kill-on-bad-exit=1 --gpu-bind=none py -m jaxreward.main --a=b"


def job(stubs, **extra) -> subprocess.Popen:
  stubs.add("srun", SRUN)
  stubs.add("scancel", SCANCEL)
  stubs.add("scontrol", SCONTROL)
  return subprocess.Popen(
    [str(JOB), "py", "--a=b"],
    env=stubs.environment(SLURM_JOB_ID="7", **extra),
    stdout=subprocess.PIPE,
  )


def log(stubs) -> list[str]:
  return (stubs.folder / "log").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 2, 143])
def test_a_job_ends_with_its_step(stubs, code):
  process = job(stubs, SRUN_CODE=str(code))
  process.communicate(timeout=60)
  assert process.returncode == code
  assert log(stubs) == [STARTED]


def test_a_job_near_its_limit_saves_and_queues_again(stubs):
  process = job(stubs)
  deadline = time.monotonic() + 60
  while not (stubs.folder / "srun.pid").exists():
    assert time.monotonic() < deadline
    time.sleep(0.05)
  time.sleep(0.2)
  process.send_signal(signal.SIGUSR1)
  process.communicate(timeout=60)
  assert process.returncode == 143
  assert log(stubs) == [
    STARTED,
    "scancel --signal=TERM 7",
    "scontrol requeue 7",
  ]
