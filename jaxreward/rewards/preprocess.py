"""From pictures in [0, 1] to what a tower was trained on, inside jit.

Towers were trained on pictures of eight bits that Pillow had resized, so
values are rounded to eight bits where Pillow rounds them; the gradient passes
through the rounding as if it were not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import hub
from jaxreward.types import Array, ArrayLike

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_METHODS = {2: "linear", 3: "cubic"}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """How pictures become the input of a tower.

  Attributes:
    size: height and width of the result.
    edge: length the shorter side is resized to before the middle is cut out;
      0 resizes both sides to `size` and cuts nothing.
    method: "cubic" or "linear", antialiased as Pillow does it.
    mean: per channel, taken off.
    std: per channel, divided by.
  """

  size: tuple[int, int]
  edge: int = 0
  method: str = "cubic"
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD

  def __call__(
    self, images: Float[ArrayLike, "B H W 3"]
  ) -> Float[Array, "B h w 3"]:
    """Resized, cut and normalised pictures."""
    x = rounded(images)
    if self.edge:
      x = resize(x, _shorter_to(self.edge, *x.shape[1:3]), self.method)
      x = _middle(x, self.size)
    else:
      x = resize(x, self.size, self.method)
    return (x - jnp.asarray(self.mean)) / jnp.asarray(self.std)


def of_record(
  record: Mapping[str, Any],
  default: Preprocess,
  of: str = "preprocessor_config.json",
) -> Preprocess:
  """What a `preprocessor_config.json` says; `default` where it is silent.

  Args:
    record: the file.
    default: for what it leaves out.
    of: where it lies, for errors.

  Raises:
    UserError: a size, method, mean or deviation of another form.
  """
  cut = bool(record.get("do_center_crop", default.edge > 0))
  record = {name: x for name, x in record.items() if x is not None}
  size = record.get("size") or {}
  edge, final = 0, default.size
  if cut:
    edge = size.get("shortest_edge") if isinstance(size, dict) else size
    edge = default.edge if edge is None else edge
    if type(edge) is not int or edge < 0:
      expected = 'pixels or {"shortest_edge": pixels}'
      raise hub.misfit(of, "size", size, expected)
    if "crop_size" in record:
      final = _pair(record, "crop_size", of)
  elif not isinstance(size, dict) or "height" in size:
    final = _pair(record, "size", of)
  method = record.get("resample", 0)
  if type(method) is not int:
    raise hub.misfit(of, "resample", method, "a number of Pillow's methods")
  return Preprocess(
    final,
    edge,
    _METHODS.get(method, default.method),
    _channels(record, "image_mean", default.mean, of),
    _channels(record, "image_std", default.std, of),
  )


def _pair(record: Mapping[str, Any], name: str, of: str) -> tuple[int, int]:
  value = record[name]
  found = value if isinstance(value, dict) else dict(height=value, width=value)
  height, width = (found.get(side) for side in ("height", "width"))
  if isinstance(height, int) and isinstance(width, int):
    if min(height, width) > 0:
      return height, width
  expected = 'pixels or {"height": pixels, "width": pixels}'
  raise hub.misfit(of, name, value, expected)


def _channels(
  record: Mapping[str, Any], name: str, default: tuple[float, ...], of: str
) -> tuple[float, ...]:
  value = record.get(name, default)
  is_list = isinstance(value, list | tuple) and len(value) == 3
  if not is_list or not all(type(x) in (int, float) for x in value):
    raise hub.misfit(of, name, value, "three numbers")
  return tuple(value)


def read(weights: str, default: Preprocess) -> Preprocess:
  """What lies beside the weights as `preprocessor_config.json`, or default.

  Raises:
    UserError: it makes pictures of another size than the default's; see
      `of_record`.
  """
  record = hub.read_config(weights, "preprocessor_config.json")
  found = of_record(record, default, f"{weights}: preprocessor_config.json")
  if found.size != default.size:
    raise UserError(
      f"{weights}: preprocessor_config.json makes pictures of {found.size}, the"
      f" tower takes {default.size}"
    )
  return found


def rounded(x: Float[ArrayLike, "*N"]) -> Float[Array, "*N"]:
  """The nearest of 256 levels in [0, 1]; the gradient is that of a clip."""
  x = jnp.clip(jnp.asarray(x, jnp.float32), 0.0, 1.0)
  return x + jax.lax.stop_gradient(jnp.floor(x * 255 + 0.5) / 255 - x)


def resize(
  x: Float[Array, "B H W C"], size: tuple[int, int], method: str = "cubic"
) -> Float[Array, "B h w C"]:
  """Resizes as Pillow does: columns, then rows, rounded after each."""
  b, h, w, c = x.shape
  if w != size[1]:
    x = rounded(jax.image.resize(x, (b, h, size[1], c), method))
  if h != size[0]:
    x = rounded(jax.image.resize(x, (b, size[0], size[1], c), method))
  return x


def _shorter_to(edge: int, height: int, width: int) -> tuple[int, int]:
  """The size whose shorter side is `edge`, the other rounded down."""
  if height <= width:
    return edge, int(edge * width / height)
  return int(edge * height / width), edge


def _middle(x: Array, size: tuple[int, int]) -> Array:
  top, left = (x.shape[1] - size[0]) // 2, (x.shape[2] - size[1]) // 2
  if top < 0 or left < 0:
    raise UserError(
      f"a middle of {size[0]} x {size[1]} pixels cannot be cut from"
      f" {x.shape[1]} x {x.shape[2]}; the tower's preprocessing is inconsistent"
    )
  return x[:, top : top + size[0], left : left + size[1]]
