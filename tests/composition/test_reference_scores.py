"""Rewards against those of the starting policy: loops in float64, by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxreward import composition
from jaxreward.errors import UserError
from jaxreward.setup import references
from tests import tiny
from tests.composition import cases

W, M = cases.WEIGHTS, 5


def draw(seed):
  scores, mask = cases.draw(seed)
  rng = np.random.default_rng(seed + 100)
  known = {k: rng.random((cases.P, M)).astype(np.float32) for k in W}
  for rows in known.values():
    rows[rng.random(rows.shape) < 0.2] = np.nan
  known["b"][0] = np.nan  # a prompt without any
  return scores, mask, known


def reference(scores, mask, known, one):
  """Sum of w_k one(r, valid references), prompt by prompt."""
  total, counted = np.zeros(mask.shape), cases.valid(scores, mask)
  counted[0] = False
  for p, g in np.argwhere(counted):
    for k in W:
      rows = known[k][p][np.isfinite(known[k][p])].astype(np.float64)
      total[p, g] += W[k] * one(float(scores[k][p, g]), rows)
  return total, counted


@pytest.mark.parametrize("seed", range(2))
def test_preference_sum(seed):
  scores, mask, known = draw(seed)
  want, counted = reference(
    scores,
    mask,
    known,
    lambda r, rows: np.mean(1 / (1 + np.exp(3 * (rows - r)))),
  )
  signal, got = cases.run(
    composition.preference_sum, scores, mask, references=known, scale=3.0
  )
  np.testing.assert_array_equal(got, counted)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_log_sigmoid_sum(seed):
  scores, mask, known = draw(seed)
  want, counted = reference(
    scores, mask, known,
    lambda r, rows: -np.logaddexp(0, 3 * (np.quantile(rows, 0.7) - r)),
  )  # fmt: skip
  signal, got = cases.run(
    composition.log_sigmoid_sum, scores, mask, references=known, quantile=0.7,
    scale=3.0,
  )  # fmt: skip
  np.testing.assert_array_equal(got, counted)
  np.testing.assert_allclose(signal, want, rtol=1e-5, atol=1e-6)


def test_the_published_preferences():
  """References 0, 1 and -1 and a reward of 2; one reference, 0."""
  scores, mask, weights = cases.one((2.0, 0.0))
  for rows, want in (((0, 1, -1), 0.854810), ((0,), 0.880797)):
    known = {"a": np.array([rows], np.float32)}
    signal, _ = cases.run(
      composition.preference_sum, scores, mask, weights, references=known
    )
    np.testing.assert_allclose(signal[0, 0], want, rtol=1e-5)
    shifted, _ = cases.run(
      composition.preference_sum, {"a": scores["a"] + 4}, mask, weights,
      references={"a": known["a"] + 4},
    )  # fmt: skip
    np.testing.assert_allclose(shifted, signal, rtol=1e-5)


def test_balance_wins_where_plain_sums_are_equal():
  scores, mask, weights = cases.one((2, 1, 0, -1e4), (0, 1, 0, 0))
  known = {k: np.zeros((1, 3), np.float32) for k in weights}
  signal, _ = cases.run(
    composition.log_sigmoid_sum, scores, mask, weights, references=known
  )
  want = (-0.820075, -0.626523, 2 * np.log(0.5), -1e4 + np.log(0.5))
  np.testing.assert_allclose(signal[0], want, rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "options", "says"),
  [
    ("preference_sum", dict(scale=0.0), "scale=0"),
    ("log_sigmoid_sum", dict(scale=-1.0), "scale=-1"),
    ("log_sigmoid_sum", dict(quantile=1.5), "quantile=1"),
  ],
)
def test_what_is_refused(name, options, says):
  scores, mask, known = draw(0)
  with pytest.raises(UserError, match=says):
    composition.REGISTRY[name](scores, mask, W, references=known, **options)


def batch_of(*ids):
  batch = tiny.prompts_of(tiny.load("align_scenes.py:smoke"))
  return dataclasses.replace(batch, ids=np.array(ids, np.uint32))


def test_a_prompt_is_drawn_once(monkeypatch):
  drawn = []

  def images(batch):
    drawn.append(list(batch.ids))
    pixels = np.broadcast_to(
      np.asarray(batch.ids, np.float32)[:, None, None, None, None],
      (len(batch.ids), 2, 1, 1, 3),
    ).copy()
    pixels[0, 1, 0, 0, 0] = np.nan  # a picture that failed
    return jax.numpy.asarray(pixels)

  monkeypatch.setattr(
    references, "score",
    lambda rewards, images, batch: ({"a": images[:, :, 0, 0, 1]}, {}),
  )  # fmt: skip
  known = references.References(images, {})
  first = known(batch_of(3, 4))["a"]
  np.testing.assert_array_equal(first, [[3, np.nan], [4, 4]])
  np.testing.assert_array_equal(known(batch_of(4, 3))["a"], first[::-1])
  assert drawn == [[3, 4]]
  np.testing.assert_array_equal(known(batch_of(4, 5))["a"][:, 0], [4, 5])
  assert drawn == [[3, 4], [4, 5]]
