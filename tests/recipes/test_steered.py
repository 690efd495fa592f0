"""Recipes of steering run end to end; see test_battery."""

import json

import pytest

from tests import tiny, turns
from tests.recipes import test_battery as battery


@pytest.mark.job
@pytest.mark.turns(2)
@pytest.mark.parametrize("name", turns.one_due(battery.STEERED))
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  """The reported reward is that of the pictures that are evaluated."""
  tiny.use_one_device(monkeypatch)
  config = battery.load(name, {"mesh.data": 1})
  workdir = tiny.run(config, tmp_path / "run")
  record = json.loads((workdir / "evaluation.json").read_text())
  result = record["policy"]["guidance_scale=1.0"]
  weights = {k: r.weight for k, r in config.rewards.items()}
  total = sum(w * result["rewards"][k] for k, w in weights.items())
  assert result["steered_reward"] == pytest.approx(total, abs=1e-3)
  assert result["reward_calls"] > 1
  assert result["network_evaluations"] > config.eval.num_steps
