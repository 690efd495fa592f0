"""Whether a body could move as it does in a video."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.rewards import motion
from jaxreward.rewards.contract import declare
from jaxreward.types import Array, ArrayLike, PromptBatch

GRAVITY = 9.81  # m / s^2
CONTACT = 0.02  # height in metres below which a foot stands
_SLIP = 0.05  # metres of slip, and of depth, at which all is lost
_MOVES = 1e-3  # metres per frame from which on a root moves
_NEAR = 1.2e-4  # metres per frame up to which a foot rests


def _norm(x: Array) -> Array:
  return jnp.sqrt(jnp.square(x).sum(-1))


def support_distance(
  center: Float[ArrayLike, "*B D"],
  feet: Float[ArrayLike, "*B 2 D"],
  stands: Bool[ArrayLike, "*B 2"],
) -> Float[Array, "*B"]:
  """Distance of a point on the ground to the feet that stand, or their segment.

  1 where neither stands.
  """
  a, b = jnp.asarray(feet)[..., 0, :], jnp.asarray(feet)[..., 1, :]
  center, stands = jnp.asarray(center), jnp.asarray(stands)
  line = b - a
  along = ((center - a) * line).sum(-1)
  along = jnp.clip(along / jnp.maximum(jnp.square(line).sum(-1), 1e-12), 0, 1)
  both = _norm(center - a - along[..., None] * line)
  one = jnp.where(stands[..., 0], _norm(center - a), _norm(center - b))
  return jnp.where(
    stands.all(-1), both, jnp.where(stands.any(-1), one, jnp.ones_like(one))
  )


def feasibility(
  joints: Float[ArrayLike, "*B F J D"],
  *,
  fps: float,
  root: int = 0,
  feet: Sequence[int] = (1, 2),
) -> dict[str, Float[Array, "*B"]]:
  """{"kinematic", "contact", "dynamic"} in [0, 1] of paths of joints.

  kinematic = 1 - mean(share of frames in which a joint is faster than 5 m/s,
  clip((J + J_root - 4.5) / 90, 0, 1)), J the mean length of second differences over
  dt^2, in the world and from the root. contact = 1 - (slip + depth + float + balance)
  / 4: mean way of feet that stand, and depth of feet, over .05 m; frames in which
  the velocity of all feet that stand, from the root, is not .6 to 1.75 of the root's;
  mean distance of the center of mass from the feet over .5 m. dynamic =
  mean(1 - (Pr[F > 3 W] + Pr[F_h > W / 2]) / 2, 1 - balance), F the force on a point of
  the body's mass and W its weight.

  Args:
    joints: in metres, height last; D is 2 or 3.
    fps: frames per second.
    root: number of the joint that velocities are taken from.
    feet: numbers of the left and the right foot.
  """
  x = jnp.asarray(joints, jnp.float32)
  time, dt = x.ndim - 3, 1 / fps
  rate = lambda a: jnp.asarray(jnp.gradient(a, dt, axis=time))
  share = lambda a: a.astype(jnp.float32).mean(-1)
  fast = share(_norm(rate(x)).max(-1) > 5)
  second = lambda a: _norm(jnp.diff(a, 2, axis=time)).mean((-2, -1)) * fps**2
  jitter = second(x) + second(x - x[..., root : root + 1, :])
  kinematic = 1 - (fast + jnp.clip((jitter - 4.5) / 90, 0, 1)) / 2

  foot = x[..., jnp.asarray(feet), :]
  stands = foot[..., -1] < CONTACT
  way = jnp.where(stands, _norm(rate(foot)) * dt, 0.0).mean((-2, -1))
  depth = jax.nn.relu(-foot[..., -1]).mean((-2, -1))
  center = x.mean(-2)
  away = support_distance(center[..., :-1], foot[..., :-1], stands)
  balance = (jnp.clip(away, 0, 0.5) / 0.5).mean(-1)
  floats = _floats(x[..., root, :], foot, stands, time)
  lost = [jnp.clip(way / _SLIP, 0, 1), jnp.clip(depth / _SLIP, 0, 1)]
  contact = 1 - (lost[0] + lost[1] + floats + balance) / 4

  push = rate(rate(center))
  up = share(jax.nn.relu(GRAVITY + push[..., -1]) > 3 * GRAVITY)
  aside = share(_norm(push[..., :-1]) > GRAVITY / 2)
  dynamic = (1 - (up + aside) / 2 + 1 - balance) / 2
  return {"kinematic": kinematic, "contact": contact, "dynamic": dynamic}


def _floats(root: Array, foot: Array, stands: Array, time: int) -> Array:
  """Share of frames in which all feet that stand go with the root; 1 if none does."""

  def step(a: Array) -> Array:
    d = jnp.diff(a, axis=time)
    return jnp.concatenate([d, jnp.take(d, jnp.array([-1]), time)], time)

  of_root = step(root)
  length = _norm(of_root)
  ratio = _norm(step(foot) - of_root[..., None, :]) / (length[..., None] + 1e-6)
  is_off = ((ratio < 0.6) | (ratio > 1.75)) & (_norm(step(foot)) > _NEAR)
  every = (is_off | ~stands).all(-1) & stands.any(-1) & (length >= _MOVES)
  rate = every.astype(jnp.float32).mean(-1)
  return jnp.where(stands.any((-2, -1)), rate, 1.0)


def outline(
  frames: Float[ArrayLike, "*B F H W C"], metres: float
) -> Float[Array, "*B F 3 2"]:
  """Position of the foreground in frames, and of its left and right foot.

  Places (right, up) in metres; the ground is the lower of the two in the first
  frame. A foot is the mean place of pixels that differ much from the mean colour,
  weighed by exp(-height / (.05 of the frame's)).

  Args:
    frames: in [0, 1].
    metres: height of a frame.
  """
  x = jnp.asarray(frames, jnp.float32)
  height, width = x.shape[-3:-1]
  middle = motion.positions(x)
  up = 1 - (jnp.arange(height) + 0.5) / height
  right = (jnp.arange(width) + 0.5) / width
  weight = jnp.square(x - x.mean((-3, -2), keepdims=True)).sum(-1)
  most = weight.max((-2, -1), keepdims=True)
  weight = jax.nn.relu(weight - most / 4) * jnp.exp(-up / 0.05)[:, None]
  is_left = right <= middle[..., 1][..., None]
  centre = jnp.stack([middle[..., 1], 1 - middle[..., 0]], -1)

  def lowest(side: Array) -> Array:
    w = jnp.where(side[..., None, :], weight, 0.0)
    total = w.sum((-2, -1))
    place = (
      jnp.stack(
        [
          jnp.einsum("...hw,w->...", w, right),
          jnp.einsum("...hw,h->...", w, up),
        ],
        -1,
      )
      / jnp.maximum(total, 1e-20)[..., None]
    )
    return jnp.where((total > 1e-20)[..., None], place, centre)

  points = jnp.stack([centre, lowest(is_left), lowest(~is_left)], -2)
  ground = points[..., :1, 1:, 1].min((-2, -1))
  points = points.at[..., 1].add(-ground[..., None, None])
  scale = jnp.array([width / height, 1.0]) * metres
  return points * scale


@declare(takes_frames=True)
def feasible(
  images: Float[ArrayLike, "P G F H W C"],
  prompts: PromptBatch | None,
  *,
  fps: float = 8.0,
  metres: float = 2.0,
) -> Float[Array, "P G"]:
  """Mean of a kinematic, a contact and a dynamic score (`feasibility`), in [0, 1].

  PhyMotion, https://arxiv.org/abs/2605.14269, read in the authors' code, where meshes
  of people are recovered and follow a simulator: limits, contacts, slip, balance and
  forces on a point of the body's mass are theirs. Limits of joints, collisions,
  torques and effort, which need the body, and floating over several frames are left
  out. Feet slip at any speed where they stand (theirs only below .05 m/s, which
  leaves fast skating free). That the body is three points of what stands out in the
  frame (`outline`) is ours, and unverified.

  Args:
    images: frames of videos, in [0, 1]; a video with a value that is not finite
      scores NaN.
    prompts: unused.
    fps: frames per second, of those that are scored.
    metres: height of a frame.

  Raises:
    UserError: options out of range, or too few frames.
  """
  require_positive("", fps=fps, metres=metres)
  frames = jnp.asarray(images, jnp.float32)
  if frames.ndim != 6 or frames.shape[2] < 3:
    raise UserError(
      "feasible: accelerations need 3 frames of a video; set config.video.frames"
      ' higher, and config.video.scored="mean"'
    )
  usable = jnp.isfinite(frames).all((2, 3, 4, 5))
  safe = jnp.where(usable[..., None, None, None, None], frames, 0.0)
  scores = feasibility(outline(safe, metres), fps=fps)
  mean = (scores["kinematic"] + scores["contact"] + scores["dynamic"]) / 3
  return jnp.where(usable, mean, jnp.nan)
