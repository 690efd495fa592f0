"""Records that cross the walls between packages.

Letters: P prompts, G samples per prompt (the group), B = P * G samples (padded
up when the micro-batch asks for it), T denoising steps, L words of a prompt,
H W C pixels. Time runs from data (0) to noise (1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
Cond = Any  # a pytree of arrays with the prompt (or sample) axis first


@flax.struct.dataclass
class PromptEmbeddings:
  """Prompts as outputs of text encoders, such as {"words", "pooled"}.

  Attributes:
    prompts: leaves [P, ...].
    empty: of the negative prompt, "" if there is none, leaves [1, ...], or
      [P, ...] where encoders read the image to edit too; guidance leads away
      from it.
  """

  prompts: Any
  empty: Any


@flax.struct.dataclass
class PromptBatch:
  """P prompts as arrays.

  Attributes:
    ids: uint32 [P], a stable number per prompt text; part of every key.
    category: int32 [P], the number of the category; see `tasks.Task`.
    mask: bool [P], False for padding rows.
    text: uint8 [P, N], the words in UTF-8, padded with zeros
      (`data.texts`).
    tokens: int32 [P, L], word ids, 0 is padding; None where the task has no
      vocabulary of its own.
    embedded: outputs of text encoders outside the policy; None for policies that
      read `tokens`.
    user: float32 [P, U], who it is drawn for, a vector of the width that the
      policy takes; zeros for the average user, None for a policy of no users.
    source: float32 [P, H, W, 3] in [0, 1], images to start from; this and
      the next two are NaN in rows that have none, and None where no row can.
    target: float32 [P, H, W, 3], the exact answers.
    changes: float32 [P, H, W, 3], 1 where an edit may change the source.
    extras: what the task alone reads, a pytree whose leaves start with P.
  """

  ids: ArrayLike
  category: ArrayLike
  mask: ArrayLike
  text: ArrayLike | None = None
  tokens: ArrayLike | None = None
  embedded: PromptEmbeddings | None = None
  user: ArrayLike | None = None
  source: ArrayLike | None = None
  target: ArrayLike | None = None
  changes: ArrayLike | None = None
  extras: Any = None

  @property
  def words(self) -> Any:
    """What a policy encodes; guidance leads away from the words alone."""
    user = {} if self.user is None else {"user": self.user}
    if self.embedded is not None:
      if not user:
        return self.embedded
      return PromptEmbeddings(self.embedded.prompts | user, self.embedded.empty)
    source = {} if self.source is None else {"source": self.source}
    if self.tokens is None or not source | user:
      return self.tokens
    empty = {"tokens": jnp.zeros_like(self.tokens[:1])}
    return PromptEmbeddings({"tokens": self.tokens} | source | user, empty)

  @property
  def plain(self) -> PromptBatch:
    """Without the fields that only a policy reads; every leaf starts with P."""
    return dataclasses.replace(self, embedded=None)


@flax.struct.dataclass
class Trajectory:
  """The record of a rollout; the sample axis B is flat and padded.

  Attributes:
    latents: float32 [T + 1, B, H, W, C], from noise (first) to sample (last).
    log_probs: float32 [T, B], mean over latent elements of the log density of
      each step; zero where the step drew no noise.
    velocities: float32 [T, B, H, W, C] or None, as the sampler saw them.
    prompt_index: int32 [B], row of the prompt batch.
    member: int32 [B], index within the group.
    mask: bool [B], False for padding.
    aside: float32 [T, B, H, W, C], where steps leave a chain without noise
      (`Sampler.is_aside`): what each has led to; else None.
  """

  latents: ArrayLike
  log_probs: ArrayLike
  velocities: ArrayLike | None
  prompt_index: ArrayLike
  member: ArrayLike
  mask: ArrayLike
  aside: ArrayLike | None = None


@dataclasses.dataclass(frozen=True)
class Policy:
  """A generator as pure functions of its parameters.

  Attributes:
    init: key -> params.
    encode: (params, tokens int32 [P, L]) -> cond, a pytree whose leaves start
      with P. The all-padding prompt is the unconditional one. Policies whose
      text encoders run outside take leaves of `PromptEmbeddings` for tokens.
    velocity: (params, x_t [B, H, W, C], t float32 [B], cond [B, ...]) ->
      velocity [B, H, W, C], float32. Where t is the rounded time of the network's
      grid, the conditioning holds the step's exact time as "sigma" [B].
    to_pixels: (latents [..., H, W, C], decoder) -> images, [0, 1] but for range
      errors, which are not clipped; `decoder` holds the parameters of an
      autoencoder, None where there is none. Latents [..., F, H, W, C] give
      videos, of which jobs keep strips of frames.
    latent_shape: (H, W, C), of videos (F, H, W, C).
    sharding_rules: ((parameter path regex, mesh axes per dimension), ...).
    layout: the table of public names (`models.convert`) of its parameters.
    parts: where the parameters are those of several networks of one layout:
      their names in the tree, and the folders of a public pipeline that hold
      them; None for one network.
    guide: (velocity of the prompt [B, ...], of the empty prompt, guidance scale,
      t [B]) -> guided velocity [B, ...], as the model was published with it;
      None for the plain formula, see `flow.guidance`.
    public_config: what diffusers reads beside parameters of those names.
    public_fields: what such a file may say (`models.fields`); None for any.
    decoder: key -> parameters of the autoencoder; None where there is none.
    decoder_rules: their sharding rules.
    decoder_layout: the table of their public names.
    decoder_fields: `public_fields` of the autoencoder.
    prompts: shapes of what `encode` takes for one prompt, [1, ...]; None for
      word ids.
    takes_source: whether `encode` also takes an image to start from: pixels
      as "source" beside the word ids as "tokens", or what `pictures` names
      beside what `prompts` names.
    pictures: shapes of what `encode` takes of one image to start from,
      [1, ...]: "picture", what `to_latents` makes of it, and possibly "vision",
      states of an image encoder; None for pixels or nothing.
    to_latents: (images [B, H, W, 3], decoder) -> latents [B, h, w, C]; for
      videos [B, F, h, w, 4 + C], see `video_vae.from_images`, or those of
      the first frame alone, [B, 1, h, w, C], as `pictures` asks for it.
    user: width of the vector of a user that `encode` takes as "user" beside the
      words; 0 for a policy that knows no users. Zeros are the average user, and
      so is none.
    optional: regex of parameters that an older checkpoint may lack; they are
      then initialized afresh.
    longer: regex of tables of which the checkpoint of a policy with fewer words may
      hold the first rows alone.
    kinds: names of the prompt categories that it supports; empty for all.
    language: whose word ids it reads, as `tasks.Task.language`; "" for none.
  """

  init: Callable[..., Params]
  encode: Callable[..., Cond]
  velocity: Callable[..., Array]
  to_pixels: Callable[..., Array]
  latent_shape: tuple[int, ...]
  sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
  layout: tuple[Any, ...] = ()
  parts: Mapping[str, str] | None = None
  guide: Callable[..., Array] | None = None
  public_config: Mapping[str, Any] | None = None
  public_fields: Any = None
  decoder: Callable[..., Params] | None = None
  decoder_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()
  decoder_layout: tuple[Any, ...] = ()
  decoder_fields: Any = None
  prompts: Cond | None = None
  takes_source: bool = False
  pictures: Cond | None = None
  to_latents: Callable[..., Array] | None = None
  user: int = 0
  optional: str = ""
  longer: str = ""
  kinds: tuple[str, ...] = ()
  language: str = ""

  def decode(self, latents: Array, decoder: Params | None = None) -> Array:
    """Latents [..., H, W, C] -> images in [0, 1], clipped."""
    return jnp.clip(self.to_pixels(latents, decoder), 0.0, 1.0)
