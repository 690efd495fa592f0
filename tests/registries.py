"""Every registry of methods by name, for tests that go through all of them."""

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

REGISTRIES = {
  "advantages": advantages.REGISTRY,
  "backbones": reward_models.BACKBONES,
  "combiners": composition.COMBINERS,
  "composition": composition.REGISTRY,
  "curation": curation.CURATION,
  "evaluators": evaluators.REGISTRY,
  "feeds": {name: feed.make for name, feed in feeds.FEEDS.items()},
  "heads": reward_models.HEADS,
  "losses": reward_models.REGISTRY,
  "objectives": objectives.REGISTRY,
  "players": players.PLAYERS,
  "references": references.RULES,
  "regularizers": regularizers.REGISTRY,
  "rewards": rewards.REGISTRY,
  "samplers": steppers.REGISTRY,
  "schedules": schedule.REGISTRY,
  "steering": steering.REGISTRY,
  "windows": windows.REGISTRY,
}
