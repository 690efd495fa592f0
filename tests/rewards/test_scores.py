"""Rewards that say more than a value: how unsure it is, and of every step."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.jobs import align
from jaxreward.setup import credits, videos
from jaxreward.tasks.scenes import grammar
from tests import tiny

P, G, T = 3, 2, 4
IMAGES = np.random.default_rng(0).random((P, G, 4, 4, 3)).astype(np.float32)
PROMPTS = grammar.batch(grammar.prompts("train")[:P])


def unsure(images, prompts):
  value = images.mean((2, 3, 4))
  steps = value[..., None] * jnp.arange(1, T + 2) / (T + 1)
  return rewards.Scores(value, 0.1 * value, steps)


@rewards.declare(is_host=True)
def judge(images, prompts):
  if (np.asarray(prompts.ids) == PROMPTS.ids[1]).any():
    raise ValueError("no answer")
  value = images.mean((2, 3, 4))
  return rewards.Scores(value.tolist(), std=np.ones(value.shape))


def both():
  return rewards.build(
    {"unsure": unsure, "judge": judge, "plain": tiny.redness}
  )


def test_the_parts_arrive_by_name():
  built, mean = both(), IMAGES.mean((2, 3, 4))
  judged = rewards.jitted_scores(built, IMAGES, PROMPTS)
  judged = judged | rewards.host_scores(built, IMAGES, PROMPTS)
  assert set(rewards.stds_of(judged)) == {"unsure", "judge"}
  assert set(rewards.steps_of(judged)) == {"unsure"}
  np.testing.assert_allclose(
    rewards.stds_of(judged)["unsure"], 0.1 * mean, rtol=1e-5
  )
  steps = rewards.steps_of(judged)["unsure"]
  assert steps.shape == (P, G, T + 1)
  np.testing.assert_allclose(steps[..., -1], mean, rtol=1e-5)
  values = rewards.values_of(judged)
  np.testing.assert_array_equal(np.isnan(values["judge"][:, 0]), [0, 1, 0])
  std = rewards.stds_of(judged)["judge"]
  np.testing.assert_array_equal(np.isnan(std[:, 0]), [0, 1, 0])
  scores, failed = rewards.score(built, IMAGES, PROMPTS)
  assert failed == {"unsure": 0, "judge": G, "plain": 0}
  np.testing.assert_allclose(scores["unsure"], mean, rtol=1e-5)


def test_steps_of_a_failed_score_failed():
  judged = {
    "a": rewards.Scores(np.array([[1.0, np.nan]]), None, np.ones((1, 2, 3)))
  }
  steps = np.asarray(rewards.steps_of(judged)["a"])
  np.testing.assert_array_equal(np.isnan(steps), [[[0] * 3, [1] * 3]])


@pytest.mark.parametrize(
  ("parts", "words"),
  [
    (dict(std=np.ones((P, 1))), r'"a" returned as std shape \[3, 1\]'),
    (dict(per_step=np.ones((P, T))), r"as per_step .*\[P, G, T \+ 1\]"),
    (dict(std=None, value=None), "a NoneType"),
  ],
)
def test_parts_of_other_shapes_are_refused(parts, words):
  fn = lambda i, p: rewards.Scores(**{"value": i.mean((2, 3, 4)), **parts})
  with pytest.raises(UserError, match=words):
    rewards.score(rewards.build({"a": fn}), IMAGES, PROMPTS)


def test_frames_of_a_video_share_their_parts():
  """Averaged as the values are."""
  config = ConfigDict({"video": {"frames": 2, "scored": "mean", "fade": 0.0}})
  found = videos.scored(unsure, config)(
    np.concatenate([IMAGES, 1 - IMAGES], 3), PROMPTS
  )
  np.testing.assert_allclose(found.value, 0.5, rtol=1e-4)
  np.testing.assert_allclose(found.std, 0.05, rtol=1e-4)
  assert found.per_step.shape == (P, G, T + 1)


FILE = """
import jax.numpy as jnp
from jaxreward.rewards import Scores

def unsure(images, prompts):
  value = images[..., 0].mean((2, 3))
  steps = value[..., None] * jnp.linspace(0.0, 1.0, {count})
  return Scores(value, 0.5 * value, steps)
"""


def config_of(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(FILE.replace("{count}", "1"))
  given = {"rewards.detector": "none", "rewards.mine.fn": f"{path}:unsure"}
  given |= {"align.iterations": 1}
  config = tiny.load("align_scenes.py:flow_grpo,smoke", given)
  count = config.rollout.num_steps + 1
  path.write_text(FILE.replace("{count}", str(count)))
  with config.unlocked():
    config.composition = ConfigDict({"name": "lower_bound"})
    config.advantage = ConfigDict({"name": "dense"})
  return config


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_run_reads_both_and_finishes_no_latents(tmp_path, monkeypatch):
  def refuse(*args):
    raise AssertionError("latents were finished and scored")

  monkeypatch.setattr(align, "score", refuse)
  row = tiny.rows(tiny.run(config_of(tmp_path), tmp_path / "run"), "align")[-1]
  # The signal is half of the reward: r - s with s = r / 2.
  assert row["reward"] == pytest.approx(0.5 * row["reward/mine"], rel=1e-4)
  assert row["advantage_abs"] > 0


def test_steps_that_are_not_the_samplers_are_refused():
  credits._require_steps({"mine": np.zeros((P, G, T + 1))}, T)
  with pytest.raises(UserError, match="mine: its per_step has 4 values"):
    credits._require_steps({"mine": np.zeros((P, G, T))}, T)
