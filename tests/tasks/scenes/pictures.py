"""Scenes for tests: drawn, detected in chunks, and true or false in NumPy."""

import dataclasses
import functools

import jax
import numpy as np

from jaxreward import rng
from jaxreward.tasks.scenes import detect, grammar, render

CHUNK = 168  # pictures a program takes; 2016 are twelve of them


def balanced(count, seed=0):
  """Prompts of the whole grammar, the six kinds in turn."""
  generator = np.random.default_rng(seed)
  by_kind = [
    [p for p in grammar.all_prompts() if p.category == k] for k in range(6)
  ]
  return [
    by_kind[i % 6][generator.integers(len(by_kind[i % 6]))]
    for i in range(count)
  ]


@jax.jit
def _sample(prompts, members):
  keys = rng.sample_keys(rng.stream_key(7, "test"), prompts.ids, members)
  scene = jax.vmap(render.sample_scene)(
    keys, prompts.extras.items, prompts.extras.relation
  )
  return scene, render.render(scene)


_detect = jax.jit(detect.detect)
_judge = jax.jit(detect.judge)


def _chunks(count):
  return [slice(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]


def _pad(x):
  x = np.asarray(x)
  return np.concatenate([x, np.repeat(x[-1:], CHUNK - len(x), 0)])


def take(tree, index):
  """Rows of every array."""
  return jax.tree.map(lambda x: x[index], tree)


def _join(parts, count):
  joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return take(joined, slice(0, count))


def draw(prompts):
  """(scenes, images) of prompts as NumPy arrays, each with its own key."""
  parts = []
  for part in _chunks(len(prompts)):
    batch = grammar.batch(prompts[part], CHUNK)
    members = part.start + np.arange(CHUNK)
    parts.append(jax.device_get(_sample(batch, members)))
  return _join(parts, len(prompts))


def look(images):
  """Detection of any number of pictures, by programs of one shape."""
  images = np.asarray(images, np.float32)
  parts = [
    jax.device_get(_detect(_pad(images[c]))) for c in _chunks(len(images))
  ]
  return _join(parts, len(images))


def verdict(detection, prompts):
  """Verdict on pictures that were looked at, one prompt each."""
  parts = []
  for part in _chunks(len(prompts)):
    seen = jax.tree.map(_pad, take(detection, part))
    batch = jax.tree.map(_pad, grammar.batch(prompts[part]))
    parts.append(jax.device_get(_judge(seen, batch)))
  return _join(parts, len(prompts))


def judge(images, prompts):
  """Verdict on pictures, one prompt each."""
  return verdict(look(images), prompts)


@dataclasses.dataclass(frozen=True)
class Drawn:
  prompts: list
  scenes: render.Scene
  images: np.ndarray
  detection: detect.Detection


@functools.cache
def two_thousand():
  """2,016 clean pictures, 336 of each kind."""
  prompts = balanced(2016)
  scenes, images = draw(prompts)
  return Drawn(prompts, scenes, images, look(images))


# Half extents (x, y) of shapes of radius 1, from the drawings' geometry.
EXTENT = np.array([[1, 1], [0.885, 0.885], [1.1258, 0.975], [1, 1]])


def relation_cosines(scene, first, second):
  """Cosines of the offset of two objects with left, right, above, below.

  GenEval: the offset between box centres, shrunk by a tenth of the summed box
  sizes along each axis, then normalised.
  """
  offset = scene.centre[first] - scene.centre[second]
  size = sum(
    2 * scene.radius[i] * EXTENT[scene.shape[i]] for i in (first, second)
  )
  offset = np.sign(offset) * np.maximum(np.abs(offset) - 0.1 * size, 0)
  x, y = offset / max(np.hypot(*offset), 1e-9)
  return np.array([-x, x, -y, y])


def is_true(scene, prompt, tolerance=0.1):
  """Does a scene (rows of one picture) satisfy a prompt? None: a near thing."""
  there = np.flatnonzero(scene.present)
  distance = np.abs(scene.colour[:, None] - render.PALETTE).sum(-1)
  colour = distance.argmin(-1)
  matches = [
    [
      i
      for i in there
      if scene.shape[i] == item[2] and item[1] in (-1, colour[i])
    ]
    for item in prompt.items
  ]
  asked = [item[0] for item in prompt.items]
  if [len(m) for m in matches] != asked or sum(asked) != len(there):
    return False
  if not prompt.relation:
    return True
  cosine = relation_cosines(scene, matches[0][0], matches[1][0])
  cosine = cosine[prompt.relation - 1]
  if abs(cosine - 0.5) < tolerance:
    return None
  return bool(cosine > 0.5)
