"""The life of a queued resource, with a gcloud that only remembers."""

import tarfile

import pytest

FLAGS = [
  "--name=r1",
  "--zone=us-east5-b",
  "--project=p",
  "--topology=v5e:4x4",
  "--spot",
  "--config=configs/quickstart.py:smoke",
  "--config.seed=1",
  "--workdir=gs://bucket/r1",
]
PLACE = ["--zone=us-east5-b", "--project=p"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
DESCRIBE = [*QUEUED, "describe", "r1", *PLACE, "--format=value(state.state)"]
DELETE = [*QUEUED, "delete", "r1", *PLACE, "--force", "--quiet"]
CREATE = [
  *QUEUED,
  "create",
  "r1",
  *PLACE,
  "--node-id=r1",
  "--accelerator-type=v5litepod-16",
  "--runtime-version=v2-alpha-tpuv5-lite",
  "--spot",
]
STARTED = ["tar", "scp", "install", "start"]


def kinds(calls: list[list[str]]) -> list[str]:
  """One word per call."""
  names = []
  for call in calls:
    text = " ".join(call)
    for word in ("worker.sh install", "worker.sh start", "worker.sh status"):
      if word in text:
        names.append(word.split()[1])
        break
    else:
      names.append(call[4] if call[0] == "gcloud" else call[0])
  return names


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("verb", "states", "supposed", "expected"),
  [
    ("create", ["NOT_FOUND: r1"], [], ["describe", "create"]),
    ("create", ["ACTIVE"], ["--state=ACTIVE"], ["describe"]),
    ("run", ["ACTIVE"], [], ["describe", *STARTED]),
    (
      "resume",
      ["SUSPENDED", "ACTIVE"],
      [],
      ["describe", "delete", "create", "describe", *STARTED],
    ),
    (
      "resume",
      ["FAILED", "ACTIVE"],
      ["--state=FAILED"],
      ["describe", "delete", "create", "describe", *STARTED],
    ),
    (
      "resume",
      ["NOT_FOUND: r1", "ACTIVE"],
      ["--state=ABSENT"],
      ["describe", "create", "describe", *STARTED],
    ),
    (
      "resume",
      ["PROVISIONING", "ACTIVE"],
      ["--state=PROVISIONING"],
      ["describe", "describe", *STARTED],
    ),
    ("resume", ["ACTIVE"], ["--state=ACTIVE"], ["describe", *STARTED]),
    ("watch", ["ACTIVE"], [], ["describe", "status"]),
    ("stop", ["ACTIVE"], [], ["ssh"]),
    ("delete", ["ACTIVE"], [], ["delete"]),
  ],
)
def test_dry_run_prints_what_is_run(stubs, verb, states, supposed, expected):
  stubs.answer("state", *states)
  stubs.answer("status", "done")
  printed = stubs.run(
    "queued_resource.sh", verb, *FLAGS, *supposed, "--dry-run"
  )
  assert (printed.code, printed.err, printed.calls) == (0, "", [])
  done = stubs.run("queued_resource.sh", verb, *FLAGS)
  assert done.code == 0, done.err
  assert done.calls == printed.commands
  assert kinds(done.calls) == [
    "ssh" if word == "ssh" else word for word in expected
  ]


def test_the_words_of_every_call(stubs):
  stubs.answer("state", "SUSPENDED", "ACTIVE")
  calls = stubs.run("queued_resource.sh", "resume", *FLAGS).calls
  assert calls[:4] == [DESCRIBE, DELETE, CREATE, DESCRIBE]
  tar, scp, install, start = calls[4:]
  archive = f"{stubs.folder}/jaxreward-r1.tar.gz"
  assert f"--file={archive}" in tar
  vm = ["gcloud", "compute", "tpus", "tpu-vm"]
  everywhere = ["--worker=all"]
  copied = [archive, "r1:jaxreward.tar.gz"]
  assert scp == [*vm, "scp", *copied, *everywhere, *PLACE]
  assert install[:7] == [*vm, "ssh", "r1", "--worker=all"]
  assert install[7].startswith("--command=flock -n -E 0 jaxreward.lock bash")
  assert start[:7] == install[:7]
  assert start[7] == (
    "--command=bash jaxreward/tpu_scripts/worker.sh start"
    " --config=configs/quickstart.py:smoke --config.seed=1"
    " --workdir=gs://bucket/r1 --config.processes.detect=true"
  )


