"""Keys are addresses: every draw is a function of its purpose.

No key is carried in a state and none is split across steps. A key is folded
from (seed, stream, step, prompt id, member), so noise does not depend on batch
layout, device count or order, and a resumed run needs the step alone.
"""

from __future__ import annotations

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Key

from jaxreward.types import Array, ArrayLike

Number = Integer[ArrayLike, ""] | np.integer | int


def stream_key(seed: int, stream: str, step: Number = 0) -> Key[Array, ""]:
  """Key of a named stream at a step.

  Args:
    seed: the run's seed.
    stream: what the draw is for, such as "rollout"; hashed to 32 bits.
    step: iteration number, a Python int or an int32 scalar.

  Returns:
    A typed scalar key.
  """
  key = jax.random.key(seed, impl="threefry2x32")
  key = jax.random.fold_in(key, zlib.crc32(stream.encode()))
  return jax.random.fold_in(key, step)


def sample_keys(
  key: Key[Array, ""],
  prompt_ids: Integer[ArrayLike, "B"],
  members: Integer[ArrayLike, "B"],
) -> Key[Array, "B"]:
  """One key per sample, folded with its prompt id and its group index.

  Args:
    key: scalar key of the stream at this step.
    prompt_ids: uint32 [B].
    members: int32 [B].

  Returns:
    Typed keys [B].
  """

  def fold(prompt_id, member):
    return jax.random.fold_in(jax.random.fold_in(key, prompt_id), member)

  return jax.vmap(fold)(
    jnp.asarray(prompt_ids, jnp.uint32), jnp.asarray(members, jnp.uint32)
  )


def fold_each(keys: Key[Array, "B"], number: Number) -> Key[Array, "B"]:
  """Folds the same number, such as a denoising step, into every key [B]."""
  return jax.vmap(lambda k: jax.random.fold_in(k, number))(keys)


def normal_each(
  keys: Key[Array, "B"], shape: tuple[int, ...]
) -> Float[Array, "B *L"]:
  """Standard normal float32 [B, *shape], each row from its own key."""
  count = math.prod(shape)
  rows = jax.vmap(lambda k: jax.random.normal(k, (count,), jnp.float32))(keys)
  # Drawn as long rows, behind a conditional that compilers do not fuse across:
  # fused into its consumer, the draw would run along an image's last axis,
  # three channels at a time, which is several times slower on a CPU.
  noise = jax.lax.cond(
    jax.lax.optimization_barrier(jnp.bool_(True)),
    lambda x: x,
    jnp.zeros_like,
    rows,
  )
  return noise.reshape(-1, *shape)
