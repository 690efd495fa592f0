"""Recipes of reward models run end to end; see test_battery."""

import json

import numpy as np
import pytest
from etils import epath

from jaxreward.setup import reward_model
from tests import tiny, turns
from tests.recipes import test_battery as battery


@pytest.mark.job
@pytest.mark.turns(2)
@pytest.mark.parametrize(
  "name", turns.one_due(battery.REWARD_MODELS + battery.PUBLISHED)
)
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  tiny.use_one_device(monkeypatch)
  config = battery.load(name, {"mesh.data": 1})
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir, "train_reward")
  assert [row["step"] for row in rows] == list(range(7))
  assert all(np.isfinite(row["loss"]) for row in rows[1:])
  record = json.loads((workdir / reward_model.RECORD_FILE).read_text())
  head = json.loads(json.dumps(config.reward_model.head.to_dict()))
  assert record["model"]["head"] == head
  model = reward_model.load(epath.Path(workdir) / reward_model.MODEL_FILE)
  assert np.isfinite(model.mean) and model.std > 0
