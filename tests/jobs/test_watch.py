"""The watch over a run's rows sees a resumed run as a whole one."""

import pytest
from absl import logging

from jaxreward.evaluation import hacking
from jaxreward.jobs import align, evaluate
from jaxreward.training import checkpoint
from tests import tiny

pytestmark = pytest.mark.job

HELDOUT = {"heldout_rewards.strict.fn": "strict"}


@pytest.fixture
def seen(monkeypatch):
  """Histories that the warning was asked about, at every step."""
  found = []
  warning = hacking.divergence_warning

  def asked(trained, heldout, *args):
    found.append((list(trained), list(heldout)))
    return warning(trained, heldout, *args)

  monkeypatch.setattr(hacking, "divergence_warning", asked)
  monkeypatch.setattr(align, "WARN_EVERY", 1)
  return found


@pytest.mark.turns(2)
def test_a_resumed_run_remembers_the_rows_before_it(
  seen, tmp_path, small_model, monkeypatch
):
  config = tiny.load(
    "align_scenes.py:smoke", tiny.MODEL, tiny.REWARD, tiny.FAST, HELDOUT,
    {"checkpoint.every": 1},
  )  # fmt: skip
  tiny.run(config, tmp_path / "whole")
  whole = list(seen)
  assert [len(trained) for trained, _ in whole] == [1, 2, 3, 4, 5]
  assert None not in whole[-1][1][1:]
  seen.clear()
  save = checkpoint.Checkpoints.save

  def save_and_fall(self, step, *args, **kwargs):
    if step == 3:
      self.wait()
      raise RuntimeError("power cut")
    save(self, step, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", save_and_fall)
    with pytest.raises(RuntimeError, match="power cut"):
      tiny.run(config, tmp_path / "broken")
  seen.clear()
  tiny.run(config, tmp_path / "broken")
  assert seen == whole[3:]


def test_it_warns_at_its_pace(monkeypatch, caplog):
  rows = [
    {"panel/trained_reward": 0.1 * n, "panel/heldout_reward": -0.1 * n}
    for n in range(60)
  ]
  watch = align.Watch(1e-6)
  with caplog.at_level("WARNING"):
    for n, row in enumerate(rows):
      watch(n, row)
  said = [r.getMessage() for r in caplog.records if "part ways" in r.message]
  assert [line.split(":")[0] for line in said] == ["step 25", "step 50"]


def test_a_line_before_every_long_silence(
  tmp_path, small_model, monkeypatch, caplog
):
  """The evaluations and the first step say what they do before they do it."""
  config = tiny.load(
    "align_scenes.py:smoke", tiny.MODEL, tiny.REWARD, tiny.FAST
  )
  call = evaluate.Evaluator.evaluate

  def logged(self, *args):
    logging.info("evaluator works")
    return call(self, *args)

  monkeypatch.setattr(evaluate.Evaluator, "evaluate", logged)
  with caplog.at_level("INFO"):
    tiny.run(config, tmp_path / "run")
  said = [record.getMessage() for record in caplog.records]
  wanted = [
    "evaluating the base policy on 24 images at guidance 1 ...",
    "evaluator works",
    "align: evaluating before the first step ...",
    "evaluator works",
    "align: step 1 of 4 compiles its programs ...",
    "evaluating the aligned policy on 24 images at guidance 1 ...",
    "evaluator works",
  ]
  left = iter(said)
  assert all(line in left for line in wanted), said
