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
from jaxreward.errors import UserError, shown
from jaxreward.models.vision import preprocess
from jaxreward.setup import text_encoders
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Cond, Embedded, Params, Policy, PromptBatch

# texts, and for some pictures [P, H, W, 3] too -> leaves [P, ...], as NumPy or
# device arrays
TextEncoder = Callable[..., Cond]
# pictures [P, H, W, 3] -> states [P, N, D] on the host
ImageEncoder = Callable[[np.ndarray], np.ndarray]
Encode = Callable[[PromptBatch], PromptBatch]

KEPT = 4 << 30  # bytes of outputs that stay in memory
_Key = tuple[str, bytes]
_AT_ONCE = 8  # pictures that are encoded together


def noise_encoder(shapes: Cond, mesh: Mesh | None = None) -> TextEncoder:
  """Stands in for text encoders: normal numbers that the text alone decides.

  Args:
    shapes: of one prompt, [1, ...]; see `Policy.prompts`. A mask is all true.
    mesh: not used.
  """
  del mesh

  def one(text: str) -> Cond:
    rng = np.random.default_rng(zlib.crc32(text.encode()))

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
      if shape.dtype == bool:
        return np.ones(shape.shape[1:], bool)
      return rng.standard_normal(shape.shape[1:], np.float32)

    return jax.tree.map(draw, shapes)

  return lambda words: jax.tree.map(lambda *x: np.stack(x), *map(one, words))


def noise_vision(
  shape: jax.ShapeDtypeStruct, mesh: Mesh | None = None
) -> ImageEncoder:
  """Stands in for an image encoder: noise that the pixels alone decide."""
  del mesh

  def one(picture: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(picture.tobytes()))
    return rng.standard_normal(shape.shape[1:], np.float32)

  return lambda images: np.stack([one(x) for x in images])


REGISTRY: dict[str, Callable[..., TextEncoder]] = {
  "noise": noise_encoder,
  "sd3": text_encoders.sd3,
  "flux": text_encoders.flux,
  "qwen_image": text_encoders.qwen_image,
  "qwen_image_edit": text_encoders.qwen_image_edit,
  "qwen_image_edit_plus": text_encoders.qwen_image_edit_plus,
  "wan": text_encoders.wan,
}

IMAGE_ENCODERS: dict[str, Callable[..., ImageEncoder]] = {
  "noise": noise_vision,
  "clip": text_encoders.clip_vision,
}


