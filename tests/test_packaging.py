"""What an installed copy holds: the packages, their data, and not too much."""

import fnmatch
import json
import pathlib
import re
import tarfile
import tomllib
import zipfile

import pytest

from jaxreward.tasks.scenes import grammar
from tests import wheels

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ASSETS = ROOT / "jaxreward" / "assets"
BASE = ASSETS / "scenes_base.safetensors"
MANIFEST = ASSETS / "scenes_base.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> pathlib.Path:
  return wheels.copy_project(tmp_path_factory.mktemp("source") / "project")


@pytest.fixture(scope="module")
def wheel(project) -> list[zipfile.ZipInfo]:
  return wheels.members(wheels.build(project, "wheel"))


def names(wheel) -> set[str]:
  return {member.filename for member in wheel}


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_module_is_in_the_wheel(wheel):
  modules = {
    str(p.relative_to(ROOT)) for p in (ROOT / "jaxreward").rglob("*.py")
  }
  assert modules <= names(wheel)


def test_data_is_in_the_wheel(wheel):
  found = names(wheel)
  assert "jaxreward/py.typed" in found
  assert "jaxreward/report/report.html.j2" in found
  assert "jaxreward/report/serve.html" in found
  assert any(name.endswith("licenses/LICENSE") for name in found)
  for asset in ASSETS.glob("*"):
    if asset.is_file():
      assert f"jaxreward/assets/{asset.name}" in found


def shipped() -> set[str]:
  return {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py")}


def test_every_config_and_sweep_is_in_the_wheel(wheel):
  inside = {n for n in names(wheel) if n.startswith("jaxreward/configs/")}
  assert inside == {f"jaxreward/{name}" for name in shipped()}
  assert {"configs/quickstart.py", "configs/sweeps/seeds.py"} <= shipped()


def test_configs_are_python_files_alone():
  """Others would need a pattern in setup.py."""
  kinds = {
    p.suffix
    for p in (ROOT / "configs").rglob("*")
    if p.is_file() and "__pycache__" not in p.parts
  }
  assert kinds == {".py"}


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_wheel_of_the_sdist_is_the_wheel(project, wheel, tmp_path):
  source = wheels.build(project, "sdist")
  with tarfile.open(source) as archive:
    archive.extractall(tmp_path, filter="data")
  (unpacked,) = tmp_path.iterdir()
  assert not (unpacked / "tests").exists()
  assert (unpacked / "CHANGELOG.md").exists()
  found = wheels.members(wheels.build(unpacked, "wheel"))
  digests = lambda members: {m.filename: m.CRC for m in members}
  same = digests(wheel)
  assert digests(found) == same


def test_no_data_file_is_forgotten():
  """Every file of the package that is no module has a pattern in pyproject."""
  patterns = PROJECT["tool"]["setuptools"]["package-data"]["jaxreward"]
  for path in (ROOT / "jaxreward").rglob("*"):
    name = str(path.relative_to(ROOT / "jaxreward"))
    if path.is_file() and path.suffix not in (".py", ".pyc"):
      assert any(fnmatch.fnmatch(name, p) for p in patterns), name


def test_every_package_has_an_init():
  """Without one, setuptools would leave a folder out."""
  for folder in (ROOT / "jaxreward").rglob("*"):
    if folder.is_dir() and any(folder.glob("*.py")):
      assert (folder / "__init__.py").exists(), folder


def test_nothing_else_is_in_the_wheel(wheel):
  roots = {name.split("/")[0] for name in names(wheel)}
  info = {r for r in roots if r.endswith(".dist-info")}
  assert len(info) == 1
  assert roots - info <= {"jaxreward", "pallas_kernels"}
  parts = {part for name in names(wheel) for part in name.split("/")}
  assert not parts & {"test", "tests", "conftest.py", "docs", "notebooks"}


def test_size(wheel):
  """Three policies of up to 3.4 MB and two judges of 2.7 MB."""
  data = [m for m in wheel if not m.filename.endswith(".py")]
  assert sum(m.file_size for m in data) <= 15 * 2**20
  assert sum(m.compress_size for m in wheel) <= 14 * 2**20


def test_the_entry_point_is_in_the_wheel(wheel):
  assert "jaxreward/main.py" in names(wheel)


def test_requirements_have_lower_bounds():
  project = PROJECT["project"]
  extras = project["optional-dependencies"]
  for group in (project["dependencies"], *extras.values()):
    for line in group:
      if not line.startswith("jaxreward["):
        assert ">=" in line or "==" in line, line


@pytest.mark.skipif(not BASE.exists(), reason="no base checkpoint yet")
def test_the_base_checkpoint_is_small_and_says_how_it_was_made():
  assert BASE.stat().st_size <= 5 * 2**20
  made = json.loads(MANIFEST.read_text(encoding="utf-8"))
  assert "jaxreward.main" in made["command"]
  assert "pretrain_scenes.py" in made["command"]
  assert isinstance(made["seed"], int)
  assert made["seconds"] > 0
  results = made["evaluation"]["guidance_scale=1.0"]
  assert 0 < results["strict"] < 1
  assert results["n"] >= 480
  assert set(results["kinds"]) == set(grammar.KINDS)


@pytest.mark.skipif(not BASE.exists(), reason="no base checkpoint yet")
def test_the_base_checkpoint_fits_the_config_that_ships():
  import jax

  from jaxreward import config as config_lib
  from jaxreward import setup

  config = config_lib.load(str(ROOT / "configs" / "quickstart.py"))
  policy = setup.make_policy(config)
  params = setup.load_params(config, policy)
  assert config.init.checkpoint == "package:scenes_base"
  like = jax.eval_shape(policy.init, jax.random.key(0))
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shapes(params) == shapes(like)


def test_what_needs_an_extra_is_marked_so():
  """CI runs what bears the marks once the extras are installed."""
  needs = re.compile(
    r'importorskip\(\s*"(torch|diff|transf|peft|rapid|gcsfs|hugg)'
  )
  marks = re.compile(r"mark\.(parity|extras|job|slow)\b")
  sources = {
    p: p.read_text(encoding="utf-8")
    for p in (ROOT / "tests").rglob("test_*.py")
  }
  needing = [p for p, text in sources.items() if needs.search(text)]
  assert len(needing) > 20
  assert [p.name for p in needing if not marks.search(sources[p])] == []
