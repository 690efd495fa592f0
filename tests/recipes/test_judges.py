"""Recipes that train judges run end to end; see test_battery."""

import json

import numpy as np
import pytest

from jaxreward.rewards import vision_language
from tests import tiny, turns
from tests.recipes import test_battery as battery


@pytest.mark.job
@pytest.mark.parametrize("name", turns.one_due(battery.JUDGES))
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  tiny.use_one_device(monkeypatch)
  config = battery.load(name, {"mesh.data": 1, "pretrain.steps": 3})
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir, "pretrain")
  record = json.loads((workdir / "evaluation.json").read_text())["judge"]
  assert np.isfinite([row["loss"] for row in rows[1:]]).all()
  for rate in record["fooled"]["scenes"]["keys"].values():
    assert rate["low"] <= rate["yes"] <= rate["high"]
  if config.verdicts.rule.name != "none":
    for row in rows[1:]:
      assert np.isfinite(row["reward/scenes"])
      assert 0 <= row["right/scenes"] <= 1 and 1 <= row["length/scenes"] <= 6
    told = record["verdicts"]["scenes"]
    assert told["n"] == config.eval.samples
    assert 0 <= told["formed"] <= 1
    assert told["low"] <= told["accuracy"] <= told["high"]
  options = vision_language.Options(str(workdir / "judge"))
  assert vision_language.load(options)[0].model.language.width == 32
