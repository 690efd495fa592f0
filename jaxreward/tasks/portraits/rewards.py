"""Rewards of portraits: a picture judged against its prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.data import tastes
from jaxreward.errors import UserError
from jaxreward.rewards import contract, fidelity, identity
from jaxreward.rewards.contract import Applies, declare
from jaxreward.tasks.portraits import judge, prompts, render
from jaxreward.types import Array, ArrayLike, PromptBatch

Images = Float[ArrayLike, "P G H W C"]
Parts = Mapping[str, ArrayLike] | None
Scores = dict[str, Float[Array, "P G"]]


def _parts(images: Images, batch: PromptBatch, verdict: Parts):
  """({part: [P, G]}, usable [P, G]); an image with NaN is not usable."""
  usable = jnp.isfinite(images).all((2, 3, 4))
  if verdict is None:
    verdict = judge.groups(images, batch)
  return {name: jnp.asarray(x) for name, x in verdict.items()}, usable


def _part(name: str, part: str, text: str, applies: Applies | None = None):
  """The reward for one part of the verdict."""

  @declare(takes_verdict=True, applies=applies)
  def reward(
    images: Images, prompts: PromptBatch, *, verdict: Parts = None
  ) -> Scores:
    parts, usable = _parts(images, prompts, verdict)
    return {name: jnp.where(usable, parts[part], jnp.nan)}

  reward.__name__, reward.__doc__ = name, text
  return reward


def _has(role: int) -> Callable[[PromptBatch], Array]:
  def applies(batch: PromptBatch) -> Array:
    return (jnp.asarray(batch.extras.role) == role).any((1, 2))

  return applies


attributes = _part(
  "attributes", "dense", "Graded share of what a picture must show, in [0, 1]."
)
right = _part(
  "right", "strict", "1 if all of that is there and nothing else, else 0."
)
carried_out = _part(
  "carried_out", "execution",
  "Graded share of what the words ask for, in [0, 1].", _has(prompts.ASKED),
)  # fmt: skip
left_alone = _part(
  "left_alone", "preservation",
  "Graded share of what an edit does not speak of and is as before.",
  _has(prompts.KEPT),
)  # fmt: skip
same_person = _part(
  "same_person", "same_person",
  "Graded share of hair, hair colour, skin and beard of the source's person.",
  _has(prompts.PERSON),
)  # fmt: skip
worded = _part(
  "worded", "worded",
  "Graded share of what the words ask for over everybody in the picture, whoever is"
  " meant: what a model would say that reads a bag of words.", _has(prompts.ASKED),
)  # fmt: skip
people = _part(
  "people", "people",
  "Mean over people of how far somebody in the picture is as asked, one for each, less"
  " .5 for those that nobody is like: `rewards.identity.subject_score`.",
)  # fmt: skip
# To be held out: binary verdicts; the rewards above are graded versions.
done = _part(
  "done", "done", "1 if all that the words ask for is there, else 0.",
  _has(prompts.ASKED),
)  # fmt: skip
untouched = _part(
  "untouched", "untouched",
  "1 if all that an edit does not speak of is as before, else 0.",
  _has(prompts.KEPT),
)  # fmt: skip
recognised = _part(
  "recognised", "recognised",
  "1 if hair, hair colour, skin and beard are the source's person's, else 0.",
  _has(prompts.PERSON),
)  # fmt: skip
drawn = _part(
  "drawn", "drawn", "How well a picture is drawn, in [0, 1], to nobody's taste."
)


@declare(takes_verdict=True)
def person_triplet(
  images: Images,
  prompts: PromptBatch,
  *,
  margin: float = 1.0,
  verdict: Parts = None,
) -> Scores:
  """`rewards.identity.triplet`, negated, of the requested and another person.

  -relu(margin - (s - s')), s the graded score of the attributes that a prompt
  names, s' that of other values of the same attributes.

  Args:
    images: in [0, 1].
    prompts: P prompts.
    margin: of the loss.
    verdict: of the judge on these images, if already computed.
  """
  parts, usable = _parts(images, prompts, verdict)
  loss = identity.triplet(parts["told_apart"], 0.0, margin)
  return {"person_triplet": jnp.where(usable, -loss, jnp.nan)}


def _is_whole(batch: PromptBatch) -> Array:
  """Prompts with exactly one right picture."""
  return jnp.isfinite(jnp.asarray(batch.target)).all((1, 2, 3))


@declare(applies=_is_whole, gives_errors=True)
def regions(images: Images, prompts: PromptBatch) -> dict[str, contract.Scores]:
  """`condition_cycle` of the map of regions, `judge.regions`, and the exact one.

  Args:
    images: in [0, 1].
    prompts: P edits with an exact answer.
  """
  extras, group = prompts.extras, jnp.shape(images)[1]
  rows, count = jnp.asarray(extras.rows), jnp.asarray(extras.count)
  control = render.regions(render.shapes_of(rows, jnp), count, jnp)
  extract = lambda x: judge.regions(x, jnp.repeat(count, group))
  known = _is_whole(prompts)[:, None]
  return {"regions": fidelity.cycle(extract, images, control, known)}


def _noise(images: Images) -> Float[Array, "P G"]:
  """Standard normal noise, seeded by the bits of each picture."""
  bits = jax.lax.bitcast_convert_type(
    jnp.asarray(images, jnp.float32), jnp.uint32
  )
  bits = bits.reshape(*bits.shape[:2], -1)
  place = jnp.arange(bits.shape[-1], dtype=jnp.uint32)
  number = (bits * (2 * place + 1)).sum(-1, dtype=jnp.uint32)
  draw = lambda n: jax.random.normal(jax.random.key(n))
  return jax.vmap(jax.vmap(draw))(number)


@declare(takes_verdict=True)
def rated(
  images: Images,
  prompts: PromptBatch,
  *,
  users: int = 3,
  taste: float = 0.25,
  noise: float = 0.0,
  verdict: Parts = None,
) -> Scores:
  """Mean rating by simulated annotators, in [0, 1].

  The rating is (1 - w) times the drawing quality, plus w times the warmth of
  the colours for the first half of the users, or 1 - warmth for the others.

  Args:
    images: in [0, 1].
    prompts: P prompts.
    users: number of annotators; if odd, one more likes warmth; if even, the
      tastes cancel out.
    taste: w.
    noise: standard deviation of the noise in one user's rating. The noise of a
      picture is always the same, so ratings never change.
    verdict: of the judge on these images, if already computed.
  """
  if users < 1 or not 0 <= taste <= 1 or not 0 <= noise < math.inf:
    raise UserError(
      f"rated.users={users}, rated.taste={taste}, rated.noise={noise}: expected"
      " one user or more, a taste in [0, 1] and a noise of 0 or more"
    )
  parts, usable = _parts(images, prompts, verdict)
  warm = tastes.warmth(jnp.asarray(images).mean((-3, -2)))
  fans = (users + 1) // 2 / users
  liked = fans * warm + (1 - fans) * (1 - warm)
  value = (1 - taste) * parts["drawn"] + taste * liked
  if noise:
    value = value + noise * users**-0.5 * _noise(images)
  return {"rated": jnp.where(usable, value, jnp.nan)}


REGISTRY = {
  "attributes": attributes,
  "people": people,
  "person_triplet": person_triplet,
  "right": right,
  "rated": rated,
  "drawn": drawn,
}
EDITS = {
  **REGISTRY,
  "carried_out": carried_out,
  "left_alone": left_alone,
  "same_person": same_person,
  "worded": worded,
  "done": done,
  "untouched": untouched,
  "recognised": recognised,
  "regions": regions,
}
