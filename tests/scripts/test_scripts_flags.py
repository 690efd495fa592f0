"""A wrong command line is answered in one line, before anything is called."""

import shlex
import sys

import pytest

TPU = "--name=r --zone=us-east5-b --topology=v5e:4x4"
MAIN = "--config=configs/align_scenes.py --workdir=gs://bucket/r"
GKE = f"--cluster=c --name=r --topology=v5e:4x4 {MAIN}"
WRONG = [
  (
    "queued_resource.sh",
    "creat",
    'unknown verb "creat" (did you mean "create"',
  ),
  (
    "queued_resource.sh",
    "create --name=r",
    "--zone is missing, as in --zone=us",
  ),
  ("queued_resource.sh", "create --zone=us-east5-b", "--name is missing"),
  ("queued_resource.sh", "create --name=R", "--name=R: up to 39 small letters"),
  (
    "queued_resource.sh",
    "create --name=r --zone=us-east5 --topology=v5e:4x4",
    "--zone=us-east5: a zone looks like us-east5-b",
  ),
  (
    "queued_resource.sh",
    "create --name=r --zone=us-east5-b --topology=v5e:4x5",
    '--topology=v5e:4x5: no such topology (did you mean "v5e:4x4"?)',
  ),
  (
    "queued_resource.sh",
    "create --name=r --zone=us-east5-b --topology=v6e-254",
    '--topology=v6e-254: no such topology (did you mean "v6e-256"?)',
  ),
  (
    "queued_resource.sh",
    f"create {TPU} --spt",
    '--spt (did you mean "--spot"?)',
  ),
  ("queued_resource.sh", f"create {TPU} --zone", "--zone needs a value"),
  ("queued_resource.sh", f"create {TPU} --project=", "--project needs a value"),
  ("queued_resource.sh", f"create {TPU} spot", 'unexpected "spot"; flags look'),
  (
    "queued_resource.sh",
    f"create {TPU} --spot --reserved",
    "exclude each other",
  ),
  ("queued_resource.sh", f"watch {TPU} --poll=0", "--poll=0: give a whole num"),
  ("queued_resource.sh", f"run {TPU}", "--config is missing, as in --config="),
  (
    "queued_resource.sh",
    f"run {TPU} --config=configs/align_scenes.py",
    "--workdir is missing, as in --workdir=gs://",
  ),
  (
    "queued_resource.sh",
    f"run {TPU} --config=configs/align_scene.py --workdir=gs://bucket/r",
    '(did you mean "configs/align_scenes.py"?)',
  ),
  (
    "queued_resource.sh",
    f"run {TPU} --config=configs/align_scenes.py --workdir=runs/r",
    "--workdir=runs/r: the 4 hosts of v5e:4x4 must share it; give a bucket",
  ),
  (
    "queued_resource.sh",
    f"create {TPU} --config=configs/align_scenes.py --workdir=runs/r",
    "--workdir=runs/r: the 4 hosts of v5e:4x4 must share it; give a bucket",
  ),
  (
    "queued_resource.sh",
    f"run {TPU} --config=configs/align_scenes.py --workdir=gs:/bucket/r",
    "--workdir=gs:/bucket/r: a bucket looks like gs://my-bucket/my-run",
  ),
  (
    "queued_resource.sh",
    f"run {TPU} --config=configs/align_scenes.py --workdir=gs://bucket/",
    "--workdir=gs://bucket/: a bucket looks like gs://my-bucket/my-run",
  ),
  (
    "queued_resource.sh",
    f"run {TPU} {MAIN} --include=absent.py --state=ACTIVE",
    "--include=absent.py: no such file under",
  ),
  ("gke_xpk.sh", "create --name=r", "--cluster is missing, as in"),
  (
    "gke_xpk.sh",
    f"run {GKE} --slices=two",
    "--slices=two: give a whole number",
  ),
  (
    "gke_xpk.sh",
    "run --cluster=c --name=r --topology=v5e:1x1"
    " --config=configs/align_scenes.py --workdir=runs/r",
    "--workdir=runs/r: the pods of a run must share it",
  ),
  (
    "slurm.sh",
    f"run --name=r {MAIN} --python=/absent/python",
    "no such program; make the environment",
  ),
  (
    "slurm.sh",
    "run --name=r --nodes=2 --config=configs/align_scenes.py"
    " --workdir=/tmp/r --python=/bin/sh",
    "--workdir=/tmp/r: 2 nodes must share it",
  ),
  ("sweep.sh", "slrum run", 'unknown place "slrum" (did you mean "slurm"?)'),
  ("sweep.sh", f"slurm run --name=r {MAIN}", "--sweep is missing, as in"),
]


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("script", "words", "expected"), WRONG, ids=[f"{s}-{w}" for s, w, _ in WRONG]
)
def test_one_line_says_what_is_wrong(stubs, script, words, expected):
  stubs.answer("state", "ACTIVE")
  result = stubs.run(script, *words.split())
  assert result.code == 2
  assert result.err.splitlines()[-1].startswith("error: ")
  assert expected in result.err
  if "--include" not in words:  # known only when the archive is packed
    assert (result.err.count("\n"), result.out, result.calls) == (1, "", [])


@pytest.mark.parametrize(
  ("topology", "accelerator", "runtime"),
  [
    ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
    ("v5p:2x4x4", "v5p-64", "v2-alpha-tpuv5"),
    ("v6e:8x8", "v6e-64", "v2-alpha-tpuv6e"),
    ("v6e-8", "v6e-8", "v2-alpha-tpuv6e"),
  ],
)
def test_topologies_become_gclouds_names(stubs, topology, accelerator, runtime):
  result = stubs.run(
    "queued_resource.sh",
    *f"create --name=r --zone=us-east5-b --topology={topology}".split(),
    "--dry-run",
  )
  create = result.commands[-1]
  assert f"--accelerator-type={accelerator}" in create
  assert f"--runtime-version={runtime}" in create


def test_the_table_of_topologies_counts_chips_and_hosts(stubs):
  text = (stubs_root() / "common.sh").read_text()
  rows = text.split('TOPOLOGIES="\\\n')[1].split('"')[0].splitlines()
  assert len(rows) == 26
  for row in rows:
    name, accelerator, hosts = row.split()
    generation, sides = name.split(":")
    chips = 1
    for side in sides.split("x"):
      chips *= int(side)
    cores = 2 if generation == "v5p" else 1
    assert int(accelerator.rsplit("-", 1)[1]) == chips * cores, row
    one_host = 4 if generation == "v5p" else 8
    assert int(hosts) == (1 if chips <= one_host else chips // 4), row


def stubs_root():
  import pathlib

  return pathlib.Path(__file__).resolve().parents[2] / "tpu_scripts"


def test_hard_words_arrive_as_they_were_given(stubs):
  # A locale may have no way to hand such a letter to a process.
  letter = "é" if sys.getfilesystemencoding() == "utf-8" else "e"
  hard = f'--config.rewards.mine.fn=my file.py:it\'s "$HOME" * \\ {letter}'
  words = [*TPU.split(), *MAIN.split(), hard, "--state=ACTIVE", "--dry-run"]
  result = stubs.run("queued_resource.sh", "run", *words)
  start = result.commands[-1]
  remote = next(w for w in start if w.startswith("--command="))
  sent = shlex.split(remote.removeprefix("--command="))
  assert sent[-2:] == [hard, "--config.processes.detect=true"]
