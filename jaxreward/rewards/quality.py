"""Image quality, regardless of the prompt."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.vision import aesthetic as head_of
from jaxreward.models.vision import clip_layouts, encoders
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch


def load_aesthetic(
  weights: str,
  *,
  head: str = "",
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Loaded:
  """A CLIP image tower and the head on it.

  Args:
    weights: a CLIP ViT-L/14, or a predictor that holds tower and head.
    head: the head's safetensors file, if it is separate.
    size: a name of `clip.SIZES`, for weights without a config.
    dtype: of the tower.
    microbatch: images that go through the tower at once; 0 for all.
  """
  tower = encoders.load(
    weights, size=size, dtype=dtype, microbatch=microbatch, texts=False
  )
  like = head_of.shapes(
    tower.params["vision"]["projection"]["kernel"].shape[-1]
  )
  rules = head_of.RULES
  if not head:  # beside the tower in one file
    layout = clip_layouts.describe(weights, size)[1]
    head, rules = weights, (*rules, *clip_layouts.towers(layout))
  params = convert.load_params(head, rules, like)
  return Loaded(
    {"encoder": tower.encoder},
    {"params": tower.params, "head": params},
    {"params": tower.rules},
  )


@declare(loads=load_aesthetic)
def aesthetic(
  images: Float[ArrayLike, "P G H W 3"],
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  head: Params,
  divisor: float = 1.0,
) -> dict[str, Float[Array, "P G"]]:
  """The aesthetic score, about 1 to 10, of LAION's linear predictor.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: unused.
    encoder: the CLIP image tower.
    params: of the tower.
    head: parameters of the predictor.
    divisor: of the score.
  """
  features, usable = encoders.image_features(encoder, params, images)
  score = head_of.apply(head, features) / divisor
  return {"aesthetic": jnp.where(usable, score, jnp.nan)}


@declare()
def smooth(
  images: Float[ArrayLike, "P G H W C"],
  prompts: PromptBatch | None,
  *,
  limit: float = 0.2,
) -> dict[str, Float[Array, "P G"]]:
  """1 - mean |Laplacian| / `limit`: 1 for an image without texture or edges.

  Needs no weights and is easily hacked: a blank image scores highest.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: unused.
    limit: the mean at which the score is 0, above 0; beyond it scores are
      negative.

  Raises:
    UserError: a limit that is not positive.
  """
  if not limit > 0:
    raise UserError(f"smooth.limit={limit}: it must be above 0")
  x = jnp.asarray(images, jnp.float32)
  inner = x[:, :, 1:-1, 1:-1]
  around = (
    x[:, :, :-2, 1:-1] + x[:, :, 2:, 1:-1] + x[:, :, 1:-1, :-2]
    + x[:, :, 1:-1, 2:]
  )  # fmt: skip
  return {"smooth": 1 - jnp.abs(4 * inner - around).mean((2, 3, 4)) / limit}
