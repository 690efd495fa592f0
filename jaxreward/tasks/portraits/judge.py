"""Reads attributes from pictures by analysis by synthesis.

A picture is explained by the layers that would draw it: coordinate descent on
the squared error, one layer at a time with the others fixed, every variant of a
layer compared at once. The error of a variant is quadratic in its pixels, so a
sweep is a few matrix products with the atlas. Only the middle half of a
person's columns is read, which is all that a picture of two people shows of
each.

The verdict of an attribute is graded: how much better the requested value
explains the picture than the best other value.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxreward.errors import UserError
from jaxreward.numerics import masked_mean
from jaxreward.rewards import identity
from jaxreward.tasks.portraits import atlas, prompts, render, words
from jaxreward.tasks.portraits import attributes as at
from jaxreward.types import Array, ArrayLike, PromptBatch

SWEEPS = 2
SHARP = 8.0  # slope of a verdict in the relative gain of the requested value
FLOOR = 4.0  # least squared error of a window that gains are relative to
CORNER = 4  # pixels, side of the corners that show the background
MAX_ERROR = 0.1  # root mean square difference from the best explanation
NOBODY = 0.12  # the same, above which a picture shows no person
SPOT = 4  # pixels, side of the squares that are tested for local defects
MAX_SPOT = 0.2  # difference in mean colour of such a square
# From upper to lower layers: an unknown upper layer disturbs more.
_ORDER = ("hair", "clothes", "skin", "eyes", "mouth", "beard")


@dataclasses.dataclass(frozen=True)
class Reading:
  """Attributes read from B pictures.

  Attributes:
    rows: int32 [B, 2, A], the attributes read; the second person's have no
      meaning if there is only one person.
    chance: tuple of A, float32 [B, 2, values]: how well each value explains the
      picture, in units in which the best is highest; softmax gives a share.
    error: float32 [B], root mean square difference from the picture of `rows`.
    spot: float32 [B], the largest difference from it in the mean colour of any
      square of `SPOT` pixels, root mean square over the channels.
  """

  rows: Array
  chance: tuple[Array, ...]
  error: Array
  spot: Array


@functools.cache
def _windows() -> tuple[np.ndarray, ...]:
  """Per layer its variants within the middle columns, and finally their mean.

  Each is [v + 1, S * S / 2, 4].
  """
  layers = atlas.premultiplied()[:, :, render.HALF]
  layers = layers.reshape(len(layers), -1, 4)
  groups = [
    layers[first : first + layer.size]
    for first, layer in zip(atlas.FIRST, at.LAYERS, strict=True)
  ]
  return tuple(np.concatenate([g, g.mean(0, keepdims=True)]) for g in groups)


def _background(images: Array) -> tuple[Array, Array]:
  """(scores [B, values], its index [B]) from the upper corners."""
  corners = jnp.concatenate(
    [images[:, :CORNER, :CORNER], images[:, :CORNER, -CORNER:]], 2
  )
  mean = corners.mean((1, 2))
  gap = jnp.square(mean[:, None] - jnp.asarray(render.BACKGROUNDS)).sum(-1)
  return -gap, gap.argmin(-1)


def _errors(
  images: Array, back: Array, choice: list[Array], which: int
) -> Array:
  """Squared error [N, v] of every variant of one layer, the others fixed."""
  groups = [jnp.asarray(group) for group in _windows()]
  parts = [group[index] for group, index in zip(groups, choice, strict=True)]
  below = jnp.broadcast_to(back[:, None], images.shape)
  for part in parts[:which]:
    below = part[..., :3] + (1 - part[..., 3:]) * below
  # The barrier keeps the compiler from folding products of the whole atlas.
  through = jax.lax.optimization_barrier(jnp.ones_like(below[..., :1]))
  above = jnp.zeros_like(below)
  for part in reversed(parts[which + 1 :]):
    above = above + through * part[..., :3]
    through = through * (1 - part[..., 3:])
  colour, alpha = groups[which][:-1, :, :3], groups[which][:-1, :, 3]
  # |rest - through (colour - alpha below)|^2, rest as if the layer were empty
  rest = images - above - through * below
  flat = lambda x: x.reshape(len(x), -1)
  cross = flat(through * rest) @ flat(colour).T
  cross -= (through * rest * below).sum(-1) @ alpha.T
  squared = jnp.square(through)
  change = squared[..., 0] @ jnp.square(colour).sum(-1).T
  change -= 2 * flat(squared * below) @ flat(colour * alpha[..., None]).T
  change += (squared * jnp.square(below)).sum(-1) @ jnp.square(alpha).T
  return jnp.square(rest).sum((1, 2))[:, None] - 2 * cross + change


def _people(images: Array, count: Array) -> Array:
  """Windows of the first and the second person, [B, 2, S, S / 2, 3]."""
  middle = images[:, :, render.HALF]
  left, right = jnp.split(images, 2, 2)
  is_alone = (count == 1)[:, None, None, None]
  return jnp.stack([jnp.where(is_alone, middle, left), right], 1)


def _worst_spot(difference: Array) -> Array:
  """See `Reading.spot`; [B] of [B, S, S, 3].

  The two sides of a misplaced edge cancel; a stain does not cancel.
  """
  window = (1, SPOT, SPOT, 1)
  sums = jax.lax.reduce_window(
    difference, 0.0, jax.lax.add, window, (1, 1, 1, 1), "VALID"
  )
  squares = jnp.square(sums / SPOT**2).mean(-1)
  return jnp.sqrt(squares.max((1, 2)))


def read(images: Float[ArrayLike, "B S S 3"], count: Int[ArrayLike, "B"]):
  """Reads B finite pictures of `count` people."""
  images, count = jnp.asarray(images), jnp.asarray(count)
  gap, back = _background(images)
  size = len(images)
  windows = _people(images, count).reshape(size * at.PEOPLE, -1, 3)
  colour = jnp.asarray(render.BACKGROUNDS)[jnp.repeat(back, at.PEOPLE)]
  names = [layer.name for layer in at.LAYERS]

  def sweep(choice, _):
    errors: list[Array] = [jnp.zeros(())] * len(names)
    for i in (names.index(name) for name in _ORDER):
      errors[i] = _errors(windows, colour, choice, i)
      choice = [*choice[:i], errors[i].argmin(-1), *choice[i + 1 :]]
    return choice, errors

  unknown = [jnp.full(len(windows), layer.size) for layer in at.LAYERS]
  _, errors = jax.lax.scan(sweep, unknown, None, SWEEPS)
  errors = [error[-1] for error in errors]
  scores: list[Array] = [jnp.zeros(())] * at.A
  for error, layer in zip(errors, at.LAYERS, strict=True):
    best = error.min(-1, keepdims=True)
    gain = (best - error) / jnp.maximum(best, FLOOR)
    grid = gain.reshape(len(windows), *(at.COUNTS[n] for n in layer.of))
    for axis, name in enumerate(layer.of):
      if layer.name == "beard" and name == at.COLOUR_AT:
        continue  # read from the hair
      others = tuple(1 + i for i in range(len(layer.of)) if i != axis)
      value = grid.max(others) if others else grid
      scores[name] = value.reshape(size, at.PEOPLE, -1)
  scores[at.BACKGROUND_AT] = jnp.repeat(
    (gap - gap.max(-1, keepdims=True))[:, None] / 0.02, at.PEOPLE, 1
  )
  rows = jnp.stack([s.argmax(-1) for s in scores], -1)
  difference = images - render.compose(rows, count, jnp)
  error = jnp.sqrt(jnp.square(difference).mean((1, 2, 3)))
  return Reading(rows, tuple(scores), error, _worst_spot(difference))


def look(images: Float[ArrayLike, "B S S 3"], batch: PromptBatch):
  """Verdicts on B finite pictures of B prompts, {name: float32 [B]}.

  "strict": everything right and nothing else drawn; "dense": graded score of
  all required attributes, times a factor for drawing quality; "execution",
  "preservation" and "same_person": graded scores of the requested attributes,
  of the preserved ones, and of those of identity, NaN where a prompt has none;
  "done", "untouched" and "recognised": 1 if all of these are read right, else
  0; "worded": graded score of the requested attributes over all people in the
  picture, whichever person has them; "people": that of each described person,
  for the person in the picture who fits best (`identity.subject_score`);
  "told_apart": graded score of all required attributes, minus that of a person
  who differs in all of them; "drawn": in [0, 1], 1 for a picture that layers
  explain exactly everywhere.
  """
  request: prompts.Asked = batch.extras
  reading = read(images, request.count)
  targets, role = jnp.asarray(request.rows), jnp.asarray(request.role)
  # of person i under the prompt's person j, [B, 2, 2, A]; and with other values
  likeness, others = [], []
  for name in range(at.A):
    odds = jax.nn.softmax(SHARP * reading.chance[name], -1)
    value = jnp.maximum(targets[..., name], 0)
    other = (value + 1) % at.COUNTS[name]
    likeness.append(jnp.take_along_axis(odds, value[:, None], -1))
    others.append(jnp.take_along_axis(odds, other[:, None], -1))
  likeness, others = jnp.stack(likeness, -1), jnp.stack(others, -1)
  of_own = lambda x: jnp.diagonal(x, 0, 1, 2).swapaxes(1, 2)
  share = of_own(likeness)
  alone = (jnp.asarray(request.count) == 1)[:, None, None]
  anybody = jnp.where(alone, likeness[:, 0], likeness.mean(1))
  is_right = reading.rows == targets

  def mean(values, of):
    total = of.sum((1, 2))
    value = (values * of).sum((1, 2)) / jnp.maximum(total, 1)
    return jnp.where(total > 0, value, jnp.nan)

  def every(of):
    return jnp.where(of.any((1, 2)), (is_right | ~of).all((1, 2)), jnp.nan)

  matters = role != prompts.ANY
  exact = (is_right | ~matters).all((1, 2))
  error = jnp.maximum(reading.error / MAX_ERROR, reading.spot / MAX_SPOT)
  quality = jnp.exp(-jnp.square(error))
  strict = exact & (error <= 1)
  return {
    "strict": strict.astype(jnp.float32),
    "dense": mean(share, matters) * (0.5 + 0.5 * quality),
    "read": mean(is_right, matters),
    "execution": mean(share, role == prompts.ASKED),
    "preservation": mean(share, role == prompts.KEPT),
    "same_person": mean(share, role == prompts.PERSON),
    "worded": mean(anybody, role == prompts.ASKED),
    "done": every(role == prompts.ASKED),
    "untouched": every(role == prompts.KEPT),
    "recognised": every(role == prompts.PERSON),
    "people": _people_shown(likeness, matters, request.count),
    "told_apart": mean(share - of_own(others), matters),
    "drawn": quality,
  }


def _people_shown(likeness: Array, matters: Array, count: ArrayLike) -> Array:
  """`identity.subject_score` of the prompt's people, [B]."""
  person = jnp.arange(at.BACKGROUND_AT)
  matters = matters[:, None, :, person]  # [B, 1, wanted, A]
  fits = masked_mean(likeness[..., person], matters, axis=-1)
  there = jnp.arange(at.PEOPLE) < jnp.asarray(count)[:, None]
  fits = jnp.where(there[:, :, None], fits, 0.0).swapaxes(1, 2)
  known = there & matters[:, 0].any(-1)
  score = identity.subject_score(fits[:, None], known)
  return jnp.where(known.any(-1), score, jnp.nan)


