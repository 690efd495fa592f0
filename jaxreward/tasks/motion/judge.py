"""Judges videos of moving scenes: objects, paths, and their motions.

The detector of the scenes finds the objects of every frame. The path of each
requested object, its centre in every frame, is compared up to a shift with all
paths that its motion allows (`paths.BANK`), and with all physical paths: at a
constant velocity, or horizontally at one while it falls or bounces. The inverse
dynamics, the displacement of an object from each frame to the next, is compared
with the requested path.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.tasks.motion import paths, prompts
from jaxreward.tasks.scenes import detect, grammar
from jaxreward.types import Array, ArrayLike, PromptBatch

MAX_OFF = 0.75  # pixels, root mean square from a path that counts as right
_FALL_OFF = 3.0  # pixels off, and
_FALL_STEP = 1.5  # pixels per frame off, at which a graded score is 1 / e
_EXTRA = 0.5  # decay rate of the score per surplus object
PARTS = (
  "dense", "strict", "objects", "follows", "acts", "physical", "possible",
)  # fmt: skip


def off_bank(
  path: Float[Array, "*B F D"],
  weight: Float[Array, "*B F"],
  bank: Float[ArrayLike, "*#B K F D"],
) -> Float[Array, "*B K"]:
  """Root mean square distance of a path from others, each shifted to be nearest.

  Args:
    path: of an object.
    weight: of its frames; 0 where it is not detected.
    bank: other paths.
  """
  w = weight[..., None, :, None]
  total = jnp.maximum(w.sum(-2, keepdims=True), 1e-6)
  gap = path[..., None, :, :] - bank
  gap = gap - (w * gap).sum(-2, keepdims=True) / total
  return jnp.sqrt((w * jnp.square(gap)).sum((-2, -1)) / total[..., 0, 0])


def off_physical(
  path: Float[Array, "*B F 2"], weight: Float[Array, "*B F"]
) -> Float[Array, "*B"]:
  """Root mean square distance from the nearest physical path.

  Horizontally at a constant velocity; vertically at one, or by a fall or a
  bounce under the gravity that all objects share.
  """
  total = jnp.maximum(weight.sum(-1), 1e-6)[..., None]
  mean = lambda x: (weight * x).sum(-1, keepdims=True) / total
  time = jnp.arange(path.shape[-2], dtype=jnp.float32)
  time = time - mean(time)
  spread = jnp.maximum(mean(time**2), 1e-6)

  def off_line(x: Array) -> Array:
    x = x - mean(x)
    return mean(jnp.square(x - time * mean(time * x) / spread))[..., 0]

  x, y = path[..., 0], path[..., 1]
  bank = jnp.asarray(paths.FALLS)[..., None]
  fall = jnp.square(off_bank(y[..., None], weight, bank)).min(-1)
  return jnp.sqrt(off_line(x) + jnp.minimum(off_line(y), fall))


def _tracks(detection: detect.Detection, items: Array):
  """Path, seen, right and (colour, shape) of objects [B, N] in frames [B, F].

  An object is matched to the most similar component of a frame; it is not seen
  if that has neither its colour nor its shape.
  """
  of_frame = lambda x: x[:, None]  # [B, 1, F, K, ...]
  item = lambda i: items[:, :, None, None, i]
  present = of_frame(detection.present)
  is_colour = of_frame(detection.colour) == item(0)
  is_shape = of_frame(detection.shape) == item(1)
  score = present * (2.0 * is_colour + is_shape)
  slot = score.argmax(-1)[..., None]
  take = lambda x: jnp.take_along_axis(
    jnp.broadcast_to(of_frame(x), score.shape), slot, -1
  )[..., 0]
  best = score.max(-1)
  is_item = items[:, :, None, 0] >= 0
  path = jnp.stack([take(detection.centroid[..., i]) for i in range(2)], -1)
  name = jnp.stack([take(detection.colour), take(detection.shape)], -1)
  return path, (best > 0) & is_item, (best == 3) & is_item, name


def _detect(frames: Array) -> detect.Detection:
  """Detections in every frame, leaves [B, F, ...]."""
  b, f = frames.shape[:2]
  detection = detect.detect(frames.reshape(b * f, *frames.shape[2:]))
  return jax.tree.map(lambda x: x.reshape(b, f, *x.shape[1:]), detection)


def look(
  frames: Float[ArrayLike, "B F S S 3"], items: Int[ArrayLike, "B N 3"]
) -> dict[str, Float[Array, "B"]]:
  """Verdicts on videos against their prompts, in [0, 1].

  objects   fraction of objects in a frame with the right colour and shape, less
            for others and for an uneven background, averaged over frames
  follows   exp(-d / 3), d pixels from the nearest path of the motion, times the
            fraction of frames in which the object is seen
  dense     the product of the two
  strict    1 if all objects and nothing else are in every frame and d <= .75
  acts      mean over steps of exp(-|v - v'| / 1.5), v the displacement to the next
            frame and v' that of the nearest path, 0 where one end is not seen
  physical  as `follows`, from the nearest physical path, times the fraction of
            steps that keep colour and shape
  possible  1 if objects are seen in every frame, none changes, and d <= .75
  texture   of the background
  """
  frames, items = jnp.asarray(frames, jnp.float32), jnp.asarray(items)
  detection = _detect(frames)
  path, is_visible, right, name = _tracks(detection, items)
  is_item = items[..., 0] >= 0
  count = is_item.sum(-1)
  weight = is_visible.astype(jnp.float32)
  share = weight.mean(-1)
  over_items = lambda x: (x * is_item).sum(-1) / jnp.maximum(count, 1)
  every = lambda x: (x | ~is_item).all(-1)

  bank = jnp.asarray(paths.BANK)[jnp.maximum(items[..., 2], 0)]
  distance = off_bank(path, weight, bank)
  off, nearest = distance.min(-1), distance.argmin(-1)
  target = jnp.take_along_axis(bank, nearest[..., None, None, None], 2)[:, :, 0]
  physical_off = off_physical(path, weight)

  both = weight[..., 1:] * weight[..., :-1]
  gap = jnp.diff(path, axis=2) - jnp.diff(target, axis=2)
  step = jnp.sqrt(jnp.square(gap).sum(-1) + 1e-12)
  acts = (both * jnp.exp(-step / _FALL_STEP)).mean(-1)
  same = (name[:, :, 1:] == name[:, :, :-1]) & (name[:, :, 1:] >= 0)
  steady = (both * same.all(-1)).mean(-1)

  extra = jnp.maximum(detection.present.sum(-1) - count[:, None], 0)
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), detection)
  clean = detect.background_quality(flat).reshape(extra.shape)
  hits = right.sum(1) / jnp.maximum(count, 1)[:, None]
  objects = (hits * jnp.exp(-_EXTRA * extra) * clean).mean(-1)
  follows = over_items(jnp.exp(-off / _FALL_OFF) * share)
  physical = over_items(jnp.exp(-physical_off / _FALL_OFF) * share * steady)
  is_clean = (
    (extra == 0)
    & (detection.stray <= detect.MAX_STRAY)
    & (detection.texture <= detect.MAX_TEXTURE)
    & (detection.background_std <= detect.MAX_BACKGROUND_STD)
    & (detection.brightness >= detect.MIN_BRIGHTNESS)
  ).all(-1)
  strict = every(right.all(-1) & (off <= MAX_OFF)) & is_clean
  possible = every((share == 1) & (steady == 1) & (physical_off <= MAX_OFF))
  return {
    "dense": objects * follows,
    "strict": strict.astype(jnp.float32),
    "objects": objects,
    "follows": follows,
    "acts": over_items(acts),
    "physical": physical,
    "possible": possible.astype(jnp.float32),
    "texture": detection.texture.mean(-1),
  }


def groups(
  frames: Float[ArrayLike, "P G F S S 3"], batch: PromptBatch
) -> dict[str, Float[Array, "P G"]]:
  """As `look`, for P prompts; videos that are not finite are judged as black.

  Raises:
    UserError: videos of another size.
  """
  frames = jnp.asarray(frames, jnp.float32)
  p, g, *shape = frames.shape
  if shape != [paths.FRAMES, paths.SIDE, paths.SIDE, 3]:
    raise UserError(
      f"moving scenes are {paths.FRAMES} frames of {paths.SIDE} x {paths.SIDE}"
      f" pixels in colour, and these are {' x '.join(map(str, shape))}; set"
      f' config.video.frames={paths.FRAMES}, config.video.scored="mean" and'
      f" config.model.image_size={paths.SIDE}"
    )
  usable = jnp.isfinite(frames).all((2, 3, 4, 5), keepdims=True)
  flat = jnp.where(usable, frames, 0.0).reshape(p * g, *shape)
  items = jnp.repeat(jnp.asarray(batch.extras.items), g, 0)
  return {k: v.reshape(p, g) for k, v in look(flat, items).items()}


def frames_of(
  strips: Float[ArrayLike, "*B S W 3"],
) -> Float[Array, "*B F S S 3"]:
  """Splits strips into the frames that are measured."""
  strips = jnp.asarray(strips)
  *outer, side, width, channels = strips.shape
  frames = strips.reshape(*outer, side, width // side, side, channels)
  return frames.swapaxes(-4, -3)


@jax.jit
def _read(strips: Array):
  """((colour, shape) of two objects of the first frame, pixels off each motion)."""
  detection = _detect(frames_of(strips))
  names = jnp.stack([detection.colour, detection.shape], -1)[:, 0]
  names = jnp.where(detection.present[:, 0, :, None], names, -1)
  names = names[:, : prompts.OBJECTS]
  path, is_visible, *_ = _tracks(detection, names)
  bank = jnp.asarray(paths.BANK).reshape(-1, *paths.BANK.shape[2:])
  off = off_bank(path, is_visible.astype(jnp.float32), bank)
  off = off.reshape(*off.shape[:2], -1, paths.STEPS).min(-1)
  return names, jnp.where(is_visible.all(-1)[..., None], off, jnp.inf)


def describe(strips: Float[ArrayLike, "B S W 3"]) -> list[str]:
  """The objects of the first frame of each video, and how they move."""
  names, off = jax.device_get(_read(jnp.asarray(strips)))
  lines = []
  for row, distances in zip(names, off, strict=True):
    parts = []
    for (colour, shape), away in zip(row, distances, strict=True):
      if colour < 0 or shape < 0:
        continue
      motion = paths.MOTIONS[away.argmin()]
      motion = motion if away.min() <= MAX_OFF else "moving in no known way"
      parts.append(
        f"{grammar.COLOURS[colour]} {grammar.SHAPES[shape]} {motion}"
      )
    lines.append(", ".join(parts) or "nothing")
  return lines
