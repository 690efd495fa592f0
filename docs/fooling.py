"""What fools the reading of portraits: the table of docs/portraits.md.

python docs/fooling.py
"""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
import scipy.ndimage

from jaxreward.report import sweeps
from jaxreward.tasks.portraits import attributes as at
from jaxreward.tasks.portraits import edits, judge, prompts, render

N = 400
SEED = 0
RED = np.array([0.9, 0.1, 0.1], np.float32)
FACE = (26, 22)  # row and column where the face of one person is skin


def _moved(images, down, right):
  pad = np.pad(images, ((0, 0), (down, 0), (right, 0), (0, 0)), "edge")
  return pad[:, : at.SIDE, : at.SIDE]


def _squares(images, side):
  small = images.reshape(len(images), at.SIDE // side, side, -1, side, 3)
  return small.mean((2, 4)).repeat(side, 1).repeat(side, 2)


def _stained(images, count, side, level, row, column):
  """A square on the face of the first person, or elsewhere."""
  images = images.copy()
  for image, people in zip(images, count, strict=True):
    left = column - (people == 2) * at.SIDE // 4
    image[row : row + side, left : left + side] = level
  return images


def _disc(images):
  y, x = np.mgrid[: at.SIDE, : at.SIDE]
  inside = np.hypot(y - 8, x - 4) <= 2.5
  return np.where(inside[..., None], RED, images)


def _other_beard(rows, count):
  """Every beard in the next colour: layers of two drawings, one over another."""
  bearded = rows.copy()
  bearded[..., at.BEARD_AT] = 1
  other = bearded.copy()
  other[..., at.COLOUR_AT] = (other[..., at.COLOUR_AT] + 1) % len(
    at.HAIR_COLOUR
  )
  bare = bearded.copy()
  bare[..., at.BEARD_AT] = 0
  first = render.compose(bearded, count)
  is_beard = np.abs(first - render.compose(bare, count)).max(-1) > 0.02
  return bearded, np.where(
    is_beard[..., None], render.compose(other, count), first
  )


def _no_mouth(rows, count):
  """Where the three mouths differ, skin from above."""
  mouths = []
  for value in range(len(at.MOUTH)):
    some = rows.copy()
    some[..., at.MOUTH_AT], some[..., at.BEARD_AT] = value, 0
    mouths.append(render.compose(some, count))
  is_mouth = np.ptp(np.stack(mouths), 0).max(-1) > 0.02
  skin = np.asarray(render.colours(at.SKIN_RGB))[rows[..., at.SKIN_AT]]
  half = at.SIDE // 2
  colour = np.repeat(skin[:, None, :1], at.SIDE, 2)
  colour[:, :, half:] = np.where(
    (count == 2)[:, None, None, None], skin[:, None, 1:], skin[:, None, :1]
  )
  bare = rows.copy()
  bare[..., at.BEARD_AT] = 0
  image = np.where(is_mouth[..., None], colour, mouths[0])
  return bare, image.astype(np.float32)


def changes(rows, count, rng):
  """(name, attributes, images) of every row of the table."""
  clean = render.compose(rows, count)
  noise = rng.standard_normal(clean.shape)
  grey = clean @ np.array(edits.GREY, np.float32)
  other = np.roll(clean, 1, 0)
  blur = scipy.ndimage.uniform_filter(clean, (0, 5, 5, 0), mode="nearest")
  stained = lambda *where: _stained(clean, count, *where)
  for name, images in (
    ("none", clean),
    ("normal noise, deviation 0.05", clean + 0.05 * noise),
    ("0.1", clean + 0.1 * noise),
    ("0.2", clean + 0.2 * noise),
    ("blur over 5 pixels", blur),
    ("squares of 2 pixels", _squares(clean, 2)),
    ("squares of 4 pixels", _squares(clean, 4)),
    ("moved 1 pixel to the right", _moved(clean, 0, 1)),
    ("moved 1 pixel down", _moved(clean, 1, 0)),
    ("moved 2 pixels to the right", _moved(clean, 0, 2)),
    ("darker, by 0.9", 0.9 * clean),
    ("darker, by 0.8", 0.8 * clean),
    ("contrast 0.8", 0.5 + 0.8 * (clean - 0.5)),
    ("grey", np.repeat(grey[..., None], 3, -1)),
    ("80 % of the picture, 20 % of another", 0.8 * clean + 0.2 * other),
    ("60 %, 40 %", 0.6 * clean + 0.4 * other),
    ("a red disc of 5 pixels in a corner", _disc(clean)),
    ("a black square of 4 pixels on the face", stained(4, 0.0, *FACE)),
    ("a white one", stained(4, 1.0, *FACE)),
    ("a grey one", stained(4, 0.5, *FACE)),
    ("a black one of 3 pixels", stained(3, 0.0, *FACE)),
    ("a black one of 2 pixels", stained(2, 0.0, *FACE)),
    ("a black one of 4 pixels beside the person", stained(4, 0.0, 3, 12)),
  ):
    yield name, rows, np.clip(images, 0, 1)
  yield "a beard of another colour than the hair", *_other_beard(rows, count)
  yield "no mouth", *_no_mouth(rows, count)


def table() -> str:
  """The table in Markdown."""
  rng = np.random.default_rng(SEED)
  rows = np.stack([rng.integers(0, c, (N, at.PEOPLE)) for c in at.COUNTS], -1)
  rows[:, 1, at.BACKGROUND_AT] = rows[:, 0, at.BACKGROUND_AT]
  count = rng.integers(1, at.PEOPLE + 1, N)
  is_there = np.arange(at.PEOPLE)[:, None] < count[:, None, None]
  role = np.broadcast_to(np.where(is_there, prompts.ASKED, 0), rows.shape)
  batch = prompts.batch(prompts.prompts("train")[:1], N).plain
  look = jax.jit(judge.look)
  lines = []
  for name, attributes, images in changes(rows, count, rng):
    asked = prompts.Asked(attributes, role, count)
    verdict = look(
      images.astype(np.float32), dataclasses.replace(batch, extras=asked)
    )
    means = {k: float(np.mean(verdict[k])) for k in ("read", "strict", "dense")}
    lines.append(
      [
        name, f"{means['read']:.3f}", f"{means['strict']:.3f}",
        f"{means['dense']:.2f}",
      ]
    )  # fmt: skip
  return sweeps.markdown(["change", "read", "`right`", "`attributes`"], lines)


if __name__ == "__main__":
  sys.stdout.write(table() + "\n")
