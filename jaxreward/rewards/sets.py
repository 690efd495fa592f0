"""Rewards of whole sets of images, and which image of a pair improves a set.

An image of a set has no score of its own. Of every two members of a group one goes
to the better set and one to the other, and their scores are 1 and 0: pairs for a
loss of preferences.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.models.vision import encoders, preprocess
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards import consistency
from jaxreward.rewards import references as files
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Scores = dict[str, Float[Array, "P G"]]
Set = Float[ArrayLike, "N E"]
Mask = Bool[ArrayLike, "N"]
CELLS = 8  # along each side, of features without a tower


def vendi(features: Set, mask: Mask) -> Float[Array, ""]:
  """The Vendi score of a set: exp of the entropy of the spectrum of K / n.

  K has the cosines of n images; 1 where all are alike, n where they are orthogonal.
  Friedman and Dieng 2022, https://arxiv.org/abs/2210.02410.

  Args:
    features: of any length.
    mask: False for rows that do not count, which must be finite.
  """
  unit = encoders.unit(jnp.asarray(features))
  rows = jnp.where(jnp.asarray(mask)[:, None], unit, 0.0)
  kernel = _product(rows, rows) / jnp.maximum(jnp.sum(mask), 1)
  share = jnp.maximum(jnp.linalg.eigvalsh(kernel), 0.0)
  return jnp.exp(jax.scipy.special.entr(share).sum())


def frechet(
  features: Set,
  mask: Mask,
  exemplars: Float[ArrayLike, "M E"],
  exemplars_mask: Bool[ArrayLike, "M"],
) -> Float[Array, ""]:
  """The Frechet distance of two sets, as of normal distributions.

  |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^1/2). The last trace is the sum of the
  singular values of A B', S_1 = A' A and S_2 = B' B, so that no matrix is larger than
  the sets. Covariances are over n (in FID over n - 1).

  Args:
    features: of one set.
    mask: False for rows that do not count, which must be finite.
    exemplars: of the other.
    exemplars_mask: the same of it.
  """
  (mean, a), (other, b) = (
    _centred(features, mask), _centred(exemplars, exemplars_mask)
  )  # fmt: skip
  both = jnp.linalg.svd(_product(a, b), compute_uv=False).sum()
  spread = jnp.square(a).sum() + jnp.square(b).sum()
  return jnp.square(mean - other).sum() + spread - 2 * both


def _product(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _centred(features: Set, mask: Mask) -> tuple[Array, Array]:
  """(mean [E], A [N, E] with A' A the covariance)."""
  rows, weight = jnp.asarray(features), jnp.asarray(mask, jnp.float32)[:, None]
  count = jnp.maximum(weight.sum(), 1)
  mean = (rows * weight).sum(0) / count
  return mean, (rows - mean) * weight / jnp.sqrt(count)


def better_set(
  score: Callable[[Array], Array], first: Set, second: Set, mask: Mask
) -> Bool[Array, "N"]:
  """Which rows of the better set are of `first`, the others of `second`.

  Begins with the better of the two sets, then row by row takes the twin where that
  raises the score: the result is at least as good as either.
  DRAGON, https://arxiv.org/abs/2504.15217; one pass in the order of the rows is
  unverified.

  Args:
    score: features [N, E] -> the reward of the set.
    first: features of a set.
    second: of another one, row i the twin of row i.
    mask: False for pairs that do not count.
  """
  take = lambda side: score(jnp.where(side[:, None], first, second))
  sides = [jnp.full(jnp.shape(mask), side) for side in (True, False)]
  values = [take(side) for side in sides]
  is_first = values[0] >= values[1]

  def swap(i, state):
    side, value = state
    trial = side.at[i].set(~side[i])
    new = take(trial)
    is_better = (new > value) & jnp.asarray(mask)[i]
    return jnp.where(is_better, trial, side), jnp.where(is_better, new, value)

  start = (
    jnp.where(is_first, sides[0], sides[1]), jnp.where(is_first, *values)
  )  # fmt: skip
  return jax.lax.fori_loop(0, len(sides[0]), swap, start)[0]


def load_set(
  weights: str = "",
  references: str = "",
  *,
  image_size: int = 512,
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Loaded:
  """What features are taken with, and the exemplars.

  Args:
    weights: an image tower, see `encoders.load`; without one the colours of 8 by 8
      squares, less grey.
    references: folder of the exemplars, those of the batch's prompts; see
      `references`. Empty for the prompts' targets.
    image_size: length in pixels of the exemplars' shorter side.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    microbatch: see `encoders.load`.
  """
  pictures = files.images_of(references, "image", image_size)
  if not weights:
    return Loaded({"encoder": _colours()}, {"params": {}}, prepare=pictures)
  tower = consistency.load_alone(
    weights, size=size, dtype=dtype, microbatch=microbatch
  )
  return dataclasses.replace(tower, prepare=pictures)


def _colours() -> Encoder:
  def prepared(images: Array) -> Array:
    small = preprocess.resize(images, (CELLS, CELLS), "linear", levels=False)
    return small.reshape(len(images), -1) - 0.5

  return Encoder(lambda params, x: x, prepared)


def _chosen(images: Images, prompts, encoder, params, score) -> Array:
  """Scores [P, G]: 1 in the better set, 0 in the other; NaN without a twin."""
  images = jnp.asarray(images)
  p, g = images.shape[:2]
  if g % 2:
    raise UserError(
      f"rewards of sets compare members of a group two by two, and there are {g};"
      " make config.rollout.group even"
    )
  features, usable = encoders.image_features(encoder, params, images)
  rows = features.reshape(p * g // 2, 2, -1)
  both = usable.reshape(-1, 2).all(-1)
  there = both & jnp.repeat(jnp.asarray(prompts.mask), g // 2)
  is_first = better_set(
    lambda x: score(x, there), rows[:, 0], rows[:, 1], there
  )
  scores = jnp.stack([is_first, ~is_first], -1).astype(jnp.float32)
  return jnp.where(both[:, None], scores, jnp.nan).reshape(p, g)


@declare(loads=load_set)
def set_vendi(
  images: Images, prompts: PromptBatch, *, encoder: Encoder, params: Params
) -> Scores:
  """1 for images of the more diverse of two sets, 0 for their twins.

  Members 2k and 2k + 1 of every group are twins; the sets go over all prompts
  (`vendi`, `better_set`).

  Args:
    images: in [0, 1]; an image with a value that is not finite, and its twin, score
      NaN.
    prompts: P prompts.
    encoder: an image tower.
    params: of the tower.
  """
  score = lambda x, mask: vendi(x, mask)
  return {"set_vendi": _chosen(images, prompts, encoder, params, score)}


@declare(loads=load_set, applies=files.has("target"))
def set_frechet(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  reference: Float[ArrayLike, "P 1 h w 3"] | None = None,
  known: Bool[ArrayLike, "P 1"] | None = None,
) -> Scores:
  """1 for images of the set that is nearer to the exemplars, 0 for their twins.

  As `set_vendi`, by minus the distance `frechet`.

  Args:
    images: see `set_vendi`, as up to params.
    prompts: see there.
    encoder: see there.
    params: see there.
    reference: the exemplars.
    known: whether there is one; images of a prompt without it score NaN.
  """
  reference, known = files.resolve(prompts, "target", reference, known)
  exemplars, _ = encoders.image_features(encoder, params, reference)
  there = jnp.asarray(known)[:, 0]
  exemplars_mask = there & jnp.asarray(prompts.mask)
  group = jnp.shape(images)[1] // 2

  def score(x: Array, mask: Array) -> Array:
    mask = mask & jnp.repeat(there, group)
    return -frechet(x, mask, exemplars[:, 0], exemplars_mask)

  scores = _chosen(images, prompts, encoder, params, score)
  return {"set_frechet": jnp.where(there[:, None], scores, jnp.nan)}


def inclusion_loss(
  features: Float[ArrayLike, "P G E"],
  mask: Bool[ArrayLike, "P G"],
  reference: Float[ArrayLike, "P E"],
  original: Float[ArrayLike, "P E"],
  known: Bool[ArrayLike, "P"],
  least: float = 0.8,
) -> tuple[Float[Array, "P G"], Bool[Array, "P"]]:
  """(mean_q (1 - cos(f_pg - m_q, r_p - r_q)) + relu(least - f_pg . o_p), mask).

  m_q is the mean feature of the images of prompt q, r are features of reference
  images and o of what the prompt starts from; q are the other prompts with a
  reference that differs from this one's. It is 0 where images differ among prompts
  along the lines along which references do. Features that all images share cancel
  in the first term.

  Args:
    features: f, of length 1.
    mask: False for images that do not count, which must be finite.
    reference: r, of length 1.
    original: o, of length 1.
    known: prompts that have both; the second result is False for others, and
      where there is nothing to compare with.
    least: similarity to the original above which there is no penalty.
  """
  f, r = jnp.asarray(features), jnp.asarray(reference)
  weight = jnp.asarray(mask, jnp.float32)[..., None]
  count = weight.sum(1)
  mean = (f * weight).sum(1) / jnp.maximum(count, 1)
  dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  between = r[:, None] - r
  length = jnp.sqrt(jnp.maximum(jnp.square(between).sum(-1), 1e-12))
  line = between / length[..., None]
  along = dot("pge,pqe->pgq", f, line) - dot("qe,pqe->pq", mean, line)[:, None]
  square = (
    jnp.square(f).sum(-1)[..., None]
    - 2 * dot("pge,qe->pgq", f, mean)
    + jnp.square(mean).sum(-1)
  )
  cosine = along * jax.lax.rsqrt(jnp.maximum(square, 1e-8))
  counts = jnp.asarray(known) & (count[:, 0] > 0)
  pairs = counts[:, None] & counts & (length > 1e-5)
  number = pairs.sum(-1)
  apart = jnp.where(pairs[:, None], 1 - cosine, 0.0).sum(-1)
  apart = apart / jnp.maximum(number, 1)[:, None]
  near = dot("pge,pe->pg", f, jnp.asarray(original))
  return apart + jax.nn.relu(least - near), number > 0


def has_target_and_source(prompts: PromptBatch) -> Bool[Array, "P"]:
  """Which rows have both."""
  return files.has("target")(prompts) & files.has("source")(prompts)


@declare(loads=load_set, applies=has_target_and_source)
def inclusive(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  reference: Float[ArrayLike, "P 1 h w 3"] | None = None,
  known: Bool[ArrayLike, "P 1"] | None = None,
  least: float = 0.8,
) -> Scores:
  """Minus `inclusion_loss`: images differ from others' as the references do.

  ITI-GEN, https://arxiv.org/abs/2309.05569, whose categories are those of an
  attribute, learns tokens of a prompt, so that differences of its features among
  categories are along those of reference images, at least .8 like the plain prompt:
  both terms are those of the authors' code. Here the images learn in the place of
  the tokens (ours, and unverified), a prompt is a category, its target the
  reference, its source the plain form, and the pairs are averaged.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts, with sources.
    encoder: an image tower.
    params: of the tower.
    reference: of each prompt.
    known: whether there is one; images of a prompt without it score NaN.
    least: see `inclusion_loss`.
  """
  reference, known = files.resolve(prompts, "target", reference, known)
  source, has_source = files.resolve(prompts, "source", None, None)
  features, usable = encoders.image_features(encoder, params, images)
  features = jnp.where(usable[..., None], features, 0.0)
  of = lambda x: encoders.image_features(encoder, params, x)[0][:, 0]
  is_known = (jnp.asarray(known) & has_source)[:, 0] & jnp.asarray(prompts.mask)
  loss, is_compared = inclusion_loss(
    features, usable, of(reference), of(source), is_known, least
  )
  return {"inclusive": jnp.where(usable & is_compared[:, None], -loss, jnp.nan)}
