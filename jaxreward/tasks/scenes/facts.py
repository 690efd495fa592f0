"""The request of a scene prompt, for the reward `objects`."""

from __future__ import annotations

from jaxreward.rewards.objects import Fact
from jaxreward.tasks.scenes import grammar

_OPPOSITE = (0, 2, 1, 4, 3)


def fact_of(text: str) -> Fact:
  """The objects that a prompt of the grammar asks for.

  Returns:
    ([(colour or "", shape, count), ...], relation of the second item to the
    first, whether more objects than the count are an error).
  """
  prompt = grammar.parse(text)
  items = []
  for count, colour, shape in prompt.items:
    word = "" if colour < 0 else grammar.COLOURS[colour]
    items.append((word, grammar.SHAPES[shape], count))
  counting = grammar.KINDS[prompt.category] == "counting"
  return items, _OPPOSITE[prompt.relation], counting
