"""What a backbone reads: frames of clips, source images, noise levels.

Clips are read frame by frame, but by a backbone that takes them whole, and a
source image as one more image of its row, so that no backbone knows of either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.reward_models.parts import Features
from jaxreward.types import Array, ArrayLike, Params

FRAMES = ("mean", "attention")
FRAME_WEIGHTS = "frame_weights"  # among a head's parameters
PER_IMAGE = (
  "joint", "image", "logit", "cross", "states", "layers", "state_mask",
)  # fmt: skip
_STATES = "states"  # [P, G, N, D]
_TOKENS = {_STATES: -2, "layers": -2, "state_mask": -1}  # their axis


class Noise(NamedTuple):
  """The noise level at which a policy's trunk reads images.

  Attributes:
    time: [P] or [P, G], 0 for clean images and 1 for noise; None to draw it per
      row from `keys`, or for the backbone's own where there are none.
    keys: random keys [P], of time and noise; all images of a row share both.
    is_added: the images are noisy latents of that time already.
  """

  time: ArrayLike | None = None
  keys: ArrayLike | None = None
  is_added: bool = False


CLEAN = Noise()


def without_weights(head: Params) -> tuple[Params, Array | None]:
  """(a head's own parameters, weights of frames or None)."""
  if FRAME_WEIGHTS not in head:
    return head, None
  rest = {name: leaf for name, leaf in head.items() if name != FRAME_WEIGHTS}
  return rest, head[FRAME_WEIGHTS]


def read(
  features: Callable[[Array, ArrayLike], Features],
  images: Float[ArrayLike, "P G *F H W C"],
  tokens: ArrayLike,
  context: Float[ArrayLike, "P h w C"] | None = None,
  weights: Float[ArrayLike, "D"] | None = None,
  *,
  has_context: bool = False,
  rank: int = 3,
  whole: bool = False,
) -> Features:
  """Features of images or clips, beside those of their source images.

  Args:
    features: of images [P, G, H, W, C] and tokens.
    images: of P rows.
    tokens: of their prompts.
    context: source images; not finite, or None, where there is none.
    weights: of the attention over frames; None for their mean.
    has_context: whether the head reads source images.
    rank: axes of one image; clips have one more.
    whole: whether `features` takes clips [P, G, F, H, W, C], too.
  """
  images = jnp.asarray(images)
  p, g = images.shape[:2]
  frames = images.shape[2] if images.ndim == rank + 3 and not whole else 0
  if frames:
    images = images.reshape(p, g * frames, *images.shape[3:])
  known = None
  if has_context:
    source, known = _source(context, images)
    images = jnp.concatenate([images, source], 1)
  raw = features(images, tokens)
  if frames:
    raw = over_frames(raw, g, frames, weights)
  return apart(raw, known)


def _source(
  context: ArrayLike | None, images: Array
) -> tuple[Float[Array, "P 1 H W C"], Bool[Array, "P"]]:
  """Source images at the size of the others, and which are known."""
  if context is None:
    return jnp.zeros_like(images[:, :1]), jnp.zeros(images.shape[0], bool)
  context = jnp.asarray(context)
  known = jnp.isfinite(context).all((1, 2, 3))
  source = jnp.where(known[:, None, None, None], context, 0.0)
  if source.shape[1:] != images.shape[2:]:
    source = jax.image.resize(
      source, (len(source), *images.shape[2:]), "linear", antialias=True
    )
  return source[:, None].astype(images.dtype), known


def over_frames(
  raw: Features,
  group: int,
  frames: int,
  weights: Float[ArrayLike, "D"] | None = None,
) -> Features:
  """Features per clip of features per frame; tokens of frames stand in a row.

  Args:
    raw: leaves [P, G T + R, ...]; the last R are no frames.
    group: G.
    frames: T.
    weights: w of softmax over t of w x_t / sqrt(D); equal shares if None.
  """
  count = group * frames
  clips = lambda x: x[:, :count].reshape(-1, group, frames, *x.shape[2:])
  joint = clips(raw["joint"]).astype(jnp.float32)
  share = jnp.full(joint.shape[:3], 1 / frames)
  if weights is not None:
    logits = joint @ jnp.asarray(weights) / joint.shape[-1] ** 0.5
    share = jax.nn.softmax(logits, -1)

  def pooled(name: str, x: Array) -> Array:
    if name in _TOKENS:
      axis = x.ndim + _TOKENS[name]
      tokens = jnp.moveaxis(clips(x), 2, axis)
      shape = (*x.shape[2:axis], frames * x.shape[axis], *x.shape[axis + 1 :])
      # A single image has the tokens of one frame, repeated.
      single = jnp.concatenate([x[:, count:]] * frames, axis)
      return jnp.concatenate([tokens.reshape(-1, group, *shape), single], 1)
    rest = (1,) * (x.ndim - 2)
    mean = (clips(x) * share.reshape(*share.shape, *rest)).sum(2)
    return jnp.concatenate([mean.astype(x.dtype), x[:, count:]], 1)

  return {
    name: pooled(name, x) if name in PER_IMAGE else x for name, x in raw.items()
  }


def apart(raw: Features, known: Bool[ArrayLike, "P"] | None) -> Features:
  """Features of images beside those of the source, the last image of a row.

  Args:
    raw: of all images.
    known: rows with a source; None if no row has one.

  Returns:
    "joint" [image, source, product], "context_states" beside the others.
  """
  if known is None:
    return raw
  known = jnp.asarray(known)
  features = {
    name: x[:, :-1] if name in PER_IMAGE else x for name, x in raw.items()
  }
  joint = features["joint"]
  source = jnp.where(known[:, None, None], raw["joint"][:, -1:], 0.0)
  source = jnp.broadcast_to(source, joint.shape).astype(joint.dtype)
  features["joint"] = jnp.concatenate([joint, source, joint * source], -1)
  if _STATES in raw:
    states = raw[_STATES][:, -1]
    features["context_states"] = jnp.where(known[:, None, None], states, 0.0)
    features["context_mask"] = jnp.broadcast_to(
      known[:, None], states.shape[:2]
    )
  return features
