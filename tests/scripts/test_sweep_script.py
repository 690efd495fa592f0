"""A sweep becomes one run per entry."""

import sys

import pytest

SWEEP = [
  "--sweep=configs/sweeps/seeds.py",
  "--name=s",
  "--config=configs/quickstart.py:smoke",
  "--config.data.source=my prompts.txt",
  "--workdir=gs://bucket/s",
]
TPU = ["--zone=us-east5-b", "--topology=v6e:2x4", "--spot"]
GKE = ["--cluster=c", "--topology=v6e:2x4"]
# What main prints for a sweep of two entries, quotes included.
FAKE = """\
#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$STUBS/mains"
for i in 0 1; do
  echo "python -m jaxreward.main --config=configs/quickstart.py:smoke" \\
    "--workdir=gs://bucket/s/$i '--config.data.source=it'\\"'\\"'s mine.txt'" \\
    "--config.seed=$i"
done
"""


@pytest.fixture
def place(stubs):
  stubs.add("fake", FAKE)
  return stubs


def sweep(stubs, where, verb, *words, **extra):
  python = f"--python={stubs.bin / 'fake'}"
  return stubs.run("sweep.sh", where, verb, *SWEEP, python, *words, **extra)


@pytest.mark.job
@pytest.mark.turns(3)
def test_main_unfolds_the_real_sweep(stubs):
  prompts = SWEEP[3]
  words = [w for w in SWEEP if w != prompts]
  python = f"--python={sys.executable}"
  result = stubs.run(
    "sweep.sh", "gke_xpk", "run", *words, *GKE, python, "--dry-run"
  )
  assert result.code == 0, result.err
  created = [
    c for c in result.commands if c[:3] == ["xpk", "workload", "create"]
  ]
  assert len(created) == 3
  for i, words in enumerate(created):
    assert f"--workload=s-{i}" in words
    assert words[-1].endswith(
      f"--workdir=gs://bucket/s/{i} --config.seed={i}"
      " --config.processes.detect=true"
    )


def test_tpus_are_all_asked_for_before_one_is_waited_for(place):
  place.answer("state", "NOT_FOUND: s", "NOT_FOUND: s", "ACTIVE")
  result = sweep(place, "queued_resource", "run", *TPU)
  assert result.code == 0, result.err
  order = [
    (call[4], call[5])
    for call in result.calls
    if call[0] == "gcloud" and call[4] in ("create", "ssh")
  ]
  asked = [("create", "s-0"), ("create", "s-1")]
  assert order == [*asked, *[("ssh", "s-0")] * 2, *[("ssh", "s-1")] * 2]
  start = [c for c in result.calls if "worker.sh start" in " ".join(c)]
  assert "--workdir=gs://bucket/s/1" in " ".join(start[1])
  assert "it'\\''s mine.txt" in " ".join(start[1])


@pytest.mark.parametrize(
  ("where", "verb", "words"),
  [
    ("queued_resource", "run", TPU),
    ("queued_resource", "delete", TPU),
    ("gke_xpk", "run", GKE),
    ("gke_xpk", "watch", GKE),
    ("slurm", "delete", []),
  ],
)
def test_dry_run_prints_what_is_run(place, where, verb, words):
  if where == "queued_resource":
    place.answer("state", "NOT_FOUND: s", "NOT_FOUND: s", "ACTIVE")
  printed = sweep(place, where, verb, *words, "--dry-run")
  assert (printed.code, printed.calls) == (0, []), printed.err
  done = sweep(place, where, verb, *words)
  assert done.code == 0, done.err
  assert done.calls == printed.commands
  assert len(done.calls) >= 2


def test_a_launch_that_broke_off_is_repeated(place):
  place.answer("state", "NOT_FOUND: s", "NOT_FOUND: s", "ACTIVE")
  broken = sweep(place, "queued_resource", "run", *TPU, FAIL_AT="create s-1 ")
  assert broken.code == 1
  assert "error: entry 1 (s-1) has failed" in broken.err.splitlines()[-1]
  place.answer("state", "ACTIVE", "NOT_FOUND: s", "ACTIVE")
  again = sweep(place, "queued_resource", "run", *TPU)
  assert again.code == 0, again.err
  created = [c[5] for c in again.calls if "create" in c]
  assert created == ["s-1"]


def test_a_sweep_that_cannot_be_unfolded_starts_nothing(place):
  place.add("fake", "#!/bin/sh\necho 'error: no such field' >&2\nexit 2\n")
  result = sweep(place, "queued_resource", "run", *TPU)
  assert result.code == 1
  assert result.err.splitlines() == [
    "error: no such field",
    "error: --sweep=configs/sweeps/seeds.py has not been unfolded, see above",
  ]
  assert result.calls == []
