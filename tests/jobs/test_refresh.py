"""The page of a run that is under way: when it is written, and its images."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from jaxreward import jobs, setup, tasks
from jaxreward.errors import UserError
from jaxreward.jobs import evaluate
from jaxreward.report import collect, grids
from tests import tiny


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.mark.parametrize("fails", [False, True])
def test_a_report_takes_a_small_share_of_the_time(monkeypatch, fails):
  clock, written = Clock(), []

  def write(workdir):
    written.append(clock.now)
    clock.now += 3.0
    if fails:
      raise UserError("the disk is full")

  monkeypatch.setattr(collect, "report_from_workdir", write)
  refresh = jobs.Refresh(epath.Path("w"), clock)
  for _ in range(100):  # an evaluation every 10 seconds
    clock.now += 10.0
    refresh()
  assert written[0] == 120.0
  gaps = np.diff(written)
  assert gaps.min() >= 3 + 20 * 3.0 and gaps.max() < 3 + 20 * 3.0 + 10


@pytest.mark.turns(2)
def test_the_first_images_and_the_newest_are_on_the_page(tmp_path):
  workdir = epath.Path(tmp_path)
  config = tiny.load("align_scenes.py:smoke")
  task = setup.make_task(config)
  prompts = setup.load_prompts(config, "validation")
  data = evaluate.evaluation_set(task, prompts, samples=12, group=2, seed=0)
  shape = (len(data.prompts), 2, 8, 8, 3)
  draw = np.random.default_rng(0).random
  images = {n: draw(shape) for n in (0, 5, 10)}
  strict = np.ones(shape[:2])
  watch = evaluate.Watch(workdir, data)
  for n, of_step in images.items():
    watch(n, of_step, strict * (n > 0))
  path = workdir / "grids" / grids.VALIDATION
  before, after, texts, *_ = grids.load_cards(path)
  rows = evaluate.card_rows(data, evaluate.WATCHED)
  np.testing.assert_array_equal(before, grids.to_uint8(images[0][rows, 0]))
  np.testing.assert_array_equal(after, grids.to_uint8(images[10][rows, 0]))
  assert [t["prompt"] for t in texts] == [data.prompts[r].text for r in rows]
  assert {(t["ok_before"], t["ok_after"]) for t in texts} == {(False, True)}
  page = collect.report_from_workdir(workdir, environment={}).read_text()
  assert collect.VALIDATION_NOTE in page
  assert "data:image/png" in page
  # The images of the end take their place.
  grids.save_cards(workdir / "grids" / grids.CARDS, before, after, texts)
  page = collect.report_from_workdir(workdir, environment={}).read_text()
  assert collect.VALIDATION_NOTE not in page


def test_strips_show_a_source_in_a_row_and_what_became_of_it(tmp_path):
  """Before, the source is drawn; after, the right answer of the prompt."""
  task = dataclasses.replace(tasks.TASKS["portrait_edits"], describe=None)
  strips = task.strips(2)
  others = task.strips(3)[2]  # more rows than two strips have
  data = evaluate.evaluation_set(task, others, samples=10, group=1, seed=0)

  def side(image_of, keeps):
    one = evaluate.Evaluator(None, data, {}, None, None, 0)

    def draw(params, batch, scale):
      assert params == "params" and scale == 2.0
      assert batch.ids.shape == (len(data.prompts),)
      keeps_of_row = np.full((len(batch.ids), 1), np.nan)
      keeps_of_row[: len(keeps), 0] = keeps
      return image_of(batch)[:, None], {"recognised": keeps_of_row}, {}

    one.__dict__["_draw"] = draw  # in the place of the program
    return one, "params"

  workdir = epath.Path(tmp_path)
  before = side(lambda batch: batch.source, [0, 0, 1, np.nan])
  after = side(lambda batch: 1 - batch.source, [1, 1, 1, 0])
  found = evaluate.save_strips(workdir, before, after, 2.0)
  texts = [prompt.text for row in strips for prompt in row]
  assert [card["prompt"] for card in found] == texts[: len(found)]
  assert [card["before"] for card in found[:4]] == [False, False, True, None]
  assert [card["after"] for card in found[:4]] == [True, True, True, False]
  cards = grids.load_cards(workdir / "grids" / grids.STRIPS)
  for i, source in cards.beside["source"].items():
    np.testing.assert_array_equal(cards.before[i], source)
    np.testing.assert_array_equal(cards.after[i], 255 - source)
  page = collect.report_from_workdir(workdir, environment={}).read_text()
  assert page.count('alt="Source of strip') == len(found) // len(strips[0])
  assert page.count('alt="Strip, before: ') == len(found)
  assert page.count("✓ recognised") == 4 and page.count("✗ not rec") == 3
