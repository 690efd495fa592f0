"""Sentences and tables at the top of the page."""

import math

import numpy as np

from jaxreward.report import summary

PLAIN = "guidance_scale=1.0"
GUIDED = "guidance_scale=3.0"


def side(strict, **more):
  kinds = {
    "two": {"accuracy": strict, "low": strict - 0.1, "high": 1.0, "n": 9}
  }
  interval = [strict - 0.05, strict + 0.05]
  return {"strict": strict, "n": 9, "interval": interval, "kinds": kinds} | more


EVALUATION = {
  "before": {GUIDED: side(0.7), PLAIN: side(0.5, texture=0.01)},
  "after": {PLAIN: side(0.8, texture=0.012), GUIDED: side(0.9)},
}


def test_compares_without_guidance_and_names_the_best_base():
  assert summary.common_setting(EVALUATION) == PLAIN
  tiles = summary.tiles(EVALUATION)
  assert tiles["Held-out accuracy"]["value"] == "50.0 % → 80.0 %"
  assert "45.0–55.0 and 75.0–85.0" in tiles["Held-out accuracy"]["detail"]
  assert tiles["Base with its best guidance"]["value"] == "70.0 %"
  assert "10.0 points above" in tiles["Base with its best guidance"]["detail"]
  assert tiles["Texture against the base"]["value"] == "1.20 ×"
  assert "Reward model" not in tiles


def test_a_policy_that_was_not_aligned_is_told_alone():
  alone = {"policy": {GUIDED: side(0.7), PLAIN: side(0.5)}}
  assert "50.0 % show exactly" in summary.lead(alone)
  assert summary.tiles(alone)["Held-out accuracy"]["value"] == "50.0 %"
  guided = {"policy": {GUIDED: side(0.7)}}
  assert "with guidance 3, 70.0 %" in summary.lead(guided)
  # beside an alignment it does not take the place of either side
  both = EVALUATION | alone
  assert summary.tiles(both) == summary.tiles(EVALUATION)
  assert summary.lead(both) == summary.lead(EVALUATION)


def test_paired_gain_is_told_when_known():
  difference = {"value": 0.3, "low": 0.25, "high": 0.35}
  tile = summary.tiles(EVALUATION | {"difference": difference})
  detail = tile["Held-out accuracy"]["detail"]
  assert "paired gain 30.0 % (25.0–35.0)" in detail


def test_kind_rows():
  two, overall = summary.kind_rows(EVALUATION)
  assert (two["before"], two["guided"], two["after"], two["change"]) == (
    "50.0 %",
    "70.0 %",
    "80.0 %",
    "+30.0",
  )
  mark = {"side": "before", "left": "50.00", "low": "40.00", "width": "60.00"}
  assert two["marks"][0] == mark
  assert overall["kind"] == "all" and overall["n"] == 9
  assert two["note"] == overall["note"] == ""
  numbers = side(0.8)
  numbers["kinds"]["two"]["clusters"] = 1
  two, overall = summary.kind_rows({"after": {PLAIN: numbers}})
  assert (two["note"], overall["note"]) == ("one meaning", "")


def test_nulls_everywhere_are_survived():
  numbers = {"strict": None, "n": None, "interval": None, "kinds": None}
  numbers |= {"texture": None, "rewards": None, "out_of_range": None}
  evaluation = {"before": {PLAIN: numbers}, "after": {PLAIN: numbers}}
  evaluation["reward_model"] = {"accuracy": None}
  assert summary.tiles(evaluation) == {}
  assert summary.lead(evaluation) == ""
  assert summary.kind_rows(evaluation) == []
  assert summary.automatic_warnings(evaluation, []) == []
  assert summary.percent(math.nan) == "–"


def test_no_warning_for_a_clean_run():
  assert summary.automatic_warnings(EVALUATION, []) == []


def test_panel_rows_are_first_and_last_tenths():
  values = np.arange(40.0)
  rows = [{"step": i, "panel/kl": v, "seed": 3} for i, v in enumerate(values)]
  (row,) = summary.panel_rows(rows)
  assert (row["name"], row["first"], row["last"]) == ("KL", "1.500", "37.500")
  assert row["change"] == "+36"


def test_what_became_of_preferences_is_told():
  counts = {"rows": 812, "unlabeled": 0, "unsure": 3, "malformed": 2}
  counts |= {"broken_images": 1}
  (line,) = summary.data_notes({"preferences": counts})
  assert line == (
    "Preferences: 812 rows, left out: 2 malformed, 3 unsure; images that cannot"
    " be read: 1."
  )
  curation = {"pairs": 90, "kept": 80, "turned": 4, "softened": 0}
  found = {"preferences": {"rows": 5}, "curation": curation}
  assert summary.data_notes(found) == [
    "Preferences: 5 rows, none left out.",
    "Curated labels: of 90 pairs 80 kept, 4 turned, 0 softened.",
  ]
  assert (
    summary.data_notes({}) == summary.data_notes({"preferences": None}) == []
  )
