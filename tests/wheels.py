"""Distributions built offline from a copy of what git would carry."""

import os
import pathlib
import shutil
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = (
  "pyproject.toml",
  "setup.py",
  "MANIFEST.in",
  "README.md",
  "LICENSE",
  "NOTICE",
)
FOLDERS = ("jaxreward", "pallas_kernels", "configs", "tests")


def copy_project(target: pathlib.Path) -> pathlib.Path:
  """The repository without what git ignores, at a new folder."""
  target.mkdir(parents=True)
  for name in (*FILES, "CHANGELOG.md"):
    shutil.copy(ROOT / name, target / name)
  ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
  for name in FOLDERS:
    shutil.copytree(ROOT / name, target / name, ignore=ignored)
  return target


def build(project: pathlib.Path, kind: str) -> pathlib.Path:
  """The "wheel" or "sdist" of a project, by the backend, without isolation."""
  build_meta = pytest.importorskip("setuptools.build_meta")
  here = os.getcwd()
  try:
    os.chdir(project)
    made = getattr(build_meta, f"build_{kind}")(str(project.parent))
  finally:
    os.chdir(here)
  return project.parent / made


def members(path: pathlib.Path) -> list[zipfile.ZipInfo]:
  with zipfile.ZipFile(path) as archive:
    return archive.infolist()
