"""Detects the objects of a scene: array code without weights.

The background is the median of the border ring; foreground pixels form
4-connected components; each is compared with the four shape templates at its
own centroid and area (soft intersection over union), and its mean colour with
the palette. The detector abstains: a shape whose best template is poor or
hardly better than the next, and a colour that is far from the palette, uneven
or between two entries, get no name, and an object without a name makes the
image wrong. Background texture and stray pixels are measured, because a
generator that is rewarded for objects only learns to exploit them.

All functions are jit-able and batched; nothing is tuned per prompt.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.tasks.scenes import grammar, render
from jaxreward.types import Array, ArrayLike, PromptBatch

SLOTS = 6  # components examined; an image with more is wrong in any case
FOREGROUND = 0.30  # colour distance from the background
MIN_AREA = 6  # pixels; smaller components are stray
MIN_NAMED_AREA = 14.0  # soft pixels; smaller objects have no name
MAX_STRAY = 3  # stray pixels a correct image may have
MIN_IOU = 0.80
MIN_IOU_MARGIN = 0.035
MAX_COLOUR_DISTANCE = 0.27
MIN_COLOUR_MARGIN = 0.08
MAX_COLOUR_STD = 0.14
MAX_TEXTURE = 0.01  # mean |Laplacian| of the background
MAX_BACKGROUND_STD = 0.03
MIN_BRIGHTNESS = 0.60  # scenes have a light background
CROP = 14  # pixels, side of a component's window
_SWEEPS = 256
_RELATION_MARGIN, _RELATION_COSINE = 0.1, 0.5  # as GenEval


@flax.struct.dataclass
class Detection:
  """Detected objects of B images, in K = SLOTS rows of components.

  Attributes:
    present: bool [B, K].
    shape: int32 [B, K], index into `grammar.SHAPES`, -1 without a name.
    colour: int32 [B, K], index into `grammar.COLOURS`, -1 without a name.
    box: float32 [B, K, 4], (x0, y0, x1, y1) in pixels, inclusive.
    centroid: float32 [B, K, 2], (x, y).
    area: float32 [B, K], soft pixels.
    iou: float32 [B, K], of the best template.
    stray: float32 [B], foreground pixels outside the K components or in
      components below MIN_AREA.
    texture: float32 [B], mean |Laplacian| of the background.
    background_std: float32 [B], standard deviation of the background.
    brightness: float32 [B], mean of the background.
  """

  present: Array
  shape: Array
  colour: Array
  box: Array
  centroid: Array
  area: Array
  iou: Array
  stray: Array
  texture: Array
  background_std: Array
  brightness: Array


@flax.struct.dataclass
class Verdict:
  """Verdict on B images against their prompts, all float32 [B].

  Attributes:
    strict: 1 if the requested objects are present and nothing else, else 0.
    dense: partial credit in [0, 1]; 1 if strict is 1 and the background clean.
    clean: background quality in [0, 1], a factor of dense.
    relation: 1 if the relation holds or none is requested, else 0.
  """

  strict: Array
  dense: Array
  clean: Array
  relation: Array


def _neighbours(x: Array, fill) -> list[Array]:
  """The four shifted copies of [B, H, W]."""
  pad = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
  return [
    pad[:, :-2, 1:-1],
    pad[:, 2:, 1:-1],
    pad[:, 1:-1, :-2],
    pad[:, 1:-1, 2:],
  ]


def label_components(foreground: ArrayLike) -> Array:
  """4-connected components of bool [B, H, W] as int32 labels, 0 outside.

  A component's label is its largest pixel number (from 1). Labels spread one
  pixel per sweep until nothing changes or after `_SWEEPS` sweeps; a component
  that winds further is split, which only makes an image worse.
  """
  size = foreground.shape[1] * foreground.shape[2]
  numbers = jnp.arange(1, size + 1, dtype=jnp.int32).reshape(
    foreground.shape[1:]
  )
  start = jnp.where(foreground, numbers, 0)

  def spread(state):
    labels, _, sweep = state
    best = labels
    for shifted in _neighbours(labels, 0):
      best = jnp.maximum(best, shifted)
    best = jnp.where(foreground, best, 0)
    return best, jnp.any(best != labels), sweep + 1

  def unfinished(state):
    return state[1] & (state[2] < _SWEEPS)

  return jax.lax.while_loop(unfinished, spread, (start, True, 0))[0]


def _median(x: Array) -> Array:
  """Median over the last axis (upper of the two middle values)."""
  return jnp.sort(x, axis=-1)[..., x.shape[-1] // 2]


def background_colour(images: ArrayLike) -> Array:
  """Median colour [B, 3] of the border ring of images [B, H, W, 3]."""
  ring = jnp.concatenate(
    [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]],
    axis=1,
  )
  return _median(jnp.swapaxes(ring, 1, 2))


def _background_statistics(images: Array, foreground: Array):
  """Texture, deviation and brightness of pixels away from objects."""
  near = foreground
  for _ in range(2):
    near = near | jnp.stack(_neighbours(near, False)).any(0)
  free = ~near
  count = jnp.maximum(free.sum((1, 2)), 1)
  pad = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  around = (
    pad[:, :-2, 1:-1] + pad[:, 2:, 1:-1] + pad[:, 1:-1, :-2] + pad[:, 1:-1, 2:]
  )
  laplacian = jnp.abs(around / 4 - images).mean(-1)
  texture = jnp.where(free, laplacian, 0).sum((1, 2)) / count
  mean = jnp.where(free[..., None], images, 0).sum((1, 2)) / count[:, None]
  spread = jnp.square(images - mean[:, None, None]).mean(-1)
  std = jnp.sqrt(jnp.where(free, spread, 0).sum((1, 2)) / count)
  return texture, std, mean.mean(-1)


def _largest(labels: Array) -> tuple[Array, Array]:
  """Labels [B, K] and areas [B, K] of the K largest components."""
  flat = labels.reshape(labels.shape[0], -1)
  size = flat.shape[1] + 1
  count = jax.vmap(lambda row: jnp.zeros(size, jnp.int32).at[row].add(1))(flat)
  areas, names = jax.lax.top_k(count.at[:, 0].set(0), SLOTS)
  return names, areas


def _moments(mask: Array, weight: Array, images: Array):
  """Soft area, centroid, mean colour and its deviation of masks [B, K, HW]."""
  batch, size = images.shape[0], images.shape[1]
  axis = jnp.arange(size, dtype=jnp.float32)
  y, x = (g.reshape(-1) for g in jnp.meshgrid(axis, axis, indexing="ij"))
  pixels = images.reshape(batch, -1, 3)
  places = jnp.stack([x, y], -1)
  soft = mask * weight
  area = jnp.maximum(soft.sum(-1), 1e-6)
  centroid = jnp.einsum("bkn,nd->bkd", soft, places) / area[..., None]
  core = mask * (weight > 0.97)
  core_count = jnp.maximum(core.sum(-1), 1e-6)[..., None]
  mean = jnp.einsum("bkn,bnc->bkc", core, pixels) / core_count
  square = jnp.einsum("bkn,bnc->bkc", core, jnp.square(pixels)) / core_count
  std = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0).max(-1))
  inside = mask > 0
  low = jnp.where(inside[..., None], places, jnp.inf).min(2)
  high = jnp.where(inside[..., None], places, -jnp.inf).max(2)
  return area, centroid, mean, std, jnp.concatenate([low, high], -1)


def name_shape(alpha: Array, area: Array, centroid: Array):
  """Best template's index, IoU and margin; alpha [B, K, H, W] is coverage."""
  size = alpha.shape[-1]
  corner = jnp.clip(jnp.round(centroid) - CROP // 2, 0, size - CROP).astype(int)
  window = jnp.arange(CROP)
  columns = corner[..., 0, None] + window
  rows = corner[..., 1, None] + window
  window_alpha = jnp.take_along_axis(alpha, rows[..., None], axis=2)
  window_alpha = jnp.take_along_axis(
    window_alpha, columns[..., None, :], axis=3
  )
  outside = jnp.maximum(area - window_alpha.sum((2, 3)), 0)
  scores = []
  for i in range(len(grammar.SHAPES)):
    radius = jnp.sqrt(area / render.UNIT_AREA[i])
    x = columns[..., None, :] - centroid[..., 0, None, None]
    y = rows[..., None] - centroid[..., 1, None, None]
    y = y + (render.CENTROID_Y[i] * radius)[..., None, None]
    x, y = jnp.broadcast_arrays(x, y)
    distance = render.signed_distance(i, x, y, radius[..., None, None])
    template = jnp.clip(0.5 - distance, 0, 1)
    intersection = jnp.minimum(window_alpha, template).sum((2, 3))
    union = jnp.maximum(window_alpha, template).sum((2, 3)) + outside
    scores.append(intersection / jnp.maximum(union, 1e-6))
  scores = jnp.stack(scores, -1)
  best = scores.max(-1)
  second = jnp.sort(scores, -1)[..., -2]
  return scores.argmax(-1), best, best - second


def _name_colour(mean: Array, std: Array) -> Array:
  distance = jnp.sqrt(
    jnp.square(mean[..., None, :] - jnp.asarray(render.PALETTE)).sum(-1)
  )
  ordered = jnp.sort(distance, -1)
  sure = (
    (ordered[..., 0] < MAX_COLOUR_DISTANCE)
    & (ordered[..., 1] - ordered[..., 0] > MIN_COLOUR_MARGIN)
    & (std < MAX_COLOUR_STD)
  )
  return jnp.where(sure, distance.argmin(-1), -1)


def detect(images: ArrayLike) -> Detection:
  """Finds and names the objects of images [B, H, W, 3] in [0, 1]."""
  images = jnp.asarray(images, jnp.float32)
  batch, size = images.shape[0], images.shape[1]
  background = background_colour(images)
  offset = images - background[:, None, None]
  distance = jnp.sqrt(jnp.square(offset).sum(-1))
  foreground = distance > FOREGROUND
  labels = label_components(foreground)
  names, counts = _largest(labels)
  present = counts >= MIN_AREA
  texture, std, brightness = _background_statistics(images, foreground)

  masks = labels.reshape(batch, 1, -1) == names[..., None]
  masks = masks & present[..., None]
  # Strongest distance of a component stands for full coverage.
  flat = distance.reshape(batch, 1, -1)
  peak = jnp.maximum(jnp.where(masks, flat, 0).max(-1), 1e-6)
  core = masks & (flat > 0.9 * peak[..., None])
  core_count = jnp.maximum(core.sum(-1), 1)[..., None]
  pixels = offset.reshape(batch, -1, 3)
  towards = (
    jnp.einsum("bkn,bnc->bkc", core.astype(jnp.float32), pixels) / core_count
  )
  length = jnp.maximum(jnp.square(towards).sum(-1), 1e-6)
  alpha = jnp.einsum("bnc,bkc->bkn", pixels, towards) / length[..., None]
  # Dilate by one pixel: the anti-aliased rim lies just outside the threshold.
  grid = masks.reshape(-1, size, size)
  rim = (grid | jnp.stack(_neighbours(grid, False)).any(0)).reshape(masks.shape)
  free = (labels.reshape(batch, 1, -1) == 0) | masks
  reach = (rim & free).astype(jnp.float32)
  alpha = jnp.clip(alpha, 0, 1) * reach
  area, centroid, mean, colour_std, _ = _moments(reach, alpha, images)
  box = _moments(masks.astype(jnp.float32), alpha, images)[4]
  shape, iou, margin = name_shape(
    alpha.reshape(batch, SLOTS, size, size), area, centroid
  )
  sure = (iou >= MIN_IOU) & (margin >= MIN_IOU_MARGIN)
  sure &= area >= MIN_NAMED_AREA
  covered = jnp.where(present, counts, 0).sum(-1)
  return Detection(
    present=present,
    shape=jnp.where(present & sure, shape, -1),
    colour=jnp.where(present, _name_colour(mean, colour_std), -1),
    box=jnp.where(present[..., None], box, 0),
    centroid=centroid,
    area=jnp.where(present, area, 0),
    iou=jnp.where(present, iou, 0),
    stray=(foreground.sum((1, 2)) - covered).astype(jnp.float32),
    texture=texture,
    background_std=std,
    brightness=brightness,
  )


def relation_holds(first: Array, second: Array, relation: Array) -> Array:
  """GenEval's rule on boxes [B, 4]: direction of the offset beyond a margin."""
  centre = lambda box: (box[:, :2] + box[:, 2:]) / 2
  extent = lambda box: box[:, 2:] - box[:, :2] + 1
  offset = centre(first) - centre(second)
  margin = _RELATION_MARGIN * (extent(first) + extent(second))
  offset = jnp.sign(offset) * jnp.maximum(jnp.abs(offset) - margin, 0)
  length = jnp.maximum(jnp.sqrt(jnp.square(offset).sum(-1)), 1e-6)
  direction = offset / length[:, None]
  axis = jnp.asarray(
    np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)
  )[relation]
  return (direction * axis).sum(-1) > _RELATION_COSINE