def test_waiting_looks_again_until_it_is_active(stubs):
  stubs.answer("state", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  result = stubs.run("queued_resource.sh", "run", *FLAGS)
  assert result.code == 0
  assert kinds(result.calls) == ["describe"] * 3 + STARTED


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED", "NOT_FOUND: r1"])
def test_run_without_a_tpu_says_so(stubs, state):
  stubs.answer("state", state)
  result = stubs.run("queued_resource.sh", "run", *FLAGS)
  assert result.code == 1
  word = "ABSENT" if "NOT" in state else state
  assert f"error: r1 is {word}, there is no TPU to run on" in result.err
  assert kinds(result.calls) == ["describe"]


@pytest.mark.parametrize(
  ("fails", "last"),
  [
    ("describe", "describe"),
    ("delete", "delete"),
    ("create", "create"),
    ("scp", "scp"),
    ("worker.sh install", "install"),
    ("worker.sh start", "start"),
  ],
)
def test_a_call_that_fails_ends_it_with_a_line(stubs, fails, last):
  stubs.answer("state", "SUSPENDED", "ACTIVE")
  result = stubs.run("queued_resource.sh", "resume", *FLAGS, FAIL_AT=fails)
  assert result.code == 1
  line = result.err.splitlines()[-1]
  assert line.startswith("error: gcloud failed")
  assert fails in line
  assert "boom" in result.err
  assert kinds(result.calls)[-1] == last


def test_no_permission_is_not_taken_for_absence(stubs):
  failing = dict(FAIL_AT="describe", FAIL_WITH="PERMISSION_DENIED: no")
  result = stubs.run("queued_resource.sh", "create", *FLAGS, **failing)
  assert result.code == 1
  assert "PERMISSION_DENIED" in result.err
  assert kinds(result.calls) == ["describe"]


def test_resume_can_be_repeated(stubs):
  stubs.answer("state", "SUSPENDED", "ACTIVE")
  first = stubs.run("queued_resource.sh", "resume", *FLAGS)
  again = stubs.run("queued_resource.sh", "resume", *FLAGS)
  third = stubs.run("queued_resource.sh", "resume", *FLAGS)
  assert "create" in kinds(first.calls)
  assert kinds(again.calls) == ["describe", *STARTED]
  assert again.calls == third.calls


@pytest.mark.parametrize(
  ("status", "code", "line"),
  [
    ("done\\nlast words", 0, "last words"),
    (
      "failed with exit code 2\\nlast",
      1,
      "r1: the run failed with exit code 2",
    ),
    ("stopped", 1, "r1 is stopped; the verb resume goes on from the last"),
  ],
)
def test_watch_ends_with_the_run(stubs, status, code, line):
  stubs.answer("state", "PROVISIONING", "ACTIVE")
  stubs.answer("status", "running\\n12%", "running\\n50%", status)
  result = stubs.run("queued_resource.sh", "watch", *FLAGS)
  assert result.code == code
  assert line in result.out + result.err
  assert kinds(result.calls) == ["describe"] + ["describe", "status"] * 3


def test_watch_sees_a_preemption(stubs):
  stubs.answer("state", "ACTIVE", "SUSPENDED")
  stubs.answer("status", "running")
  result = stubs.run("queued_resource.sh", "watch", *FLAGS)
  assert result.code == 1
  assert "error: r1 is SUSPENDED; the verb resume goes on" in result.err


def test_watch_asks_again_after_a_preemption(stubs):
  stubs.answer("state", "ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE")
  stubs.answer("status", "running", "done")
  result = stubs.run("queued_resource.sh", "watch", *FLAGS, "--auto-resume")
  assert result.code == 0, result.err
  look = ["describe", "status"]
  again = ["describe", "describe", "delete", "create", "describe", *STARTED]
  assert kinds(result.calls) == look + again + look


def test_watch_gives_up_on_a_silent_worker(stubs):
  stubs.answer("state", "ACTIVE")
  failing = dict(FAIL_AT="worker.sh status")
  result = stubs.run("queued_resource.sh", "watch", *FLAGS, **failing)
  assert result.code == 1
  assert "error: r1: worker 0 has not answered three times" in result.err
  assert kinds(result.calls) == ["describe", "status"] * 3


def test_one_look(stubs):
  stubs.answer("state", "ACTIVE")
  stubs.answer("status", "running\\n12%")
  result = stubs.run("queued_resource.sh", "watch", *FLAGS, "--once")
  assert (result.code, result.out) == (0, "running\n12%\n")


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_archive_holds_what_a_host_needs(stubs):
  stubs.answer("state", "ACTIVE")
  stubs.remove("tar")
  include = "--include=tests/tiny.py"
  result = stubs.run("queued_resource.sh", "run", *FLAGS, include)
  assert result.code == 0, result.err
  with tarfile.open(stubs.folder / "jaxreward-r1.tar.gz") as archive:
    names = set(archive.getnames())
  assert {
    "pyproject.toml",
    "README.md",
    "jaxreward/main.py",
    "jaxreward/assets/scenes_base.safetensors",
    "configs/quickstart.py",
    "tpu_scripts/worker.sh",
    "tests/tiny.py",
  } <= names
  assert not [n for n in names if "__pycache__" in n or n.startswith(".git")]


def test_every_flag_of_a_request_reaches_gcloud(stubs):
  given = {
    "--runtime-version": "v2-x",
    "--service-account": "a@b",
    "--network": "n",
    "--subnetwork": "m",
  }
  words = [f"{k}={v}" for k, v in given.items()]
  words += ["--valid-until=6h", "--reserved", "--poll=5"]
  flags = [w for w in FLAGS if w != "--spot"]
  (_, create) = stubs.run(
    "queued_resource.sh", "create", *flags, *words, "--dry-run"
  ).commands
  for word in [*words[:4], "--valid-until-duration=6h", "--reserved"]:
    assert word in create
