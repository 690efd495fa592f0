"""Records that cross the walls between packages.

Letters: P prompts, G samples per prompt (the group), B = P * G samples (padded
up when the micro-batch asks for it), T denoising steps, L words of a prompt,
H W C pixels. Time runs from data (0) to noise (1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
Cond = Any  # a pytree of arrays with the prompt (or sample) axis first


@flax.struct.dataclass
class PromptBatch:
  """P prompts as arrays, with what a scene must show to satisfy them.

  Attributes:
    tokens: int32 [P, L], word ids, 0 is padding.
    ids: uint32 [P], a stable number per prompt text; part of every key.
    kind: int32 [P], index into `grammar.KINDS`.
    items: int32 [P, 2, 3], rows of (count, colour, shape); count 0 means the
      row is absent, colour -1 means any colour.
    relation: int32 [P], index into `grammar.RELATIONS`, 0 is none; the first
      item stands in that relation to the second.
    mask: bool [P], False for padding rows.
  """

  tokens: ArrayLike
  ids: ArrayLike
  kind: ArrayLike
  items: ArrayLike
  relation: ArrayLike
  mask: ArrayLike


@flax.struct.dataclass
class Trajectory:
  """What a rollout leaves behind; the sample axis B is flat and padded.

  Attributes:
    latents: float32 [T + 1, B, H, W, C], from noise (first) to sample (last).
    log_probs: float32 [T, B], mean over latent elements of the log density of
      each step; zero where the step drew no noise.
    velocities: float32 [T, B, H, W, C] or None, as the sampler saw them.
    prompt_index: int32 [B], row of the prompt batch.
    member: int32 [B], index within the group.
    mask: bool [B], False for padding.
  """

  latents: ArrayLike
  log_probs: ArrayLike
  velocities: ArrayLike | None
  prompt_index: ArrayLike
  member: ArrayLike
  mask: ArrayLike


@dataclasses.dataclass(frozen=True)
class Policy:
  """A generator as pure functions of its parameters.

  Attributes:
    init: key -> params.
    encode: (params, tokens int32 [P, L]) -> cond, a pytree whose leaves start
      with P. The all-padding prompt is the unconditional one. Policies whose
      text encoders run outside take a pytree of their outputs for tokens.
    velocity: (params, x_t [B, H, W, C], t float32 [B], cond [B, ...]) ->
      velocity [B, H, W, C], float32.
    decode: latents [..., H, W, C] -> images in [0, 1], clipped.
    to_pixels: latents -> images without the clip, to measure range errors.
    latent_shape: (H, W, C), of videos (F, H, W, C).
    sharding_rules: ((parameter path regex, mesh axes per dimension), ...).
    layout: the table of public names (`models.convert`) of its parameters.
  """

  init: Callable[..., Params]
  encode: Callable[..., Cond]
  velocity: Callable[..., Array]
  decode: Callable[[Array], Array]
  to_pixels: Callable[[Array], Array]
  latent_shape: tuple[int, ...]
  sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
  layout: tuple[Any, ...] = ()
