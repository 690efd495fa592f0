"""Dependencies point one way; read from the sources, nothing is imported."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("jaxreward", "pallas_kernels")
LAYERS = {
  0: {
    "types",
    "rng",
    "numerics",
    "errors",
    "files",
    "processes",
    "buckets",
    "methods",
    "paths",
    "reading",
    "user_code",
    "startup",
    "inputs",
    "compat",
  },
  0.5: {"pallas_kernels"},
  1: {"models", "flow", "data"},
  2: {
    "rewards",
    "reward_models",
    "composition",
    "advantages",
    "objectives",
    "regularizers",
    "steering",
    "feeds",
    "players",
  },
  3: {"tasks", "training", "evaluation", "report", "compilation"},
  4: {"setup"},
  5: {"jobs"},
  6: {"main"},
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
# Places that change from one version of JAX to the next.
PROVISIONAL = (
  "jax._src", "jax.experimental", "jax.extend", "jax.interpreters", "jaxlib",
)  # fmt: skip
# Read by setup, jobs and main only; functions receive plain values.
CONFIG = {"config", "binding", "workdirs", "recipes"}
CONFIG_READERS = {"setup", "jobs", "main"} | CONFIG


def imports(source: str, module: str) -> set[str]:
  """Absolute names of everything a module imports, at any depth of code."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parent = module.split(".")[: -node.level]
        base = ".".join([*parent, base]).rstrip(".")
      names.update(f"{base}.{alias.name}" for alias in node.names)
  return names


def family(name: str) -> str | None:
  """Gives "flow" for "jaxreward.flow.steppers.ode"; None for other packages."""
  parts = name.split(".")
  if parts[0] == "pallas_kernels":
    return "pallas_kernels"
  return parts[1] if parts[0] == "jaxreward" and len(parts) > 1 else None


def violations(module: str, source: str) -> list[str]:
  """What a module imports that it may not."""
  me = family(module)
  found = []
  for name in sorted(imports(source, module)):
    other = family(name)
    if name.startswith("flax.linen") and me != "models":
      found.append(f"{module} imports {name}: architectures are in models/")
    if name.startswith(PROVISIONAL) and me != "compat":
      found.append(f"{module} imports {name}: jaxreward.compat offers it")
    if name.startswith("orbax") and module != "jaxreward.training.checkpoint":
      found.append(f"{module} imports {name}: only training.checkpoint may")
    if name.startswith("jaxreward.tasks.scenes") and me != "tasks":
      found.append(f"{module} imports {name}: ask the task")
    if other in (None, me) or other.startswith("__"):
      continue
    if other == "tasks" and me not in ("setup", "jobs"):
      found.append(f"{module} imports {name}: setup gives it what it needs")
    if other in CONFIG:
      if me not in CONFIG_READERS:
        found.append(f"{module} imports {name}: pass plain values instead")
    elif me in CONFIG:
      if LAYER.get(other, 9) > 0:
        found.append(f"{module} imports {name}")
    elif me not in LAYER or other not in LAYER:
      found.append(f"{module} imports {name}: give the package a layer")
    elif LAYER[other] > LAYER[me]:
      found.append(f"{module} imports {name}, which lies above it")
    elif LAYER[other] == LAYER[me] and LAYER[me] in (1, 2):
      found.append(f"{module} imports its sibling {name}")
    elif me == "training" and LAYER[other] == 2:
      found.append(f"{module} imports {name}: the step takes a loss function")
  return found


def modules() -> dict[str, pathlib.Path]:
  found = {}
  for package in PACKAGES:
    for path in sorted((ROOT / package).rglob("*.py")):
      parts = path.relative_to(ROOT).with_suffix("").parts
      found[".".join(parts)] = path
  return found


