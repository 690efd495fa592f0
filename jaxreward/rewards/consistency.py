"""What an edit changes and what it preserves, and how similar images are.

The source images are those of the prompts, or come from a folder; see
`references`.
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
  tower = encoders.load(
    weights, size=size, dtype=dtype, microbatch=microbatch, texts=False
  )
  return Loaded(
    {"encoder": tower.encoder},
    {"params": tower.params},
    {"params": tower.rules},
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
  """An image tower and the images to compare with.

  Args:
    weights: CLIP, SigLIP or DINO; see `encoders.load`.
    references: the folder; see `references`. Empty for the prompts' sources.
    image_size: length in pixels of the images' shorter side.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    microbatch: see `encoders.load`.
  """
  tower = load_alone(weights, size=size, dtype=dtype, microbatch=microbatch)
  pictures = files.images_of(references, "image", image_size)
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
  """Cosine of a tower's features of the image and of its reference.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: the tower.
    params: of the tower.
    reference: of each prompt.
    known: whether there is one; images of a prompt without it score NaN.
  """
  reference, known = files.resolve(prompts, "source", reference, known)
  features, usable = encoders.image_features(encoder, params, images)
  reference_features, _ = encoders.image_features(encoder, params, reference)
  score = jnp.einsum("pge,pe->pg", features, reference_features[:, 0])
  return {"image_similarity": jnp.where(usable & known, score, jnp.nan)}


def patch_score(
  encoder: Encoder, params: Params, images: Images, reference: Reference
) -> tuple[Float[Array, "P G"], Bool[Array, "P G"]]:
  """Minus the mean over patches of 1 - cosine, and which images are finite."""
  features, usable = encoders.image_features(
    encoder, params, images, places=True
  )
  reference_features, _ = encoders.image_features(
    encoder, params, reference, places=True
  )
  cosine = jnp.einsum("pgne,pne->pgn", features, reference_features[:, 0])
  return cosine.mean(-1) - 1, usable


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
  """Minus the mean over patches of 1 - cosine of a DINO tower's features.

  Unlike `image_similarity` it is sensitive to layout. Arguments as there.
  """
  reference, known = files.resolve(prompts, "source", reference, known)
  score, usable = patch_score(encoder, params, images, reference)
  return {"feature_distance": jnp.where(usable & known, score, jnp.nan)}


@declare(loads=load_alone)
def cross_image(
  images: Images, prompts: PromptBatch, *, encoder: Encoder, params: Params
) -> Scores:
  """Mean cosine of an image's features with the others of its group.

  For groups that should show one subject. An image without another finite one
  in its group scores NaN.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: the tower.
    params: of the tower.
  """
  features, usable = encoders.image_features(encoder, params, images)
  features = jnp.where(usable[..., None], features, 0.0)
  sums = jnp.einsum("pge,phe->pg", features, features) - jnp.square(
    features
  ).sum(-1)
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
  """A pair of towers, the source images and their captions.

  Args:
    weights: a CLIP or SigLIP pair; see `encoders.load`.
    references: the folder; its lines name "image" and, in "source", its
      caption; see `references`.
    image_size: length in pixels of the images' shorter side.
    size: see `encoders.load`.
    dtype: see `encoders.load`.
    tokenizer: see `alignment.load_pair`.
    microbatch: see `encoders.load`.
  """
  pair = alignment.load_pair(
    weights, size=size, dtype=dtype, tokenizer=tokenizer, microbatch=microbatch
  )
  prepare_images: Any = files.images_of(references, "image", image_size)
  sources = _sources(references)
  tokens = pair.prepare or (lambda texts: {})

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    source = tokens([sources.get(t, "") for t in texts])["text"]
    return {**tokens(texts), **prepare_images(texts), "source": source}

  return Loaded(pair.static, pair.arrays, pair.rules, prepare)


def _sources(references: str) -> ByPrompt[str]:
  """Captions of a folder's source images, by prompt."""
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
  https://arxiv.org/abs/2108.00946); preservation is the cosine of the image's
  features with those of its source. An unchanged image has execution 0 and
  scores w.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P captions of the edited image.
    encoder: both towers.
    params: of both towers.
    text: the prompts' token ids.
    source: token ids of the source images' captions.
    reference: the source images.
    known: whether there is one.
    preserve: w, in [0, 1].
  """
  if not 0.0 <= preserve <= 1.0:
    raise UserError(f"edit.preserve={preserve}: it must lie in [0, 1]")
  features, usable = encoders.image_features(encoder, params, images)
  source_features, _ = encoders.image_features(encoder, params, reference)
  direction = encoders.text_features(encoder, params, text)
  direction = direction - encoders.text_features(encoder, params, source)
  change = features - source_features
  # Rounding alone moves features by about 1e-6, which is no direction.
  length = jnp.sqrt(jnp.sum(jnp.square(change), -1, keepdims=True) + 1e-6)
  change = change / length
  execution = jnp.einsum("pge,pe->pg", change, encoders.unit(direction))
  preservation = jnp.einsum("pge,pe->pg", features, source_features[:, 0])
  score = (1 - preserve) * execution + preserve * preservation
  return {"edit": jnp.where(usable & known, score, jnp.nan)}


def load_masked(references: str = "", *, image_size: int = 512) -> Loaded:
  """Images and masks of what may change.

  Args:
    references: the folder; its lines name "image" and "mask", white where the
      image may change; see `references`. Empty for the prompts' own.
    image_size: length of their shorter side; see `references.images_of`.
  """
  image = files.images_of(references, "image", image_size)
  mask = files.images_of(references, "mask", image_size)
  if image is None or mask is None:
    return Loaded()

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    sources, masks = image(texts), mask(texts)
    known = sources["known"] & masks["known"]
    return {**sources, "known": known, "mask": masks["reference"]}

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
    reference: the source images.
    mask: white, 0.5 or more, where they may change.
    known: whether both exist; NaN without them, or without a pixel to keep.
  """
  images = jnp.asarray(images)
  mask, has_mask = files.resolve(prompts, "changes", mask, known)
  source, known = files.resolve(prompts, "source", reference, known)
  known = jnp.asarray(known) & has_mask
  size = (images.shape[2], images.shape[3])
  fit = lambda x: preprocess.fitted(jnp.asarray(x)[:, 0], size)
  weights = (fit(mask)[..., 0] < 0.5).astype(jnp.float32)[:, None]
  usable = jnp.isfinite(images).all((2, 3, 4))
  safe = jnp.where(usable[..., None, None, None], images, 0.0)
  gap = jnp.abs(safe - fit(source)[:, None]).mean(-1) * weights
  count = weights.sum((2, 3))
  score = 1 - gap.sum((2, 3)) / jnp.maximum(count, 1)
  valid = usable & known & (count > 0)
  return {"background": jnp.where(valid, score, jnp.nan)}


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
  """A pair of towers, source images, and texts of attributes to preserve.

  Args:
    weights: a CLIP or SigLIP pair; see `encoders.load`.
    references: the folder; see `references`. Empty for the prompts' sources.
    attributes: texts such as "a photo in watercolour style".
    image_size: length in pixels of the images' shorter side.
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
    files.images_of(references, "image", image_size),
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
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: both towers.
    params: of both towers.
    attributes: token ids of the attributes' texts.
    reference: the source images.
    known: whether there is one.
  """
  reference, known = files.resolve(prompts, "source", reference, known)
  features, usable = encoders.image_features(encoder, params, images)
  source_features, _ = encoders.image_features(encoder, params, reference)
  attribute_features = encoders.text_features(encoder, params, attributes)
  score = 1 - jnp.abs((features - source_features) @ attribute_features.T).mean(
    -1
  )
  return {"attributes_kept": jnp.where(usable & known, score, jnp.nan)}
