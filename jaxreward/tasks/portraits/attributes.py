"""The attributes of a person, their words, and the layers that show them."""

from __future__ import annotations

from typing import NamedTuple

SIDE = 48  # pixels
PEOPLE = 2  # maximum in a picture
NONE = 0  # of EYES, BEARD and PATTERN: absent, and not mentioned

HAIR = ("short", "curly", "long", "bob", "bun", "mohawk")
HAIR_COLOUR = ("black", "brown", "red", "blond", "white")
SKIN = ("light", "tan", "dark")
EYES = ("nothing", "glasses", "sunglasses")
MOUTH = ("smiling", "frowning", "surprised")
BEARD = ("nothing", "beard", "moustache")
PATTERN = ("plain", "checked")
SHIRT = ("red", "yellow", "green", "blue", "purple", "black")
BACKGROUND = ("white", "blue", "green", "pink")

# In the order of an attribute row. The background belongs to the picture and is
# stored in the row of the first person.
VALUES: dict[str, tuple[str, ...]] = {
  "hair": HAIR,
  "hair colour": HAIR_COLOUR,
  "skin": SKIN,
  "eyes": EYES,
  "mouth": MOUTH,
  "beard": BEARD,
  "pattern": PATTERN,
  "shirt": SHIRT,
  "background": BACKGROUND,
}
NAMES = tuple(VALUES)
COUNTS = tuple(len(values) for values in VALUES.values())
A = len(NAMES)
(
  HAIR_AT, COLOUR_AT, SKIN_AT, EYES_AT, MOUTH_AT, BEARD_AT, PATTERN_AT,
  SHIRT_AT, BACKGROUND_AT,
) = range(A)  # fmt: skip
# Attributes of identity: constant under other clothes and expressions.
IDENTITY = (HAIR_AT, COLOUR_AT, SKIN_AT, BEARD_AT)
OF_PERSON = tuple(range(BACKGROUND_AT))

HAIR_RGB = ("#2b2433", "#7a4a2e", "#d9502b", "#ecc25a", "#e6e8f2")
SKIN_RGB = ("#f2c0ae", "#c98a5e", "#7a4632")
SHIRT_RGB = ("#e24553", "#f3b63a", "#4fae58", "#456dff", "#7d55ca", "#3a3d48")
BACKGROUND_RGB = ("#f5f5f5", "#bcd9f5", "#c9ebc4", "#f7cfdf")


class Layer(NamedTuple):
  """A layer of the picture and the attributes that select its variant.

  Attributes:
    name: of the drawing's component.
    of: attributes; the variant is their row-major index.
  """

  name: str
  of: tuple[int, ...]

  @property
  def size(self) -> int:
    """Number of variants."""
    total = 1
    for at in self.of:
      total *= COUNTS[at]
    return total


# From back to front; the beard has the colour of the hair.
LAYERS = (
  Layer("skin", (SKIN_AT,)),
  Layer("eyes", (EYES_AT,)),
  Layer("hair", (HAIR_AT, COLOUR_AT)),
  Layer("clothes", (PATTERN_AT, SHIRT_AT)),
  Layer("mouth", (MOUTH_AT,)),
  Layer("beard", (BEARD_AT, COLOUR_AT)),
)
