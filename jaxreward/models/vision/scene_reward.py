"""Features of scenes and their prompts: a small joint transformer.

The trunk is the scene policy's: words pass once through its text encoder, and
patches run through its adaLN blocks, attending to patches and words together.
A patch is embedded by a linear layer plus a small MLP for shapes within the
patch. Patches and words are pooled at the end.

Because names and shapes are the policy's, a trunk may start from a policy's
parameters (`init_from_policy`); it then reads an image as the policy reads a
nearly clean sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.models import blocks
from jaxreward.models.policies import scene_dit
from jaxreward.numerics import largest
from jaxreward.types import Array, ArrayLike, Params

SHARDING_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r"^blocks/.*kernel$", (None, "fsdp")),
  (r"^(?!blocks/).*kernel$", ("fsdp",)),
  (r"(^|/)(bias|embedding|position|place)$", ()),
)
_TIME = 0.02  # an image is read as a sample at nearly no noise


@dataclasses.dataclass(frozen=True)
class Trunk:
  """The trunk as pure functions of its parameters.

  Attributes:
    init: key -> params.
    features: (params, images [P, G, H, W, C] in [0, 1], tokens int32 [P, L])
      -> [P, G, 3 width]; words are read once per prompt. With `states`
      [P G, N, width] in place of the images' patches.
    patches: (params, images [B, H, W, C] in [0, 1]) -> [B, N, width], the
      input of the blocks.
    image_shape: (H, W, C).
    sharding_rules: ((parameter path regex, mesh axes per dimension), ...).
  """

  init: Callable[..., Params]
  features: Callable[..., Array]
  image_shape: tuple[int, int, int]
  patches: Callable[..., Array]
  sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


class SceneTrunk(nn.Module):
  """Features of images [P, G, H, W, C] in [0, 1] with tokens [P, L]."""

  image_size: int = scene_dit.IMAGE_SIZE
  patch: int = scene_dit.PATCH
  width: int = 128
  depth: int = 2
  heads: int = 2
  mlp_ratio: int = 3
  text_layers: int = 2
  stem: int = 256
  unroll: int = 1
  language: str = "scenes"
  dtype: Any = jnp.float32

  def setup(self):
    d = self.width
    self.text = scene_dit.TextEncoder(
      d, self.heads, self.text_layers, self.depth, self.dtype,
      language=self.language,
    )  # fmt: skip
    self.patch_in = blocks.dense(d, None, self.dtype)
    self.stem_in = blocks.dense(self.stem, None, self.dtype)
    self.stem_mid = blocks.dense(self.stem, None, self.dtype)
    self.stem_out = blocks.dense(d, None, self.dtype)
    side = self.image_size // self.patch
    self.place = self.param(
      "place", nn.initializers.normal(0.5), (side * side, d)
    )
    self.time_in = blocks.dense(d, None, self.dtype)
    self.time_out = blocks.dense(d, None, self.dtype)
    self.pooled_in = blocks.dense(d, None, self.dtype)
    self.blocks = nn.scan(
      scene_dit.ImageBlock,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=((1, nn.broadcast, nn.broadcast, 1, 1, 0),),
      length=self.depth,
      unroll=self.unroll,
    )(d, self.heads, self.mlp_ratio, self.dtype)

  def embed(self, images: Array) -> Array:
    """Patches [B, N, D] of images [B, H, W, C] in [0, 1]."""
    b, size, _, channels = images.shape
    p, side = self.patch, size // self.patch
    x = (images * 2 - 1).reshape(b, side, p, side, p, channels).swapaxes(2, 3)
    x = x.reshape(b, side * side, p * p * channels).astype(self.dtype)
    y = nn.gelu(blocks.rows(self.stem_in, x))
    y = y + nn.gelu(blocks.rows(self.stem_mid, blocks.layer_norm(y)))
    y = blocks.rows(self.stem_out, blocks.layer_norm(y))
    return y + blocks.rows(self.patch_in, x) + self.place.astype(self.dtype)

  def __call__(
    self, images: ArrayLike, tokens: ArrayLike, states: Array | None = None
  ) -> Array:
    prompts, group = images.shape[:2]
    cond = self.text(tokens)
    cond = jax.tree.map(lambda c: jnp.repeat(c, group, 0), cond)
    images = jnp.asarray(images)
    x = states
    if x is None:
      x = self.embed(images.reshape(prompts * group, *images.shape[2:]))
    t = jnp.full((1,), _TIME)
    signal = self.time_in(blocks.timestep_features(t, self.width))
    signal = self.time_out(nn.silu(signal)) + self.pooled_in(cond["pooled"])
    signal = nn.silu(signal)
    bias = blocks.key_bias(cond["mask"], prefix=x.shape[1])
    x, _ = self.blocks(
      x, (cond["kv"].astype(self.dtype), bias, signal, None, None, None)
    )
    x = blocks.layer_norm(x)
    pooled = jnp.concatenate([x.mean(1), largest(x, 1), signal], -1)
    return pooled.reshape(prompts, group, -1)


def make_trunk(
  *,
  image_size: int = scene_dit.IMAGE_SIZE,
  patch: int = scene_dit.PATCH,
  width: int = 128,
  depth: int = 2,
  heads: int = 2,
  mlp_ratio: int = 3,
  text_layers: int = 2,
  stem: int = 256,
  unroll: int = 1,
  language: str = "scenes",
  dtype: str = "float32",
) -> Trunk:
  """The trunk as pure functions.

  Args:
    image_size: side of the square images in pixels.
    patch: side of a patch; it divides `image_size`.
    width: features per token.
    depth: joint blocks.
    heads: attention heads; 2 * heads divides `width`.
    mlp_ratio: hidden features of a block's MLP per feature.
    text_layers: blocks over the words.
    stem: hidden features of the MLP for shapes within a patch.
    unroll: blocks unrolled in the scan over layers.
    language: vocabulary of its prompts, see `scene_dit.LANGUAGES`.
    dtype: of matrix products; parameters stay float32.

  Raises:
    UserError: sizes that do not fit together.
  """
  scene_dit.require_sizes(
    "config.reward_model.backbone.", image_size=image_size, patch=patch,
    width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio,
    text_layers=text_layers, stem=stem, unroll=unroll,
  )  # fmt: skip
  scene_dit.require_language("reward_model.backbone.", language)
  if image_size % patch:
    raise UserError(
      f"reward_model.backbone.patch={patch} does not divide"
      f" reward_model.backbone.image_size={image_size}"
    )
  if width % (2 * heads):
    raise UserError(
      f"reward_model.backbone.width={width} is not divisible by"
      f" 2 * reward_model.backbone.heads={2 * heads}"
    )
  net = SceneTrunk(
    image_size=image_size,
    patch=patch,
    width=width,
    depth=depth,
    heads=heads,
    mlp_ratio=mlp_ratio,
    text_layers=text_layers,
    stem=stem,
    unroll=unroll,
    language=language,
    dtype=jnp.dtype(dtype),
  )
  shape = (image_size, image_size, 3)

  def init(key: Array) -> Params:
    tokens = jnp.zeros((1, scene_dit.LANGUAGES[language][-1]), int)
    return net.init(key, jnp.zeros((1, 1, *shape)), tokens)["params"]

  def features(
    params: Params,
    images: ArrayLike,
    tokens: ArrayLike,
    states: Array | None = None,
  ) -> Array:
    results: Any = net.apply({"params": params}, images, tokens, states)
    return results

  def patches(params: Params, images: ArrayLike) -> Array:
    states: Any = net.apply({"params": params}, images, method="embed")
    return states

  return Trunk(init, features, shape, patches, SHARDING_RULES)


def init_from_policy(params: Params, policy_params: Params) -> Params:
  """A trunk's parameters, initialized from those of a policy.

  A leaf is copied where path and shape agree; from a deeper policy the first
  blocks are copied, with the text keys and values of those blocks.

  Raises:
    UserError: a policy of another width or vocabulary.
  """
  policy = dict(jax.tree_util.tree_leaves_with_path(policy_params))

  def fill(path, leaf):
    if path not in policy:
      return leaf
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    value = policy[path]
    deep = name.startswith("blocks/") or name.startswith("text/kv/")
    axis = 0 if name.startswith("blocks/") else value.ndim - 1
    if deep and value.shape[axis] > leaf.shape[axis]:
      value = jax.lax.slice_in_dim(
        jnp.asarray(value), 0, leaf.shape[axis], axis=axis
      )
    if value.shape != leaf.shape:
      raise UserError(
        f"the policy's {name} is {value.shape}, the reward model's is"
        f" {leaf.shape}: set reward_model.backbone.width, heads and text_layers as in"
        " the policy, or init_from_policy=false"
      )
    return jnp.asarray(value, leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, params)
