"""Rewards of a user's own, and rewards that fail, inside an align run."""

import json
import sys
import types

import numpy as np
import pytest
from etils import epath

from jaxreward import setup, tasks
from jaxreward.errors import UserError
from jaxreward.jobs import align
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks.scenes import grammar
from jaxreward.tasks.scenes import rewards as scene_rewards
from tests import tiny

pytestmark = [pytest.mark.job, pytest.mark.turns(4, 2)]

NFT, GRPO = "align_scenes.py:smoke", "align_scenes.py:flow_grpo,smoke"

REWARDS = """
import jax.numpy as jnp
import numpy as np
from jaxreward.rewards import declare

def redness(images, prompts, *, scale=1.0):
  return {"redness": scale * images[..., 0].mean((2, 3))}

def two(images, prompts):
  red = images[..., 0].mean((2, 3))
  return {"a": red, "b": -red}

def some(images, prompts):
  score = images[..., 0].mean((2, 3))
  lost = (jnp.arange(score.shape[1]) == 1)[None] & (prompts.category == 4)[:, None]
  return jnp.where(lost, jnp.nan, score)

def infinite(images, prompts):
  score = images[..., 0].mean((2, 3))
  return score.at[0, 0].set(jnp.inf)

def none(images, prompts):
  return jnp.full(images.shape[:2], jnp.nan)

def flat(images, prompts):
  return images.mean((1, 2, 3, 4))

@declare(is_host=True)
def on_host(images, prompts):
  assert isinstance(images, np.ndarray)
  return images[..., 0].mean((2, 3))

@declare(is_host=True)
def breaks(images, prompts):
  raise RuntimeError("the service is down")

@declare(is_host=True)
def breaks_for_some(images, prompts):
  if (np.asarray(prompts.category) == 4).any():
    raise RuntimeError("no such prompt")
  return images[..., 0].mean((2, 3))
"""


def test_the_detector_looks_once_per_iteration(
  command, tmp_path, small_model, monkeypatch
):
  """Rewards, held-out rewards and panel share what it found."""
  blind = lambda *_: pytest.fail("a reward let the detector look again")
  judge = types.SimpleNamespace(look=blind, repeat=scene_rewards.judge.repeat)
  monkeypatch.setattr(scene_rewards, "judge", judge)
  given = {"heldout_rewards.other.fn": "strict"}
  workdir = tmp_path / "run"
  assert command(NFT, workdir, tiny.MODEL, tiny.FAST, given) == 0
  for row in tiny.rows(workdir, "align")[1:]:
    assert row["reward/other"] == row["panel/accuracy"]
    assert {"failed/detector", "reward/detector"} <= set(row)
  timings = (workdir / "timings.jsonl").read_text().splitlines()
  assert {"detect", "reward", "panel"} <= set(json.loads(timings[-1]))


def test_what_the_detector_found_is_no_field_of_a_config(command, tmp_path):
  given = {"rewards.detector.verdict": 1}
  assert command(NFT, tmp_path / "run", tiny.MODEL, tiny.FAST, given) == 2
  assert "detector.verdict is given by the program" in command.error


@pytest.fixture
def rewards(tmp_path):
  path = tmp_path / "my_rewards.py"
  path.write_text(REWARDS)
  return path


@pytest.fixture
def run(command, tmp_path, rewards, small_model):
  """Runs the align job with one reward; gives the exit code."""

  def start(fn, spec=NFT, **overrides):
    return command(
      spec, tmp_path / "run", tiny.MODEL, tiny.FAST,
      {"rewards.detector": "none", "rewards.mine.fn": fn},
      {"align.iterations": 2},
      {"eval.samples": 12, "eval.quick_samples": 12, "checkpoint.every": 1},
      {k.replace("__", "."): v for k, v in overrides.items()},
    )  # fmt: skip

  return start


def rows(tmp_path):
  return tiny.rows(tmp_path / "run", "align")


