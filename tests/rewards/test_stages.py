"""Stages of demonstrations: planted cuts, every cut in float64, and progress."""

import itertools

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards import sets, stages
from jaxreward.types import PromptBatch

RNG = np.random.default_rng(0)
KNOWN = np.arange(9) < 8
PLANTED = np.repeat([0, 1, 2], (2, 4, 2))


def planted(noise, width=6):
  """Eight frames of three stages and one that does not exist, told by features 0, 1."""
  x = noise * RNG.standard_normal((9, width))
  x[:8, 0] += PLANTED == 1
  x[:8, 1] += PLANTED == 2
  x[8] = 99
  return x.astype(np.float32)


def test_the_cuts_are_the_best_of_all_in_float64():
  x = RNG.standard_normal((9, 4)).astype(np.float32)
  found = np.asarray(stages.segments(x, KNOWN, 3))
  parts = lambda cut: np.split(x[:8].astype(np.float64), cut)
  cost = lambda cut: sum(part.var(0).mean() for part in parts(cut))
  best = min(itertools.combinations(range(1, 8), 2), key=cost)
  assert found.sum(1).tolist() == [len(part) for part in parts(best)]
  assert not found[:, 8].any()


def test_planted_stages_are_found_and_earn_more_and_more():
  demo = planted(0.01)
  found = np.asarray(stages.segments(demo, KNOWN, 3))
  assert found[:, :8].argmax(0).tolist() == PLANTED.tolist()
  rows = np.zeros((3, 6), np.float32)
  rows[1, 0], rows[2, 1] = 1, 1
  score = stages.stage_scores(rows, demo, KNOWN, top=1)
  np.testing.assert_allclose(score, [0, 1 / 3, 2 / 3], atol=0.05)


def test_scores_in_float64():
  demo, rows = planted(0.3), RNG.standard_normal((2, 6)).astype(np.float32)
  member = np.asarray(stages.segments(demo, KNOWN, 3))
  x, total = demo[:8].astype(np.float64), 0.0
  for g in (1, 2):
    inside = x[member[g, :8]]
    outside = x[~member[g, :8]]
    merit = 5 * np.abs(inside.mean(0) - outside.mean(0))
    merit = merit - inside.std(0) - outside.std(0)
    top = np.argsort(-merit)[:3]
    width = np.hypot(inside.std(0), 0.1 * x.std(0))[top]
    z = (rows[:, top] - inside.mean(0)[top]) / width
    total = total + 2**g * np.exp(-(z**2) / 2).mean(-1) / 6
  found = stages.stage_scores(rows, demo, KNOWN, top=3)
  np.testing.assert_allclose(found, total, rtol=1e-3, atol=1e-6)


@pytest.mark.turns(2)
def test_an_answer_is_further_than_a_source():
  before, after = RNG.random((2, 2, 16, 16, 3)).astype(np.float32)
  after[1] = np.nan  # a prompt without an answer
  prompts = PromptBatch(
    np.arange(2), np.zeros(2), np.ones(2, bool), source=before, target=after
  )
  images = np.stack([before, (before + after) / 2, after], 1)
  images[1, 2] = 0.5
  loaded = stages.load_stages()
  run = lambda x, **options: stages.stage_progress(
    x, prompts, **loaded.static, **loaded.arrays, **options
  )["stage_progress"]
  scores = np.asarray(jax.jit(run)(images))
  assert scores[0, 0] < scores[0, 2] and (scores[0] >= 0).all()
  assert np.isnan(scores[1]).all()
  clips = np.repeat(images[:, :, None], 2, 2)
  np.testing.assert_allclose(run(clips), scores, rtol=1e-4)
  with pytest.raises(UserError, match="stages=9"):
    run(images, stages=9)
  assert sets.has_target_and_source(prompts).tolist() == [True, False]
