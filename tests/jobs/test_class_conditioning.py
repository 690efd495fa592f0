"""A policy of classes: its prompts, and the way from pretraining to pictures."""

import json

import numpy as np
import pytest

from jaxreward import setup
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar
from tests import tiny

CLASS = {"model.condition": "class"}
SPEC = "align_scenes.py:smoke"


def test_prompts_of_the_grammar_are_those_of_one_item():
  config = tiny.load(SPEC, CLASS)
  for split in SPLITS:
    every = [p for p in grammar.prompts(split) if len(p.items) == 1]
    assert setup.load_prompts(config, split) == tuple(every)
  batch = setup.prompt_batches(config)(0)
  assert not np.asarray(batch.extras.items)[:, 1].any()
  plain = tiny.load(SPEC)
  assert setup.load_prompts(plain, "train") == grammar.prompts("train")


@pytest.mark.parametrize("split", ["train", None])
def test_a_prompt_that_is_no_class_is_named(split, tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("a red circle\na circle left of a square\n")
  config = tiny.load(SPEC, CLASS, {"data.source": path})
  said = r'prompt "a circle left of a square" is of the kind "position"'
  with pytest.raises(UserError, match=said):
    for one in (split, split and "validation", split and "heldout"):
      setup.load_prompts(config, one)


@pytest.mark.job
@pytest.mark.turns(3)
def test_from_pretraining_to_pictures(command, tmp_path):
  """The loss falls, alignment goes on from the file, and samples are drawn."""
  steps = {
    "pretrain.steps": 80, "checkpoint.every": 80, "eval.every": 80,
    "model.depth": 1, "eval.samples": 12, "eval.quick_samples": 12,
    "eval.guidance_scales": "2.0",
  }  # fmt: skip
  assert command(
    "pretrain_scenes.py:class,smoke", tmp_path / "pre", steps
  ) == 0, command.error  # fmt: skip
  loss = [r["loss"] for r in tiny.rows(tmp_path / "pre") if "loss" in r]
  assert len(loss) == 80
  assert np.mean(loss[-10:]) < 0.8 * np.mean(loss[:10])
  goes_on = CLASS | {
    "model.width": 32, "model.depth": 1, "model.unroll": 1,
    "init.checkpoint": tmp_path / "pre" / "policy.safetensors",
  }  # fmt: skip
  small = {
    "align.iterations": 1, "eval.every": 0, "eval.samples": 12,
    "eval.quick_samples": 12, "eval.guidance_scales": "1.0",
  }  # fmt: skip
  assert (
    command(SPEC, tmp_path / "aligned", goes_on, small, tiny.REWARD) == 0
  ), command.error
  row = tiny.rows(tmp_path / "aligned", "align")[-1]
  assert row["update_norm"] > 0 and "nonfinite" not in row
  found = json.loads((tmp_path / "aligned" / "evaluation.json").read_text())
  (after,) = found["after"].values()
  kinds = {k for k, v in after["kinds"].items() if v["n"]}
  assert kinds == {"single", "counting", "colours"}
  drawn = {
    "sample.prompts": 4, "sample.group": 2, "sample.guidance_scale": 2.0,
    "init.checkpoint": tmp_path / "aligned" / "policy.safetensors",
  }  # fmt: skip
  spec = "sample_scenes.py:smoke"
  assert command(spec, tmp_path / "drawn", goes_on, drawn) == 0, command.error
  rows = json.loads((tmp_path / "drawn" / "samples.json").read_text())
  assert len(rows) == 8
