"""Compares the objects of images with the prompts, edits included.

An edit is judged twice: whether it was carried out (`execution`), and whether
everything else is unchanged (`preservation`). Objects are matched by position
and by the names that the detector gives them. The subject of an identity edit
may be anywhere: it is rendered at every object's centre and compared with the
pixels there.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp

from jaxreward.tasks.scenes import detect, edits, render
from jaxreward.tasks.scenes.detect import Detection, Verdict
from jaxreward.types import Array, ArrayLike, PromptBatch

NEAR = 3.0  # pixels, largest distance of an object from its target position
PARTS = ("execution", "preservation", "subject", "clean")  # only for edits
ALIKE = 0.7  # lowest similarity of a subject
_AREA = 0.35  # largest relative error of a subject's area
_SHIFTS = (-0.5, 0.0, 0.5)
_EXTRA = 0.5  # decay rate of the score per surplus object


@dataclasses.dataclass(frozen=True)
class Judgement:
  """Detections in B images and their comparison with the prompts.

  Attributes:
    detection: the objects.
    verdict: strict, dense and clean.
    parts: for edits, "execution", "preservation" and "subject", float32 [B] in
      [0, 1]; NaN where a part is not applicable.
  """

  detection: Detection
  verdict: Verdict
  parts: dict[str, Array]

  def scores(self) -> dict[str, Array]:
    """All values that rewards may use, float32 [B]."""
    scores = {"strict": self.verdict.strict, "dense": self.verdict.dense}
    if self.parts:
      scores |= self.parts | {"clean": self.verdict.clean}
    return scores


def look(images: ArrayLike, prompts: PromptBatch) -> Judgement:
  """Detects objects in images [B, H, W, 3] of B prompts and judges them."""
  detection = detect.detect(images)
  if prompts.extras.edit is None:
    return Judgement(detection, detect.judge(detection, prompts), {})
  return _edits(jnp.asarray(images), detection, prompts)


def repeat(prompts: PromptBatch, group: int) -> PromptBatch:
  """Every row `group` times, without the images, which are not judged."""
  bare = dataclasses.replace(
    prompts.plain, source=None, target=None, changes=None
  )
  return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), group, 0), bare)


def _centres(box: Array) -> Array:
  return (box[..., :2] + box[..., 2:]) / 2


def _edits(
  images: Array, detection: Detection, prompts: PromptBatch
) -> Judgement:
  task: edits.Expected = jax.tree.map(jnp.asarray, prompts.extras.edit)
  is_item = task.shape >= 0
  count = is_item.sum(-1)
  gap = _centres(detection.box)[:, None] - task.centre[:, :, None]
  is_near = jnp.sqrt(jnp.square(gap).sum(-1)) <= NEAR  # [B, N, K]
  subject = task.subject >= 0
  is_near = (is_near | subject[:, None, None]) & detection.present[:, None]
  hue = is_near & (detection.colour[:, None] == task.colour[..., None])
  is_match = hue & (detection.shape[:, None] == task.shape[..., None])
  is_right = is_match.any(-1)
  credit = 0.5 * hue.any(-1) + 0.5 * is_right

  off = jnp.sqrt(
    jnp.square(_centres(detection.box) - task.gone[:, None]).sum(-1)
  )
  wants_empty = jnp.isfinite(task.gone[:, 0])
  empty = ~(detection.present & (off <= 1.5 * NEAR)).any(-1)

  likeness = _likeness(images, detection, task)
  best = likeness.argmax(-1)
  similarity = likeness.max(-1)
  is_other = is_match[:, 0] & (jnp.arange(detect.SLOTS) != best[:, None])
  holds = _relation(
    detection, best, is_other.argmax(-1), prompts.extras.relation
  )

  changed, unchanged = is_item & task.changed, is_item & ~task.changed
  mean = lambda x, m: (x * m).sum(-1) / jnp.maximum(m.sum(-1), 1)
  parts_done = changed.sum(-1) + wants_empty
  execution = ((credit * changed).sum(-1) + wants_empty * empty) / jnp.maximum(
    parts_done, 1
  )
  composed = 0.5 * is_other.any(-1) + 0.5 * (holds & is_other.any(-1))
  execution = jnp.where(subject, composed, execution)
  total = count + subject
  extra = jnp.maximum(detection.present.sum(-1) - total, 0)
  preservation = jnp.where(unchanged.any(-1), mean(is_right, unchanged), 1.0)
  preservation = preservation * jnp.exp(-_EXTRA * extra)
  dense = 0.5 * execution * preservation + 0.25 * (execution + preservation)
  dense = jnp.where(subject, 0.5 * (similarity + execution), dense)

  exact = (is_right | ~is_item).all(-1) & (empty | ~wants_empty)
  of_subject = (similarity >= ALIKE) & is_other.any(-1) & holds
  exact = jnp.where(subject, of_subject, exact)
  clean = detect.background_quality(detection)
  strict = (
    exact
    & (detection.present.sum(-1) == total)
    & (detection.stray <= detect.MAX_STRAY)
    & (detection.texture <= detect.MAX_TEXTURE)
    & (detection.background_std <= detect.MAX_BACKGROUND_STD)
    & (detection.brightness >= detect.MIN_BRIGHTNESS)
  )
  number = lambda x: x.astype(jnp.float32)
  verdict = Verdict(
    strict=number(strict), dense=number(dense * clean), clean=clean,
    relation=number(holds),
  )  # fmt: skip
  parts = {
    "execution": number(execution),
    "preservation": jnp.where(subject, jnp.nan, preservation),
    "subject": jnp.where(subject, similarity, jnp.nan),
  }
  return Judgement(detection, verdict, parts)


def _relation(
  detection, first: Array, second: Array, relation: ArrayLike
) -> Array:
  pick = lambda at: jnp.take_along_axis(detection.box, at[:, None, None], 1)[
    :, 0
  ]
  relation = jnp.asarray(relation)
  holds = detect.relation_holds(pick(first), pick(second), relation)
  return holds | (relation == 0)


def _likeness(
  images: Array, detection: Detection, task: edits.Expected
) -> Array:
  """Similarity of each object to the subject rendered in its place, [B, K].

  The smaller of two values in [0, 1], for the subject without its spot and for
  the spot: 1 - |image - rendering| / |rendering - background|, at the best of
  nine positions half a pixel apart. 0 for an object of another shape or size.
  """
  around, x, y = _windows(images, _centres(detection.box))
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
    # Edges depend on fractions of a pixel, so only full coverage counts.
    for region, i in (((cover >= 1) & (spot <= 0), 0), (spot >= 1, 1)):
      look = task.look[:, i]
      off = jnp.abs(around - wide(look)).mean(-1)
      limit = jnp.abs(look - ground).mean(-1)[:, None] * region.sum((2, 3))
      error = (off * region).sum((2, 3))
      scores.append(1 - error / jnp.maximum(limit, 1e-6))
    return jnp.minimum(*scores)

  places = jnp.array([*itertools.product(_SHIFTS, _SHIFTS)], jnp.float32)
  score = jax.lax.map(fit, places)
  # The object's outline, its spot filled in.
  extent = (detection.box[..., 2:] - detection.box[..., :2]) / 2 + 1
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
    detection.present
    & (name == shape[:, None])
    & (iou >= detect.MIN_IOU)
    & (margin >= detect.MIN_IOU_MARGIN)
    & (jnp.abs(area / size[:, None] - 1) <= _AREA)
  )
  return jnp.where(fits, jnp.clip(score.max(0), 0, 1), 0.0)


def _windows(images: Array, middle: Array) -> tuple[Array, Array, Array]:
  """Pixels [B, K, C, C, 3] around centers [B, K, 2], and their offsets (x, y).

  C is `detect.CROP`; x and y are [B, K, C, C].
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
