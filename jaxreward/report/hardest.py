"""The held-out pairs that a reward model gets most wrong, for the page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxreward.files import save_arrays
from jaxreward.report.grids import SMALL, data_uri, enlarge, png, to_uint8
from jaxreward.types import ArrayLike

FILE = "hardest_pairs.npz"  # in the folder grids


def save(
  path: epath.PathLike, images: ArrayLike, texts: Sequence[Mapping[str, Any]]
) -> None:
  """Saves pairs in one .npz.

  Args:
    path: of the file.
    images: uint8 [K, 2, H, W, 3], the preferred one first.
    texts: {prompt, scores: [preferred, other], probability} of each pair.
  """
  images = np.asarray(images)
  if len(images) != len(texts):
    raise ValueError(f"{len(images)} pairs of images and {len(texts)} texts")
  text = json.dumps([dict(t) for t in texts], allow_nan=False)
  save_arrays(path, images=images, texts=np.array(text))


def load(path: epath.PathLike) -> list[dict[str, Any]]:
  """The pairs of a file: their texts with both images as data URIs."""
  content = io.BytesIO(epath.Path(path).read_bytes())
  with np.load(content, allow_pickle=False) as arrays:
    images, texts = arrays["images"], json.loads(str(arrays["texts"][()]))
  scale = 3 if images.shape[2] <= SMALL else 1

  def link(image: np.ndarray) -> str:
    return data_uri(png(enlarge(to_uint8(image[None]), scale)[0]))

  return [
    {
      "prompt": text["prompt"],
      "preferred": link(pair[0]),
      "other": link(pair[1]),
      "scores": [f"{score:.3g}" for score in text["scores"]],
      "probability": f"{100 * text['probability']:.1f} %",
    }
    for pair, text in zip(images, texts, strict=True)
  ]
