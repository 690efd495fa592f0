"""Scores towards a goal from what all prompts share (VLM-RM), in float64."""

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.reward_models import HEADS

RNG = np.random.default_rng(0)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def features(image, text, scale=5.0):
  image, text = (np.asarray(x, np.float32) for x in (image, text))
  return {
    "image": image, "text": text,
    "logit": scale * np.einsum("pge,pe->pg", image, text),
    "cross": scale * np.einsum("pge,qe->pgq", image, text),
  }  # fmt: skip


def score(head, image, text, prompts):
  total = head.statistics({}, features(image, prompts))
  params = head.fitted({}, total)
  return np.asarray(head.outputs(params, features(image, text))["value"])


IMAGE, TEXT = unit(RNG.normal(size=(3, 4, 6))), unit(RNG.normal(size=(3, 6)))
PROMPTS = unit(RNG.normal(size=(3, 6)) + 2)


def test_the_score_in_float64():
  base, want = unit(PROMPTS.sum(0)), np.zeros((3, 4))
  for p in range(3):
    u = TEXT[p] - base
    project = np.outer(u, u) / (u @ u)
    for g in range(4):
      d = (0.3 * project + 0.7 * np.eye(6)) @ (IMAGE[p, g] - TEXT[p])
      want[p, g] = 1 - d @ d / 2
  head = HEADS["goal"](strength=0.3)
  np.testing.assert_allclose(score(head, IMAGE, TEXT, PROMPTS), want, rtol=1e-4)


def test_its_ends_are_the_cosine_and_the_line():
  """Without damping the cosine; wholly damped, what is off the line is nothing."""
  cosine = np.einsum("pge,pe->pg", IMAGE, TEXT)
  found = score(HEADS["goal"](strength=0.0), IMAGE, TEXT, PROMPTS)
  np.testing.assert_allclose(found, cosine, atol=1e-5)
  head, u = HEADS["goal"](strength=1.0), unit(TEXT - unit(PROMPTS.sum(0)))
  off = RNG.normal(size=(3, 4, 6))
  off -= np.einsum("pge,pe,pf->pgf", off, u, u)
  plain = score(head, IMAGE, TEXT, PROMPTS)
  np.testing.assert_allclose(
    score(head, IMAGE + off, TEXT, PROMPTS), plain, atol=1e-4
  )
  goal = np.repeat(TEXT[:, None], 4, 1)
  np.testing.assert_allclose(score(head, goal, TEXT, PROMPTS), 1, atol=1e-6)


def test_an_irrelevant_direction_is_damped():
  """Progress beside a brightness that no prompt names, three times as large."""
  progress, light = RNG.uniform(-1, 1, (2, 1, 200))
  base = np.array([1.0, 0, 0, 0])
  goal = unit(np.array([[1.0, 0.5, 0, 0]]))
  image = np.zeros((1, 200, 4))
  image[..., 0], image[..., 1], image[..., 2] = 1, 0.3 * progress, 0.9 * light
  follows = lambda a: np.corrcoef(
    score(HEADS["goal"](strength=a), unit(image), goal, base[None])[0],
    progress[0],
  )[0, 1]
  assert follows(0.8) > follows(0.0) + 0.1


def test_training_is_that_of_a_pair_of_towers():
  head, of = HEADS["goal"](), features(IMAGE, TEXT)
  found = head.outputs({}, of)
  np.testing.assert_array_equal(found["value"], of["logit"])
  np.testing.assert_array_equal(found["cross"], of["cross"])
  with pytest.raises(UserError, match=r"head\.strength=1\.5"):
    HEADS["goal"](strength=1.5)
