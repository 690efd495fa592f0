"""Predicts a reward from latents, time and prompt."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.models import blocks
from jaxreward.types import Array, ArrayLike


class Critic(nn.Module):
  """Convolutions of stride 2 over latents, conditioned on time and prompt.

  Words are ids [B, L], hashed into a small table by remainder, or features of
  text encoders, averaged over the tokens of a prompt.

  Attributes:
    width: channels of the first layer; each of the next has twice as many.
    depth: layers.
    hidden: features of the head.
    table: rows for word ids.
  """

  width: int = 16
  depth: int = 2
  hidden: int = 128
  table: int = 256

  @nn.compact
  def __call__(
    self, x_t: Float[ArrayLike, "B *L"], t: Float[ArrayLike, "B"], words: Any
  ) -> Float[Array, "B"]:
    x = jnp.asarray(x_t, jnp.float32)
    x = x.reshape(x.shape[0], -1, *x.shape[-2:])  # stack frames
    for i in range(self.depth):
      x = nn.Conv(self.width * 2**i, (3, 3), 2, name=f"conv_{i}")(x)
      x = nn.gelu(nn.LayerNorm(name=f"norm_{i}")(x))
    parts = [x.mean((1, 2)), blocks.timestep_features(jnp.asarray(t), 64)]
    for i, leaf in enumerate(jax.tree.leaves(words)):
      parts += self._words(f"words_{i}", jnp.asarray(leaf))
    parts = [
      nn.Dense(self.hidden, name=f"in_{i}")(p) for i, p in enumerate(parts)
    ]
    h = nn.gelu(nn.LayerNorm(name="norm")(sum(parts)))
    h = nn.gelu(nn.Dense(self.hidden, name="mid")(h))
    out = nn.Dense(1, name="out", kernel_init=nn.initializers.zeros)
    return out(h)[:, 0]

  def _words(self, name: str, leaf: Array) -> list[Array]:
    if jnp.issubdtype(leaf.dtype, jnp.floating):
      return [
        leaf.astype(jnp.float32).reshape(len(leaf), -1, leaf.shape[-1]).mean(1)
      ]
    if leaf.ndim != 2 or leaf.dtype == bool:
      return []  # a mask
    rows = nn.Embed(self.table, self.hidden, name=name)(leaf % self.table)
    is_word = (leaf > 0)[..., None]
    return [
      jnp.where(is_word, rows, 0.0).sum(1) / jnp.maximum(is_word.sum(1), 1)
    ]
