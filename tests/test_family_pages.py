"""Every method has a row on the pages of the families, with its defaults."""

import ast
import inspect
import pathlib
import re
import shlex

import pytest

from jaxreward import config as config_lib
from jaxreward import jobs
from jaxreward.main import parse_flags
from tests import registries

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted((DOCS / "families").glob("*.md"))
_OBJECTIVES = (
  "policy_gradient", "likelihood_free", "preferences", "reward_gradients",
)  # fmt: skip
# registry -> the pages that may have the row
_PAGES = {
  "objectives": _OBJECTIVES,
  "advantages": ("credit",),
  "composition": ("composition",),
  "combiners": ("composition",),
  "regularizers": ("regularizers_and_defences",),
  "players": ("players_and_references",),
  "references": ("players_and_references",),
  "backbones": ("reward_model_heads",),
  "heads": ("reward_model_heads",),
  "losses": ("reward_model_losses",),
  "rewards": ("rewards",),
  "steering": ("../sampling",),
}
REGISTRIES = {
  name: (registries.REGISTRIES[name], pages) for name, pages in _PAGES.items()
}


def page_of(name):
  return (DOCS / "families" / f"{name}.md").resolve()


def where(name):
  return page_of(name).relative_to(DOCS.parent.resolve()).as_posix()


def rows_of(path):
  """{name in the first cell: cells} of a page's tables."""
  lines = path.read_text(encoding="utf-8").splitlines()
  cells = [
    re.split(r" *\| *", line.strip(" |")) for line in lines if "|" in line
  ]
  names = [re.fullmatch(r"`(\w+)`", row[0]) for row in cells]
  return {m[1]: row for m, row in zip(names, cells, strict=True) if m}


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_method_has_a_row(registry):
  methods, pages = REGISTRIES[registry]
  rows = {}
  for page in pages:
    rows |= rows_of(page_of(page))
  missing = [name for name in methods if name not in rows]
  files = " or ".join(where(page) for page in pages)
  assert not missing, (
    f"{', '.join(missing)} ({registry}): add to {files} a row such as"
    f" | `{missing[0]}` | definition | its options with their defaults |"
    " its recipe | its paper |"
  )


def test_every_row_is_of_a_method():
  known = {name for methods, _ in REGISTRIES.values() for name in methods}
  for path in PAGES:
    names = {name for name, row in rows_of(path).items() if len(row) == 5}
    assert names <= known, f"{path.name}: no method is called {names - known}"


def defaults_of(method):
  """{option: default} of a method and, of a reward, of its loader."""
  functions = [method, getattr(method, "loads", None)]
  return {
    p.name: p.default
    for function in functions
    if function is not None
    for p in inspect.signature(function).parameters.values()
  }


@pytest.mark.parametrize("registry", [r for r in REGISTRIES if r != "steering"])
def test_the_defaults_are_those_of_the_signatures(registry):
  methods, pages = REGISTRIES[registry]
  for page in pages:
    for name, cells in rows_of(page_of(page)).items():
      if name not in methods or len(cells) < 3:
        continue
      defaults = defaults_of(methods[name])
      for option, text in re.findall(r"`(\w+)=([^`]+)`", cells[2]):
        row = f"{where(page)}, {name}: {option}={text}"
        assert option in defaults, f"{row}: there is no such option"
        assert ast.literal_eval(text) == defaults[option], (
          f"{row}: the default is {defaults[option]!r}"
        )


def commands():
  """(page, flags) of every command on the pages."""
  for path in PAGES:
    for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
      words = shlex.split(block.replace("\\\n", " "))
      assert words[:3] == ["python", "-m", "jaxreward.main"], path
      yield pytest.param(parse_flags(words[3:]), id=path.stem)


@pytest.mark.parametrize("flags", list(commands()))
def test_every_command_is_a_config_that_can_run(flags):
  config = config_lib.load(flags.config, flags.overrides)
  jobs.find(config)
  jobs.check(config.job, config)
