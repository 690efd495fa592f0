"""The life of an XPK workload, with an xpk that only remembers."""

import shlex

import pytest

FLAGS = [
  "--cluster=c1",
  "--name=r1",
  "--zone=us-east5-b",
  "--project=p",
  "--topology=v6e:4x4",
  "--slices=2",
  "--config=configs/quickstart.py:smoke",
  "--config.data.source=my prompts.txt",
  "--workdir=gs://bucket/r1",
]
PLACE = ["--cluster=c1", "--zone=us-east5-b", "--project=p"]
LIST = ["xpk", "workload", "list", *PLACE, "--filter-by-job=^r1$"]
DELETE = ["xpk", "workload", "delete", *PLACE, "--workload=r1", "--force"]
HEAD = "Jobset Name  Created Time  Status  Status Message\\n"
ROWS = {
  "ABSENT": HEAD + "r10  2026  Admitted  Admitted by ClusterQueue",
  "RUNNING": HEAD + "r1  2026  Admitted  Admitted by ClusterQueue",
  "DONE": HEAD + "r1  2026  Finished  JobSet finished successfully",
  "FAILED": HEAD + "r1  2026  Finished  JobSet failed",
}


def kinds(calls: list[list[str]]) -> list[str]:
  return [f"{c[1]} {c[2]}" if c[0] == "xpk" else c[0] for c in calls]


RUN = ["tar", "tar", "workload create"]


@pytest.mark.parametrize(
  ("verb", "state", "expected"),
  [
    ("create", "ABSENT", ["cluster create"]),
    ("run", "ABSENT", RUN),
    ("watch", "RUNNING", ["workload list"]),
    ("resume", "ABSENT", ["workload list", *RUN]),
    ("resume", "FAILED", ["workload list", "workload delete", *RUN]),
    ("resume", "RUNNING", ["workload list"]),
    ("resume", "DONE", ["workload list"]),
    ("delete", "RUNNING", ["workload delete"]),
    ("delete-cluster", "ABSENT", ["cluster delete"]),
  ],
)
def test_dry_run_prints_what_is_run(stubs, verb, state, expected):
  stubs.answer("xpk", ROWS[state])
  supposed = f"--state={state}"
  printed = stubs.run("gke_xpk.sh", verb, *FLAGS, supposed, "--dry-run")
  assert (printed.code, printed.err, printed.calls) == (0, "", [])
  done = stubs.run("gke_xpk.sh", verb, *FLAGS)
  assert done.code == 0, done.err
  assert done.calls == printed.commands
  assert kinds(done.calls) == expected


def test_the_words_of_every_call(stubs):
  stubs.answer("xpk", ROWS["FAILED"])
  calls = stubs.run("gke_xpk.sh", "resume", *FLAGS).calls
  assert calls[:2] == [LIST, DELETE]
  create = calls[-1]
  assert create[:-1] == [
    "xpk",
    "workload",
    "create",
    *PLACE,
    "--workload=r1",
    "--tpu-type=v6e-16",
    "--num-slices=2",
    "--priority=medium",
    "--max-restarts=5",
    "--restart-on-user-code-failure",
    "--base-docker-image=python:3.11",
    f"--script-dir={stubs.folder}/jaxreward-r1",
  ]
  inside = shlex.split(create[-1].removeprefix("--command="))
  assert inside[: inside.index("&&")] == [
    *"pip install --quiet --editable .[tpu,gcs]".split()
  ]
  assert inside[inside.index("&&") + 1 :] == [
    "python",
    "-m",
    "jaxreward.main",
    *FLAGS[-3:],
    "--config.processes.detect=true",
  ]


def test_an_image_needs_no_packing(stubs):
  calls = stubs.run("gke_xpk.sh", "run", *FLAGS, "--image=gcr.io/p/i").calls
  assert kinds(calls) == ["workload create"]
  assert "--docker-image=gcr.io/p/i" in calls[0]
  assert calls[0][-1].startswith("--command=python -m jaxreward.main")


@pytest.mark.parametrize(
  ("flag", "expected"),
  [
    ("--spot", "--spot"),
    ("--reservation=x", "--reservation=x"),
    ("--slices=2", "--on-demand"),
  ],
)
def test_capacity_of_a_cluster(stubs, flag, expected):
  words = ["--cluster=c1", "--topology=v6e:4x4", flag]
  assert stubs.run("gke_xpk.sh", "create", *words).calls[0][-1] == expected


@pytest.mark.parametrize("fails", ["list", "delete", "create"])
def test_a_call_that_fails_ends_it_with_a_line(stubs, fails):
  stubs.answer("xpk", ROWS["FAILED"])
  result = stubs.run("gke_xpk.sh", "resume", *FLAGS, FAIL_AT=f" {fails} ")
  assert result.code == 1
  assert "error: xpk failed" in result.err.splitlines()[-1]
  assert kinds(result.calls)[-1] == f"workload {fails}"


@pytest.mark.parametrize(
  ("code", "line"),
  [
    ("125", "r1 ended with an error; the verb resume"),
    ("1", "exit code 1: xpk"),
  ],
)
def test_watch_fails_with_the_run(stubs, code, line):
  failing = dict(FAIL_AT="--wait-for", FAIL_CODE=code)
  result = stubs.run("gke_xpk.sh", "watch", *FLAGS, **failing)
  assert result.code == 1
  assert line in result.err


def test_resume_can_be_repeated(stubs):
  stubs.answer("xpk", ROWS["ABSENT"], "created", ROWS["RUNNING"])
  first = stubs.run("gke_xpk.sh", "resume", *FLAGS)
  again = stubs.run("gke_xpk.sh", "resume", *FLAGS)
  assert kinds(first.calls) == ["workload list", *RUN]
  assert again.calls == [LIST]
