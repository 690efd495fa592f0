"""Classifier-free guidance (Ho and Salimans, 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from jaxreward.types import (
  Array,
  ArrayLike,
  Cond,
  Params,
  Policy,
  PromptEmbeddings,
)


def is_off(scale: float | Array) -> bool:
  """Whether the scale is the plain number 1."""
  return isinstance(scale, int | float) and scale == 1


def plain(
  v_cond: Float[Array, "B *L"],
  v_uncond: Float[Array, "B *L"],
  scale: float | Array,
  t: Float[Array, "B"],
) -> Float[Array, "B *L"]:
  """v_uncond + scale (v_cond - v_uncond), at all times; see `Policy.guide`."""
  del t
  return v_uncond + scale * (v_cond - v_uncond)


def guided_velocity(
  policy: Policy,
  params: Params,
  x_t: Float[ArrayLike, "B *L"],
  t: Float[ArrayLike, "B"],
  cond: Cond,
  uncond: Cond | None,
  scale: float | Array,
) -> Float[Array, "B *L"]:
  """The policy's guidance of its two velocities, in one pass over both.

  Args:
    policy: the policy.
    params: its parameters.
    x_t: [B, H, W, C].
    t: [B].
    cond: per-sample conditioning, leaves [B, ...].
    uncond: the empty prompt's conditioning, leaves [1, ...] or [B, ...]; not
      read when scale is 1; see `without_words`.
    scale: the number 1 runs the conditional pass alone; an array always runs
      both, so that one program serves every scale.

  Returns:
    velocity [B, H, W, C].
  """
  if is_off(scale) or uncond is None:
    return policy.velocity(params, x_t, t, cond)
  conds = jax.tree.map(
    lambda c, u: jnp.concatenate([c, u]), cond, without_words(cond, uncond)
  )
  v = policy.velocity(
    params, jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]), conds
  )
  v_cond, v_uncond = jnp.split(v, 2)
  guide = plain if policy.guide is None else policy.guide
  return guide(v_cond, v_uncond, scale, jnp.asarray(t))


def without_words(cond: Cond, uncond: Cond) -> Cond:
  """The empty prompt's conditioning for every sample, leaves [B, ...].

  Args:
    cond: per-sample conditioning, leaves [B, ...].
    uncond: leaves [1, ...] or [B, ...]; entries that it lacks, such as the image to
      edit, are those of the sample.
  """
  if isinstance(cond, dict):
    uncond = {k: uncond.get(k, leaf) for k, leaf in cond.items()}
  return jax.tree.map(lambda c, u: jnp.broadcast_to(u, c.shape), cond, uncond)


def conditioning(
  policy: Policy,
  params: Params,
  prompt_encoding: Integer[ArrayLike, "P W"] | PromptEmbeddings,
  scale: float | Array,
) -> tuple[Cond, Cond | None]:
  """(cond [P, ...], uncond [1 or P, ...] or None) of a batch of prompts."""
  if isinstance(prompt_encoding, PromptEmbeddings):
    encoded_prompts, empty = prompt_encoding.prompts, prompt_encoding.empty
  else:
    encoded_prompts, empty = (
      prompt_encoding,
      jnp.zeros_like(prompt_encoding[:1]),
    )
  cond = policy.encode(params, encoded_prompts)
  return cond, None if is_off(scale) else policy.encode(params, empty)
