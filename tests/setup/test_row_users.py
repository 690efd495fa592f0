"""Users of a policy's preferences: their vectors, their rows, and the test."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreward import setup
from jaxreward.data import users
from jaxreward.errors import UserError
from jaxreward.setup import offline, policy_users, row_users
from jaxreward.tasks.scenes import grammar
from jaxreward.types import Policy
from tests import tiny

PPD = "recipes/ppd_personal_dpo.py:smoke"


def test_a_user_is_the_mean_difference_of_colours():
  images = np.zeros((3, 2, 4, 6, 3))
  images[:, 0, :2, 3:, 0] = np.array([0.3, 0.6, 0.9])[:, None, None]
  images[:, 1, 2:, :3, 2] = 0.2
  want = np.zeros((4, 3))  # cells: above left, above right, below left, right
  want[1, 0], want[2, 2] = 0.6, -0.2
  want = want.reshape(-1) * 12**0.5 / np.linalg.norm(want)
  of = lambda pairs: users.contrast(pairs, side=2)
  np.testing.assert_allclose(of(images), want, rtol=1e-12)
  np.testing.assert_allclose(of(images[[2, 0, 1]]), want, rtol=1e-12)
  np.testing.assert_allclose(of(images[:, ::-1]), -want, rtol=1e-12)
  assert not users.contrast(0 * images).any()
  with pytest.raises(UserError, match=r"encoder\.side=5"):
    users.contrast(images, side=5)


@pytest.mark.job
@pytest.mark.turns(3)
def test_planted_users_label_by_taste_and_reach_the_rows():
  config = tiny.load(PPD, {"rollout.prompts": 24, "data.users.drop": 0.4})
  known = row_users.planted(config)
  assert known.vectors.shape == (4, 3) and known.known == 2
  # Even users want more red than blue, odd ones less; unseen ones are like them.
  np.testing.assert_array_equal(
    np.sign(known.vectors[:, 0] - known.vectors[:, 2]), [1, -1, 1, -1]
  )
  assert not known.of(np.array([users.NOBODY, 1]))[0].any()
  read = offline.batches(config)
  batch = read(3)
  means = batch.images.mean((2, 3), dtype=np.float64)
  warmth = means[..., 0] - means[..., 2]
  wanted = np.where(batch.user % 2 == 0, 1, -1) * (warmth[:, 0] - warmth[:, 1])
  chosen = batch.scores[:, 0] - batch.scores[:, 1]
  np.testing.assert_array_equal(np.sign(chosen), np.sign(wanted))
  is_average = ~batch.prompts.user.any(1)
  assert 0 < is_average.sum() < 24
  np.testing.assert_array_equal(
    batch.prompts.user[~is_average], known.vectors[batch.user[~is_average]]
  )
  same = read(3).prompts
  np.testing.assert_array_equal(same.user, batch.prompts.user)
  assert batch.prompts.words.empty.keys() == {"tokens"}


def rows_of(folder, answers):
  """A file of rows (user, label, red of a, red of b) of one prompt each."""
  lines = []
  for i, (user, label, *reds) in enumerate(answers):
    row = {"prompt": grammar.prompts("train")[0].text, "label": label}
    for side, red in zip("ab", reds, strict=True):
      image = np.zeros((36, 36, 3), np.uint8)
      image[..., 0] = red
      Image.fromarray(image).save(folder / f"{i}{side}.png")
      row[f"image_{side}"] = f"{i}{side}.png"
    lines.append(row | ({"user": user} if user else {}))
  path = folder / "pairs.jsonl"
  path.write_text("\n".join(map(json.dumps, lines)))
  return path


ANSWERS = [
  ("ann", "a", 200, 100), ("ben", "a", 100, 200), ("ann", "b", 50, 90),
  ("", "a", 10, 20), ("ben", "b", 70, 30), ("cyd", "a", 9, 8), ("cyd", "a", 8, 9),
]  # fmt: skip


def test_users_of_a_file_are_known_by_their_first_rows(tmp_path):
  given = {"data.preferences": rows_of(tmp_path, ANSWERS)}
  given |= {"data.users.count": 0, "data.users.shown": 1, "rollout.prompts": 3}
  config = tiny.load(PPD, given, {"data.users.unseen": 1})
  batch = offline.batches(config)(0)
  root = 3**0.5
  vectors = {"ann": [root, 0, 0], "ben": [-root, 0, 0], "": [0, 0, 0]}
  reds = {(50, 90): "ann", (10, 20): "", (70, 30): "ben"}
  for images, vector in zip(batch.images, batch.prompts.user, strict=True):
    name = reds.pop(tuple(int(x) for x in images[:, 0, 0, 0]))
    np.testing.assert_allclose(vector, vectors[name], rtol=1e-6)
  assert not reds  # none but these are learned from
  test = policy_users.make_test(config)
  assert not test.is_planted and test.batch.user.tolist() == [2]
  assert test.batch.images[0, :, 0, 0, 0].tolist() == [8, 9]
  np.testing.assert_allclose(test.users.vectors[2], [root, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
  ("answers", "given", "says"),
  [
    ([("", "a", 9, 8)], {}, "no row names one"),
    (ANSWERS, {"data.users.unseen": 3}, "leaves none to learn from"),
    (ANSWERS[:2] + ANSWERS[5:], {}, "no other rows are left"),
    (ANSWERS, {"model.user": 5}, r"gives \(3,\).*config\.model\.user=5"),
  ],
)
def test_files_without_users_to_learn_from_are_refused(
  answers, given, says, tmp_path
):
  path = rows_of(tmp_path, answers)
  fields = {
    "data.users.count": 0,
    "data.users.unseen": 1,
    "data.users.shown": 1,
  }
  config = tiny.load(PPD, {"data.preferences": path}, fields, given)
  with pytest.raises(UserError, match=says):
    offline.check(config, setup.make_policy(config))
    offline.checked(config)


@pytest.mark.turns(2)
def test_the_test_reads_each_users_own_vector(monkeypatch):
  """A policy that draws in the colours of its user: a linear toy, exact."""
  config = tiny.load(PPD, {"data.users.rows": 16, "eval.num_steps": 2})

  def velocity(params, x_t, t, cond):
    x0 = jnp.clip(params["gain"] * cond, -1, 1)[:, None, None]
    return (x_t - x0) / jnp.maximum(t, 0.05)[:, None, None, None]

  policy = Policy(
    init=lambda key: {"gain": jnp.ones(())},
    encode=lambda params, prompts: prompts["user"],
    velocity=velocity,
    to_pixels=lambda x, decoder=None: x * 0.5 + 0.5,
    latent_shape=(36, 36, 3),
    user=3,
  )
  monkeypatch.setattr(setup, "make_policy", lambda config: policy)
  planted = row_users.planted(config)
  signs = np.array([1, -1, 1, -1])[:, None] * np.array([1, 0, -1])
  exact = dataclasses.replace(planted, vectors=0.3 * signs.astype(np.float32))
  monkeypatch.setattr(row_users, "planted", lambda config: exact)
  base, trained = ({"gain": jnp.float32(gain)} for gain in (0, 1))
  results = policy_users.evaluate(config, policy, trained, base)
  for side, share in {"known": 1.0, "unseen": 0.5, "adapted": 1.0}.items():
    assert results[side]["n"] == 8
    assert results[side]["accuracy"] == results[side]["win_share"] == share
