"""Mosaic takes the kernels: compiled for TPUs that are not there."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.kernels import programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "JAX_PLATFORMS": "cpu",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  # Another compiler may be at work: no chip is there to be fought over.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
pytestmark = [
  pytest.mark.tpu_compile,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU compiler: pip install jaxreward[tpu]",
  ),
]


def compile_for(chip, *cases) -> dict[str, dict]:
  """Facts by case, from a process of its own."""
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "tests.kernels.tpu_compile",
      *(TOPOLOGIES[chip], *cases),
    ],
    cwd=ROOT,
    env=os.environ | ENVIRONMENT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  facts = [json.loads(line) for line in done.stdout.splitlines()]
  return {row.pop("case"): row for row in facts}


def assert_compiled(found, cases):
  assert set(found) == set(cases)
  for case, facts in found.items():
    assert "error" not in facts, f"{case}: {facts['error']}"
    # These have a kernel of their own for the gradient.
    has_two = case in ("wins", "attention")
    assert facts["kernels"] == (2 if has_two else 1), case
  if "pairs_4096" in cases:
    assert found["pairs_4096"]["devices"] == 4
    # A matrix of pairs in float32 has 64 MiB.
    assert found["pairs_4096"]["temporary"] < 8 << 20


@pytest.mark.parametrize("chip", list(TOPOLOGIES))
@pytest.mark.turns(3)
def test_one_of_each_for_every_chip(chip):
  cases = ("policy", "pairs_4096", "draw", "replay")
  assert_compiled(compile_for(chip, *cases), cases)


@pytest.mark.slow
@pytest.mark.parametrize("chip", list(TOPOLOGIES))
def test_every_case_for_every_chip(chip):
  assert_compiled(compile_for(chip), programs.TPU_CASES)
