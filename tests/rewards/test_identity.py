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


@pytest.mark.turns(2)
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


@pytest.mark.turns(2)
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


def test_subjects_are_assigned_and_missed():
  """ID-Composer: against every assignment in float64."""
  rng = np.random.default_rng(3)
  likeness = rng.uniform(-0.2, 1, (4, 3, 2, 3))
  known = np.array([[1, 1], [1, 0], [1, 1], [0, 0]], bool)
  want = np.zeros(4)
  for b in range(4):
    who = np.flatnonzero(known[b])
    rows = []
    for frame in likeness[b]:
      best = max(
        itertools.permutations(range(3), len(who)),
        key=lambda to, frame=frame, who=who: sum(frame[who, to]),
      )
      rows.append(frame[who, best])
    if len(who):
      mean = np.mean(rows, 0)
      want[b] = mean.mean() - 0.4 * (mean < 0.5).mean()
  score = jax.jit(
    lambda x, k: identity.subject_score(x, k, missing=0.4, least=0.5)
  )
  rows = likeness.astype(np.float32)
  np.testing.assert_allclose(score(rows, known), want, rtol=1e-5, atol=1e-6)
  turned = score(rows[:, :, ::-1, ::-1], known[:, ::-1])
  np.testing.assert_allclose(turned, want, rtol=1e-5, atol=1e-6)


@pytest.mark.turns(2)
def test_a_pool_is_read_by_its_mean_its_best_or_some():
  """IPRO: frames that are faces of the pool, in any order, are 1 by its best."""
  rng = np.random.default_rng(4)
  likeness = rng.uniform(-1, 1, (5, 4, 3)).astype(np.float32)
  known = np.arange(4)[None] < np.array([4, 3, 2, 1, 4])[:, None]
  for top in (0, 1, 2, 9):
    want = [
      np.mean(np.sort(rows[there], 0)[::-1][: top or None], 0)
      for rows, there in zip(likeness.astype(np.float64), known, strict=True)
    ]
    found = identity.pooled(likeness, known, top)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
  shots = people(3)
  batch, _ = folders.prompts(1)
  of = lambda frames, top: float(
    identity.face_pool(
      frames[None, None], batch, faces=faces, side=SIDE, windows=1, top=top,
      params=jnp.asarray(PARAMS, jnp.float32), reference=shots[None],
      known=np.ones((1, 3), bool),
    )["face_pool"][0, 0]
  )  # fmt: skip
  assert of(shots[::-1], 1) == pytest.approx(1, abs=1e-5)
  assert of(shots[::-1], 0) == pytest.approx(of(shots, 0), abs=1e-5)
  assert of(shots, 0) < 0.9
  with pytest.raises(UserError, match=r"face_pool\.top=-1"):
    of(shots, -1)


def test_the_triplet_ends_where_both_are_told_apart():
  """ID-Booth: 0 at cosines 1 and 0, 1 where they are equal."""
  positive, negative = np.array([1.0, 0.3, 0.9]), np.array([0.0, 0.3, 0.1])
  np.testing.assert_allclose(
    identity.triplet(positive, negative), [0, 1, 0.2], atol=1e-6
  )
  push = jax.grad(lambda n: identity.triplet(positive, n).sum())(negative)
  np.testing.assert_allclose(push[1:], 1)
  ann, bob, eve = people(3)
  batch, _ = folders.prompts(1)
  one = np.ones((1, 1), bool)
  loss = lambda image, others: float(
    identity.identity_triplet(
      image[None, None], batch, faces=faces, side=SIDE,
      params=jnp.asarray(PARAMS, jnp.float32), reference=ann[None, None],
      known=one, others=others[None, None], others_known=one, margin=0.5,
    )["identity_triplet"][0, 0]
  )  # fmt: skip
  unit = lambda x: x / np.linalg.norm(x)
  code = lambda x: unit(
    np.tanh((2 * x.astype(np.float64) - 1).ravel() @ PARAMS)
  )
  cosine = lambda a, b: code(a) @ code(b)
  want = max(0, cosine(eve, bob) - cosine(eve, ann) + 0.5)
  assert loss(eve, bob) == pytest.approx(-want, abs=1e-4)
  assert loss(ann, ann) == pytest.approx(-0.5, abs=1e-5)