@pytest.mark.parametrize("fn", ["redness", "on_host"])
def test_a_function_of_a_file(fn, run, rewards, tmp_path):
  assert run(f"{rewards}:{fn}") == 0
  found = rows(tmp_path)
  assert all(0 < row["reward/mine"] < 1 for row in found[1:])
  assert found[0]["eval/reward/mine"] > 0
  assert (tmp_path / "run" / "report.html").exists()


def test_its_arguments_come_from_the_command_line(run, rewards, tmp_path):
  assert run(f"{rewards}:redness", rewards__mine__scale=-2.0) == 0
  assert all(-2 < row["reward/mine"] < 0 for row in rows(tmp_path)[1:])
  assert run(f"{rewards}:redness", rewards__mine__scales=2.0) == 2


def test_a_wrong_argument_names_the_right_one(run, rewards, command):
  assert run(f"{rewards}:redness", rewards__mine__scales=2.0) == 2
  assert "config.rewards.mine.scales" in command.error
  assert '"scale"' in command.error


def test_a_dotted_path(run, rewards, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
  assert run("my_rewards.redness") == 0
  assert len(rows(tmp_path)) == 3


def test_weights_scale_the_signal(run, rewards, tmp_path):
  assert run(f"{rewards}:redness", rewards__mine__weight=-3.0) == 0
  for row in rows(tmp_path)[1:]:
    np.testing.assert_allclose(
      row["reward"], -3 * row["reward/mine"], rtol=1e-5
    )


@pytest.mark.parametrize("spec", [NFT, GRPO])
@pytest.mark.parametrize("fn", ["some", "infinite"])
def test_scores_that_are_not_finite_are_masked_and_counted(
  fn, spec, run, rewards, tmp_path
):
  assert run(f"{rewards}:{fn}", spec) == 0
  found = rows(tmp_path)[1:]
  assert len(found) == 2
  for row in found:
    assert row["failed/mine"] >= 1
    assert row["skipped_updates"] == 0
    assert "nonfinite" not in row
    assert 0 < row["reward/mine"] < 1  # a mean over those that did not fail
    np.testing.assert_allclose(row["reward"], row["reward/mine"], rtol=1e-5)


def test_a_whole_batch_without_a_score_stops_the_run(
  run, rewards, command, tmp_path
):
  assert run(f"{rewards}:none") == 2
  assert 'reward "mine"' in command.error
  assert "whole batch" in command.error
  assert [row["step"] for row in rows(tmp_path)] == [0]


def test_a_service_that_is_down_stops_the_run(run, rewards, command):
  assert run(f"{rewards}:breaks") == 2
  assert 'reward "mine"' in command.error
  assert "RuntimeError: the service is down" in command.error


def test_a_prompt_that_breaks_a_reward_is_masked(run, rewards, tmp_path):
  assert run(f"{rewards}:breaks_for_some") == 0
  found = rows(tmp_path)[1:]
  assert all(row["failed/mine"] >= 4 for row in found)  # whole groups of 4
  assert all(row["failed/mine"] % 4 == 0 for row in found)
  assert all("nonfinite" not in row for row in found)


def test_a_wrong_shape(run, rewards, command):
  assert run(f"{rewards}:flat") == 2
  assert 'reward "mine" returned shape' in command.error
  assert "[P, G]" in command.error


def test_a_reward_with_several_scores_cannot_be_trained_on(
  run, rewards, command
):
  assert run(f"{rewards}:two") == 2
  assert "config.rewards.mine" in command.error
  assert "mine/a" in command.error


def test_a_held_out_reward_with_several_scores_is_reported(
  run, rewards, tmp_path
):
  more = {"heldout_rewards__other__fn": f"{rewards}:two"}
  assert run(f"{rewards}:redness", **more) == 0
  row = rows(tmp_path)[-1]
  assert row["reward/other/a"] == pytest.approx(-row["reward/other/b"])


def test_a_held_out_reward_is_reported_and_not_trained_on(
  run, rewards, tmp_path
):
  more = {
    "heldout_rewards__other__fn": f"{rewards}:redness",
    "heldout_rewards__other__scale": -1.0,
  }
  assert run(f"{rewards}:redness", **more) == 0
  for row in rows(tmp_path)[1:]:
    assert row["reward"] == pytest.approx(row["reward/mine"])
    assert row["panel/heldout_reward"] == pytest.approx(-row["reward"])


def test_a_lost_held_out_reward_does_not_stop_the_run(run, rewards, tmp_path):
  more = {"heldout_rewards__other__fn": f"{rewards}:none"}
  assert run(f"{rewards}:redness", **more) == 0
  row = rows(tmp_path)[-1]
  assert row["failed/other"] == 24
  assert "reward/other" not in row


@pytest.mark.parametrize(
  ("given", "names"),
  [
    ({}, ["detector"]),
    ({"rewards.mine.fn": "strict"}, ["detector", "mine"]),
    (tiny.REWARD, ["redness", "detector"]),
    (tiny.REWARD | {"rewards.redness": "none"}, []),
    (
      tiny.REWARD | {"heldout_rewards.other.fn": f"{tiny.HERE}:redness"},
      ["redness", "other"],
    ),
    (
      {"rewards.detector.fn": f"{tiny.HERE}:redness"},
      ["detector", "heldout_detector"],
    ),
  ],
)
def test_the_detector_is_held_out_where_nothing_else_is(given, names):
  config = tiny.load(NFT, given)
  assert sorted(reward_setup.bind(config)) == sorted(names)
  trained = reward_setup.bind(config, ("rewards",))
  assert sorted(trained) == sorted(config.rewards)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (
      {"rewards.q.fn": "psnr"},
      r"config\.rewards\.q: it compares with pictures",
    ),
    ({"rewards.q.fn": "execution"}, "judges tasks with a picture"),
    (tiny.REWARD | {"rewards.redness.kinds.add": 1.0}, '"add" is not known'),
  ],
)
def test_what_scenes_do_not_have_is_refused(given, message):
  with pytest.raises(UserError, match=message):
    reward_setup.bind(tiny.load(NFT, given))


