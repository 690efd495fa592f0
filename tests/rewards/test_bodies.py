"""Scores of bodies that move: float64 frame by frame, and what physics says."""

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards import bodies

RNG = np.random.default_rng(0)
FPS, T = 30.0, 12
STANDING = np.array([[0, 0, 1.0], [-0.1, 0, 0], [0.1, 0, 0]])


def standing(count=T):
  return np.repeat(STANDING[None], count, 0)


def scores(*paths):
  found = bodies.feasibility(np.stack(paths).astype(np.float32), fps=FPS)
  return {name: np.asarray(x) for name, x in found.items()}


def distance(p, a, b):
  """Of a point to a segment, by trying 10,001 of its points."""
  line = a + np.linspace(0, 1, 10001)[:, None] * (b - a)
  return np.linalg.norm(line - p, axis=-1).min()


def reference(x):
  """In float64, frame by frame."""
  dt, count = 1 / FPS, len(x)
  size = lambda a: np.linalg.norm(a, axis=-1)
  fast = (size(np.gradient(x, dt, axis=0)).max(1) > 5).mean()
  acceleration = lambda a: size(np.diff(a, 2, axis=0) / dt**2).mean()
  jitter = acceleration(x) + acceleration(x - x[:, :1])
  kinematic = 1 - (fast + np.clip((jitter - 4.5) / 90, 0, 1)) / 2
  foot, root = x[:, 1:], x[:, 0]
  stands, speed = foot[..., 2] < 0.02, size(np.gradient(foot, dt, axis=0))
  slip = min((speed * stands).sum() * dt / (2 * count) / 0.05, 1)
  depth = min(np.maximum(-foot[..., 2], 0).sum() / (2 * count) / 0.05, 1)
  center, away, floating = x.mean(1), [], 0
  for f in range(count):
    k = min(f, count - 2)
    of_root = root[k + 1] - root[k]
    off = []
    for i in np.flatnonzero(stands[f]):
      way = foot[k + 1, i] - foot[k, i]
      rate = np.linalg.norm(way - of_root) / (np.linalg.norm(of_root) + 1e-6)
      off.append(not 0.6 <= rate <= 1.75 and np.linalg.norm(way) > 1.2e-4)
    floating += bool(off) and all(off) and np.linalg.norm(of_root) >= 1e-3
    ground = foot[f][stands[f]][:, :2]
    p = center[f, :2]
    away.append(distance(p, ground[0], ground[-1]) if len(ground) else 1.0)
  floating = floating / count if stands.any() else 1.0
  balance = (np.clip(away, 0, 0.5) / 0.5).mean()
  contact = 1 - (slip + depth + floating + balance) / 4
  push = np.gradient(np.gradient(center, dt, axis=0), dt, axis=0)
  up = (np.maximum(9.81 + push[:, 2], 0) > 3 * 9.81).mean()
  aside = (size(push[:, :2]) > 9.81 / 2).mean()
  return kinematic, contact, (1 - (up + aside) / 2 + 1 - balance) / 2


@pytest.mark.turns(2)
def test_in_float64():
  walk = [
    standing() + s * RNG.standard_normal((T, 3, 3)) for s in (3e-3, 0.02, 0.1)
  ]
  hop = (
    standing() + 0.3 * np.array([0, 0, 1]) * (np.arange(T) > 6)[:, None, None]
  )
  stride = standing() + 0.02 * np.arange(T)[:, None, None] * np.eye(3)[0]
  stride[:, 1] = STANDING[1]
  paths = [
    x.astype(np.float32).astype(np.float64) for x in (*walk, hop, stride)
  ]
  found = scores(*paths)
  want = np.array([reference(x) for x in paths])
  got = np.stack([found[k] for k in ("kinematic", "contact", "dynamic")], -1)
  np.testing.assert_allclose(got, want, atol=2e-3)


@pytest.mark.turns(2)
def test_what_stands_is_whole_and_what_goes_wrong_costs():
  slides = standing() + np.arange(T)[:, None, None] * [0.04 / FPS, 0, 0]
  noisy = [
    standing() + s * RNG.standard_normal((T, 3, 3)) for s in (0.01, 0.03)
  ]
  jumps = standing()
  jumps[5, 1, 0] += 1  # the central difference sees it in two frames
  found = scores(standing(), slides, *noisy, jumps, standing() + np.eye(3)[2])
  assert all(found[name][0] == pytest.approx(1, abs=1e-6) for name in found)
  # Sliding .04 m/s costs (.04 / 30) / .05, and all frames float.
  lost = (0.04 / FPS / 0.05 + 1) / 4
  assert found["contact"][1] == pytest.approx(1 - lost, abs=1e-4)
  kinematic = found["kinematic"]
  assert kinematic[0] > kinematic[2] > kinematic[3]
  assert kinematic[4] <= 1 - 2 / T / 2
  # Nothing stands: it floats and nothing holds it.
  assert found["contact"][5] == pytest.approx(0.5)
  assert found["dynamic"][5] == pytest.approx(0.5)


@pytest.mark.turns(2)
def test_a_body_is_read_from_frames():
  """Two bright legs and a trunk on a dark ground, at their places in metres."""
  frame = np.zeros((40, 20, 3), np.float32)
  frame[10:30, 6:14] = 1
  frame[30:40, 6:8] = frame[30:40, 12:14] = 1
  clip = np.repeat(frame[None], 4, 0)
  points = np.asarray(bodies.outline(clip, 2.0))
  assert points[0, 1, 0] == pytest.approx(0.35, abs=0.06)
  assert points[0, 2, 0] == pytest.approx(0.65, abs=0.06)
  np.testing.assert_allclose(points[:, 1:, 1], 0, atol=0.02)
  assert points[0, 0, 0] == pytest.approx(0.5, abs=0.01)
  shaken = np.stack([np.roll(frame, 5 * (i % 2), 1) for i in range(4)])
  broken = clip.copy()
  broken[2, 0, 0, 0] = np.nan
  run = jax.jit(lambda x: bodies.feasible(x, None))
  found = np.asarray(run(np.stack([clip, shaken, broken])[None]))[0]
  assert found[0] > 0.95 and found[1] < found[0] and np.isnan(found[2])


@pytest.mark.parametrize(
  ("frames", "given", "says"),
  [(2, {}, "3 frames"), (4, {"metres": 0.0}, "metres=0")],
)
def test_what_is_refused(frames, given, says):
  with pytest.raises(UserError, match=says):
    bodies.feasible(np.ones((1, 1, frames, 8, 8, 3), np.float32), None, **given)
