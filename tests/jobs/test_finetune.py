"""Fine-tuning from end to end: learns, is watched, and goes on to the byte."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests import tiny

SPEC = "finetune.py:scenes,smoke"
SMALL = (
  tiny.MODEL
  | tiny.FAST
  | {"eval.samples": 6, "eval.quick_samples": 6, "eval.num_steps": 2}
  | {"eval.group": 1, "finetune.microbatch": 2}
)


@pytest.mark.job
@pytest.mark.turns(2)
def test_a_run_learns_is_watched_and_goes_on_to_the_byte(tmp_path):
  config = tiny.load(SPEC, SMALL)
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir, "finetune")
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  watched = [row["eval/loss"] for row in rows if "eval/loss" in row]
  assert len(watched) == 3 and np.isfinite(watched).all()
  assert watched[-1] < watched[0]
  assert "Fine-tuning run" in (workdir / "report.html").read_text()
  written = (workdir / "policy.safetensors").read_bytes()
  assert (workdir / "export" / "final" / "README.md").exists()
  assert Image.open(workdir / "dataset" / "0-image.png").size == (36, 36)

  shutil.rmtree(workdir / "checkpoints" / "finetune" / "4")
  (workdir / "policy.safetensors").unlink()
  tiny.run(config, workdir)
  assert (workdir / "policy.safetensors").read_bytes() == written
  assert tiny.rows(workdir, "finetune") == rows
