"""Pictures as requests carry them."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxreward.rewards.remote.store import digest


@dataclasses.dataclass(frozen=True)
class Picture:
  """A PNG and its hash.

  Attributes:
    png: the file.
    digest: of it.
  """

  png: bytes
  digest: str

  @property
  def url(self) -> str:
    """The file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def encode(pixels: Float[np.ndarray, "H W 3"], size: int = 0) -> Picture:
  """A picture in [0, 1] as PNG; values outside are clipped.

  Args:
    pixels: finite.
    size: of the longer side in pixels; as it is if 0.
  """
  levels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
  image = Image.fromarray(levels)
  if size and max(image.size) != size:
    scale = size / max(image.size)
    width, height = (max(1, round(x * scale)) for x in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  return Picture(buffer.getvalue(), digest(buffer.getvalue()))


def encode_all(
  images: Float[np.ndarray, "P G H W 3"], size: int = 0
) -> list[list[Picture | None]]:
  """Every picture of a batch; None for one that is not finite."""
  return [
    [encode(x, size) if np.isfinite(x).all() else None for x in group]
    for group in images
  ]
