"""Rewards that check a picture against what its prompt asks for."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.data.scenes import detect
from jaxreward.errors import UserError
from jaxreward.rewards.contract import declare
from jaxreward.types import Array, ArrayLike, PromptBatch

Images = Float[ArrayLike, "P G H W C"]
Found = Mapping[str, ArrayLike] | None
Scores = dict[str, Float[Array, "P G"]]


def _verdict(images: Images, prompts: PromptBatch, found: Found):
  """(dense, strict, usable), each [P, G]; a broken picture is not usable."""
  if found is not None:
    usable = jnp.isfinite(images).all((2, 3, 4))
    return jnp.asarray(found["dense"]), jnp.asarray(found["strict"]), usable
  groups, members = jnp.shape(images)[:2]
  flat = jnp.reshape(images, (groups * members, *jnp.shape(images)[2:]))
  usable = jnp.isfinite(flat).all((1, 2, 3))
  flat = jnp.where(usable[:, None, None, None], flat, 0.0)
  repeated = jax.tree.map(
    lambda x: jnp.repeat(jnp.asarray(x), members, 0), prompts
  )
  verdict = detect.judge(detect.detect(flat), repeated)
  shaped = (verdict.dense, verdict.strict, usable)
  return tuple(x.reshape(groups, members) for x in shaped)


@declare(takes_verdict=True)
def detector(
  images: Images,
  prompts: PromptBatch,
  *,
  strict_weight: float = 0.5,
  verdict: Found = None,
) -> Scores:
  """(1 - w) dense + w strict, in [0, 1].

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    strict_weight: w; 0 is partial credit alone.
    verdict: of the detector on these pictures, if it has seen them already.
  """
  if not 0.0 <= strict_weight <= 1.0:
    raise UserError(
      f"detector.strict_weight={strict_weight}: it must lie in [0, 1]"
    )
  dense, strict, usable = _verdict(images, prompts, verdict)
  score = (1 - strict_weight) * dense + strict_weight * strict
  return {"detector": jnp.where(usable, score, jnp.nan)}


@declare(takes_verdict=True)
def strict(
  images: Images, prompts: PromptBatch, *, verdict: Found = None
) -> Scores:
  """1 if all that is asked for is there and nothing else, else 0."""
  _, right, usable = _verdict(images, prompts, verdict)
  return {"strict": jnp.where(usable, right, jnp.nan)}
