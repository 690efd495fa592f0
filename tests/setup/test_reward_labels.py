"""Labels of a reward in place of the task's own."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxreward import config as config_lib
from jaxreward.data import preferences
from jaxreward.errors import UserError
from jaxreward.setup import reward_labels
from jaxreward.tasks.scenes import grammar


def redness(images, prompts):
  """What is red in an image; no score where nothing is."""
  del prompts
  red = images[..., 0].mean((2, 3))
  return jnp.where(red > 0, red, jnp.nan)


@pytest.fixture
def config():
  config = config_lib.load("configs/train_reward_scenes.py:smoke")
  config.train_reward.labels = "judge"
  config.judged_rewards = dict(judge=dict(fn=f"{__file__}:redness"))
  return config


def rows_of(red):
  q, n = red.shape
  images = np.zeros((q * n, 32, 32, 3), np.uint8)
  images[..., 0] = red.reshape(-1)[:, None, None]
  prompts = grammar.prompts("train")[:q]
  return prompts, preferences.Preferences(
    images=images, tokens=np.zeros((q, 4), np.int32),
    category=np.zeros(q, np.int32), members=np.arange(q * n).reshape(q, n),
    prob=np.zeros(()), score=np.arange(q * n).reshape(q, n),
    strict=np.zeros((q, n)), source=np.zeros(n, np.int32),
  )  # fmt: skip


def blueness(images, prompts):
  del prompts
  return images[..., 2].mean((2, 3)) + 1.0


def test_a_run_that_starts_again_has_the_same_labels(config, tmp_path):
  workdir = epath.Path(tmp_path)
  red = np.arange(4 * 3).reshape(4, 3)
  prompts, rows = rows_of(red)
  score = lambda rows: np.array(
    reward_labels.scored(config, rows, prompts, workdir).score
  )
  first = score(rows)
  assert np.isnan(first[0, 0])
  # As a judge that answers otherwise the second time.
  config.judged_rewards = dict(judge=dict(fn=f"{__file__}:blueness"))
  np.testing.assert_array_equal(score(rows), first)
  np.testing.assert_array_equal(score(rows_of(red + 1)[1]), np.ones((4, 3)))
  (workdir / reward_labels.LABELS_FILE).write_bytes(b"cut off")
  np.testing.assert_array_equal(score(rows), np.ones((4, 3)))


def test_scores_are_the_reward_s_and_what_fails_labels_nothing(config):
  red = (
    np.arange(20 * 3).reshape(20, 3) * 4
  )  # more rows than are scored at once
  prompts, rows = rows_of(red)
  got = np.array(reward_labels.scored(config, rows, prompts, None).score)
  want = np.where(red > 0, red / 255, np.nan)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  prompts, rows = rows_of(0 * red)
  with pytest.raises(UserError, match="every one of its scores failed"):
    reward_labels.scored(config, rows, prompts, None)


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("labels", "jugde", 'did you mean "judge"'),
    ("labels", "learned", "the model that is to be trained"),
    ("source", "pairs.jsonl", "have labels"),
  ],
)
def test_labels_of_what_labels_nothing(config, field, value, words):
  config.heldout_rewards = dict(learned=dict(fn="learned", weight=1.0))
  config.train_reward[field] = value
  with pytest.raises(UserError, match=words):
    reward_labels.check(config)
