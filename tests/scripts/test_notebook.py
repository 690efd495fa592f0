"""The Colab notebook runs top to bottom, here on a CPU and without Jupyter.

The cell tagged `install` is the only one that needs a network; it is left out.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "quickstart_tpu.ipynb"
BEFORE = """\
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

def _save():
  plt.savefig(f"figure{len(_figures)}.png")
  _figures.append([a.has_data() for a in plt.gcf().axes])
  plt.close()

_figures = []
plt.show = _save
"""
AFTER = """
assert len(_figures) == 3 and all(all(f) for f in _figures), _figures
# The kernel must leave the TPU to the processes that it starts.
from jax._src import xla_bridge
assert not xla_bridge._backends, xla_bridge._backends
"""


def cells() -> list[dict]:
  return json.loads(NOTEBOOK.read_text())["cells"]


def code(tagged: bool) -> list[str]:
  """Sources of the code cells with, or without, the tag `install`."""
  return [
    "".join(cell["source"])
    for cell in cells()
    if cell["cell_type"] == "code"
    and ("install" in cell["metadata"].get("tags", [])) == tagged
  ]


def test_the_notebook_is_one_that_opens_and_is_committed_clean():
  notebook = json.loads(NOTEBOOK.read_text())
  assert (notebook["nbformat"], notebook["metadata"]["accelerator"]) == (
    4,
    "TPU",
  )
  for cell in notebook["cells"]:
    assert cell["cell_type"] in ("code", "markdown")
    assert all(isinstance(line, str) for line in cell["source"])
    if cell["cell_type"] == "code":
      assert (cell["outputs"], cell["execution_count"]) == ([], None)
      compile("".join(cell["source"]), "cell", "exec")  # no magics


def test_only_the_install_cell_needs_a_network():
  (install,) = code(tagged=True)
  assert "pip" in install and "clone" in install
  for source in code(tagged=False):
    assert "pip" not in source and "clone" not in source


def test_every_flag_of_its_runs_is_accepted(tmp_path):
  from jaxreward import config, jobs, main

  runs = []
  names = {"python": lambda *words: runs.append(words), "show": lambda _: None}
  for source in code(tagged=False):
    if '"jaxreward.main"' in source:
      exec(source, dict(names))
  assert len(runs) == 2
  for words in runs:
    flags = main.parse_flags(words[2:])
    assert flags.workdir.startswith("runs/")
    jobs.find(config.load(flags.config, flags.overrides))


def test_install_without_a_checkout_says_what_to_do(tmp_path):
  (install,) = code(tagged=True)
  done = subprocess.run(
    [sys.executable, "-c", install],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr == (
    "set REPOSITORY, or put the checkout in the folder jaxreward\n"
  )


@pytest.mark.job
def test_its_cells_run_from_top_to_bottom(tmp_path):
  script = tmp_path / "cells.py"
  script.write_text("\n".join([BEFORE, *code(tagged=False), AFTER]))
  done = subprocess.run(
    [sys.executable, str(script)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=3600,
  )
  assert done.returncode == 0, done.stdout[-3000:]
  assert "cpu\n" in done.stdout  # the devices
  for name in ("smoke", "edited"):
    assert (tmp_path / "runs" / name / "report.html").exists()
  assert all((tmp_path / f"figure{i}.png").stat().st_size for i in range(3))
