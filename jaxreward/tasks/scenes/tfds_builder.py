"""The scenes as a TensorFlow Datasets builder, without TensorFlow.

    builder = make_builder("~/tensorflow_datasets")
    builder.download_and_prepare()
    source = builder.as_data_source("train")
    source[0]  # {"image": uint8 [36, 36, 3], "prompt": bytes, "kind", "seed"}

Needs the extra `tfds`; nothing is downloaded. Preparing and `as_data_source`
work without TensorFlow, because examples are passed as PNG files and stored as
ArrayRecord, which Grain also reads. TensorFlow is needed for `as_dataset` and
`tfds.load` (they make a `tf.data.Dataset`), other file formats, and images
passed as arrays.

An image is a function of its prompt and its `seed`; `images` renders it again.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxreward import paths, rng
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import UserError
from jaxreward.tasks.scenes import grammar, render
from jaxreward.types import PromptBatch

NAME = "jaxreward_scenes"
VERSION = "1.0.0"
_CHUNK = 128


@jax.jit
def _draw(prompts: PromptBatch, seeds):
  keys = rng.sample_keys(rng.stream_key(0, NAME), prompts.ids, seeds)
  return jax.numpy.round(render.render_prompts(keys, prompts) * 255)


def images(
  prompts: Sequence[grammar.Prompt], seeds: Sequence[int]
) -> UInt8[np.ndarray, "B H W 3"]:
  """The image of each prompt and seed, as in the data set."""
  chunks = []
  for start in range(0, len(prompts), _CHUNK):
    batch = grammar.batch(prompts[start : start + _CHUNK], _CHUNK)
    chunk = np.zeros(_CHUNK, np.uint32)
    stop = min(_CHUNK, len(prompts) - start)
    chunk[:stop] = seeds[start : start + stop]
    chunks.append(np.asarray(_draw(batch, chunk), np.uint8)[:stop])
  return np.concatenate(chunks)


def _png(image: np.ndarray) -> io.BytesIO:
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  file.seek(0)
  return file


def _examples(
  split: str, per_prompt: int, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
  prompts = [p for p in grammar.prompts(split) for _ in range(per_prompt)]
  seeds = [seed * per_prompt + i % per_prompt for i, _ in enumerate(prompts)]
  pixels = images(prompts, seeds)
  for prompt, number, image in zip(prompts, seeds, pixels, strict=True):
    yield (
      f"{number}:{prompt.text}",
      {
        "image": _png(image),
        "prompt": prompt.text,
        "kind": grammar.KINDS[prompt.category],
        "seed": number,
      },
    )


def _import_tfds():
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UserError(
      "tensorflow_datasets is not installed; install the extra"
      ' `pip install "jaxreward[tfds]"`'
    ) from error
  return tfds


@functools.cache
def builder_class() -> type:
  """The class of the builder; imports TFDS lazily.

  Raises:
    UserError: TFDS is not installed.
  """
  tfds = _import_tfds()

  class JaxrewardScenes(tfds.core.GeneratorBasedBuilder):
    """Prompts in the six GenEval kinds with pictures that satisfy them."""

    VERSION = tfds.core.Version(VERSION)
    RELEASE_NOTES = {str(VERSION): "The first."}
    # Nothing is downloaded, so there are no checksums beside the code; looking
    # for them needs importlib_resources, which TFDS does not install.
    code_path = None

    def __init__(self, *, per_prompt: int = 4, seed: int = 0, **kwargs):
      self._per_prompt, self._seed = per_prompt, seed
      super().__init__(**kwargs)

    def _info(self):
      shape = (render.SIZE, render.SIZE, 3)
      features = tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=shape, encoding_format="png"),
          "prompt": tfds.features.Text(),
          "kind": tfds.features.ClassLabel(names=list(grammar.KINDS)),
          "seed": tfds.features.Scalar(np.uint32),
        }
      )
      return tfds.core.DatasetInfo(
        builder=self,
        description="Coloured shapes on a light ground, with their prompts.",
        features=features,
        supervised_keys=("prompt", "image"),
      )

    def _split_generators(self, dl_manager):
      del dl_manager
      return {
        split: _examples(split, self._per_prompt, self._seed)
        for split in SPLITS
      }

    def _generate_examples(self):
      raise NotImplementedError("_split_generators gives the examples")

  return JaxrewardScenes


def make_builder(
  data_dir: os.PathLike[str] | str, *, per_prompt: int = 4, seed: int = 0
):
  """A builder with splits train, validation and heldout.

  Args:
    data_dir: the root of TFDS data sets; each choice of the other arguments
      has its own folder below it.
    per_prompt: images of each prompt.
    seed: another seed gives other images.

  Returns:
    A `tfds.core.GeneratorBasedBuilder`.

  Raises:
    UserError: TFDS is not installed, or an argument is out of range.
  """
  if per_prompt < 1 or not 0 <= seed * per_prompt + per_prompt <= 2**32:
    raise UserError(
      f"per_prompt={per_prompt}, seed={seed}: pictures per prompt are at least"
      " 1, and seeds fit 32 bits"
    )
  tfds = _import_tfds()
  config = tfds.core.BuilderConfig(name=f"seed{seed}_x{per_prompt}")
  return builder_class()(
    data_dir=paths.expand(data_dir, "data_dir"),
    config=config,
    file_format="array_record",
    per_prompt=per_prompt,
    seed=seed,
  )
