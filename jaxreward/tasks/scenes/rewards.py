"""Rewards of the scenes: detected objects against the prompt."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.rewards import checklists, contract
from jaxreward.rewards.contract import Applies, Loaded, declare
from jaxreward.rewards.remote.options import with_options
from jaxreward.rewards.remote.question_files import YES_NO, Question
from jaxreward.rewards.vision_language import Options
from jaxreward.tasks import judge_questions
from jaxreward.tasks.scenes import detect, grammar, judge
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
  """`detector`, and 1 in boxes of requested objects, -1 in those of others."""
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
  """The reward for one part of the verdict on an edit."""

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

_PAIRS = [(s, c) for s in range(4) for c in range(len(grammar.COLOURS))]


def _only(right: str) -> tuple[tuple[str, float], ...]:
  return tuple((n, float(n == right)) for n in judge_questions.NUMBERS[:5])


def fields_of(text: str) -> tuple[Question, ...]:
  """The questions about every image, with the right answers for a prompt.

  Questions are the same for all prompts: how many objects of each shape there are,
  and whether there is one of each shape in each colour. Those of one field share a
  weight of 1: counts of shapes that the prompt names, shapes that it does not, and
  the colours that it gives. Other colours have no weight: a further object shows in
  the counts.
  """
  if not text:  # padding
    return ()
  count = dict.fromkeys(range(4), 0)
  pairs = set()
  for n, c, s in grammar.parse(text).items:
    count[s] += n
    pairs |= {(s, c)} if c >= 0 else set()
  named = sum(n > 0 for n in count.values())
  counts = [
    Question(
      f"How many {grammar.plural(s)} are there?",
      1 / (named if count[s] else 4 - named),
      answers=_only(str(count[s])),
    )
    for s in range(4)
  ]
  colours = [
    Question(
      f"Is there a {grammar.COLOURS[c]} {grammar.SHAPES[s]}?",
      1 / len(pairs) if (s, c) in pairs else 0.0,
    )
    for s, c in _PAIRS
  ]
  return (*counts, *colours)


@with_options
def load_recovered(options: Options, *, question_length: int = 32) -> Loaded:
  """A reader (vision-language model) that never sees the prompt.

  Args:
    options: see `vision_language.Options`.
    question_length: see `checklists.load_checklist`.
  """
  forms = {YES_NO, *map(_only, judge_questions.NUMBERS[:5])}
  return checklists.loaded(
    options, fields_of, forms, 4 + len(_PAIRS),
    question_length=question_length, gate="off",
  )  # fmt: skip


@declare(loads=load_recovered)
@functools.wraps(checklists.vlm_checklist, assigned=(), updated=())
def recovered(images: Images, prompts: PromptBatch, **loaded: Any) -> Scores:
  """How much of the prompt a reader recovers from the image alone, in [0, 1].

  The mean over fields (see `fields_of`) of the probability that its answer
  agrees with the prompt. Inverse specification,
  https://arxiv.org/abs/2603.16839; in the paper a language model recovers
  topic, audience, number and theme of slides with weights .4, .25, .15 and .2.
  Relations are not asked for here.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    **loaded: see `checklists.vlm_checklist`.
  """
  scores = checklists.vlm_checklist(images, prompts, **loaded)
  return {"recovered": scores["judge"]}


REGISTRY = {
  "detector": detector,
  "strict": strict,
  "boxes": boxes,
}
SCENES = {**REGISTRY, "recovered": recovered}
EDITS = {
  **REGISTRY,
  "execution": execution,
  "preservation": preservation,
  "subject": subject,
  "clean": clean,
}
