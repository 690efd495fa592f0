"""Answers that are taught, beside whole rows that are read one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.models.text import qwen
from jaxreward.models.vision.qwen_vision import VisionTower
from jaxreward.models.vlm import (
  prompts,
  qwen_vl,
  small_judge,
  supervision,
  words,
)
from jaxreward.models.vlm.supervision import Taught

pytestmark = [pytest.mark.job, pytest.mark.turns(3, 2)]

TOKENS = words.make((), "a b c d e".split())
MODEL = small_judge.geometry(
  TOKENS, width=16, depth=2, heads=2, groups=1, mlp=24, vision_width=16,
  vision_depth=1, vision_heads=1, vision_mlp=16, patch=2, sides=(8,),
)  # fmt: skip
IMAGE = f"<|vision_start|>{prompts.IMAGE}<|vision_end|>"
STEM = f"<|im_start|>{IMAGE}a{IMAGE}"
# (question, answer), two of each row; the second row's are shorter.
ROWS = ((("a b", "c d"), ("c", "e a b")), (("d", "a"), ("e e b", "b")))
LENGTH = 7


def _ids(text):
  return TOKENS(text)["input_ids"]


WEIGHTS = np.array([[1, 2], [0.5, 3]], np.float32)


def _padded(rows):
  ids = np.zeros((2, 2, LENGTH), np.int32)
  said = np.zeros(ids.shape, bool)
  for i, row in enumerate(rows):
    for j, (question, answer) in enumerate(row):
      q, a = _ids(question), _ids(answer)
      ids[i, j, : len(q) + len(a)] = [*q, *a]
      said[i, j, len(q) : len(q) + len(a)] = True
  return ids, said


@pytest.fixture(scope="module")
def read():
  """(logits and their loss, those of whole rows, the rows)."""
  params = jax.tree.map(lambda x: 4 * x, qwen_vl.init(jax.random.key(0), MODEL))
  images = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
  images = images.astype(np.float32)
  stem = np.array([_ids(STEM)] * 2)
  rows = Taught(stem, np.ones(stem.shape, bool), *_padded(ROWS), WEIGHTS)

  @jax.jit
  def run(params, rows, images):
    net = VisionTower(MODEL.vision)
    features = net.apply({"params": params["vision"]}, images)[0]
    logits = supervision.logits(MODEL, params, features, rows, (2, 2))
    # The same as four rows of their own, with nothing shared.
    each = lambda x: jnp.repeat(x, 2, 0)
    flat = jnp.concatenate([each(rows.stem), rows.texts.reshape(4, -1)], 1)
    layout = prompts.spread(MODEL, flat, flat >= 0, (2, 2), 2)
    shown = qwen.Images(
      each(features.reshape(2, -1, 16)).reshape(-1, 16), layout.source
    )
    hidden = qwen.QwenText(MODEL.language).apply(
      {"params": params["text"]}, layout.tokens, layout.places, shown
    )
    whole = qwen_vl.logits(params, hidden)[:, -LENGTH - 1 : -1]
    return logits, supervision.loss(logits, rows), whole

  return *run(params, rows, images), rows


def test_questions_of_a_row_do_not_see_each_other(read):
  logits, _, whole, _ = read
  whole = whole.reshape(logits.shape)
  np.testing.assert_allclose(logits, whole, atol=2e-5)


def test_the_loss_is_that_of_the_answers_alone(read):
  _, loss, whole, rows = read
  x = np.asarray(whole, np.float64).reshape(2, 2, LENGTH, -1)
  x = x - np.log(np.exp(x).sum(-1, keepdims=True))
  total, count = 0.0, 0
  for i, row in enumerate(ROWS):
    for j, (question, answer) in enumerate(row):
      for k, token in enumerate(_ids(answer)):
        total -= WEIGHTS[i, j] * x[i, j, len(_ids(question)) + k, token]
        count += WEIGHTS[i, j]
  assert float(loss.weight) == count
  np.testing.assert_allclose(float(loss.total), total, rtol=1e-5)
  # what is not said may be anything
  best = jax.nn.one_hot(rows.texts, x.shape[-1])
  assert supervision.is_right(best, rows).all()
  spoiled = best.at[0, 0, 0].set(-best[0, 0, 0])  # of a question
  assert supervision.is_right(spoiled, rows).all()
  spoiled = best.at[0, 1, 2].set(-best[0, 1, 2])  # of an answer
  np.testing.assert_array_equal(
    supervision.is_right(spoiled, rows), [[True, False], [True, True]]
  )
