"""The Colab notebooks run top to bottom, here on a CPU and without Jupyter.

The cell tagged `install` is the only one that needs a network; it is left out.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Notebook: its runs, and how many figures it draws.
NOTEBOOKS = {
  "quickstart_tpu": (("smoke", "edited"), 3),
  "reward_model_from_pairs": (("pairs", "aligned"), 1),
  "edit_with_five_rewards": (("five",), 1),
}
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
assert len(_figures) == {figures} and all(all(f) for f in _figures), _figures
# The kernel must leave the TPU to the processes that it starts.
from jax._src import xla_bridge
assert not xla_bridge._backends, xla_bridge._backends
"""

each = pytest.mark.parametrize("name", NOTEBOOKS)


def read(name: str) -> dict:
  return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())


def code(name: str, tagged: bool) -> list[str]:
  """Sources of the code cells with, or without, the tag `install`."""
  return [
    "".join(cell["source"])
    for cell in read(name)["cells"]
    if cell["cell_type"] == "code"
    and ("install" in cell["metadata"].get("tags", [])) == tagged
  ]


def test_all_notebooks_are_known():
  there = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
  assert there == {*NOTEBOOKS}


@each
def test_the_notebook_is_one_that_opens_and_is_committed_clean(name):
  notebook = read(name)
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


@each
def test_only_the_install_cell_needs_a_network(name):
  (install,) = code(name, tagged=True)
  assert "pip" in install and "clone" in install
  for source in code(name, tagged=False):
    assert "pip" not in source and "clone" not in source


@each
def test_every_flag_of_its_runs_is_accepted(name):
  from jaxreward import config, jobs, main

  runs = []
  names = {"python": lambda *words: runs.append(words), "show": lambda _: None}
  for source in code(name, tagged=False):
    if '"jaxreward.main"' in source:
      exec(source, dict(names))
  assert len(runs) == 2
  for words in runs:
    flags = main.parse_flags(words[2:])
    assert flags.workdir.startswith("runs/")
    jobs.find(config.load(flags.config, flags.overrides))


def test_install_without_a_checkout_says_what_to_do(tmp_path):
  (install,) = code("quickstart_tpu", tagged=True)
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
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.turns(6, 2 * i))
    for i, name in enumerate(NOTEBOOKS)
  ],
)
def test_its_cells_run_from_top_to_bottom(name, tmp_path):
  runs, figures = NOTEBOOKS[name]
  script = tmp_path / "cells.py"
  after = AFTER.format(figures=figures)
  cells = code(name, tagged=False)
  script.write_text("\n".join([BEFORE, *cells, after]))
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
  for run in runs:
    assert (tmp_path / "runs" / run / "report.html").exists()
  assert all(
    (tmp_path / f"figure{i}.png").stat().st_size for i in range(figures)
  )
