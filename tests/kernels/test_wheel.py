"""The kernels travel in the wheel, beside the library."""

import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_folder_is_a_package_of_the_wheel():
  setuptools = pytest.importorskip("setuptools")
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
  find = project["tool"]["setuptools"]["packages"]["find"]
  found = set(setuptools.find_packages(str(ROOT), include=find["include"]))
  folders = {
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "pallas_kernels").rglob("*.py")
  }
  assert len(folders) == 5
  assert folders <= found


def test_the_tpu_extra_brings_the_compiler():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
  entries = project["project"]["optional-dependencies"]["tpu"]
  assert entries and all(entry.startswith("jax[tpu]") for entry in entries)
