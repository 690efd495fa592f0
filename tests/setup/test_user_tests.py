"""Accuracy by who answered, of a model whose tastes are planted."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import reward_models as rm
from jaxreward.data import preferences, tastes
from jaxreward.errors import UserError
from jaxreward.setup import user_tests

F = np.float32


def of_red(params, images, tokens):
  """What is red in an image: the only feature."""
  del params, tokens
  return {"joint": jnp.asarray(images)[..., 0].mean((2, 3))[..., None]}


@pytest.fixture
def config():
  config = config_lib.load("configs/recipes/pamela_personal_rm.py:smoke")
  config.train_reward.heldout_rows = 16
  config.train_reward.users.update(count=2, unseen=2, weight=1.0, shown=2)
  return config


def test_known_users_and_new_ones_after_some_rows(config):
  """f = 0 and g = what is red: users want +g or -g, the average one nothing."""
  red = np.random.default_rng(0).permutation(48).reshape(16, 3) * 5
  images = np.zeros((48, 2, 2, 3), np.uint8)
  images[..., 0] = red.reshape(-1)[:, None, None]
  rows = preferences.Preferences(
    images=images, tokens=np.arange(16)[:, None], category=np.zeros(16, int),
    members=np.arange(48).reshape(16, 3), prob=np.zeros(()),
    score=np.zeros((16, 3), F), strict=np.zeros((16, 3), F),
    source=np.zeros(3, int), aspects=(red / F(255))[..., None],
  )  # fmt: skip
  rows = tastes.planted(rows, 4, 1.0, seed=0)
  first = np.asarray(rows.score)[:, :, None] > np.asarray(rows.score)[:, None]
  prob = np.where(np.eye(3, dtype=bool), np.nan, first).astype(F)
  rows = rows.replace(prob=prob)
  head = rm.HEADS["personal"](users=2, width=1, hidden=0, ridge=1e-3)
  backbone = rm.Backbone(lambda key: {}, of_red, (2, 2, 3), 1)
  kernel = np.array([[0.0, 1.0]], F)
  params = {
    "backbone": {},
    "head": {
      "net": {"head_out": {"kernel": kernel, "bias": np.zeros(2, F)}},
      "users": np.array([[1.0, 0.0], [-1.0, 1.0]], F),
    },
  }
  results = user_tests.evaluate(
    config, rm.RewardModel(backbone, head), params, rows
  )
  assert results["known"]["accuracy"] == 1.0
  assert results["unseen"]["accuracy"] == 0.5  # all scores of a row are equal
  assert results["adapted"]["accuracy"] == 1.0
  assert results["unseen"]["n"] == results["adapted"]["n"] > 0
  pooled = rm.RewardModel(backbone, rm.HEADS["scalar"](hidden=0))
  params["head"] = {"head_out": {"kernel": kernel[:, 1:], "bias": np.zeros(1)}}
  results = user_tests.evaluate(config, pooled, params, rows)
  assert results["known"]["accuracy"] == 0.5  # one user of two wants red
  assert sorted(results) == ["known", "unseen"]


@pytest.mark.parametrize(
  ("users", "words"),
  [
    (dict(count=0), "unseen=2: unseen users need others"),
    (dict(shown=0), "shown=0"),
    (dict(shown=4), "each of 4 users labels 4, which leaves none"),
  ],
)
def test_users_that_nothing_tells_apart(config, users, words):
  config.train_reward.users.update(users)
  with pytest.raises(UserError, match=words):
    user_tests.check(ConfigDict(config))
