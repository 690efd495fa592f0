"""Every registered method has its place in the reference."""

import pathlib
import re

import pytest

from jaxreward import (
  advantages,
  composition,
  feeds,
  objectives,
  players,
  regularizers,
  reward_models,
  rewards,
  steering,
)
from jaxreward.evaluation import evaluators
from jaxreward.flow import schedule, steppers, windows
from jaxreward.reward_models import curation
from jaxreward.training import references

PAGES = pathlib.Path(__file__).parent.parent / "docs" / "reference"
NAMED = {
  name
  for page in PAGES.glob("*.md")
  for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}
REGISTRIES = {
  "advantages": advantages.REGISTRY,
  "combiners": composition.COMBINERS,
  "composition": composition.REGISTRY,
  "evaluators": evaluators.REGISTRY,
  "feeds": {name: feed.make for name, feed in feeds.FEEDS.items()},
  "objectives": objectives.REGISTRY,
  "players": players.PLAYERS,
  "regularizers": regularizers.REGISTRY,
  "references": references.RULES,
  "backbones": reward_models.BACKBONES,
  "heads": reward_models.HEADS,
  "losses": reward_models.REGISTRY,
  "curation": curation.CURATION,
  "rewards": rewards.REGISTRY,
  "samplers": steppers.REGISTRY,
  "schedules": schedule.REGISTRY,
  "steering": steering.REGISTRY,
  "windows": windows.REGISTRY,
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
