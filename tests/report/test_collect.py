"""Reports of whole, damaged and partial folders."""

import json

import numpy as np
import pytest
import synthetic
from page import Page

from jaxreward.report import collect, grids

ENVIRONMENT = {"python": "3.11"}


def page_of(folder):
  path = collect.report_from_workdir(folder, environment=ENVIRONMENT)
  page = Page(path.read_text())
  assert page.errors == []
  return page


def test_an_empty_folder_still_has_a_page(tmp_path):
  page = page_of(tmp_path)
  assert "Run report" in page.text
  assert not page.of("img")


def test_a_reward_model_alone_shows_its_own_curves(tmp_path):
  rows = synthetic.metric_rows(np.random.default_rng(0), steps=0)
  synthetic.write_lines(tmp_path / "metrics.jsonl", rows)
  numbers = synthetic.evaluation(np.random.default_rng(0))
  text = json.dumps({"reward_model": numbers["reward_model"]})
  (tmp_path / "evaluation.json").write_text(text)
  (tmp_path / "config.json").write_text('{"job": "train_reward"}')
  page = page_of(tmp_path)
  charts = {a["alt"] for a in page.of("img")}
  assert charts == {
    "Chart: Pair accuracy",
    "Chart: Loss",
    "Chart: Calibration error",
    "Chart: Calibration",
  }
  assert "Reward model run" in page.text
  assert "Pictures" not in page.text and "Over-optimisation" not in page.text
  assert "held-out pairs as the labels do" in page.text


def test_a_cut_last_line_is_silent_and_others_are_named(tmp_path):
  whole = '{"job": "align", "step": 0, "kl": 0.1}\n'
  path = tmp_path / "metrics.jsonl"
  path.write_text(whole * 2 + '{"job": "al')
  page = page_of(tmp_path)
  assert "left out" not in page.text
  path.write_text(whole + "garbage\n" + whole + "[1]\n")
  page = page_of(tmp_path)
  assert "metrics.jsonl, line 2: no JSON object" in page.text
  assert "metrics.jsonl, line 4: no JSON object" in page.text
  assert len(json.loads(page.raw["script"])["metrics"]) == 2


@pytest.mark.parametrize(
  "name", ["config.json", "evaluation.json", "grids/cards.npz"]
)
def test_damaged_files_are_named(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_text("{ not what it should be")
  assert f"{path.name} could not be read" in page_of(tmp_path).text


def test_evaluation_before_only(tmp_path):
  numbers = synthetic.evaluation(np.random.default_rng(0))
  (tmp_path / "evaluation.json").write_text(
    json.dumps({"before": numbers["before"]})
  )
  page = page_of(tmp_path)
  rate = 100 * numbers["before"]["guidance_scale=1.0"]["strict"]
  assert f"{rate:.1f} % show exactly" in page.text


def test_parting_rewards_and_texture_are_warned_of(tmp_path):
  rng = np.random.default_rng(0)
  t = np.linspace(0, 1, 60)
  rows = [
    {
      "job": "align",
      "step": i,
      "panel/trained_reward": 0.5 + 0.4 * x + 0.01 * rng.normal(),
      "panel/heldout_reward": 0.5 - 0.2 * x + 0.01 * rng.normal(),
    }
    for i, x in enumerate(t)
  ]
  synthetic.write_lines(tmp_path / "metrics.jsonl", rows)
  setting = "guidance_scale=1.0"
  before = {"strict": 0.5, "texture": 0.01}
  after = {"strict": 0.6, "texture": 0.02, "out_of_range": 0.05}
  guided = {"strict": 0.7}
  numbers = {
    "before": {setting: before, "guidance_scale=3.0": guided},
    "after": {setting: after},
  }
  (tmp_path / "evaluation.json").write_text(json.dumps(numbers))
  text = page_of(tmp_path).text
  for part in ("part ways", "2.00 times", "outside [0, 1]", "guidance 3"):
    assert part in text, part


@pytest.mark.job
@pytest.mark.turns(3)
def test_the_page_is_written_again_over_the_old_one(tmp_path):
  page_of(tmp_path)
  rows = synthetic.metric_rows(np.random.default_rng(0), steps=3)
  synthetic.write_lines(tmp_path / "metrics.jsonl", rows)
  assert page_of(tmp_path).of("img")
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "metrics.jsonl",
    "report.html",
  ]


def test_cards_need_no_verdict(tmp_path):
  picture = np.zeros((1, 4, 4, 3), np.uint8)
  grids.save_cards(
    tmp_path / "grids" / "cards.npz", picture, picture, [{"prompt": "a dot"}]
  )
  page = page_of(tmp_path)
  assert "a dot" in page.text
  assert "✓" not in page.text and "✗" not in page.text