def test_the_panel_leaves_out_pictures_that_are_not_finite():
  generator = np.random.default_rng(0)
  images = generator.random((2, 3, 36, 36, 3)).astype(np.float32)
  images[1, 2, 0, 0, 0] = np.nan
  scores = {"mine": generator.random((2, 3)).astype(np.float32)}
  batch = grammar.batch(grammar.prompts("train")[:2])
  found = {k: np.ones((2, 3), np.float32) for k in ("strict", "texture")} | {
    "out_of_range": np.zeros((2, 3), np.float32)
  }
  panel = align._panel(
    tasks.get("scenes", "scenes"), images, found, batch, scores, {"mine": 1.0},
    None, {},
  )  # fmt: skip
  numbers = tiny.numbers(panel)
  assert np.isfinite(list(numbers.values())).all()
  assert panel["panel/brightness"].weight == 5
  assert panel["panel/accuracy"].weight == 5
  kept = np.delete(scores["mine"].ravel(), 5)
  np.testing.assert_allclose(
    numbers["panel/trained_reward"], kept.mean(), rtol=1e-6
  )


@pytest.mark.parametrize("held", [False, True])
def test_a_run_says_when_nothing_is_held_out(held, monkeypatch, caplog):
  def stop(*args):
    raise UserError("that is enough")

  monkeypatch.setattr(setup, "load_params", stop)
  more = {"heldout_rewards.other.fn": f"{tiny.HERE}:redness"} if held else {}
  config = tiny.load(NFT, tiny.FAST, tiny.MODEL, more)
  caplog.set_level("INFO", logger="absl")
  with pytest.raises(UserError, match="enough"):
    align.run(config, epath.Path("nowhere"))
  assert ("over-optimisation cannot be seen" in caplog.text) != held
