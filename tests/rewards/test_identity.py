"""Faces: the best assignment, the harmonic mean, and pictures of people."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.rewards import identity, references
from tests.rewards import folders


@pytest.mark.parametrize(
  ("subjects", "faces"), [(1, 1), (1, 4), (2, 5), (3, 4)]
)
def test_the_assignment_is_the_best_of_all(subjects, faces):
  rng = np.random.default_rng(subjects)
  likeness = rng.standard_normal((20, subjects, faces)).astype(np.float32)
  known = np.ones((20, subjects), bool)
  found = np.asarray(jax.jit(identity.assign)(likeness, known))
  for each, pairs in zip(likeness, found, strict=True):
    rows, columns = scipy.optimize.linear_sum_assignment(-each)
    np.testing.assert_allclose(pairs, each[rows, columns], rtol=1e-6)


def test_subjects_that_are_not_there_take_no_face_from_others():
  likeness = np.array([[[0.9, 0.1], [0.8, -1.0]]], np.float32)
  found = identity.assign(likeness, np.array([[True, False]]))
  assert float(found[0, 0]) == pytest.approx(0.9)
  both = identity.assign(likeness, np.array([[True, True]]))
  np.testing.assert_allclose(both, [[0.1, 0.8]], rtol=1e-6)


def test_the_harmonic_mean_is_over_what_is_known():
  x = np.array([[0.5, 0.25, 0.9], [0.5, 0.5, -3.0], [1.0, 1.0, 1.0]])
  known = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
  expected = [2 / (2 + 4), 3 / (2 + 2 + 1000), 0.0]
  found = identity.harmonic_mean(x.astype(np.float32), known)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_windows_lie_in_the_picture_and_overlap_by_half():
  corners = identity.window_corners(2, 40, 40)
  assert corners[0] == (0, 0, 40) and len(corners) == 1 + 9
  assert {y for y, _, s in corners if s == 20} == {0, 10, 20}
  assert {s for *_, s in identity.window_corners(3, 41, 41)} == {41, 20, 13}


@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 21), (7, 8)])
def test_windows_are_squares_that_cover_the_picture(shape):
  """Faces are not stretched, whatever the shape of the picture."""
  corners = identity.window_corners(2, *shape)
  for share in (1, 2):
    side = min(shape) // share
    mine = [(y, x) for y, x, s in corners if s == side]
    seen = np.zeros(shape, int)
    for y, x in mine:
      assert y + side <= shape[0] and x + side <= shape[1]
      seen[y : y + side, x : x + side] += 1
    assert (seen > 0).all()


@pytest.mark.parametrize(
  ("subjects", "faces", "said"),
  [(3, 2, "set windows higher"), (6, 40, "set windows or subjects lower")],
)
def test_numbers_that_cannot_be_assigned(subjects, faces, said):
  with pytest.raises(UserError, match=said):
    identity.ways(subjects, faces)


SIDE = 8
PARAMS = np.random.default_rng(0).standard_normal((SIDE * SIDE * 3, 24))


def faces(params, x):
  """A tower that compiles in a moment and tells any two pictures apart."""
  return jnp.tanh(x.reshape(x.shape[0], -1) @ params)


def people(count):
  levels = np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3))
  return (levels / 255).astype(np.float32)


def scored(images, reference, known, **options):
  batch, _ = folders.prompts(len(images))
  found = identity.identity(
    images, batch, faces=faces, params=jnp.asarray(PARAMS, jnp.float32), side=SIDE,
    reference=reference, known=known, **options,
  )  # fmt: skip
  return np.asarray(found["identity"])


def test_people_are_found_wherever_they_stand():
  ann, bob, eve = people(3)
  both = np.zeros((2 * SIDE, 2 * SIDE, 3), np.float32)
  both[:SIDE, SIDE:], both[SIDE:, :SIDE] = ann, bob
  turned = np.zeros_like(both)
  turned[SIDE:, SIDE:], turned[:SIDE, :SIDE] = ann, bob
  one = np.zeros_like(both)
  one[:SIDE, :SIDE] = ann
  stranger = both.copy()
  stranger[SIDE:, :SIDE] = eve
  broken = both.copy()
  broken[0, 0, 0] = np.nan
  images = np.stack([both, turned, one, stranger, broken])[None]
  reference = np.stack([ann, bob])[None]
  found = scored(images, reference, np.ones((1, 2), bool))[0]
  np.testing.assert_allclose(found[:2], 1.0, atol=1e-4)
  assert found[2] < 0.9 and found[3] < 0.9
  assert np.isnan(found[4])
  alone = scored(images, reference, np.array([[True, False]]))[0]
  np.testing.assert_allclose(alone[:4], 1.0, atol=1e-4)
  assert np.isnan(scored(images, reference, np.zeros((1, 2), bool))).all()


def test_frames_are_pooled():
  ann, bob = people(2)
  reference, known = ann[None, None], np.ones((1, 1), bool)
  frames = np.stack([ann, bob])[None, None]
  each = [
    scored(x[None, None], reference, known, windows=1)[0, 0] for x in (ann, bob)
  ]
  found = scored(frames, reference, known, windows=1)[0, 0]
  assert found == pytest.approx(max(np.mean(each), 1e-3), rel=1e-4)


def test_faces_come_from_a_folder(tmp_path):
  shots = (people(3) * 255).round().astype(np.uint8)
  for i, shot in enumerate(shots):
    Image.fromarray(shot).save(tmp_path / f"{i}.png")
  lines = [
    {"prompt": "two friends", "faces": ["0.png", "1.png"]},
    {"prompt": "one", "faces": "2.png"},
  ]
  (tmp_path / references.FILE).write_text("\n".join(map(json.dumps, lines)))
  prepare = references.images_of(str(tmp_path), "faces", SIDE, 2)
  found = prepare(["one", "nobody", "two friends"])
  np.testing.assert_array_equal(
    found["known"], [[True, False], [False, False], [True, True]]
  )
  np.testing.assert_allclose(found["reference"][2], people(3)[:2], atol=1e-6)
  with pytest.raises(UserError, match="has 2 faces, at most 1"):
    references.images_of(str(tmp_path), "faces", SIDE, 1)


def test_ways_are_all_and_none_twice():
  table = identity.ways(2, 4)
  assert sorted(map(tuple, table)) == sorted(
    itertools.permutations(range(4), 2)
  )