def bind(
  config: ConfigDict, policy: Policy
) -> Callable[..., TextEncoder] | None:
  """The maker of the text encoders; None for a policy that reads word ids.

  Raises:
    UserError: a policy and a config that do not go together.
  """
  name = config.text_encoder.name
  _check_source(config, policy)
  _check_negative(config, policy)
  bind_vision(config, policy)
  if policy.prompts is None:
    if name != "none":
      raise UserError(
        f'config.text_encoder.name="{name}": the policy'
        f' "{config.model.name}" reads words by itself; use "none"'
      )
    if not setup.make_task(config).verdict:
      raise UserError(
        f'config.data.grammar="{config.data.grammar}": the policy'
        f' "{config.model.name}" knows the words of the scenes alone; take one'
        " with a text encoder"
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
  """Whether the text encoders read the picture to edit beside the words."""
  return config.text_encoder.name in text_encoders.READ_PICTURES


def bind_vision(
  config: ConfigDict, policy: Policy
) -> Callable[..., ImageEncoder] | None:
  """The maker of the image encoder; None for a policy that asks for none.

  Raises:
    UserError: a policy and a config that do not go together.
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
  """Refuses data and a policy of which one alone knows pictures."""
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
  """Refuses a negative prompt that cannot be read, or that nothing reads."""
  text = config.data.get("negative_prompt", "")
  if not text:
    return
  field = f'config.data.negative_prompt="{shown(text)}"'
  if policy.prompts is None:
    raise UserError(
      f'{field}: the policy "{config.model.name}" reads words by itself, and of'
      ' no prompt it knows the empty one alone; use ""'
    )
  if text.strip():  # a blank alone is the empty prompt of some encoders
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
) -> Encode:
  """Batch of prompts -> the same with what the policy reads, on the host.

  Args:
    config: of the run.
    policy: the policy.
    mesh: that holds the text encoders.
    decoder: parameters of the autoencoder, for pictures to start from.

  Raises:
    UserError: see `bind`; or outputs of other shapes than the policy takes;
      of the result, prompts without the picture that is to be read.
  """
  made = bind(config, policy)
  if made is None:
    return lambda batch: batch
  encoder, kept = made(policy.prompts, mesh), OrderedDict[_Key, Cond]()
  look = _look(config, policy, mesh) if policy.takes_source else None

  def encoded(words: Sequence[str], sources: np.ndarray | None = None) -> Cond:
    keys = _keys(words, sources)
    rows = {k: i for i, k in reversed([*enumerate(keys)]) if k not in kept}
    fresh = sorted(rows.values())
    if fresh:
      seen = () if sources is None else (sources[fresh],)
      found = jax.device_get(encoder([words[i] for i in fresh], *seen))
      _check(found, policy.prompts, len(fresh), config)
      for n, i in enumerate(fresh):
        kept[keys[i]] = jax.tree.map(lambda x, n=n: x[n], found)
    every = [kept[k] for k in keys]
    for key in keys:
      kept.move_to_end(key)
    size = sum(x.nbytes for x in jax.tree.leaves(every[0]))
    while len(kept) > max(KEPT // size, len(keys)):
      kept.popitem(last=False)
    return jax.tree.map(lambda *x: np.stack(x), *every)

  reads, negative = reads_pictures(config), config.data.negative_prompt
  blank = None
  if reads:
    blank = np.zeros((1, *setup.picture_side(policy), 3), np.float32)
  empty = encoded(
    [negative], blank
  )  # shows whether the outputs fit the policy, too

  def encode(batch: PromptBatch) -> PromptBatch:
    said = texts.decode(np.asarray(batch.text))
    if reads:
      sources = _require_pictures(batch, said, config)
      both = Embedded(
        encoded(said, sources), encoded([negative] * len(said), sources)
      )
    else:
      both = Embedded(encoded(said), empty)
    if look is not None:
      seen = look(decoder, np.asarray(batch.source))
      both = dataclasses.replace(both, prompts=both.prompts | seen)
    return dataclasses.replace(batch, embedded=both)

  return encode


def _keys(words: Sequence[str], sources: np.ndarray | None) -> list[_Key]:
  """What decides an output: a text, and the content of its picture."""
  if sources is None:
    return [(word, b"") for word in words]
  digest = lambda x: hashlib.sha256(repr(x.shape).encode() + x.tobytes())
  return [
    (word, digest(source).digest())
    for word, source in zip(words, sources, strict=True)
  ]


def _require_pictures(
  batch: PromptBatch, said: Sequence[str], config: ConfigDict
) -> np.ndarray:
  """The batch's pictures, of which every prompt has one."""
  sources = None
  bare = list(said[:1])
  if batch.source is not None:
    sources = np.asarray(batch.source, np.float32)
    pairs = zip(said, sources, strict=True)
    bare = [text for text, pixels in pairs if not np.isfinite(pixels).all()]
  if sources is None or bare:
    raise UserError(
      f'config.text_encoder.name="{config.text_encoder.name}": it reads the'
      " picture to edit beside the words, and the prompt"
      f' "{bare[0]}" of config.data.source="{config.data.source}" has none'
    )
  return sources


def _look(config: ConfigDict, policy: Policy, mesh: Mesh | None):
  """(autoencoder, pictures [P, H, W, 3]) -> what `policy.pictures` names.

  A few pictures at a time; the last ones are padded with black.
  """
  size = setup.picture_side(policy)
  whole = None if mesh is None else mesh_lib.replicated(mesh)

  @functools.partial(jax.jit, out_shardings=whole)
  def run(decoder, images):
    if images.shape[1:3] != size:
      images = preprocess.resize(images, size, "lanczos3")
    return policy.to_latents(images, decoder)  # pyrefly: ignore

  vision, made = None, bind_vision(config, policy)
  if made is not None and policy.pictures is not None:
    vision = made(policy.pictures["vision"], mesh)

  def all_of(decoder: Params, images: np.ndarray) -> dict[str, np.ndarray]:
    count = len(images)
    fill = np.zeros((-count % _AT_ONCE, *images.shape[1:]), np.float32)
    rows = np.concatenate([images, fill]).reshape(-1, _AT_ONCE, *fill.shape[1:])
    of_all = lambda fn: np.concatenate([fn(some) for some in rows])[:count]
    found = {"picture": of_all(lambda x: jax.device_get(run(decoder, x)))}
    if vision is not None:
      found["vision"] = of_all(vision)
    return found

  return all_of


def abstract(
  batch: PromptBatch, policy: Policy, *, with_pictures: bool = False
) -> PromptBatch:
  """Shapes of what `make_encode` makes of a batch, nothing encoded.

  Args:
    batch: P prompts.
    policy: the policy.
    with_pictures: see `reads_pictures`.
  """
  if policy.prompts is None:
    return batch
  count = batch.ids.shape[0]
  several = lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype)
  every = policy.prompts | (policy.pictures or {})
  prompts = jax.tree.map(several, every)
  empty = policy.prompts
  if with_pictures:
    empty = jax.tree.map(several, empty)
  both = Embedded(prompts, empty)
  return dataclasses.replace(batch, embedded=both)


def _check(found: Cond, shapes: Cond, count: int, config: ConfigDict) -> None:
  describe = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape[1:])
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  has, wants = describe(found), describe(shapes)
  if has != wants:
    raise UserError(
      f'config.text_encoder.name="{config.text_encoder.name}" gives {has} per'
      f' prompt, and the policy "{config.model.name}" takes {wants}'
    )
  lengths = {x.shape[0] for x in jax.tree.leaves(found)}
  if lengths != {count}:
    raise ValueError(f"{count} texts were encoded into {lengths} rows")
