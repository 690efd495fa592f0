"""Every registered method has its place in the reference."""

import pathlib
import re

import pytest

from tests.registries import REGISTRIES

PAGES = pathlib.Path(__file__).parent.parent / "docs" / "reference"
NAMED = {
  name
  for page in PAGES.glob("*.md")
  for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_method_is_in_the_reference(registry):
  modules = {
    name: getattr(method, "func", method).__module__
    for name, method in REGISTRIES[registry].items()
  }
  assert {n: m for n, m in modules.items() if m not in NAMED} == {}


def test_every_module_of_the_reference_exists():
  root = PAGES.parent.parent
  for name in NAMED:
    path = root / name.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__init__.py").exists()
