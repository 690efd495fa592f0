"""What an edit changes and what it keeps, and how alike several pictures are.

The pictures before the edit are the sources of the prompts, or come from a
folder, see `references`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.data import wordings
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, shown
from jaxreward.models.vision import encoders, preprocess
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards import alignment
from jaxreward.rewards import references as files
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Reference = Float[ArrayLike, "P 1 h w 3"]
Known = Bool[ArrayLike, "P 1"]
Scores = dict[str, Float[Array, "P G"]]


def load_alone(
  weights: str, *, size: str = "", dtype: str = "float32", microbatch: int = 64
) -> Loaded:
  """An image tower; see `encoders.load`."""
  found = encoders.load(
    weights, size=size, dtype=dtype, microbatch=microbatch, texts=False
  )
  return Loaded(
    {"encoder": found.encoder},
    {"params": found.params},
    {"params": found.rules},
  )


def load_tower(
  weights: str,
  references: str = "",
  *,
  image_size: int = 512,
  size: str = "",
  dtype: str = "float32",
  microbatch: int = 64,
) -> Loaded:
  """An image tower and the pictures to compare with.

  Args:
    weights: CLIP, SigLIP or DINO; see `encoders.load`.
    references: the folder; see `references`. Empty for the prompts' sources.
    image_size: shorter side the pictures are kept at.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    microbatch: see `encoders.load`.
  """
  tower = load_alone(weights, size=size, dtype=dtype, microbatch=microbatch)
  pictures = files.pictures(references, "image", image_size)
  return dataclasses.replace(tower, prepare=pictures)


@declare(loads=load_tower, applies=files.has("source"))
def image_similarity(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """Cosine of a tower's features of the picture and of its reference.

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: the tower.
    params: of it.
    reference: of each prompt.
    known: whether it has one; without, its pictures score NaN.
  """
  reference, known = files.given(prompts, "source", reference, known)
  seen, usable = encoders.image_features(encoder, params, images)
  given, _ = encoders.image_features(encoder, params, reference)
  score = jnp.einsum("pge,pe->pg", seen, given[:, 0])
  return {"image_similarity": jnp.where(usable & known, score, jnp.nan)}


@declare(loads=load_tower, applies=files.has("source"))
def feature_distance(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """Minus the mean over places of 1 - cosine of a DINO tower's features.

  Unlike `image_similarity` it sees where things are. Arguments as there.
  """
  reference, known = files.given(prompts, "source", reference, known)
  seen, usable = encoders.image_features(encoder, params, images, places=True)
  given, _ = encoders.image_features(encoder, params, reference, places=True)
  cosine = jnp.einsum("pgne,pne->pgn", seen, given[:, 0])
  score = cosine.mean(-1) - 1
  return {"feature_distance": jnp.where(usable & known, score, jnp.nan)}


@declare(loads=load_alone)
def cross_image(
  images: Images, prompts: PromptBatch, *, encoder: Encoder, params: Params
) -> Scores:
  """Mean cosine of a picture's features to those of its group's others.

  For sets that should show one subject. A picture alone in its group, or whose
  others are all broken, scores NaN.

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: the tower.
    params: of it.
  """
  seen, usable = encoders.image_features(encoder, params, images)
  seen = jnp.where(usable[..., None], seen, 0.0)
  sums = jnp.einsum("pge,phe->pg", seen, seen) - jnp.square(seen).sum(-1)
  others = usable.sum(-1, keepdims=True) - usable
  score = sums / jnp.maximum(others, 1)
  return {"cross_image": jnp.where(usable & (others > 0), score, jnp.nan)}


def load_edit(
  weights: str,
  references: str,
  *,
  image_size: int = 512,
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """A pair of towers, the pictures to be edited and what they show.

  Args:
    weights: a CLIP or SigLIP pair; see `encoders.load`.
    references: the folder; its lines name "image" and, in "source", the text
      of what that shows; see `references`.
    image_size: shorter side the pictures are kept at.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    tokenizer: see `alignment.load_pair`.
    microbatch: see `encoders.load`.
  """
  pair = alignment.load_pair(
    weights, size=size, dtype=dtype, tokenizer=tokenizer, microbatch=microbatch
  )
  given: Any = files.pictures(references, "image", image_size)
  sources = _sources(references)
  tokens = pair.prepare or (lambda texts: {})

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    source = tokens([sources.get(t, "") for t in texts])["text"]
    return {**tokens(texts), **given(texts), "source": source}

  return Loaded(pair.static, pair.arrays, pair.rules, prepare)


def _sources(references: str) -> ByPrompt[str]:
  """What the pictures of a folder show before the edit, by prompt."""
  lines = files.rows(references)
  sources = {k: row.get("source", "") for k, row in lines.items()}
  for prompt, text in sources.items():
    what = f'{shown(references, 100)}: "{shown(prompt)}"'
    if not text:
      raise UserError(
        f'{what} has no "source", the text of what its picture shows before the'
        " edit"
      )
    wordings.check_prompt(text, what, '"source"')
  return ByPrompt(sources, f"references={shown(references, 100)}")


@declare(loads=load_edit)
def edit(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  text: Int[ArrayLike, "P L"],
  source: Int[ArrayLike, "P L"],
  reference: Reference,
  known: Known,
  preserve: float = 0.5,
) -> Scores:
  """(1 - w) execution + w preservation of an edit.

  Execution is the cosine of the change in image features with the change in
  text features (directional similarity, Gal et al. 2021,
  https://arxiv.org/abs/2108.00946); preservation the cosine of the picture's
  features with those of the picture that was edited. A picture that did not
  change executes nothing and scores w.

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P texts of what the pictures should show.
    encoder: both towers.
    params: of them.
    text: the prompts' token ids.
    source: token ids of what the pictures before the edit show.
    reference: the pictures before the edit.
    known: whether there is one.
    preserve: w, in [0, 1].
  """
  if not 0.0 <= preserve <= 1.0:
    raise UserError(f"edit.preserve={preserve}: it must lie in [0, 1]")
  seen, usable = encoders.image_features(encoder, params, images)
  before, _ = encoders.image_features(encoder, params, reference)
  wanted = encoders.text_features(encoder, params, text)
  wanted = wanted - encoders.text_features(encoder, params, source)
  moved = seen - before
  # Rounding alone moves features by about 1e-6, and that is no direction.
  far = jnp.sqrt(jnp.sum(jnp.square(moved), -1, keepdims=True) + 1e-6)
  moved = moved / far
  execution = jnp.einsum("pge,pe->pg", moved, encoders.unit(wanted))
  kept = jnp.einsum("pge,pe->pg", seen, before[:, 0])
  score = (1 - preserve) * execution + preserve * kept
  return {"edit": jnp.where(usable & known, score, jnp.nan)}


def load_masked(references: str = "", *, image_size: int = 512) -> Loaded:
  """Pictures and masks of what may change.

  Args:
    references: the folder; its lines name "image" and "mask", white where the
      picture may change; see `references`. Empty for the prompts' own.
    image_size: shorter side they are kept at; see `references.pictures`.
  """
  image = files.pictures(references, "image", image_size)
  mask = files.pictures(references, "mask", image_size)
  if image is None or mask is None:
    return Loaded()

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    found, white = image(texts), mask(texts)
    known = found["known"] & white["known"]
    return {**found, "known": known, "mask": white["reference"]}

  return Loaded(prepare=prepare)


def _has_both(prompts: PromptBatch) -> Array:
  return files.has("source")(prompts) & files.has("changes")(prompts)


@declare(loads=load_masked, applies=_has_both)
def background(
  images: Images,
  prompts: PromptBatch,
  *,
  reference: Reference | None = None,
  mask: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """1 - mean |difference| over the pixels that should not change.

  Args:
    images: in [0, 1].
    prompts: P prompts.
    reference: the pictures before the edit.
    mask: white, 0.5 or more, where they may change.
    known: whether both are there; without, or without a pixel to keep, NaN.
  """
  images = jnp.asarray(images)
  mask, masked = files.given(prompts, "changes", mask, known)
  given, known = files.given(prompts, "source", reference, known)
  known = jnp.asarray(known) & masked
  size = (images.shape[2], images.shape[3])
  fit = lambda x: preprocess.fitted(jnp.asarray(x)[:, 0], size)
  kept = (fit(mask)[..., 0] < 0.5).astype(jnp.float32)[:, None]
  usable = jnp.isfinite(images).all((2, 3, 4))
  safe = jnp.where(usable[..., None, None, None], images, 0.0)
  gap = jnp.abs(safe - fit(given)[:, None]).mean(-1) * kept
  count = kept.sum((2, 3))
  score = 1 - gap.sum((2, 3)) / jnp.maximum(count, 1)
  there = usable & known & (count > 0)
  return {"background": jnp.where(there, score, jnp.nan)}


def load_attributes(
  weights: str,
  references: str = "",
  *,
  attributes: Sequence[str],
  image_size: int = 512,
  size: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 64,
) -> Loaded:
  """A pair of towers, pictures, and texts of what edits should not touch.

  Args:
    weights: a CLIP or SigLIP pair; see `encoders.load`.
    references: the folder; see `references`. Empty for the prompts' sources.
    attributes: texts such as "a photo in watercolour style".
    image_size: shorter side the pictures are kept at.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    tokenizer: see `alignment.load_pair`.
    microbatch: see `encoders.load`.
  """
  pair = alignment.load_pair(
    weights, size=size, dtype=dtype, tokenizer=tokenizer, microbatch=microbatch
  )
  if pair.prepare is None or not attributes or isinstance(attributes, str):
    raise UserError(
      f"attributes={json.dumps(attributes)}: name one or more texts, as a tuple"
    )
  tokens = np.asarray(pair.prepare(list(attributes))["text"])
  return Loaded(
    pair.static,
    {**pair.arrays, "attributes": tokens},
    pair.rules,
    files.pictures(references, "image", image_size),
  )


@declare(loads=load_attributes, applies=files.has("source"))
def attributes_kept(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  attributes: Int[ArrayLike, "A L"],
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """1 - mean over attributes of |change of the cosine with the attribute|.

  Args:
    images: in [0, 1]; a picture with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: both towers.
    params: of them.
    attributes: token ids of the attributes' texts.
    reference: the pictures before the edit.
    known: whether there is one.
  """
  reference, known = files.given(prompts, "source", reference, known)
  seen, usable = encoders.image_features(encoder, params, images)
  before, _ = encoders.image_features(encoder, params, reference)
  said = encoders.text_features(encoder, params, attributes)
  score = 1 - jnp.abs((seen - before) @ said.T).mean(-1)
  return {"attributes_kept": jnp.where(usable & known, score, jnp.nan)}
