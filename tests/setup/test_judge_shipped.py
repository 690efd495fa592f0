"""The judges that ship: their size, and held-out questions that they answer."""

import json
import pathlib

import jax
import pytest

from jaxreward import tasks
from jaxreward.models.vlm import small_judge
from jaxreward.rewards import vision_language
from jaxreward.rewards.vision_language import Options
from jaxreward.setup import judge


@pytest.mark.turns(2)
@pytest.mark.job
@pytest.mark.parametrize(
  ("name", "task", "least"),
  [
    ("judge", "scenes", {"scenes/prompt": 0.8, "scenes/colour": 0.4}),
    (
      "portrait_judge",
      "portraits",
      {"portraits/exists": 0.7, "portraits/count": 0.6},
    ),
  ],
)
def test_it_answers_above_chance(name, task, least):
  """The most frequent answers are right in .64, .34, .58 and .51 of the cases."""
  reader, params = vision_language.load(Options(f"package:{name}"))
  of = {task: tasks.TASKS[task]}
  evaluate = judge.make_evaluator(reader, of, "heldout", 48, 0)
  kinds = evaluate(params)["kinds"]
  got = {k: kinds[k]["accuracy"] for k in least}
  assert all(got[k] > x for k, x in least.items()), got
  assert sum(x.size for x in jax.tree.leaves(params)) < 2.5e6


@pytest.mark.parametrize("name", ["judge", "portrait_judge"])
def test_its_record_says_how_it_was_made(name):
  folder = pathlib.Path(small_judge.resolve(f"package:{name}"))
  assert sum(x.stat().st_size for x in folder.iterdir()) < 5e6
  record = json.loads((folder / "judge.json").read_text())
  assert {"command", "seed", "steps", "seconds", "evaluation"} <= set(record)
  assert set(record["evaluation"]["fooled"]) == {"scenes", "portraits"}
