"""What the files that a config names hold, looked at before anything is built.

Each job says which rows of pictures it will read; texts are read on the way to
them. Networks, programs and weights come later: a picture that is damaged ends
a run in its first seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import rewards
from jaxreward.data import pictures
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.scenes import grammar
from jaxreward.errors import UserError, shown
from jaxreward.jobs import rewards as reward_setup
from jaxreward.jobs import setup
from jaxreward.rewards import objects, references
from jaxreward.rewards.remote import questions

# Options of rewards that name a file, and what reads it.
READERS: dict[str, Callable[[str], Any]] = {
  "facts": objects.facts_of_file,
  "questions": questions.read_questions,
}


def of_prompts(config: ConfigDict, *splits: str | None) -> list[PictureRow]:
  """Pictures of the prompts of some splits; None for all of a file's.

  Raises:
    UserError: see `setup.load_prompts`; or there is no weights file.
  """
  prompts = [p for split in splits for p in setup.load_prompts(config, split)]
  return pictures.rows_of(prompts)


def of_rewards(
  config: ConfigDict, workdir: epath.Path, split: str
) -> list[PictureRow]:
  """Reference pictures of all rewards; other files that they name are read.

  Args:
    config: of the run.
    workdir: where a trained reward model may be.
    split: of the prompts whose references are counted.

  Raises:
    UserError: the reward, and what is wrong with its files.
  """
  reward_setup.require_trained(config, workdir)
  found: list[PictureRow] = []
  for field, entry in _entries(config):
    try:
      found += _of_reward(config, field, entry, split)
    except UserError as error:
      raise UserError(f"config.{field}: {error}") from error
  return found


def _entries(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
  for section in reward_setup.SECTIONS:
    for name in config[section]:
      yield f"{section}.{name}", config[section][name]


def _of_reward(
  config: ConfigDict, field: str, entry: ConfigDict, split: str
) -> list[PictureRow]:
  fn = config_lib.resolve_callable(
    entry.fn, rewards.REGISTRY, field=f"{field}.fn"
  )
  loader = getattr(fn, "loads", None)
  options = inspect.signature(loader).parameters if loader else {}
  for name, reads in READERS.items():
    if name in options and entry.get(name):
      reads(entry[name])
  folder = entry.get("references") if "references" in options else ""
  if not folder:
    return []
  _count_references(setup.load_prompts(config, split), folder)
  return references.checked(folder)


def _count_references(prompts: Sequence[grammar.Prompt], folder: str) -> None:
  """Says once which prompts have no reference, as their scores are missing.

  Raises:
    UserError: none of them has one.
  """
  known = references.rows(folder)
  bare = [prompt.text for prompt in prompts if prompt.text not in known]
  if bare and len(bare) == len(prompts):
    raise UserError(
      f"{epath.Path(folder) / references.FILE}: none of the {len(bare)} prompts"
      f' has a line there, such as "{shown(bare[0])}"; "prompt" has to be the'
      " same text"
    )
  if bare:
    logging.warning(
      '%s: %d of %d prompts have no line there and get no score, such as "%s"',
      folder, len(bare), len(prompts), shown(bare[0]),
    )  # fmt: skip
