"""What holds for every recipe of a reward model; see test_battery."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from jaxreward import config as config_lib
from jaxreward import jobs
from jaxreward.errors import UserError
from jaxreward.setup import reward_model
from tests import tiny
from tests.recipes import test_battery as battery


@pytest.mark.parametrize("size", ["default", "smoke"])
@pytest.mark.parametrize("name", battery.REWARD_MODELS)
def test_it_loads_and_is_checked_at_every_size(name, size):
  config = battery.load(name, size=size)
  jobs.find(config)
  jobs.check(config.job, config)
  text = config_lib.to_json(config)
  assert config_lib.to_json(config_lib.from_json(text)) == text
  with pytest.raises(UserError, match="no full size"):
    battery.load(name, size="full")


@pytest.mark.parametrize("name", battery.REWARD_MODELS)
def test_its_docstring_names_the_paper(name):
  battery.test_its_docstring_names_the_paper(name)


def due() -> list:
  """One of them with every commit; the others are slow."""
  count = len(battery.REWARD_MODELS)
  first = battery.turn() % count
  return [
    pytest.param(name, marks=[] if i == first else pytest.mark.slow)
    for i, name in enumerate(battery.REWARD_MODELS)
  ]


@pytest.mark.job
@pytest.mark.parametrize("name", due())
def test_the_miniature_runs_end_to_end(name, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda *_, _all=jax.devices: _all()[:1])
  config = battery.load(name, {"mesh.data": 1})
  workdir = tiny.run(config, tmp_path / "run")
  rows = tiny.rows(workdir, "train_reward")
  assert [row["step"] for row in rows] == list(range(7))
  assert all(np.isfinite(row["loss"]) for row in rows[1:])
  record = json.loads((workdir / reward_model.RECORD_FILE).read_text())
  assert record["model"]["head"] == config.reward_model.head.to_dict()
  model = reward_model.load(epath.Path(workdir) / reward_model.MODEL_FILE)
  assert np.isfinite(model.mean) and model.std > 0