def regions(
  images: Float[ArrayLike, "B S S 3"], count: Int[ArrayLike, "B"]
) -> Float[Array, "B S S 3"]:
  """The map of regions of B finite pictures, shapes weighted by their scores.

  Differentiable. For a picture drawn by `render.compose` it is that of
  `render.regions`.
  """
  chance = read(images, count).chance
  shares = [jax.nn.softmax(SHARP * chance[x.of[0]], -1) for x in at.LAYERS]
  return render.regions(shares, count, jnp)


def groups(
  images: Float[ArrayLike, "P G S S 3"], batch: PromptBatch
) -> dict[str, Array]:
  """As `look`, each [P, G]; images that are not finite are judged as black.

  Raises:
    UserError: pictures of another size.
  """
  images = jnp.asarray(images)
  p, g, *shape = images.shape
  if shape != [at.SIDE, at.SIDE, 3]:
    raise UserError(
      f"portraits are {at.SIDE} x {at.SIDE} pixels in colour, and these pictures"
      f" {' x '.join(map(str, shape))}; set config.model.image_size={at.SIDE}"
    )
  usable = jnp.isfinite(images).all((2, 3, 4), keepdims=True)
  flat = jnp.where(usable, images, 0.0).reshape(p * g, *shape)
  rows = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), g, 0), batch.extras)
  parts = look(flat, dataclasses.replace(batch, extras=rows))
  return {name: x.reshape(p, g) for name, x in parts.items()}


def describe(images: ArrayLike) -> list[str]:
  """Describes each image, read as one person or two, whichever fits better."""
  images = jnp.asarray(images)
  lines: list[str] = []
  alone, pair = (
    jax.device_get(_read_as(images, jnp.int32(count))) for count in (1, 2)
  )
  for one, two, error_1, error_2 in zip(
    alone[0], pair[0], alone[1], pair[1], strict=True
  ):
    rows = [one[0]] if error_1 <= error_2 else list(two)
    if min(error_1, error_2) > NOBODY:
      lines.append("nothing")
      continue
    facts = [dict(enumerate(map(int, row))) for row in rows]
    for fact in facts[1:]:
      del fact[at.BACKGROUND_AT]
    lines.append(words.describe(facts))
  return lines


@jax.jit
def _read_as(images: Array, count: Array) -> tuple[Array, Array]:
  reading = read(images, jnp.full(len(images), count))
  return reading.rows, reading.error
