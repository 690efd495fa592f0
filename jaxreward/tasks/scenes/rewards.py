"""Rewards of the scenes: detected objects against the prompt."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.rewards import contract
from jaxreward.rewards.contract import Applies, declare
from jaxreward.tasks.scenes import detect, judge
from jaxreward.types import Array, ArrayLike, PromptBatch

Images = Float[ArrayLike, "P G H W C"]
Parts = Mapping[str, ArrayLike] | None
Scores = dict[str, Float[Array, "P G"]]


def _parts(images: Images, prompts: PromptBatch, verdict: Parts):
  """({part: [P, G]}, usable [P, G]); an image with NaN is not usable."""
  if verdict is not None:
    usable = jnp.isfinite(images).all((2, 3, 4))
    return {name: jnp.asarray(x) for name, x in verdict.items()}, usable
  groups, members = jnp.shape(images)[:2]
  flat = jnp.reshape(images, (groups * members, *jnp.shape(images)[2:]))
  usable = jnp.isfinite(flat).all((1, 2, 3))
  flat = jnp.where(usable[:, None, None, None], flat, 0.0)
  scores = judge.look(flat, judge.repeat(prompts, members)).scores()
  shaped = {n: x.reshape(groups, members) for n, x in scores.items()}
  return shaped, usable.reshape(groups, members)


@declare(takes_verdict=True)
def detector(
  images: Images,
  prompts: PromptBatch,
  *,
  strict_weight: float = 0.5,
  verdict: Parts = None,
) -> Scores:
  """(1 - w) dense + w strict, in [0, 1].

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    strict_weight: w; 0 is partial credit only.
    verdict: of the detector on these images, if already computed.
  """
  if not 0.0 <= strict_weight <= 1.0:
    raise UserError(
      f"detector.strict_weight={strict_weight}: it must lie in [0, 1]"
    )
  parts, usable = _parts(images, prompts, verdict)
  score = (1 - strict_weight) * parts["dense"] + strict_weight * parts["strict"]
  return {"detector": jnp.where(usable, score, jnp.nan)}


@declare(takes_verdict=True)
def strict(
  images: Images, prompts: PromptBatch, *, verdict: Parts = None
) -> Scores:
  """1 if the requested objects are present and nothing else, else 0."""
  parts, usable = _parts(images, prompts, verdict)
  return {"strict": jnp.where(usable, parts["strict"], jnp.nan)}


@declare()
def boxes(images: Images, prompts: PromptBatch) -> dict[str, contract.Scores]:
  """`detector`, and 1 or -1 in the boxes of objects that are wanted or not."""
  flat = jnp.reshape(images, (-1, *jnp.shape(images)[2:]))
  usable = jnp.isfinite(flat).all((1, 2, 3))
  flat = jnp.where(usable[:, None, None, None], flat, 0.0)
  judgement = judge.look(flat, judge.repeat(prompts, jnp.shape(images)[1]))
  items = jnp.asarray(prompts.extras.items)
  items = detect.wanted(
    judgement.detection, jnp.repeat(items, jnp.shape(images)[1], 0)
  )
  sides = (flat.shape[1], flat.shape[2])
  places = detect.box_scores(judgement.detection, items, sides)
  value = (judgement.verdict.dense + judgement.verdict.strict) / 2
  shape = jnp.shape(images)[:2]
  value = jnp.where(usable, value, jnp.nan).reshape(shape)
  places = places.reshape(*shape, *sides)
  return {"boxes": contract.Scores(value, places=places)}


def _part(name: str, text: str, applies: Applies | None = None):
  """The reward of one part of the verdict on an edit."""

  @declare(takes_verdict=True, applies=applies)
  def reward(
    images: Images, prompts: PromptBatch, *, verdict: Parts = None
  ) -> Scores:
    parts, usable = _parts(images, prompts, verdict)
    if name not in parts:
      raise UserError(
        f'the reward "{name}" judges tasks with a picture, and these prompts are'
        ' none; set config.data.source and config.data.grammar to "edits"'
      )
    return {name: jnp.where(usable, parts[name], jnp.nan)}

  reward.__name__, reward.__doc__ = name, text
  return reward


def _with_subject(prompts: PromptBatch) -> Array:
  return jnp.asarray(prompts.extras.edit.subject) >= 0


execution = _part(
  "execution", "How much of an edit was carried out, in [0, 1]."
)
preservation = _part(
  "preservation",
  "How much of what an edit does not speak of is as before, in [0, 1].",
  lambda prompts: ~_with_subject(prompts),
)
subject = _part(
  "subject", "Likeness to the subject of the source, in [0, 1].", _with_subject
)
clean = _part("clean", "How even and light the background is, in [0, 1].")

REGISTRY = {"detector": detector, "strict": strict, "boxes": boxes}
EDITS = {
  **REGISTRY,
  "execution": execution,
  "preservation": preservation,
  "subject": subject,
  "clean": clean,
}
