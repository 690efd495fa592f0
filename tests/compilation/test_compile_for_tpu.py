"""The whole job for a TPU that is not there, in a process of its own."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests import tiny

pytestmark = [
  pytest.mark.tpu_compile,
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU compiler: pip install jaxreward[tpu]",
  ),
]
SMOKE = "align_scenes.py:flow_grpo,smoke"


def check(workdir, *overrides):
  chosen = {"job": "compile_check", "topology": "v5e:2x2"}
  argv = tiny.flags(SMOKE, workdir, tiny.MODEL, tiny.FAST, chosen, *overrides)
  done = subprocess.run(
    [sys.executable, "-m", "jaxreward.main", *argv],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout, json.loads((workdir / "compile_check.json").read_text())


def test_scenes_on_four_chips_with_mosaic_kernels(tmp_path):
  cut = {"mesh.data": 2, "mesh.fsdp": 2, "kernels.implementation": "auto"}
  text, report = check(tmp_path, cut)
  assert "v5e:2x2 (4 devices, 15.8 GiB each)" in text and "fits" in text
  programs = report["meshes"][0]["programs"]
  steps = 3
  # A kernel per step of the rollout; replay, advantage and loss of the update.
  assert programs["rollout"]["mosaic_runs"] >= steps
  assert programs["update"]["mosaic_runs"] >= 3
  for name in ("rollout", "update"):
    program = programs[name]
    assert program["unknown_loops"] == 0
    share = program["counted_flops_all_devices"] / 4
    assert 0.8 * share < program["compiled_flops"] < 2 * share
    # Loops counted once say less, unless elementwise work makes up for it.
    assert program["seconds"]["wall"] in ("compute", "memory", "network")
    assert 0 < program["seconds"]["roofline"] < program["seconds"]["step"] < 1
  kinds = {c["kind"] for c in programs["update"]["collectives"]}
  assert kinds & {"all-reduce", "reduce-scatter"}


def test_what_the_compiler_refuses_is_a_row_with_advice(tmp_path):
  """Half a million pictures at once, which no chip holds."""
  large = {
    "rollout.prompts": 4096, "rollout.group": 128, "rollout.microbatch": 524288
  }  # fmt: skip
  text, report = check(tmp_path, large)
  mesh = report["meshes"][0]
  assert not mesh["fits"]
  refused = [p for p in mesh["programs"].values() if not p["fits"]]
  limit = report["memory_per_device"]
  assert refused and all(p["memory"]["total"] > limit for p in refused)
  assert "What to change" in text and "microbatch=262144" in text
