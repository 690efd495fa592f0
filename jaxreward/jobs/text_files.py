"""Files that a config names, looked at before anything is built.

Prompts, pairs, and what rewards are told of prompts: facts, references,
questions and templates. Whoever needs them later reads them again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from jaxreward import paths, rewards
from jaxreward.data import pairs, sources
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, shown
from jaxreward.jobs import setup
from jaxreward.rewards import objects, references
from jaxreward.rewards.remote import questions, templates

DRAWING = {"align", "evaluate", "pretrain", "sample"}
SCORING = {"align", "evaluate"}
SECTIONS = ("rewards", "heldout_rewards")
# Options of the package's own rewards that name entries by prompt.
ENTRIES: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
  "facts": objects.facts_of_file,
  "references": references.rows,
  "questions": questions.read_questions,
}
TEMPLATES = ("templates", "questions_template")


def check(config: ConfigDict) -> None:
  """Reads the text files that the jobs of a config will read.

  Weights are looked for, and not read.

  Raises:
    UserError: what is wrong with one, or a file with entries by prompt that has
      none for any of the prompts.
  """
  jobs = set(config.jobs if config.job == "pipeline" else (config.job,))
  answered = "train_reward" in jobs and config.train_reward.source != "scenes"
  if answered:
    pairs.check(config.train_reward.source, "config.train_reward.source")
  if jobs & DRAWING or ("train_reward" in jobs and not answered):
    _require_prompts(config)
  _require_weights(config, jobs)
  for section in SECTIONS if jobs & SCORING else ():
    for name, entry in config[section].items():
      try:
        _check_entry(config, entry)
      except UserError as error:
        raise UserError(f"config.{section}.{name}: {error}") from error


def _require_weights(config: ConfigDict, jobs: set[str]) -> None:
  """Refuses a checkpoint that is not there, where it is no name of the hub."""
  fields = ["init.checkpoint"] * bool(jobs & {"align", "sample"})
  fields += ["eval.checkpoint"] * ("evaluate" in jobs)
  for field in fields:
    section, name = field.split(".")
    spec = config[section][name]
    if setup.make_policy(config).layout:
      paths.expand(spec, f"config.{field}")
    elif spec and not spec.startswith("workdir:"):
      setup.checkpoint_path(spec, field)


def _is_own(source: str) -> bool:
  return source not in ("scenes", "edits")


def _require_prompts(config: ConfigDict) -> None:
  if _is_own(config.data.source):
    setup.load_prompts(config, None)


def _texts(source: str, free: bool) -> Sequence[str]:
  """The words of all prompts of a source."""
  return [p.text for p in sources.all_prompts(source, free=free)]


def _check_entry(config: ConfigDict, entry: Any) -> None:
  """Reads the files of one reward; of another's function nothing is known."""
  fn = rewards.REGISTRY.get(entry.get("fn"))
  loads = getattr(fn, "loads", None)
  names = inspect.signature(loads).parameters if loads else ()
  given = {name: entry[name] for name in names if entry.get(name)}
  for name in TEMPLATES:
    files = given.get(name, ())
    for file in [files] if isinstance(files, str) else files:
      templates.text_of(file)
  for name, read in ENTRIES.items():
    if name in given:
      label = f"{name}={shown(given[name], 100)}"
      _compare(config, ByPrompt(read(given[name]), label))


def _compare(config: ConfigDict, entries: ByPrompt[Any]) -> None:
  """Says how many prompts have no entry; refuses where none has one."""
  source = config.data.source
  texts = _texts(source, config.data.grammar == "free")
  entries.require_some(texts)
  lacking = [text for text in texts if entries.wording(text) is None]
  if lacking and _is_own(source):
    logging.warning(
      "%s, nor for %d others of %d", entries.lacks(lacking[0]),
      len(lacking) - 1, len(texts),
    )  # fmt: skip
