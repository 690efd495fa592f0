"""Encodes prompts for the policy: word ids, or outputs of text encoders.

A policy without text encoders of its own uses those of `config.text_encoder`.
They are frozen, so the encoding of a text is cached; for encoders that also read
the source image (`text_encoders.READ_PICTURES`), of a text and its image. A
source image is also encoded by the policy's autoencoder (the mean of its latents)
and, for policies that need it, by the vision tower of `config.image_encoder`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import setup, tasks
from jaxreward.data import texts, wordings
from jaxreward.data.encoding_cache import EncodingCache, key
from jaxreward.errors import UserError, shown
from jaxreward.models.vision import preprocess
from jaxreward.setup import row_scores, text_encoders
from jaxreward.setup.encoder_outputs import fingerprint, hash_of, through
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Cond, Params, Policy, PromptBatch, PromptEmbeddings

# texts, and for some source images [P, H, W, 3] -> leaves [P, ...], as NumPy or
# device arrays
TextEncoder = Callable[..., Cond]
# images [P, H, W, 3] -> states [P, N, D] on the host
ImageEncoder = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[PromptBatch], PromptBatch]

KEPT = 4 << 30  # bytes of cached outputs
_Key = tuple[str, bytes]
_AT_ONCE = 8  # images that are encoded together


def noise_encoder(shapes: Cond, mesh: Mesh | None = None) -> TextEncoder:
  """Placeholder text encoder: normal numbers seeded by the text.

  Args:
    shapes: of one prompt, [1, ...]; see `Policy.prompts`. A mask is all true.
    mesh: not used.
  """
  del mesh

  def encode_one(text: str) -> Cond:
    rng = np.random.default_rng(zlib.crc32(text.encode()))

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
      if shape.dtype == bool:
        return np.ones(shape.shape[1:], bool)
      return rng.standard_normal(shape.shape[1:], np.float32)

    return jax.tree.map(draw, shapes)

  return lambda texts: jax.tree.map(
    lambda *x: np.stack(x), *map(encode_one, texts)
  )


def noise_vision(
  shape: jax.ShapeDtypeStruct, mesh: Mesh | None = None
) -> ImageEncoder:
  """Placeholder image encoder: normal numbers seeded by the pixels."""
  del mesh

  def encode_one(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    return rng.standard_normal(shape.shape[1:], np.float32)

  return lambda images: np.stack([encode_one(x) for x in images])


REGISTRY: dict[str, Callable[..., TextEncoder]] = {
  "noise": noise_encoder,
  "sd3": text_encoders.sd3,
  "flux": text_encoders.flux,
  "flux2_klein": text_encoders.flux2_klein,
  "qwen_image": text_encoders.qwen_image,
  "qwen_image_edit": text_encoders.qwen_image_edit,
  "qwen_image_edit_plus": text_encoders.qwen_image_edit_plus,
  "wan": text_encoders.wan,
  "z_image": text_encoders.z_image,
}

IMAGE_ENCODERS: dict[str, Callable[..., ImageEncoder]] = {
  "noise": noise_vision,
  "clip": text_encoders.clip_vision,
}


def bind(
  config: ConfigDict, policy: Policy
) -> Callable[..., TextEncoder] | None:
  """The constructor of the text encoders; None for a policy that reads word ids.

  Raises:
    UserError: a policy and a config that do not match.
  """
  name = config.text_encoder.name
  _check_source(config, policy)
  _check_negative(config, policy)
  bind_vision(config, policy)
  if policy.prompts is None:
    if name != "none":
      raise UserError(
        f'config.text_encoder.name="{name}": the policy'
        f' "{config.model.name}" has its own text embeddings; use "none"'
      )
    if not setup.make_task(config).verdict:
      raise UserError(
        f'config.data.grammar="{config.data.grammar}": the policy'
        f' "{config.model.name}" knows only the words of the scenes; take one'
        " with a text encoder"
      )
    language = setup.make_task(config).language
    if language and policy.language and language != policy.language:
      raise UserError(
        f'config.model.language="{policy.language}": the prompts are in the words'
        f' of the {language}; set it to "{language}"'
      )
    return None
  if name == "none":
    raise UserError(
      f'config.text_encoder.name="none": the policy "{config.model.name}" takes'
      f" outputs of text encoders; known: {', '.join(REGISTRY)}"
    )
  if reads_pictures(config) and not policy.takes_source:
    raise UserError(
      f'config.text_encoder.name="{name}": it reads the picture to edit beside'
      f' the words, and the policy "{config.model.name}" takes none; set'
      " config.model.takes_source=True, or take another text encoder"
    )
  return config_lib.bind(
    config.text_encoder, REGISTRY, field="text_encoder", positional=2
  )


def reads_pictures(config: ConfigDict) -> bool:
  """Whether the text encoders also read the source image."""
  return config.text_encoder.name in text_encoders.READ_PICTURES


def bind_vision(
  config: ConfigDict, policy: Policy
) -> Callable[..., ImageEncoder] | None:
  """The constructor of the image encoder; None for a policy without one.

  Raises:
    UserError: a policy and a config that do not match.
  """
  name = config.image_encoder.name
  field = f'config.image_encoder.name="{name}": the policy'
  if "vision" not in (policy.pictures or {}):
    if name != "none":
      raise UserError(
        f'{field} "{config.model.name}" of this size reads no states of an'
        ' image encoder; use "none"'
      )
    return None
  if name == "none":
    raise UserError(
      f'{field} "{config.model.name}" of this size reads states of one; known:'
      f" {', '.join(IMAGE_ENCODERS)}"
    )
  return config_lib.bind(
    config.image_encoder, IMAGE_ENCODERS, field="image_encoder", positional=2
  )


def _check_source(config: ConfigDict, policy: Policy) -> None:
  """Refuses data with source images for a policy without, or the reverse."""
  task = setup.make_task(config)
  size = setup.picture_side(policy) if task.side else (0, 0)
  if task.side and size != (task.side, task.side):
    raise UserError(
      f'config.data.grammar="{task.name}": it judges pictures of {task.side}'
      f" pixels a side, and the policy draws {size[0]} x {size[1]}; set it to"
      ' "free"'
    )
  if task.has_pictures and not policy.takes_source:
    raise UserError(
      f'config.data.source="{config.data.source}": the policy'
      f' "{config.model.name}" takes no picture; set'
      " config.model.takes_source=True if it can"
    )
  if policy.takes_source and policy.prompts and policy.to_latents is None:
    raise UserError(
      'config.autoencoder.name="none": the policy takes a picture to edit, which'
      " an autoencoder has to encode"
    )
  if policy.takes_source and task.has_pictures is False:
    others = [n for n in tasks.OWN if tasks.TASKS[n].has_pictures]
    raise UserError(
      f'config.data.source="{config.data.source}": the policy'
      f' "{config.model.name}" takes a picture to edit; take'
      f' "{others[0]}", or a .jsonl file that names pictures'
    )


def _check_negative(config: ConfigDict, policy: Policy) -> None:
  """Refuses a negative prompt that is invalid or unused."""
  text = config.data.get("negative_prompt", "")
  if not text:
    return
  field = f'config.data.negative_prompt="{shown(text)}"'
  if policy.prompts is None:
    raise UserError(
      f'{field}: the policy "{config.model.name}" has its own text'
      ' embeddings, and its only negative prompt is the empty one; use ""'
    )
  if text.strip():  # a single blank is the empty prompt of some encoders
    wordings.check_prompt(text, field)
  scales = (
    config.rollout.guidance_scale,
    config.sample.guidance_scale,
    *config.eval.guidance_scales,
  )
  if all(scale == 1 for scale in scales):
    raise UserError(
      f"{field}: no guidance reads it; set config.rollout.guidance_scale,"
      " config.eval.guidance_scales or config.sample.guidance_scale, or leave it"
      " out"
    )


def make_encode(
  config: ConfigDict,
  policy: Policy,
  mesh: Mesh | None = None,
  decoder: Params | None = None,
  encoder: Callable[[], TextEncoder] | None = None,
  cache: EncodingCache | None = None,
) -> Encode:
  """Batch of prompts -> the batch with encoded prompts, on the host.

  Args:
    config: of the run.
    policy: the policy.
    mesh: that holds the text encoders.
    decoder: parameters of the autoencoder, for source images.
    encoder: gives the text encoder; a new one if None.
    cache: of outputs on disk; encoders are loaded for what it lacks.

  Raises:
    UserError: see `bind`; or outputs that do not have the policy's shapes; the
      result raises it for prompts without the source image they need.
  """
  encode = _make_encode(config, policy, mesh, decoder, encoder, cache)
  return lambda batch: encode(row_scores.asking(config, batch))


def _make_encode(
  config: ConfigDict,
  policy: Policy,
  mesh: Mesh | None,
  decoder: Params | None,
  given: Callable[[], TextEncoder] | None,
  disk: EncodingCache | None,
) -> Encode:
  make_encoder, cache = bind(config, policy), OrderedDict[_Key, Cond]()
  if make_encoder is None:
    return lambda batch: batch
  make = given or (lambda: make_encoder(policy.prompts, mesh))
  encoder = make() if disk is None else _kept_texts(make, config, policy, disk)
  encode_images = None
  if policy.takes_source:
    encode_images = _image_encoder(config, policy, mesh)
    if disk is not None:
      encode_images = _kept_images(encode_images, config, policy, disk)

  def encode_texts(
    prompts: Sequence[str], sources: np.ndarray | None = None
  ) -> Cond:
    keys = _keys(prompts, sources)
    rows = {k: i for i, k in reversed([*enumerate(keys)]) if k not in cache}
    fresh = sorted(rows.values())
    if fresh:
      images = () if sources is None else (sources[fresh],)
      outputs = jax.device_get(encoder([prompts[i] for i in fresh], *images))
      _check(outputs, policy.prompts, len(fresh), config)
      for n, i in enumerate(fresh):
        cache[keys[i]] = jax.tree.map(lambda x, n=n: x[n], outputs)
    entries = [cache[k] for k in keys]
    for k in keys:
      cache.move_to_end(k)
    size = sum(x.nbytes for x in jax.tree.leaves(entries[0]))
    while len(cache) > max(KEPT // size, len(keys)):
      cache.popitem(last=False)
    return jax.tree.map(lambda *x: np.stack(x), *entries)

  reads_images, negative = reads_pictures(config), config.data.negative_prompt
  blank = None
  if reads_images:
    blank = np.zeros((1, *setup.picture_side(policy), 3), np.float32)
  # Also checks that the outputs fit the policy.
  empty = encode_texts([negative], blank)

  def encode(batch: PromptBatch) -> PromptBatch:
    prompts = texts.decode(np.asarray(batch.text))
    if reads_images:
      sources = _require_sources(batch, prompts, config)
      embedded = PromptEmbeddings(
        encode_texts(prompts, sources),
        encode_texts([negative] * len(prompts), sources),
      )
    else:
      embedded = PromptEmbeddings(encode_texts(prompts), empty)
    if encode_images is not None:
      image_inputs = encode_images(decoder, np.asarray(batch.source))
      embedded = dataclasses.replace(
        embedded, prompts=embedded.prompts | image_inputs
      )
    return dataclasses.replace(batch, embedded=embedded)

  return encode


def _kept_texts(
  make: Callable[[], TextEncoder],
  config: ConfigDict,
  policy: Policy,
  cache: EncodingCache,
) -> TextEncoder:
  """A text encoder that is loaded for what the cache lacks."""
  encoder = functools.cache(make)
  identity = fingerprint(config.text_encoder, config.seed, policy)

  def run(prompts: Sequence[str], *images: np.ndarray) -> Cond:
    rows = zip(prompts, *images, strict=True)
    names = [key("text", identity, text, *map(hash_of, x)) for text, *x in rows]
    encode = lambda part: encoder()(
      [prompts[i] for i in part], *(x[part] for x in images)
    )
    return through(cache, names, encode)

  return run


def _kept_images(
  run: Callable[..., dict[str, np.ndarray]],
  config: ConfigDict,
  policy: Policy,
  cache: EncodingCache,
) -> Callable[..., dict[str, np.ndarray]]:
  """An encoder of source images that is asked for what the cache lacks."""
  identity = [
    fingerprint(config[name], config.seed, policy)
    for name in ("autoencoder", "image_encoder")
  ]
  shapes = str(policy.pictures)

  def encode(decoder: Params, images: np.ndarray) -> dict[str, np.ndarray]:
    names = [key("inputs", *identity, shapes, hash_of(x)) for x in images]
    return through(cache, names, lambda part: run(decoder, images[part]))

  return encode


def _keys(prompts: Sequence[str], sources: np.ndarray | None) -> list[_Key]:
  """Cache keys: a prompt, and the digest of its source image."""
  if sources is None:
    return [(prompt, b"") for prompt in prompts]
  digest = lambda x: hashlib.sha256(repr(x.shape).encode() + x.tobytes())
  return [
    (prompt, digest(source).digest())
    for prompt, source in zip(prompts, sources, strict=True)
  ]


def _require_sources(
  batch: PromptBatch, prompts: Sequence[str], config: ConfigDict
) -> np.ndarray:
  """The source images of a batch; refuses prompts without one."""
  sources = None
  lacking = list(prompts[:1])
  if batch.source is not None:
    sources = np.asarray(batch.source, np.float32)
    pairs = zip(prompts, sources, strict=True)
    lacking = [text for text, pixels in pairs if not np.isfinite(pixels).all()]
  if sources is None or lacking:
    raise UserError(
      f'config.text_encoder.name="{config.text_encoder.name}": it reads the'
      " picture to edit beside the words, and the prompt"
      f' "{lacking[0]}" of config.data.source="{config.data.source}" has none'
    )
  return sources


def _image_encoder(config: ConfigDict, policy: Policy, mesh: Mesh | None):
  """(autoencoder, images [P, H, W, 3]) -> the inputs in `policy.pictures`.

  A few images at a time; the last batch is padded with zeros.
  """
  size = setup.picture_side(policy)
  replicated = None if mesh is None else mesh_lib.replicated(mesh)

  @functools.partial(jax.jit, out_shardings=replicated)
  def run(decoder, images):
    if images.shape[1:3] != size:
      images = preprocess.resize(images, size, "lanczos3")
    return policy.to_latents(images, decoder)  # pyrefly: ignore

  vision, make_vision = None, bind_vision(config, policy)
  if make_vision is not None and policy.pictures is not None:
    vision = make_vision(policy.pictures["vision"], mesh)

  def encode(decoder: Params, images: np.ndarray) -> dict[str, np.ndarray]:
    count = len(images)
    fill = np.zeros((-count % _AT_ONCE, *images.shape[1:]), np.float32)
    rows = np.concatenate([images, fill]).reshape(-1, _AT_ONCE, *fill.shape[1:])
    in_parts = lambda fn: np.concatenate([fn(part) for part in rows])[:count]
    inputs = {"picture": in_parts(lambda x: jax.device_get(run(decoder, x)))}
    if vision is not None:
      inputs["vision"] = in_parts(vision)
    return inputs

  return encode


def abstract(
  batch: PromptBatch, policy: Policy, *, with_pictures: bool = False
) -> PromptBatch:
  """Shapes of a batch after `make_encode`; nothing is encoded.

  Args:
    batch: P prompts.
    policy: the policy.
    with_pictures: see `reads_pictures`.
  """
  if policy.prompts is None:
    return batch
  count = batch.ids.shape[0]
  batched = lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
  inputs = policy.prompts | (policy.pictures or {})
  prompts = jax.tree.map(batched, inputs)
  empty = policy.prompts
  if with_pictures:
    empty = jax.tree.map(batched, empty)
  embedded = PromptEmbeddings(prompts, empty)
  return dataclasses.replace(batch, embedded=embedded)


def _check(outputs: Cond, shapes: Cond, count: int, config: ConfigDict) -> None:
  describe = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape[1:])
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  shapes_given, shapes_taken = describe(outputs), describe(shapes)
  if shapes_given != shapes_taken:
    raise UserError(
      f'config.text_encoder.name="{config.text_encoder.name}" gives {shapes_given} per'
      f' prompt, and the policy "{config.model.name}" takes {shapes_taken}'
    )
  lengths = {x.shape[0] for x in jax.tree.leaves(outputs)}
  if lengths != {count}:
    raise ValueError(f"{count} texts were encoded into {lengths} rows")
