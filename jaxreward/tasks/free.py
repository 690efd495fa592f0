"""Free-form prompts, which have no judge."""

from __future__ import annotations

import dataclasses

from jaxreward.data.prompts import Prompt
from jaxreward.tasks.contract import NOTHING, Task, out_of_range

CATEGORY = 6  # part of random streams


def parse(text: str) -> Prompt:
  """A prompt in any words, white space normalized."""
  return Prompt(" ".join(text.split()), CATEGORY)


def reword(prompt: Prompt) -> Prompt:
  """The same words within a phrase that adds no meaning."""
  return dataclasses.replace(prompt, text=f"an image of {prompt.text}")


TASK = Task("free", {CATEGORY: "free"}, parse, is_weighted=False, reword=reword)


def of(task: Task) -> Task:
  """The prompts of another task without its judge: for images of any size."""
  return dataclasses.replace(
    task, name=TASK.name, measure=out_of_range, verdict=(), side=None, frames=0,
    describe=None, rewards=NOTHING, judge="", is_weighted=False,
    render=None, pretraining=None, preferences=None, reword=None,
  )  # fmt: skip
