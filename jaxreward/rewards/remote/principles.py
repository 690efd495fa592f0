"""What a judge is told to judge by: principles, or a rubric.

RewardAnything (Yu et al. 2025, https://arxiv.org/abs/2506.03637) takes a
principle in words with each prompt; OpenRubrics (Liu et al. 2025,
https://arxiv.org/abs/2510.07743) a rubric of rules that was written for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, shown

NAME = "principle"
_LINE = '{"prompt": "a red circle", "principle": "Colours matter most."}'


class Principles:
  """Texts for the placeholder {principle}.

  Args:
    principle: for all prompts; none if empty.
    file: a .jsonl file with lines of "prompt" and "principle"; these come after
      that for all.

  Raises:
    UserError: an invalid line.
  """

  def __init__(self, principle: str, file: str):
    self._every, self._by_prompt = principle.strip(), None
    if file:
      self._by_prompt = ByPrompt(_read(file), f"principles={shown(file, 100)}")

  @property
  def needed(self) -> tuple[str, ...]:
    """The placeholder, if there is something to put there."""
    return (NAME,) if self._every or self._by_prompt else ()

  def of(self, text: str) -> Mapping[str, str]:
    """What a prompt is judged by; a prompt without a line by that for all."""
    if not self.needed:
      return {}
    parts = [self._every]
    if self._by_prompt:
      parts.append(self._by_prompt.get(text, ""))
    return {NAME: "\n".join(part for part in parts if part)}


def _read(file: str) -> dict[str, str]:
  entries: dict[str, str] = {}
  for where, row in reading.rows(paths.find(file, "principles"), _LINE):
    prompt, text = (
      wordings.check_prompt(row.get(name), where, f'"{name}"')
      for name in ("prompt", NAME)
    )
    wordings.put(entries, " ".join(prompt.split()), text.strip(), where)
  if not entries:
    raise UserError(
      f"principles={shown(file, 100)}: no line; one reads like {_LINE}"
    )
  return entries
