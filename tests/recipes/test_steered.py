"""What holds for every recipe of steering; see test_battery."""

import json

import jax
import pytest

from jaxreward import config as config_lib
from jaxreward import jobs
from jaxreward.errors import UserError
from tests import tiny
from tests.recipes import test_battery as battery


@pytest.mark.parametrize("size", ["default", "smoke"])
@pytest.mark.parametrize("name", battery.STEERED)
def test_it_loads_and_is_checked_at_every_size(name, size):
  config = battery.load(name, size=size)
  jobs.find(config)
  jobs.check(config.job, config)
  text = config_lib.to_json(config)
  assert config_lib.to_json(config_lib.from_json(text)) == text
  with pytest.raises(UserError, match="no full size"):
    battery.load(name, size="full")


@pytest.mark.parametrize("name", battery.STEERED)
def test_its_docstring_names_the_paper(name):
  battery.test_its_docstring_names_the_paper(name)


def due() -> list:
  """One of them with every commit; the others are slow."""
  first = battery.turn() % len(battery.STEERED)
  return [
    pytest.param(name, marks=[] if i == first else pytest.mark.slow)
    for i, name in enumerate(battery.STEERED)
  ]


@pytest.mark.job
@pytest.mark.parametrize("name", due())
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  """The reported reward is that of the pictures that are evaluated."""
  monkeypatch.setattr(jax, "devices", lambda *_, _all=jax.devices: _all()[:1])
  config = battery.load(name, {"mesh.data": 1})
  workdir = tiny.run(config, tmp_path / "run")
  record = json.loads((workdir / "evaluation.json").read_text())
  result = record["policy"]["guidance_scale=1.0"]
  weights = {k: r.weight for k, r in config.rewards.items()}
  total = sum(w * result["rewards"][k] for k, w in weights.items())
  assert result["steered_reward"] == pytest.approx(total, abs=1e-3)
  assert result["reward_calls"] > 1
  assert result["network_evaluations"] > config.eval.num_steps
