"""Iterations that teach nothing are counted, told once, and told why."""

import pytest

from jaxreward.evaluation import silence

LEARNS = {"zero_variance_share": 0.5, "advantage_abs": 0.7, "update_norm": 0.1}
TIES = LEARNS | {"zero_variance_share": 1.0, "panel/diversity": 0.2}


@pytest.mark.parametrize(
  ("row", "words"),
  [
    (LEARNS, ""),
    ({}, ""),
    ({"advantage_abs": float("nan")}, ""),
    (TIES, "score the same"),
    (TIES | {"panel/diversity": 0.0}, "pictures of every group are equal"),
    (LEARNS | {"advantage_abs": 1e-8}, "advantage.epsilon"),
    (LEARNS | {"update_norm": 0.0}, "learning_rate"),
  ],
)
def test_reasons(row, words):
  found = silence.reason(row)
  assert words in found
  assert bool(found) == bool(words)


def test_it_is_said_once_and_then_ever_more_seldom():
  rows, said = [], []
  for n in range(1, 41):
    rows.append(TIES)
    if silence.warning(rows, 5):
      said.append(n)
  assert said == [5, 10, 20, 40]
  assert silence.warning([*rows, LEARNS], 5) is None
  assert silence.warning([*rows, LEARNS, *[TIES] * 5], 5).startswith("5 it")


def test_the_report_tells_of_a_run_that_was_silent_for_half_of_it():
  rows = [{"eval/accuracy": 1.0}, TIES, TIES, LEARNS]
  assert silence.summary(rows).startswith("2 of 3 iterations have taught")
  assert silence.summary([LEARNS, LEARNS, TIES]) is None
  assert silence.summary([]) is None
