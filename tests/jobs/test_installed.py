"""The wheel alone, from an empty folder: the README's first command in small."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import hurry, tiny, wheels

pytestmark = pytest.mark.job


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
  """A folder that holds an installed copy and nothing else."""
  folder = tmp_path_factory.mktemp("installed")
  project = wheels.copy_project(folder / "source" / "project")
  wheel = wheels.build(project, "wheel")
  subprocess.run(
    [
      sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
      "--no-index", "--disable-pip-version-check",
      "--target", folder / "site", wheel,
    ],
    check=True,
  )  # fmt: skip
  return folder / "site"


@pytest.fixture
def python(site, tmp_path):
  """Runs Python with the installed copy from a folder of its own, empty."""
  (tmp_path / "empty").mkdir()
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  # Programs run once or twice: most of their time is the compiler's.
  env |= {"PYTHONPATH": str(site), "XLA_FLAGS": hurry.xla_flags()}

  def run(*words):
    return subprocess.run(
      [sys.executable, *words],
      cwd=tmp_path / "empty", env=env, capture_output=True, text=True,
    )  # fmt: skip

  return run


@pytest.mark.turns(3)
def test_the_miniature_runs_from_an_empty_folder(python, site, tmp_path):
  where = "import jaxreward; print(jaxreward.__file__)"
  assert python("-c", where).stdout.startswith(str(site))
  done = python(
    "-m", "jaxreward.main", "--config=configs/quickstart.py:smoke",
    "--workdir=run",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  workdir = tmp_path / "empty" / "run"
  assert sorted(p.name for p in workdir.parent.iterdir()) == ["run"]
  assert "after" in json.loads((workdir / "evaluation.json").read_text())
  assert (workdir / "report.html").stat().st_size > 10_000
  assert tiny.rows(workdir)


@pytest.mark.turns(2)
def test_sweeps_and_mistakes_are_looked_up_there_too(python, tmp_path):
  command = ("-m", "jaxreward.main", "--workdir=run")
  sweep = python(
    *command, "--config=configs/align_scenes.py:flow_grpo,smoke",
    "--sweep=configs/sweeps/seeds.py", "--dry-run",
  )  # fmt: skip
  assert sweep.returncode == 0, sweep.stderr
  assert sweep.stdout.count("--config.seed=") > 1
  wrong = python(*command, "--config=configs/quickstrat.py")
  assert wrong.returncode == 2
  assert 'did you mean "configs/quickstart.py"' in wrong.stderr
  # A folder of that name that is here goes first.
  own = tmp_path / "empty" / "configs"
  own.mkdir()
  (own / "quickstart.py").write_text("raise SystemError('mine')")
  mine = python(*command, "--config=configs/quickstart.py")
  assert mine.returncode == 2 and "mine" in mine.stderr
  # What lies beside an installed package is not the user's.
  other = python(*command, "--config=pallas_kernels/dispatch.py")
  assert other.returncode == 2 and "no such file" in other.stderr