@pytest.mark.parametrize("module", list(modules()))
def test_module_imports_only_what_lies_below(module):
  assert not violations(module, modules()[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
  ("module", "line"),
  [
    ("jaxreward.types", "from jaxreward import models"),
    ("jaxreward.flow.rollout", "from jaxreward.models import lora"),
    ("jaxreward.rewards.learned", "from jaxreward import reward_models"),
    ("jaxreward.objectives.x", "import jaxreward.advantages.group as g"),
    ("jaxreward.objectives.x", "from ..advantages import group"),
    ("jaxreward.flow.x", "def f():\n  from jaxreward import rewards"),
    ("jaxreward.training.step", "from jaxreward.objectives import nft"),
    ("jaxreward.evaluation.x", "from jaxreward import config"),
    ("jaxreward.jobs.align", "from jaxreward.main import run"),
    ("jaxreward.flow.x", "import flax.linen as nn"),
    ("jaxreward.flow.x", "from flax import linen"),
    ("jaxreward.training.state", "from orbax.checkpoint import v1"),
    ("jaxreward.processes", "def f():\n  from jax._src import distributed"),
    ("pallas_kernels.x.tpu", "from jax.experimental import pallas as pl"),
    ("jaxreward.newcomer.x", "from jaxreward import flow"),
    ("jaxreward.evaluation.x", "from jaxreward.tasks import Task"),
    ("jaxreward.jobs.x", "from jaxreward.tasks.scenes import grammar"),
  ],
)
def test_wrong_imports_are_noticed(module, line):
  assert len(violations(module, line)) == 1


@pytest.mark.parametrize(
  ("module", "line"),
  [
    ("jaxreward.objectives.x", "from jaxreward.flow import log_prob"),
    ("jaxreward.jobs.align", "from jaxreward import config, training"),
    ("jaxreward.models.dit", "from flax import linen as nn"),
    ("jaxreward.report.html", "from jaxreward.evaluation import accuracy"),
    ("jaxreward.flow.x", "from jaxreward import __version__"),
    ("jaxreward.compat", "from jax.experimental import pallas"),
    ("pallas_kernels.x.tpu", "from jaxreward.compat import pallas as pl"),
  ],
)
def test_right_imports_pass(module, line):
  assert not violations(module, line)


@pytest.mark.parametrize("package", ["jobs", "setup"])
def test_what_a_task_is_called_decides_nothing_outside_of_it(package):
  field = re.compile(
    r"(grammar|source)\"?\]? *(==|!=|in \()|(==|!=) \"(scenes|edits|free)\""
  )
  for path in (ROOT / "jaxreward" / package).glob("*.py"):
    assert not field.search(path.read_text(encoding="utf-8")), path.name


def test_test_files_have_names_of_their_own():
  """They are imported by their base names."""
  names = [p.name for p in (ROOT / "tests").rglob("*.py")]
  shared = {n for n in names if names.count(n) > 1 and n != "conftest.py"}
  assert not shared


def installed_by(requirements: list[str]) -> set[str]:
  """Distributions that these requirements bring, those they need included."""
  todo, brought = [(Requirement(r), "") for r in requirements], set()
  while todo:
    wanted, extra = todo.pop()
    if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
      continue
    name = canonicalize_name(wanted.name)
    for extra in (*wanted.extras, ""):
      if (name, extra) in brought:
        continue
      brought.add((name, extra))
      try:
        needs = importlib.metadata.requires(name) or ()
      except importlib.metadata.PackageNotFoundError:
        continue
      todo += [(Requirement(need), extra) for need in needs]
  return {name for name, _ in brought}


def needed_to_collect(path: pathlib.Path) -> set[str]:
  """Packages without which pytest cannot collect a file."""
  source = path.read_text(encoding="utf-8")
  skipped = re.findall(r"importorskip\(\s*\"(\w+)", source)
  names = set()
  for node in ast.parse(source).body:
    if isinstance(node, ast.Import):
      names.update(alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      names.add((node.module or "").split(".")[0])
  return names - set(skipped)


def test_tests_are_collected_with_what_the_readme_installs():
  """Anything else goes through `pytest.importorskip`."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
  project = project["project"]
  allowed = installed_by(
    project["dependencies"] + project["optional-dependencies"]["test"]
  )
  here = {path.stem for path in (ROOT / "tests").rglob("*.py")}
  here |= {"tests", *PACKAGES, *sys.stdlib_module_names}
  brought_by = importlib.metadata.packages_distributions()
  for path in sorted((ROOT / "tests").rglob("test_*.py")):
    for name in needed_to_collect(path) - here:
      distributions = map(canonicalize_name, brought_by.get(name, ()))
      assert allowed.intersection(distributions), f"{path.name}: {name}"