def background_quality(detection: Detection) -> Array:
  """[B] in [0, 1]: 1 for an even light background, 0 at the limits."""

  def fall(value, start, stop):
    return jnp.clip((stop - value) / (stop - start), 0, 1)

  return (
    fall(detection.texture, 0.0008, MAX_TEXTURE)
    * fall(detection.background_std, 0.002, MAX_BACKGROUND_STD)
    * fall(-detection.brightness, -MIN_BRIGHTNESS - 0.1, -MIN_BRIGHTNESS)
    * fall(detection.stray, MAX_STRAY, 40.0)
  )


def _matches(detection: Detection, items: Array) -> tuple[Array, Array]:
  """(of the right shape, right in all), bool [B, 2, K], for items [B, 2, 3]."""
  count, colour, shape = items[..., 0], items[..., 1], items[..., 2]
  present = detection.present[:, None] & (count > 0)[..., None]
  is_shape = present & (detection.shape[:, None] == shape[..., None])
  is_colour = (colour[..., None] < 0) | (
    detection.colour[:, None] == colour[..., None]
  )
  has_colour = (detection.colour >= 0)[:, None]
  return is_shape, is_shape & is_colour & has_colour


def wanted(detection: Detection, items: Array) -> Array:
  """Objects that an item of the prompt asks for, bool [B, K]."""
  return _matches(detection, items)[1].any(1)


