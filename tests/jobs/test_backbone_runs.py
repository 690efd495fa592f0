"""Reward models on public towers, from pairs in any words to a reward."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import rewards, rng
from jaxreward.data import texts
from jaxreward.errors import UserError
from jaxreward.jobs import train_reward
from jaxreward.setup import reward_model
from jaxreward.setup import rewards as reward_setup
from jaxreward.training import weights
from tests import tiny
from tests.rewards import folders

pytestmark = [pytest.mark.job, pytest.mark.turns(4, 0)]


@pytest.fixture(autouse=True, scope="module")
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_one_device(patch)
    yield


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
  """Light images are preferred to dark ones; no word is one of the scenes'."""
  folder = tmp_path_factory.mktemp("pairs")
  generator = np.random.default_rng(0)
  rows = []
  for i in range(40):
    label = "ab"[i % 2]
    for side in "ab":
      low = 150 if side == label else 0
      image = generator.integers(low, low + 100, (36, 36, 3), np.uint8)
      Image.fromarray(image).save(folder / f"{i}{side}.png")
    rows.append(
      dict(
        prompt=f"Katze Nr. {i}, bitte!", image_a=f"{i}a.png",
        image_b=f"{i}b.png", label=label,
      )
    )  # fmt: skip
  path = folder / "pairs.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def config_of(source, **fields):
  given = {
    "train_reward.source": source, "train_reward.init_from_policy": False,
    "data.grammar": "free", "data.source": source, "mesh.data": 1,
    "train_reward.steps": 16, "train_reward.evaluate_every": 16,
    "train_reward.save_every": 16, "train_reward.rows": 8,
    "train_reward.optimizer.name": "adamw",
    "train_reward.optimizer.learning_rate": 3e-3,
  }  # fmt: skip
  config = tiny.load("train_reward_scenes.py:smoke")
  with config.unlocked():
    del config.train_reward.optimizer.adam_scale
    for name in ("backbone", "head"):
      config.reward_model[name] = fields.pop(name)
    config.train_reward.loss = fields.pop("loss", dict(name="bradley_terry"))
  for name, value in (given | fields).items():
    config.update_from_flattened_dict({name: value})
  return config


CASES = {
  "frozen clip": {
    "backbone": dict(name="clip", size="tiny"),
    "head": dict(name="gaussian", hidden=16),
    "reward_model.train": "frozen",
    "loss": dict(name="expected_bradley_terry"),
  },
  "whole siglip": {
    "backbone": dict(name="siglip", size="tiny"),
    "head": dict(name="scalar", hidden=0),
    "reward_model.train": "full",
    "train_reward.backbone_rate": 0.1,
  },
}


@pytest.fixture(scope="module", params=CASES)
def case(request, pairs_file, tmp_path_factory):
  """(name, config, workdir) of a run."""
  workdir = epath.Path(tmp_path_factory.mktemp("run"))
  config = config_of(pairs_file, **CASES[request.param])
  train_reward.check(config)
  train_reward.run(config, workdir)
  return request.param, config, workdir


def test_it_learns_and_is_read_back_as_a_reward(case):
  name, _, workdir = case
  found = json.loads((workdir / "evaluation.json").read_text())["reward_model"]
  assert found["n"] > 3 and found["accuracy"] >= 0.9
  file = str(workdir / reward_model.MODEL_FILE)
  given = {"rewards.detector": "none", "rewards.mine.fn": "learned"}
  given |= {"rewards.mine.weights": file, "data.grammar": "free"}
  given |= {"data.source": tiny.HERE.parent / "prompts.txt"}
  config = tiny.load("align_scenes.py:smoke", given)
  built = reward_setup.load(config, workdir, ("rewards",))
  said = ["Katze Nr. 7, bitte!", "Hund"]
  images = np.stack([np.full((2, 36, 36, 3), x) for x in (0.1, 0.9)], 1)
  judged = rewards.jitted_scores(
    built, images.astype(np.float32), prompts_of(said)
  )
  score = judged["mine"]
  assert (score.value[:, 1] > score.value[:, 0]).all()
  assert (score.std is not None) == (name == "frozen clip")
  if score.std is not None:
    assert (np.asarray(score.std) > 0).all()


def prompts_of(said):
  batch = folders.prompts(len(said))[0]
  return dataclasses.replace(
    batch, tokens=np.zeros_like(batch.tokens), text=texts.encode(said)
  )


def test_what_is_frozen_stays_and_its_record_names_the_parts(case):
  name, config, workdir = case
  record = json.loads((workdir / reward_model.RECORD_FILE).read_text())
  assert record["model"]["backbone"] == dict(CASES[name]["backbone"])
  if name == "frozen clip":
    key = rng.stream_key(config.seed, "reward model")
    drawn = reward_model.make(config).start(key)["backbone"]
    params = reward_model.load(workdir / reward_model.MODEL_FILE).params
    assert tiny.same_bits(drawn, params["backbone"])


def test_the_backbone_has_a_rate_of_its_own():
  import optax

  from jaxreward.training import optimizer

  params = {"backbone": {"kernel": np.ones((2, 2))}, "head": np.ones(3)}
  plain = optimizer.scaled(optax.sgd(0.1), {"backbone": 1.0})
  slow = optimizer.scaled(optax.sgd(0.1), {"backbone": 0.25})
  updates = [tx.update(params, tx.init(params))[0] for tx in (plain, slow)]
  np.testing.assert_allclose(updates[0]["backbone"]["kernel"], -0.1)
  np.testing.assert_allclose(updates[1]["backbone"]["kernel"], -0.025)
  np.testing.assert_array_equal(updates[0]["head"], updates[1]["head"])
  with pytest.raises(UserError, match="backbone_rate=-1"):
    optimizer.scaled(optax.sgd(0.1), {"backbone": -1.0})


def test_files_of_old_are_read(tmp_path):
  """One architecture, both parts' names side by side."""
  sizes = dict(width=16, depth=1, heads=1, stem=8)
  backbone = dict(name="scenes", **sizes)
  config = config_of(
    "scenes", backbone=backbone, head=dict(name="scalar", hidden=32)
  )
  params = jax.jit(reward_model.make(config).init)(jax.random.key(3))
  path = epath.Path(tmp_path) / reward_model.MODEL_FILE
  weights.save_params(path, {**params["backbone"], **params["head"]})
  record = dict(scorer=sizes, mean=0.5, std=2.0)
  (tmp_path / reward_model.RECORD_FILE).write_text(json.dumps(record))
  found = reward_model.load(path)
  assert tiny.same_bits(found.params, params)
  assert (found.mean, found.std) == (0.5, 2.0)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"loss": dict(name="thurstone")}, r'reads "stds".*there are scores'),
    (
      {"head": dict(name="similarity"), "reward_model.train": "frozen"},
      "nothing to learn",
    ),
    ({"train_reward.init_from_policy": True}, "set it to false"),
    ({"train_reward.backbone_rate": -1.0}, "backbone_rate=-1"),
    ({"reward_model.train": "half"}, "config.reward_model.train"),
    ({"backbone": dict(name="clip", sise="tiny")}, 'did you mean "size"'),
    ({"backbone": dict(name="scenes")}, "its prompts are no word ids"),
  ],
)
def test_parts_that_do_not_fit_are_refused(pairs_file, fields, words):
  parts = dict(
    backbone=dict(name="clip", size="tiny"), head=dict(name="scalar")
  )
  config = config_of(pairs_file, **(parts | fields))
  with pytest.raises(UserError, match=words):
    train_reward.check(config)
    train_reward.data(config, epath.Path("."))
