"""Rows from which a reward model could learn nothing are refused."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxreward.data.preferences import Preferences
from jaxreward.errors import UserError
from jaxreward.setup import reward_losses

NAN = np.nan
WON, TIE = (
  np.float32([[NAN, 1], [0, NAN]]),
  np.float32([[NAN, 0.5], [0.5, NAN]]),
)


def rows(*prob, score=NAN, **more) -> Preferences:
  prob = np.stack(prob)
  score = np.broadcast_to(np.float32(score), prob.shape[:2])
  none = np.zeros((len(prob), 2), np.int32)
  arrays = dict(images=none, tokens=none, category=none[:, 0], members=none)
  arrays |= dict(prob=prob, score=score, strict=score, source=none)
  return Preferences(**arrays | more)


def config(loss: str, heldout: str = "") -> ConfigDict:
  return ConfigDict(dict(
    train_reward=dict(loss=dict(name=loss), source="f.jsonl", heldout=heldout),
    kernels=dict(implementation="xla"),
  ))  # fmt: skip


def check(loss, train, heldout=None):
  reward_losses._require_order(config(loss), train, heldout)


@pytest.mark.parametrize(
  ("loss", "train"),
  [
    ("bradley_terry", rows(TIE, TIE)),
    ("bradley_terry", rows(TIE, score=(1, 1))),  # both are good
    ("rank_policy", rows(TIE)),
    ("solireward", rows(TIE, score=(1, 1))),
    ("regression", rows(TIE, TIE, score=(0.5, NAN))),
    ("plackett_luce", rows(TIE, TIE, score=((0, 0), (1, 1)))),
    ("pairwise", rows(WON, score=(1, NAN))),
  ],
)  # fmt: skip
def test_ties_alone(loss, train):
  with pytest.raises(
    UserError, match=r"f.jsonl are ties, without any preference"
  ):
    check(loss, train)


@pytest.mark.parametrize(
  ("loss", "train"),
  [
    ("bradley_terry", rows(TIE, WON)),
    ("four_outcomes", rows(TIE, TIE, score=((0, 0), (1, 1)))),
    ("regression", rows(TIE, TIE, score=((0, 0), (1, 1)))),
    ("plackett_luce", rows(TIE, score=(0, 0.5))),
    ("aspect_answers", rows(TIE)),  # its answers stand elsewhere
  ],
)
def test_rows_that_teach(loss, train):
  check(loss, train)


def test_a_test_of_ties_alone():
  with pytest.raises(UserError, match=r"all held-out rows are ties"):
    check("bradley_terry", rows(WON), rows(TIE))
  nobody = np.full((2, 2), NAN, np.float32)
  check("bradley_terry", rows(WON), rows(nobody))  # answers per aspect alone


def test_generators():
  three = np.full((3, 3), NAN, np.float32)
  three[0, 1] = 1
  for source in ([0, 0, 0], [0, 1, 2], [0, 0, -1]):
    with pytest.raises(UserError, match=r"layout.columns.models"):
      check("same_policy", rows(three, source=np.array([source])))
  check("same_policy", rows(three, source=np.array([1, 0, 1])))


@pytest.mark.parametrize(
  ("loss", "value", "what"),
  [
    ("aspect_ratings_and_order", NAN, r'ratings.* one of "looks"'),
    ("aspect_answers", 0.5, r'answers.* one of "looks"'),
  ],
)
def test_an_aspect_without_a_rating_or_an_answer(loss, value, what):
  name = "aspects" if "ratings" in loss else "aspect_prob"
  table = np.ones((1, 2, 2) if name == "aspects" else (1, 2, 2, 2))
  table[..., 1] = value
  train = rows(WON, aspect_names=("text", "looks"), **{name: table})
  with pytest.raises(UserError, match=what):
    reward_losses._require_aspects(config(loss), train, lambda: 2)