def box_scores(
  detection: Detection, is_right: Array, sides: tuple[int, int]
) -> Array:
  """[B, H, W]: 1 in boxes of right objects, -1 in others', NaN elsewhere."""
  y, x = jnp.arange(sides[0])[:, None], jnp.arange(sides[1])[None]
  low, high = detection.box[..., :2], detection.box[..., 2:]
  at = lambda bound, k: bound[..., k][..., None, None]
  inside = (x >= at(low, 0)) & (x <= at(high, 0))
  inside &= (y >= at(low, 1)) & (y <= at(high, 1))
  inside &= detection.present[..., None, None]
  score = jnp.where(is_right, 1.0, -1.0)[..., None, None]
  best = jnp.max(score, axis=1, where=inside, initial=-jnp.inf)
  return jnp.where(inside.any(1), best, jnp.nan)


def judge(detection: Detection, prompts: PromptBatch) -> Verdict:
  """Compares the objects of B images with the requests of B prompts."""
  request: grammar.Asked = prompts.extras
  items = jnp.asarray(request.items)
  relation = jnp.asarray(request.relation)
  count = items[..., 0]
  is_item = count > 0  # [B, 2]
  is_shape, is_match = _matches(detection, items)
  matches, of_shape = is_match.sum(-1), is_shape.sum(-1)

  closeness = lambda n: jnp.maximum(
    0.0, 1 - jnp.abs(n - count) / jnp.maximum(count, 1)
  )
  item_score = 0.35 * closeness(of_shape) + 0.65 * closeness(matches)
  share = is_item / jnp.maximum(is_item.sum(-1, keepdims=True), 1)
  item_score = (item_score * share).sum(-1)

  box = [
    jnp.take_along_axis(
      detection.box, is_match[:, i].argmax(-1)[:, None, None], 1
    )[:, 0]
    for i in range(2)
  ]
  exact = jnp.where(is_item, matches == count, True).all(-1)
  holds = relation_holds(box[0], box[1], relation) & (matches > 0).all(-1)
  relation_ok = jnp.where(relation > 0, holds, True)
  score = jnp.where(relation > 0, 0.6 * item_score + 0.4 * holds, item_score)

  total = count.sum(-1)
  extra = jnp.maximum(detection.present.sum(-1) - total, 0)
  score = score * jnp.exp(-0.5 * extra)
  clean = background_quality(detection)
  strict = (
    exact
    & relation_ok
    & (detection.present.sum(-1) == total)
    & (detection.stray <= MAX_STRAY)
    & (detection.texture <= MAX_TEXTURE)
    & (detection.background_std <= MAX_BACKGROUND_STD)
    & (detection.brightness >= MIN_BRIGHTNESS)
  )
  return Verdict(
    strict=strict.astype(jnp.float32),
    dense=(score * clean).astype(jnp.float32),
    clean=clean,
    relation=relation_ok.astype(jnp.float32),
  )


def describe(detection: Detection) -> list[str]:
  """One readable line per image: its objects, left to right."""
  host = jax.tree.map(np.asarray, detection)
  lines = []
  for b in range(host.present.shape[0]):
    order = np.argsort(host.centroid[b, :, 0])
    names = [
      " ".join(
        (
          grammar.COLOURS[c] if (c := host.colour[b, k]) >= 0 else "?",
          grammar.SHAPES[s] if (s := host.shape[b, k]) >= 0 else "?",
        )
      )
      for k in order
      if host.present[b, k]
    ]
    if host.stray[b] > MAX_STRAY:
      names.append("stray pixels")
    if (
      host.texture[b] > MAX_TEXTURE
      or host.background_std[b] > MAX_BACKGROUND_STD
    ):
      names.append("textured background")
    lines.append(", ".join(names) or "nothing")
  return lines
