"""Which metric goes where, and what is drawn."""

import re
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest

from jaxreward.report import curves, series

CHART = {chart.name: chart for chart in series.CHARTS}


def rows_of(**metrics):
  steps = len(next(iter(metrics.values())))
  return [
    {"job": "align", "step": i} | {k: v[i] for k, v in metrics.items()}
    for i in range(steps)
  ]


def taken_by(key):
  rows = [{"step": 0, key: 0.5}]
  return [c.name for c in series.CHARTS if series.lines_of(c, rows)]


@pytest.mark.parametrize(
  "key,chart",
  [
    ("panel/trained_reward", "reward"),
    ("reward/heldout", "reward"),
    ("reward", "reward"),
    ("eval/accuracy/position", "accuracy"),
    ("accuracy", "accuracy"),
    ("panel/accuracy", "accuracy"),
    ("loss", "loss"),
    ("policy_loss", "loss"),
    ("train/kl", "kl"),
    ("panel/kl", "kl"),
    ("panel/diversity", "diversity"),
    ("clip_fraction_high", "clip"),
    ("panel/clip_fraction_low", "clip"),
    ("grad_norm", "grad_norm"),
    ("log_prob_gap", "log_prob_gap"),
    ("panel/texture", "texture"),
    ("panel/edge_density", "edge_density"),
    ("panel/colour_entropy", "colour_entropy"),
    ("panel/brightness", "brightness"),
    ("panel/out_of_range", "out_of_range"),
    ("panel/zero_variance_groups", "zero_variance"),
    ("panel/disagreement", "disagreement"),
    ("calibration_error", "calibration"),
  ],
)
def test_each_metric_has_one_chart(key, chart):
  assert taken_by(key) == [chart]


def test_names_of_charts_are_unique():
  assert len(CHART) == len(series.CHARTS)


def test_other_metrics_are_kept_and_text_is_not_a_metric():
  rows = [{"job": "align", "step": 1, "odd": 2.0, "kl": 1.0, "flag": True}]
  assert [line.label for line in series.left_over(rows)] == ["odd"]


def test_null_points_are_skipped_and_null_metrics_are_not_drawn():
  rows = rows_of(kl=[None, 0.1, float("nan"), 0.3], texture=[None] * 4)
  (line,) = series.lines_of(CHART["kl"], rows)
  np.testing.assert_array_equal(line.steps, [1, 3])
  np.testing.assert_array_equal(line.values, [0.1, 0.3])
  assert curves.draw(CHART["texture"], rows) is None
  assert curves.draw(CHART["reward"], rows) is None


def test_steps_are_sorted_and_labels_plain():
  rows = [
    {"step": 2, "panel/trained_reward": 0.2, "panel/heldout_reward": 1.0},
    {"step": 1, "panel/trained_reward": 0.1, "panel/heldout_reward": 2.0},
  ]
  lines = series.lines_of(CHART["reward"], rows)
  assert [line.label for line in lines] == ["trained", "held out"]
  np.testing.assert_array_equal(lines[0].steps, [1, 2])
  np.testing.assert_array_equal(lines[1].values, [2.0, 1.0])


def test_evaluation_lines_are_marked_only_beside_others():
  rows = [{"step": 0, "accuracy": 0.4, "eval/accuracy/two": 0.5}]
  labels = [line.label for line in series.lines_of(CHART["accuracy"], rows)]
  assert labels == ["all", "two (evaluation)"]
  rows = [{"step": 0, "eval/accuracy/one": 0.4, "eval/accuracy/two": 0.5}]
  labels = [line.label for line in series.lines_of(CHART["accuracy"], rows)]
  assert labels == ["one", "two"]


@pytest.mark.turns(3)
@pytest.mark.parametrize("n", [1, 5, 200])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e6])
@pytest.mark.filterwarnings("error")
def test_constant_and_short_series_can_be_drawn(n, value):
  rows = rows_of(kl=[value] * n, odd=[value] * n)
  for text in (
    curves.draw(CHART["kl"], rows),
    curves.draw_lines(series.left_over(rows)),
  ):
    assert xml.etree.ElementTree.fromstring(text).tag.endswith("svg")


@pytest.mark.filterwarnings("error")
def test_many_long_labels_leave_room_for_the_lines():
  names = {f"reward/{'long_name_' * 3}{i}": [0.1, 0.2] for i in range(9)}
  assert curves.draw(CHART["reward"], rows_of(**names))


def test_the_same_rows_give_the_same_bytes_and_no_state_is_left():
  before = dict(matplotlib.rcParams)
  rows = rows_of(kl=[0.1, 0.2, 0.3])
  first = curves.draw(CHART["kl"], rows)
  assert first == curves.draw(CHART["kl"], rows)
  assert dict(matplotlib.rcParams) == before


def test_timings_are_stacked_and_the_long_first_step_is_named():
  rows = [
    {"job": "align", "step": i, "sample": 1.0, "reward": 0.5, "update": 2.0}
    for i in range(40)
  ]
  rows[0]["update"] = 31.5
  assert curves.timing_parts(rows) == ["sample", "reward", "update"]
  text = curves.draw_timings(rows)
  assert "longest 33.0 s, step 0" in re.sub(r"\s+", " ", text)
  assert curves.draw_timings([]) is None
  assert curves.draw_timings([{"job": "align", "step": 0}]) is None


def test_timing_names():
  keys = ("seconds/sample", "sample_seconds", "time/sample", "sample")
  assert {curves.timing_label(key) for key in keys} == {"sample"}


def test_moving_mean_matches_a_loop():
  values = np.random.default_rng(0).random(23)
  got = curves.moving_mean(values, 5)
  want = [values[max(i - 2, 0) : i + 3].mean() for i in range(23)]
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_reliability():
  bins = [{"confidence": 0.6, "accuracy": 0.5, "n": 3}, {"confidence": None}]
  assert curves.draw_reliability(bins) is not None
  assert (
    curves.draw_reliability([{"confidence": 0.5, "accuracy": None}]) is None
  )
