"""Questions with exact answers, as the judges ask them.

Questions use the judges' templates, so that training matches their use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreward.rewards.remote import answers, templates
from jaxreward.rewards.remote.rewards import WINNER, YES

IMAGE = "{image}"  # stands for an image in questions
SCALES = ((1, 10), (0, 10), (1, 5), (1, 4))
NUMBERS = tuple(map(str, range(11)))
COUNT = answers.Choice("n", dict.fromkeys(NUMBERS[:5], 0.0)).request(True)
SCORE = answers.Score(1, 10).request(True)
CHOICE, BETTER = YES.request(True), WINNER.request(True)
DESCRIBE = "Describe this image in detail."
_THINK = "Think first, within <think> and </think>."
EMPTY = "empty"  # the kind of questions after a meaningless thought
# Parts of such thoughts; words outside the vocabulary become the unknown token.
_FILLERS = (
  *".,;?!",
  "so",
  "well",
  "let",
  "me",
  "it",
  "is",
  "this",
  "image",
  "how",
)
_OF_TEMPLATES = (
  templates.YES_NO, templates.POINTWISE, templates.PAIRWISE,
  templates.CHECKLIST,
  *(templates.NAMED[name] for name in templates.OWN),
)  # fmt: skip
WORDS = (
  *NUMBERS, *"?.,:;!'\"(){}[]-", "one", "is", "are", "there", "what", "which",
  "how", "many", "colour", "object", "objects", "yes", "no", "first", "second",
  "tie", "image", "in", "this", "an", "it", "system", "user", "assistant",
)  # fmt: skip


class Asked(NamedTuple):
  """A question with its answer.

  Attributes:
    kind: one of the task's `KINDS`.
    question: with `IMAGE` in place of each image.
    begun: beginning of the answer, which is given.
    answer: the rest of the answer, which is learned.
  """

  kind: str
  question: str
  begun: str
  answer: str


@dataclasses.dataclass(frozen=True)
class Batch:
  """Questions about B images.

  Attributes:
    look: content of the images; arrays [B, ...].
    groups: by name, rows of questions; a group's R rows show B / R images each,
      in order.
    prompts: of the images.
    is_right: whether each image satisfies its prompt.
  """

  look: Any
  groups: Mapping[str, list[list[Asked]]]
  prompts: Sequence[Any]
  is_right: Sequence[bool]


def filled(template: str, **fields: str) -> str:
  """A template as one text, with `IMAGE` for its images."""
  images = dict.fromkeys(("image", "source", "first", "second"), IMAGE)
  parts = templates.fill(template, {**images, **fields})
  return "".join(part for part in parts if isinstance(part, str))


def yes(value: bool) -> str:
  """The word for yes or no."""
  return "yes" if value else "no"


def one_of(words: Sequence[str]) -> str:
  """The sentence that asks for one of several words."""
  return answers.Choice("c", dict.fromkeys(words, 0.0)).request(True)


def looked(kind: str, question: str, request: str, answer: str) -> Asked:
  """A question of a checklist."""
  text = filled(templates.CHECKLIST, question=question, answer=request)
  return Asked(kind, text, "", answer)


def whether(kind: str, template: str, value: bool, **fields: str) -> Asked:
  """A question to be answered by yes or no."""
  return Asked(kind, filled(template, answer=CHOICE, **fields), "", yes(value))


def thinking(prompt: str, thought: str, value: bool) -> Asked:
  """Asks, after a thought, whether an image satisfies a prompt."""
  template = templates.default(templates.YES_NO, thinks=True)
  text = filled(template, prompt=prompt, answer=CHOICE)
  return Asked("thought", text, "<think>", f"{thought}</think>{yes(value)}")


def emptied(question: Asked, rng: np.random.Generator) -> Asked:
  """The same question after a meaningless thought: the answer is no.

  One Token to Fool LLM-as-a-Judge, Zhao et al. 2025,
  https://arxiv.org/abs/2507.08794, where answers are cut after their first
  sentence and labelled wrong; here up to four signs or words without content
  replace the thought, whatever the image shows, and half of the questions do
  not ask for a thought.
  """
  words = " ".join(rng.choice(_FILLERS, rng.integers(5)))
  text = question.question
  if rng.integers(2):
    text = text.replace(f"{_THINK} ", "")
  return Asked(EMPTY, text, f"<think>{words}</think>", yes(False))


def scored(
  kind: str, template: str, share: float, low: int, high: int, prompt: str
) -> Asked:
  """A question answered by an integer, `share` of the way to `high`."""
  text = filled(
    template, prompt=prompt, low=str(low), high=str(high), answer=SCORE
  )
  score = round(low + (high - low) * share)
  return Asked(kind, text, '{"score": ', f"{score}}}")


def compared(prompt: str, first: Any, second: Any) -> Asked:
  """Asks which image is better for a prompt: that of the smaller value."""
  text = filled(templates.PAIRWISE, prompt=prompt, answer=BETTER)
  same = first == second
  return Asked(
    "compare", text, "", "tie" if same else "first" if first < second else "second"
  )  # fmt: skip


def phrases(*more: str) -> tuple[str, ...]:
  """Texts that are one token each: those of the templates between their
  placeholders, and those of requests."""
  parts = []
  for template in _OF_TEMPLATES:
    text = template.replace("{answer}", "")
    for name in templates.places(text):
      text = text.replace(f"{{{name}}}", "\n")
    parts += [x.strip() for x in text.split("\n")]
  requests = CHOICE, BETTER, COUNT, SCORE, _THINK, DESCRIBE
  return tuple(x for x in (*parts, *requests, *more, '{"score":') if len(x) > 1)
