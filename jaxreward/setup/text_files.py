"""Checks the per-prompt files of rewards before anything is built.

Facts, references, questions and templates. Prompts, pairs, weights and images are
checked by `data_checks`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from jaxreward import setup, tasks
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, shown
from jaxreward.rewards import objects, references
from jaxreward.rewards.remote import questions, templates
from jaxreward.setup import rewards as reward_setup

SCORING = {"align", "evaluate"}
# Options of the package's own rewards that name entries by prompt.
ENTRIES: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
  "facts": objects.facts_of_file,
  "references": references.rows,
  "questions": questions.read_questions,
}
TEMPLATES = ("templates", "questions_template")


def check(config: ConfigDict) -> None:
  """Reads the text files that the rewards of a config will read.

  Raises:
    UserError: a mistake in a file, or a file without an entry for any prompt.
  """
  jobs = set(config.jobs if config.job == "pipeline" else (config.job,))
  if not jobs & SCORING:
    return
  files: list[tuple[str, ByPrompt[Any]]] = []
  for field, entry in reward_setup.sections_of(config):
    try:
      files += [(field, entries) for entries in _entries(entry)]
    except UserError as error:
      raise UserError(f"config.{field}: {error}") from error
  texts = _texts(config) if files else ()
  for field, entries in files:
    try:
      _compare(texts, entries, _is_own(config.data.source))
    except UserError as error:
      raise UserError(f"config.{field}: {error}") from error


def _is_own(source: str) -> bool:
  return source not in tasks.OWN


def _texts(config: ConfigDict) -> Sequence[str]:
  """The texts of all prompts."""
  if _is_own(config.data.source):
    return [prompt.text for prompt in setup.load_prompts(config, None)]
  return [prompt.text for prompt in setup.make_task(config).prompts(None)]


def _entries(entry: Any) -> list[ByPrompt[Any]]:
  """Reads the files of one reward of the package; none for user functions."""
  fn = reward_setup.registry().get(entry.get("fn"))
  loads = getattr(fn, "loads", None)
  names = inspect.signature(loads).parameters if loads else ()
  options = {name: entry[name] for name in names if entry.get(name)}
  for name in TEMPLATES:
    files = options.get(name, ())
    for file in [files] if isinstance(files, str) else files:
      templates.text_of(file)
  return [
    ByPrompt(read_file(options[name]), f"{name}={shown(options[name], 100)}")
    for name, read_file in ENTRIES.items()
    if name in options
  ]


def _compare(
  texts: Sequence[str], entries: ByPrompt[Any], is_own: bool
) -> None:
  """Warns of prompts without an entry; refuses a file without any."""
  entries.require_some(texts)
  missing = [text for text in texts if entries.wording(text) is None]
  if missing and is_own:
    logging.warning(
      "%s, nor for %d others of %d", entries.lacks(missing[0]),
      len(missing) - 1, len(texts),
    )  # fmt: skip
