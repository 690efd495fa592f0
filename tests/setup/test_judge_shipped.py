"""The judge that ships: its size, and held-out questions that it answers."""

import json
import pathlib

import jax
import pytest

from jaxreward import tasks
from jaxreward.models.vlm import own
from jaxreward.rewards import vision_language
from jaxreward.rewards.vision_language import Options
from jaxreward.setup import judge


@pytest.mark.job
def test_it_answers_above_chance():
  """The most frequent answer is right in .64, .34, .54 and .15 of the cases."""
  reader, params = vision_language.load(Options("package:judge"))
  names = ("scenes", "portraits")
  of = {name: tasks.TASKS[name] for name in names}
  evaluate = judge.make_evaluator(reader, of, "heldout", 48, 0)
  kinds = evaluate(params)["kinds"]
  least = {
    "scenes/prompt": 0.8, "scenes/colour": 0.4, "portraits/people": 0.8,
    "portraits/colour": 0.6,
  }  # fmt: skip
  got = {k: kinds[k]["accuracy"] for k in least}
  assert all(got[k] > x for k, x in least.items()), got
  assert sum(x.size for x in jax.tree.leaves(params)) < 2.5e6


def test_its_record_says_how_it_was_made():
  folder = pathlib.Path(own.resolve("package:judge"))
  assert sum(x.stat().st_size for x in folder.iterdir()) < 5e6
  record = json.loads((folder / "judge.json").read_text())
  assert {"command", "seed", "steps", "seconds", "evaluation"} <= set(record)
  assert set(record["evaluation"]["fooled"]) == {"scenes", "portraits"}
