"""Whether the motion in a video is physically executable."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError, require_positive
from jaxreward.rewards.contract import declare
from jaxreward.types import Array, ArrayLike, PromptBatch

KINDS = ("velocity", "acceleration", "jerk")


def positions(
  frames: Float[ArrayLike, "*B F H W C"],
) -> Float[Array, "*B F 2"]:
  """Where each frame differs from its own mean colour: (down, right) in [0, 1].

  The mean place of a pixel, weighed by the square of its difference; the centre
  of a frame of one colour.
  """
  x = jnp.asarray(frames, jnp.float32)
  height, width = x.shape[-3:-1]
  weight = jnp.square(x - x.mean((-3, -2), keepdims=True)).sum(-1) + 1e-8
  down = (jnp.arange(height) + 0.5) / height
  right = (jnp.arange(width) + 0.5) / width
  total = weight.sum((-2, -1))
  y = jnp.einsum("...hw,h->...", weight, down) / total
  x = jnp.einsum("...hw,w->...", weight, right) / total
  return jnp.stack([y, x], -1)


def excesses(
  path: Float[Array, "*B F D"], fps: float, limits: Sequence[float]
) -> list[Float[Array, "*B"]]:
  """Mean over time of |relu(|s| - limit)|, for s the first, second, ... derivative.

  Derivatives are finite differences, in units of the path per second, ...

  Args:
    path: of positions or joint angles.
    fps: frames per second.
    limits: of each derivative, for every coordinate alike.
  """
  values, s = [], path
  for limit in limits:
    s = (s[..., 1:, :] - s[..., :-1, :]) * fps
    over = jax.nn.relu(jnp.abs(s) - limit)
    values.append(_length(over).mean(-1))
  return values


def outside(
  path: Float[Array, "*B F D"], low: float, high: float
) -> Float[Array, "*B"]:
  """Mean over time of how far a path lies outside its range."""
  over = jax.nn.relu(path - high) + jax.nn.relu(low - path)
  return _length(over).mean(-1)


def _length(x: Array) -> Array:
  """Of vectors; the gradient at 0 is 0."""
  square = jnp.square(x).sum(-1)
  is_zero = square == 0
  return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


@declare(takes_frames=True)
def executable(
  images: Float[ArrayLike, "P G F H W C"],
  prompts: PromptBatch | None,
  *,
  fps: float = 8.0,
  limits: tuple[float, ...] = (1.0, 4.0, 32.0),
  scales: tuple[float, ...] = (1.0, 4.0, 32.0),
  margin: float = 0.05,
  edge: float = 0.05,
) -> Float[Array, "P G"]:
  """Mean of exp(-e_k / scale_k) over velocity, acceleration, jerk, and of the range.

  e_k is the mean over time of what exceeds the limit of that derivative of the path
  (`excesses`), and of the range of what lies nearer to the border than `margin`, with
  the scale `edge`: 1 for a path that a robot could follow. EVA, https://arxiv.org/abs/2603.17808
  (read in the abstract): a frozen inverse dynamics model reads the joints of a robot
  from the video, and their velocity, acceleration, jerk and limits are judged; form,
  limits and weights are unverified. Here the path is that of what stands out
  (`positions`), and lengths are shares of the frame.

  Args:
    images: frames of videos, in [0, 1]; a video with a value that is not finite
      scores NaN.
    prompts: unused.
    fps: frames per second, of those that are scored.
    limits: of speed, acceleration and jerk, per second, second^2 and second^3.
    scales: of what exceeds them.
    margin: width of the border of the frame to stay out of.
    edge: scale of the distance by which the motion enters the margin.

  Raises:
    UserError: options out of range, or too few frames for the derivatives.
  """
  require_positive("", fps=fps, edge=edge)
  if not 1 <= len(limits) <= len(KINDS) or len(scales) != len(limits):
    raise UserError(
      f"limits={limits}: one for each of {', '.join(KINDS)}, in this order, and"
      f" as many scales (scales={scales})"
    )
  if min(limits) < 0 or min(scales) <= 0 or not 0 <= margin < 0.5:
    raise UserError(
      f"limits={limits}, scales={scales}, margin={margin}: limits from 0, scales"
      " above 0, a margin from 0 to less than 0.5"
    )
  frames = jnp.asarray(images, jnp.float32)
  if frames.ndim != 6 or frames.shape[2] <= len(limits):
    raise UserError(
      f"executable: {KINDS[len(limits) - 1]} needs {len(limits) + 1} frames of a"
      ' video; set config.video.frames higher, and config.video.scored="mean"'
    )
  usable = jnp.isfinite(frames).all((2, 3, 4, 5))
  safe = jnp.where(usable[..., None, None, None, None], frames, 0.0)
  path = positions(safe)
  over = excesses(path, fps, limits)
  terms = [jnp.exp(-e / s) for e, s in zip(over, scales, strict=True)]
  terms.append(jnp.exp(-outside(path, margin, 1 - margin) / edge))
  score = sum(terms[1:], terms[0]) / len(terms)
  return jnp.where(usable, score, jnp.nan)
