"""Draws the atlas of layers with the extra `portraits`; runs once, not in a job.

The drawings are "Personas by Draftbit" (https://personas.draftbit.com), licensed
under CC BY 4.0, in the version of DiceBear. Each variant of each component is
rendered alone; `render` composes them.

  python -c "from jaxreward.tasks.portraits import draw; draw.write()"
"""

from __future__ import annotations

import copy
import importlib.resources
import io
import itertools
import json

import numpy as np
from etils import epath
from PIL import Image

from jaxreward.errors import UserError
from jaxreward.tasks.portraits import atlas
from jaxreward.tasks.portraits import attributes as at

STYLE = "personas"
# Our words -> the drawing's names.
_VARIANTS = {
  "hair": (
    "shortCombover", "curly", "extraLong", "bobBangs", "straightBun", "mohawk",
  ),
  "eyes": ("open", "glasses", "sunglasses"),
  "mouth": ("smile", "frown", "surprise"),
  "facialHair": ("", "goatee", "pyramid"),
  "clothes": ("rounded", "checkered"),
}  # fmt: skip


def _library():
  try:
    import dicebear
    import dicebear_styles  # noqa: F401
    import resvg_py
  except ImportError as error:
    raise UserError(
      "drawing portraits needs the packages of an extra: pip install"
      f' "jaxreward[portraits]" ({error})'
    ) from error
  return dicebear, resvg_py


def _definition() -> dict:
  folder = importlib.resources.files("dicebear_styles")
  text = (folder / f"{STYLE}.json").read_text(encoding="utf-8")
  return json.loads(text)


def _only(definition: dict, *components: str) -> dict:
  """The style with some components alone; "" is the body itself."""
  style = copy.deepcopy(definition)
  elements = style["canvas"]["elements"]
  style["canvas"]["elements"] = [
    e for e in elements
    if (e["name"] if e["type"] == "component" else "") in components
  ]  # fmt: skip
  return style


def layers(side: int = at.SIDE) -> np.ndarray:
  """uint8 [V, side, side, 4], all variants in the order of `LAYERS`.

  Colours are not multiplied by alpha.

  Raises:
    UserError: the extra is not installed.
  """
  dicebear, resvg = _library()
  definition = _definition()

  def style(*components: str):
    return dicebear.Style(_only(definition, *components))

  def picture(of, **options) -> np.ndarray:
    values = {k: [v] for k, v in options.items()}
    drawing = dicebear.Avatar(
      of, {"seed": "", "facialHairProbability": 100, **values}
    )
    png = resvg.svg_to_bytes(
      svg_string=drawing.to_string(), width=side, height=side
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))

  face, eyes, hair, clothes, mouth, beard = (
    style(*names)
    for names in (
      ("", "nose"), ("eyes",), ("hair",), ("clothes",), ("mouth",),
      ("facialHair",),
    )
  )  # fmt: skip
  empty = np.zeros((side, side, 4), np.uint8)
  rows = [picture(face, skinColor=c, noseVariant="smallRound")
          for c in at.SKIN_RGB]  # fmt: skip
  rows += [picture(eyes, eyesVariant=v) for v in _VARIANTS["eyes"]]
  rows += [
    picture(hair, hairVariant=v, hairColor=c)
    for v, c in itertools.product(_VARIANTS["hair"], at.HAIR_RGB)
  ]
  rows += [
    picture(clothes, clothesVariant=v, clothingColor=c)
    for v, c in itertools.product(_VARIANTS["clothes"], at.SHIRT_RGB)
  ]
  rows += [picture(mouth, mouthVariant=v) for v in _VARIANTS["mouth"]]
  rows += [
    picture(beard, facialHairVariant=v, facialHairColor=c) if v else empty
    for v, c in itertools.product(_VARIANTS["facialHair"], at.HAIR_RGB)
  ]
  return np.stack(rows)


def write(path: str = "") -> None:
  """Writes the atlas that the task reads.

  Raises:
    UserError: the extra is not installed.
  """
  atlas.save(epath.Path(path) if path else atlas.PATH, layers())
