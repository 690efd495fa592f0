"""Training labels of a reward in place of the task's own, such as a judge's."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, processes, setup, tasks
from jaxreward.data import preferences
from jaxreward.data.preferences import Preferences
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest, shown
from jaxreward.evaluation.reward_models import ranks
from jaxreward.setup import judging_scores
from jaxreward.setup import rewards as reward_setup

FIELD = "config.train_reward.labels"
LABELS_FILE = "labels.npz"
_AT_ONCE = 16  # rows


def _section_of(config: ConfigDict) -> str:
  """The section of the reward that labels.

  Raises:
    UserError: no reward of this name, or the model that is to be trained.
  """
  name = config.train_reward.labels
  names = [n for section in reward_setup.JUDGED for n in config[section]]
  if name not in names:
    raise UserError(
      f'{FIELD}="{shown(name)}": no reward is called so{nearest(name, names)};'
      f" there are {', '.join(names)}"
    )
  return next(s for s in reward_setup.JUDGED if name in config[s])


def check(config: ConfigDict) -> None:
  """Refuses labels of what labels nothing.

  Raises:
    UserError: names the field and the fix.
  """
  name, source = config.train_reward.labels, config.train_reward.source
  if not name:
    return
  if source not in tasks.OWN:
    raise UserError(
      f'{FIELD}="{shown(name)}": the rows of config.train_reward.source='
      f"{shown(source, 60)} have labels; leave it empty"
    )
  section = _section_of(config)
  entry = reward_setup.bind(config, (section,))[name]
  if entry.is_learned and not entry.weights:
    raise UserError(
      f'{FIELD}="{name}": it is the model that is to be trained; name its file in'
      f" config.{section}.{name}.weights, or take another reward"
    )


def scored(
  config: ConfigDict,
  rows: Preferences,
  prompts: Sequence[Prompt],
  workdir: epath.Path | None,
) -> Preferences:
  """The rows with the reward's scores; NaN, which labels no pair, where it failed.

  Args:
    config: of the run.
    rows: Q rows.
    prompts: of the rows.
    workdir: where the scores are kept: a run that starts again trains on the same,
      those that failed among them. None keeps none.

  Raises:
    UserError: every score failed.
  """
  name = config.train_reward.labels
  digest = _digest(rows, prompts)
  file = None if workdir is None else workdir / LABELS_FILE
  values = None
  if file is not None:
    values = processes.on_first(lambda: _read(file, digest))
  if values is None:
    values = _score(config, rows, prompts, workdir)
    if file is not None:
      files.save_arrays(file, scores=values, digest=digest)
  is_scored = np.isfinite(values)
  if not is_scored.any():
    raise UserError(f'{FIELD}="{name}": every one of its scores failed')
  task_scores = np.asarray(rows.score, np.float64)
  both = np.where(is_scored, values, np.nan), task_scores
  agreement = np.asarray(ranks.per_prompt(*both)["spearman"])
  agreement = agreement[np.isfinite(agreement)]
  logging.info(
    "labels of %s: %d of %d images scored; rank correlation with the task's %.3f",
    name, is_scored.sum(), values.size, agreement.mean() if agreement.size else np.nan,
  )  # fmt: skip
  return dataclasses.replace(rows, score=jnp.asarray(both[0], jnp.float32))


def _score(
  config: ConfigDict,
  rows: Preferences,
  prompts: Sequence[Prompt],
  workdir: epath.Path | None,
) -> np.ndarray:
  """The reward's scores [Q, N]."""
  name, section = config.train_reward.labels, _section_of(config)
  alone = ConfigDict(config.to_dict())
  alone[section] = {name: config[section][name]}
  rewards = reward_setup.load(alone, workdir or epath.Path(), (section,))
  task = setup.make_task(config)
  side = task.drawn_side or 0
  score = judging_scores.make_scorer(rewards, task, _AT_ONCE, side)
  members = np.asarray(rows.members)

  def fn(part: np.ndarray) -> judging_scores.Scores:
    images = preferences.as_float(rows.images[members[part]])
    return score(np.asarray(images), [prompts[i] for i in part])

  return judging_scores.over_rows(fn, len(prompts), _AT_ONCE)[name]


def _digest(rows: Preferences, prompts: Sequence[Prompt]) -> str:
  """Of the images and their prompts: other rows have other scores."""
  parts = hashlib.sha256("\0".join(p.text for p in prompts).encode())
  for array in (rows.images, rows.members):
    parts.update(np.ascontiguousarray(array).tobytes())
  return parts.hexdigest()


def _read(file: epath.Path, digest: str) -> np.ndarray | None:
  """Scores that were kept of these rows; None without any."""
  try:
    with np.load(io.BytesIO(file.read_bytes())) as data:
      return data["scores"] if str(data["digest"]) == digest else None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
