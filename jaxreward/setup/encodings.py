"""Rows of a dataset as a policy learns from them: latents and encoded captions.

Frozen encoders run once per image and caption; with a cache their outputs stay on
disk, and training reads them there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxreward import processes, setup
from jaxreward.data import images as images_lib
from jaxreward.data.dataset_images import Inspection
from jaxreward.data.encoding_cache import EncodingCache, key
from jaxreward.data.rows import Record
from jaxreward.setup import offline, prompt_encoding, videos
from jaxreward.setup.encoder_outputs import (
  entry_of,
  fingerprint,
  hash_of,
  through,
)
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Array, Cond, Params, Policy

Shape = tuple[int, int]
_AT_ONCE = 8  # images that are encoded together; one video


class Encoders:
  """The frozen encoders of a policy; each is loaded when first needed.

  Args:
    config: of the run.
    policy: whose inputs they give.
    mesh: that holds them.
    decoder: parameters of the autoencoder, on the mesh.
  """

  def __init__(
    self,
    config: ConfigDict,
    policy: Policy,
    mesh: Mesh | None = None,
    decoder: Params | None = None,
  ):
    self.config, self.policy, self.mesh = config, policy, mesh
    self.decoder = decoder
    self.frames = offline.frames_of(policy, config)
    self.reads_images = prompt_encoding.reads_pictures(config)
    self.rows_at_once = 1 if self.frames else _AT_ONCE

  @functools.cached_property
  def text(self) -> prompt_encoding.TextEncoder:
    """Texts, and for some encoders images -> leaves [P, ...]."""
    make = prompt_encoding.bind(self.config, self.policy)
    assert make is not None
    return make(self.policy.prompts, self.mesh)

  @functools.cached_property
  def _vision(self) -> prompt_encoding.ImageEncoder | None:
    make = prompt_encoding.bind_vision(self.config, self.policy)
    pictures = self.policy.pictures
    if make is None or pictures is None:
      return None
    return make(pictures["vision"], self.mesh)

  @functools.cached_property
  def run(self) -> Callable[..., Array]:
    """(images [N, H, W, 3] or videos, decoder) -> latents, jitted."""
    out = None if self.mesh is None else mesh_lib.replicated(self.mesh)
    run = offline.encoder(self.config, self.policy)
    return jax.jit(run, out_shardings=out)

  @functools.cached_property
  def _run_first(self) -> Callable[..., Array]:
    """As `run`: first frames [N, H, W, 3] as the policy takes them."""
    if not self.frames:
      return self.run  # one program
    out = None if self.mesh is None else mesh_lib.replicated(self.mesh)
    return jax.jit(
      functools.partial(setup.to_latents, self.policy), out_shardings=out
    )

  def latents(self, pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] or [N, F, H, W, 3] -> latents [N, ...]."""
    return self._in_parts(lambda x: self.run(x, self.decoder), pixels)

  def sources(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [N, H, W, 3] -> what `Policy.encode` takes of images [N, ...]."""
    if self.policy.prompts is None:
      return {"source": pixels.astype(np.float32) / 255}
    inputs = {
      "picture": self._in_parts(
        lambda x: self._run_first(x, self.decoder), pixels
      )
    }
    if (vision := self._vision) is not None:
      inputs["vision"] = self._in_parts(lambda x: vision(np.asarray(x)), pixels)
    return inputs

  def texts(
    self, captions: Sequence[str], pixels: np.ndarray | None = None
  ) -> dict[str, np.ndarray]:
    """Captions, and for some encoders their images -> leaves [N, ...]."""
    images = ()
    if self.reads_images:
      assert pixels is not None
      images = (pixels.astype(np.float32) / 255,)
    return jax.device_get(self.text(list(captions), *images))

  def release(self) -> None:
    """Forgets the text and image encoders, and their memory."""
    for name in ("text", "_vision"):
      self.__dict__.pop(name, None)

  @functools.cached_property
  def blank(self) -> dict[str, np.ndarray]:
    """The empty caption, leaves [1, ...], of encoders of texts alone."""
    return self.texts([""])

  def _in_parts(
    self, run: Callable[..., Any], pixels: np.ndarray
  ) -> np.ndarray:
    """One shape for every call: the last part is padded with zeros."""
    count, size = len(pixels), self.rows_at_once
    fill = np.zeros((-count % size, *pixels.shape[1:]), np.uint8)
    whole = np.concatenate([pixels, fill]).reshape(-1, size, *pixels.shape[1:])
    parts = [
      jax.device_get(run(part.astype(np.float32) / 255)) for part in whole
    ]
    return np.concatenate(parts)[:count]


@dataclasses.dataclass
class Encodings:
  """Rows of a dataset, encoded.

  Attributes:
    config: of the run.
    policy: that learns.
    records: N rows; the first of their files is what is learned.
    inspection: of their files.
    shapes: (height, width) of the batches.
    shape_of: int [N], the shape of each row.
    encoders: of the policy; not used for what the cache has.
    cache: None to encode rows again whenever they are needed.
  """

  config: ConfigDict
  policy: Policy
  records: Sequence[Record]
  inspection: Inspection
  shapes: Sequence[Shape]
  shape_of: np.ndarray
  encoders: Encoders
  cache: EncodingCache | None = None

  def __post_init__(self):
    policy, prompts = self.policy, [r.prompt for r in self.records]
    self._tokens = None
    if policy.prompts is None:
      self._tokens = offline.file_task(self.config).rows(prompts).tokens

  @functools.cached_property
  def _identity(self) -> tuple[str, str, str]:
    """Of the encoders of images, of texts, and of images to look at."""
    config, seed = self.config, self.config.seed
    names = "autoencoder", "text_encoder", "image_encoder"
    first, second, third = (
      fingerprint(config[name], seed, self.policy) for name in names
    )
    return first, second, third

  def _keys(self, row: int) -> dict[str, str]:
    """Names of what a row needs in the cache."""
    shape = self.shapes[self.shape_of[row]]
    coder, text, vision = self._identity
    frames = self.encoders.frames
    source = self.inspection.digest(row, len(self.records[row].files) - 1)
    keys = {
      "latents": key(
        "latents", coder, shape, frames, self.inspection.digest(row)
      )
    }
    if self.policy.takes_source and self.policy.prompts is not None:
      shapes = str(self.policy.pictures)
      keys["source"] = key("source", coder, vision, shape, source, shapes)
    if self.policy.prompts is not None:
      images = (shape, source) if self.encoders.reads_images else ()
      keys["text"] = key("text", text, self.caption(row), *images)
      keys["empty"] = key("text", text, "", *images)
    return keys

  def caption(self, row: int) -> str:
    return self.records[row].prompt.text

  @functools.cached_property
  def empty(self) -> Cond:
    """What captions that are left out become, leaves [1, ...]; None per row."""
    if self._tokens is not None:
      return np.zeros_like(self._tokens[:1])
    if self.encoders.reads_images:
      return None
    if self.cache is None:
      return self.encoders.blank
    row = int(np.flatnonzero(self.shape_of >= 0)[0])
    entry = entry_of(self.cache, self._keys(row)["empty"])
    return jax.tree.map(lambda x: x[None], entry)

  def fill(self) -> None:
    """Encodes what the cache lacks; every process has to call it."""
    cache = self.cache
    if cache is None:
      return
    rows = [i for i in range(len(self.records)) if self.shape_of[i] >= 0]
    keys_of, has = functools.cache(self._keys), cache.has

    def lacking() -> tuple[list[int], dict[str, str]]:
      """Rows, and by its name each caption that is encoded without an image."""
      missing = [i for i in rows if not all(map(has, keys_of(i).values()))]
      captions: dict[str, str] = {}
      if self._has_plain_texts:
        for i in missing:
          keys = keys_of(i)
          captions |= {keys["text"]: self.caption(i), keys["empty"]: ""}
      return missing, {k: v for k, v in captions.items() if not has(k)}

    missing, captions = processes.on_first(lacking)
    if not missing:
      return
    logging.info(
      "encoding %d of %d rows into %s ...",
      len(missing),
      len(rows),
      cache.folder,
    )
    names = list(captions)
    for start in range(0, len(names), _AT_ONCE):
      part = names[start : start + _AT_ONCE]
      texts = self.encoders.texts([captions[name] for name in part])
      for n, name in enumerate(part):
        cache.write(name, jax.tree.map(lambda x, n=n: x[n], texts))
    complete: set[str] = set()
    for number in range(len(self.shapes)):
      group = [i for i in missing if self.shape_of[i] == number]
      for start in range(0, len(group), _AT_ONCE):
        part = group[start : start + _AT_ONCE]
        for row, encoded in zip(part, self._encoded(part), strict=True):
          for name, entry in keys_of(row).items():
            if name in encoded and entry not in complete:
              cache.write(entry, encoded[name])
              complete.add(entry)
    processes.wait_for_all("encodings")

  @property
  def _has_plain_texts(self) -> bool:
    """Whether captions are encoded, and by themselves."""
    return self.policy.prompts is not None and not self.encoders.reads_images

  def _encoded(self, rows: Sequence[int]) -> list[dict[str, Any]]:
    """{"latents", "source", "text", "empty"} of rows of one shape.

    With a cache it has no captions that are encoded without an image.
    """
    encoders, shape = self.encoders, self.shapes[self.shape_of[rows[0]]]
    records = [self.records[i] for i in rows]
    places = [r.place for r in records]
    learned = [next(iter(r.files.values())) for r in records]
    frames = encoders.frames
    pixels = images_lib.read_images(learned, shape, places, frames)
    first = None
    if frames:
      pixels = np.asarray(videos.stacked(pixels, frames))
      first = pixels[:, 0]
    elif self.policy.takes_source:
      files = [[*r.files.values()][-1] for r in records]
      first = images_lib.read_images(files, shape, places)
    arrays: dict[str, Any] = {"latents": {"x": encoders.latents(pixels)}}
    if self.policy.takes_source:
      assert first is not None
      arrays["source"] = encoders.sources(first)
    captions = [r.prompt.text for r in records]
    if encoders.reads_images:
      arrays["text"] = encoders.texts(captions, first)
      arrays["empty"] = encoders.texts([""] * len(rows), first)
    elif self._has_plain_texts and self.cache is None:
      distinct = list(dict.fromkeys(captions))
      place = np.array([distinct.index(caption) for caption in captions])
      texts = encoders.texts(distinct)
      arrays["text"] = jax.tree.map(lambda x: x[place], texts)
    return [jax.tree.map(lambda x, i=i: x[i], arrays) for i in range(len(rows))]

  def batch(self, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Rows of one shape, leaves [B, ...], on the host.

    "x0" are latents, "words" what `Policy.encode` takes and "weight" the rows' own;
    with encoders that read images also "empty", as words. Without a cache every
    process has to ask for the same rows.
    """
    rows = [int(i) for i in rows]
    if self.cache is None:
      entries = self._encoded(rows)
    else:
      names = [self._keys(i) for i in rows]
      entries = [
        {k: entry_of(self.cache, v) for k, v in of.items() if k != "empty"}
        for of in names
      ]
      if self.encoders.reads_images:
        for entry, of in zip(entries, names, strict=True):
          entry["empty"] = entry_of(self.cache, of["empty"])
    stacked: Any = jax.tree.map(lambda *x: np.stack(x), *entries)
    source = stacked.get("source", {})
    if self._tokens is not None and self.policy.takes_source and not source:
      files = [[*self.records[i].files.values()][-1] for i in rows]
      shape = self.shapes[self.shape_of[rows[0]]]
      pixels = np.stack([images_lib.pixels(f, shape) for f in files])
      source = self.encoders.sources(pixels)
    if self._tokens is not None:
      words: Any = self._tokens[rows]
      words = {"tokens": words, **source} if source else words
    else:
      words = stacked["text"] | source
    batch = {
      "x0": stacked["latents"]["x"],
      "words": words,
      "weight": np.array([self.records[i].scores[0] for i in rows], np.float32),
    }
    if self.encoders.reads_images:
      batch["empty"] = stacked["empty"]
    return batch


def latents_of(
  encoders: Encoders, cache: EncodingCache
) -> Callable[[np.ndarray], np.ndarray]:
  """Images -> latents, each image encoded once.

  Images are uint8 [P, G, H, W, 3], videos [P, G, F, H, W, 3], latents
  float32 [P, G, ...]. An entry is named by the pixels and the autoencoder.
  """
  config, policy = encoders.config, encoders.policy
  coder = fingerprint(config.autoencoder, config.seed, policy)

  def run(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(-1, *images.shape[2:])
    names = [key("pixels", coder, hash_of(x)) for x in flat]
    encode = lambda rows: {"x": encoders.latents(flat[rows])}
    latents = through(cache, names, encode)["x"]
    return latents.reshape(*images.shape[:2], *latents.shape[1:])

  return run
