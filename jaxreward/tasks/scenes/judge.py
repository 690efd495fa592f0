"""What pictures show against what was asked, tasks with a picture included.

An edit is judged twice: whether it was carried out (`execution`), and whether
what it does not speak of is as before (`preservation`). Objects are looked for
where the answer has them, by the names that the detector gives them. The
subject of an identity task may stand anywhere: it is drawn anew at every
object's centre, and the likeness of what is there to that drawing counts.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from jaxreward.tasks.scenes import detect, edits, render
from jaxreward.tasks.scenes.detect import Detection, Verdict
from jaxreward.types import Array, ArrayLike, PromptBatch

NEAR = 3.0  # pixels, largest distance of an object from its place
PARTS = ("execution", "preservation", "subject", "clean")  # of edits alone
ALIKE = 0.7  # least likeness of a subject
_AREA = 0.35  # largest relative error of a subject's area
_SHIFTS = (-0.5, 0.0, 0.5)
_EXTRA = 0.5  # rate at which objects too many cost


@dataclasses.dataclass(frozen=True)
class Seen:
  """What B pictures show, and how that compares with what was asked.

  Attributes:
    detection: the objects.
    verdict: strict, dense and clean.
    parts: of tasks with a picture, "execution", "preservation" and "subject",
      float32 [B] in [0, 1]; NaN where a kind has no such part.
  """

  detection: Detection
  verdict: Verdict
  parts: dict[str, Array]

  def scores(self) -> dict[str, Array]:
    """All that rewards may ask for, float32 [B]."""
    found = {"strict": self.verdict.strict, "dense": self.verdict.dense}
    if self.parts:
      found |= self.parts | {"clean": self.verdict.clean}
    return found


def look(images: ArrayLike, prompts: PromptBatch) -> Seen:
  """Detects and judges pictures [B, H, W, 3] of B prompts."""
  detection = detect.detect(images)
  if prompts.extras.edit is None:
    return Seen(detection, detect.judge(detection, prompts), {})
  return _edits(jnp.asarray(images), detection, prompts)


def repeat(prompts: PromptBatch, group: int) -> PromptBatch:
  """Every row `group` times, without the pictures, which no judge reads."""
  bare = dataclasses.replace(
    prompts.plain, source=None, target=None, changes=None
  )
  return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), group, 0), bare)


def _centres(box: Array) -> Array:
  return (box[..., :2] + box[..., 2:]) / 2


def _edits(images: Array, found: Detection, prompts: PromptBatch) -> Seen:
  task: edits.Expected = jax.tree.map(jnp.asarray, prompts.extras.edit)
  asked = task.shape >= 0
  count = asked.sum(-1)
  gap = _centres(found.box)[:, None] - task.centre[:, :, None]
  there = jnp.sqrt(jnp.square(gap).sum(-1)) <= NEAR  # [B, N, K]
  subject = task.subject >= 0
  there = (there | subject[:, None, None]) & found.present[:, None]
  hue = there & (found.colour[:, None] == task.colour[..., None])
  named = hue & (found.shape[:, None] == task.shape[..., None])
  right = named.any(-1)
  partly = 0.5 * hue.any(-1) + 0.5 * right

  off = jnp.sqrt(jnp.square(_centres(found.box) - task.gone[:, None]).sum(-1))
  wants_empty = jnp.isfinite(task.gone[:, 0])
  empty = ~(found.present & (off <= 1.5 * NEAR)).any(-1)

  likeness = _likeness(images, found, task)
  best = likeness.argmax(-1)
  alike = likeness.max(-1)
  other = named[:, 0] & (jnp.arange(detect.SLOTS) != best[:, None])
  holds = _relation(found, best, other.argmax(-1), prompts.extras.relation)

  changed, kept = asked & task.changed, asked & ~task.changed
  mean = lambda x, m: (x * m).sum(-1) / jnp.maximum(m.sum(-1), 1)
  parts_done = changed.sum(-1) + wants_empty
  execution = ((partly * changed).sum(-1) + wants_empty * empty) / jnp.maximum(
    parts_done, 1
  )
  composed = 0.5 * other.any(-1) + 0.5 * (holds & other.any(-1))
  execution = jnp.where(subject, composed, execution)
  total = count + subject
  extra = jnp.maximum(found.present.sum(-1) - total, 0)
  preserved = jnp.where(kept.any(-1), mean(right, kept), 1.0)
  preserved = preserved * jnp.exp(-_EXTRA * extra)
  both = 0.5 * execution * preserved + 0.25 * (execution + preserved)
  both = jnp.where(subject, 0.5 * (alike + execution), both)

  exact = (right | ~asked).all(-1) & (empty | ~wants_empty)
  of_subject = (alike >= ALIKE) & other.any(-1) & holds
  exact = jnp.where(subject, of_subject, exact)
  clean = detect.background_quality(found)
  strict = (
    exact
    & (found.present.sum(-1) == total)
    & (found.stray <= detect.MAX_STRAY)
    & (found.texture <= detect.MAX_TEXTURE)
    & (found.background_std <= detect.MAX_BACKGROUND_STD)
    & (found.brightness >= detect.MIN_BRIGHTNESS)
  )
  number = lambda x: x.astype(jnp.float32)
  verdict = Verdict(
    strict=number(strict), dense=number(both * clean), clean=clean,
    relation=number(holds),
  )  # fmt: skip
  parts = {
    "execution": number(execution),
    "preservation": jnp.where(subject, jnp.nan, preserved),
    "subject": jnp.where(subject, alike, jnp.nan),
  }
  return Seen(found, verdict, parts)


def _relation(found, first: Array, second: Array, relation: ArrayLike) -> Array:
  pick = lambda at: jnp.take_along_axis(found.box, at[:, None, None], 1)[:, 0]
  relation = jnp.asarray(relation)
  holds = detect.relation_holds(pick(first), pick(second), relation)
  return holds | (relation == 0)


def _likeness(images: Array, found: Detection, task: edits.Expected) -> Array:
  """How well the subject, drawn in each object's place, fits, [B, K].

  The smaller of two, each in [0, 1]: of the subject without its spot and of the
  spot, 1 - |picture - drawing| / |drawing - background|; the best of nine places
  half a pixel apart. 0 for an object of another shape or size.
  """
  around, x, y = _windows(images, _centres(found.box))
  ground = detect.background_colour(images)
  shape, radius = jnp.maximum(task.subject, 0), task.radius
  below = jnp.asarray(render.CENTROID_Y)[shape] * radius
  wide = lambda v: v[:, None, None, None]

  def spot_at(x, y):
    return render.coverage(0, x, y - wide(below), wide(edits.MARK * radius))

  def fit(place):
    dx, dy = x - place[0], y - place[1]
    spot = spot_at(dx, dy)
    cover = render.coverage(wide(shape), dx, dy, wide(radius))
    scores = []
    # Rims depend on fractions of a pixel.
    for region, i in (((cover >= 1) & (spot <= 0), 0), (spot >= 1, 1)):
      look = task.look[:, i]
      off = jnp.abs(around - wide(look)).mean(-1)
      most = jnp.abs(look - ground).mean(-1)[:, None] * region.sum((2, 3))
      wrong = (off * region).sum((2, 3))
      scores.append(1 - wrong / jnp.maximum(most, 1e-6))
    return jnp.minimum(*scores)

  places = jnp.array([*itertools.product(_SHIFTS, _SHIFTS)], jnp.float32)
  score = jax.lax.map(fit, places)
  # Its outline, with the spot in the subject's colour.
  extent = (found.box[..., 2:] - found.box[..., :2]) / 2 + 1
  inside = (jnp.abs(x) <= extent[..., 0, None, None]) & (
    jnp.abs(y) <= extent[..., 1, None, None]
  )
  towards = task.look[:, 0] - ground
  alpha = jnp.einsum("bkhwc,bc->bkhw", around - wide(ground), towards)
  alpha = jnp.clip(alpha / wide(jnp.square(towards).sum(-1)), 0, 1)
  alpha = jnp.where(spot_at(x, y) > 0, 1.0, alpha) * inside
  area = jnp.maximum(alpha.sum((2, 3)), 1e-6)
  axis = jnp.arange(detect.CROP)
  along = lambda a: (alpha * a).sum((2, 3)) / area
  centroid = jnp.stack([along(axis), along(axis[:, None])], -1)
  name, iou, margin = detect.name_shape(alpha, area, centroid)
  size = jnp.asarray(render.UNIT_AREA)[shape] * jnp.square(radius)
  fits = (
    found.present
    & (name == shape[:, None])
    & (iou >= detect.MIN_IOU)
    & (margin >= detect.MIN_IOU_MARGIN)
    & (jnp.abs(area / size[:, None] - 1) <= _AREA)
  )
  return jnp.where(fits, jnp.clip(score.max(0), 0, 1), 0.0)


def _windows(images: Array, middle: Array) -> tuple[Array, Array, Array]:
  """Pixels [B, K, C, C, 3] around middles [B, K, 2], and where they lie, (x, y).

  C is `detect.CROP`; x and y [B, K, C, C] count from the middles.
  """
  size, crop = images.shape[1], detect.CROP
  corner = jnp.clip(jnp.round(middle) - crop // 2, 0, size - crop).astype(int)
  at = corner[..., None] + jnp.arange(crop)  # [B, K, 2, C]
  rows, columns = at[:, :, 1, :, None], at[:, :, 0, None, :]
  index = jnp.arange(len(images))[:, None, None, None]
  x, y = jnp.broadcast_arrays(
    columns - middle[..., 0, None, None], rows - middle[..., 1, None, None]
  )
  return images[index, rows, columns], x, y
