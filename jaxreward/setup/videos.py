"""Videos as images: strips of frames.

`config.video.frames` frames of a video, evenly spaced from the first to the last,
are laid side by side. The panel measures this strip and the report shows it;
rewards see the frames of `config.video.scored`, one by one, unless they declare
`takes_frames`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxreward.errors import UserError
from jaxreward.tasks import Task
from jaxreward.types import Array, ArrayLike, Policy

SCORED = ("first", "middle", "mean")


def is_video(policy: Policy) -> bool:
  """Whether a policy's latents are [F, H, W, C]."""
  return len(policy.latent_shape) == 4


def require_task(policy: Policy, task: Task, config: ConfigDict) -> None:
  """Refuses videos where a task judges images, the reverse, and other frames.

  Raises:
    UserError: names the field, its value and the fix.
  """
  field = f'config.data.grammar="{config.data.grammar}"'
  model = f'"{config.model.name}"'
  if is_video(policy) and task.verdict and not task.frames:
    raise UserError(
      f"{field}: {model} makes videos, and the detector judges pictures; use"
      ' "free"'
    )
  if task.frames and not is_video(policy):
    raise UserError(
      f"{field}: {model} makes pictures, and videos of {task.frames} frames are"
      f" judged; set config.model.frames={task.frames}, or take a model of videos"
    )
  counts = {"video.frames": config.video.frames}
  if policy.language:  # a network over pixels
    counts["model.frames"] = policy.latent_shape[0]
  for name, count in counts.items():
    if task.frames and count != task.frames:
      raise UserError(
        f"config.{name}={count}: {field} judges videos of {task.frames} frames;"
        f" set it to {task.frames}"
      )


def to_strip(
  videos: Float[ArrayLike, "*B F H W C"], count: int
) -> Float[Array, "*B H W2 C"]:
  """`count` frames, evenly from the first to the last, from left to right.

  A single frame is the middle one.
  """
  total = jnp.shape(videos)[-4]
  last = total - 1
  at = np.linspace(0, last, count) if count > 1 else np.array([last / 2])
  frames = jnp.take(jnp.asarray(videos), np.round(at).astype(int), axis=-4)
  frames = jnp.moveaxis(frames, -4, -3)  # [..., H, count, W, C]
  *outer, height, _, width, channels = frames.shape
  return frames.reshape(*outer, height, count * width, channels)


def as_strips(policy: Policy, config: ConfigDict) -> Policy:
  """The policy with pixels as strips; an image policy is unchanged."""
  if not is_video(policy):
    return policy
  count = config.video.frames

  def to_pixels(latents: Array, decoder: Any = None) -> Array:
    return to_strip(policy.to_pixels(latents, decoder), count)

  return dataclasses.replace(policy, to_pixels=to_pixels)


def frames_of(strips: ArrayLike, count: int) -> list[ArrayLike]:
  """The frames of strips [..., H, W, C], each [..., H, W / count, C]."""
  width = strips.shape[-2] // count
  return [strips[..., i * width : (i + 1) * width, :] for i in range(count)]


def stacked(
  strips: Float[ArrayLike, "*B H W C"], count: int
) -> Float[ArrayLike, "*B F H w C"]:
  """The frames of strips as one array; NumPy stays NumPy."""
  *outer, height, width, channels = strips.shape
  frames = strips.reshape(*outer, height, count, width // count, channels)
  return frames.swapaxes(-4, -3)


def frame_weights(count: int, fade: float) -> Float[np.ndarray, "F"]:
  """Weights of frames, of sum 1: exp(-fade |k - F // 2|), largest in the middle.

  InstructVideo (https://arxiv.org/abs/2312.12490), where the reward of every frame made
  them alike: of 16 frames one in 4, by exp(-1) for each of the 16, is fade 4. The
  authors' code divides by F alone, which makes its rewards a quarter of these.
  """
  weights = np.exp(-fade * np.abs(np.arange(count) - count // 2))
  return weights / weights.sum()


def scored(
  fn: Callable[..., Any], config: ConfigDict, frames: int = 0
) -> Callable[..., Any]:
  """An image reward on strips: of one frame, or the mean over all.

  A reward that declares `takes_frames` scores all frames at once instead, as
  [P, G, F, H, W, C]. The score of a video with a non-finite frame is not finite.

  Args:
    fn: the reward.
    config: of the run.
    frames: of a strip; 0 for `config.video.frames`.

  Raises:
    UserError: the first of one frame, or weights of frames that are not scored apart.
  """
  count, which, fade = (config.video[k] for k in ("frames", "scored", "fade"))
  count = frames or count
  takes_frames = getattr(fn, "takes_frames", False)
  if fade and (which != "mean" or takes_frames):
    why = (
      f'config.video.scored="{which}" takes one frame'
      if which != "mean"
      else "a reward of this run pools the frames itself"
    )
    raise UserError(
      f"config.video.fade={fade:g} weighs the scores of frames, and {why}; set"
      " config.video.fade=0"
    )
  if count == 1 and which == "first":
    raise UserError(
      'config.video.frames=1 with config.video.scored="first": one frame alone'
      ' is the middle one; keep 2 or more, or score the "middle"'
    )

  weights = frame_weights(count, fade).tolist()

  @functools.wraps(fn)
  def run(images: ArrayLike, prompts: Any, **context: Any):
    frames = frames_of(images, count)
    if which != "mean":
      selected = frames[0 if which == "first" else count // 2]
      return fn(selected, prompts, **context)
    if takes_frames:
      return fn(stacked(images, count), prompts, **context)
    scores = [fn(frame, prompts, **context) for frame in frames]
    weigh = lambda *x: sum(w * y for w, y in zip(weights, x, strict=True))
    return jax.tree.map(weigh, *scores)

  return run
