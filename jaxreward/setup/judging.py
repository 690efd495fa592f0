"""Rows of preferences on which rewards are judged, and the rewards' scores.

`config.eval.preferences` names a file of preferences, or a task that draws and
labels its own. Every reward of `config.rewards`, `config.heldout_rewards` and
`config.judged_rewards` scores the same images, and then the same images mirrored, with the prompt in
other words, corrupted, and with a nearby prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import processes, rng, setup, tasks
from jaxreward.data import preferences
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest, shown
from jaxreward.evaluation.reward_models import combination, judge, pairs
from jaxreward.evaluation.reward_models.judge import Labels
from jaxreward.setup import checks, judging_rows
from jaxreward.setup import rewards as reward_setup
from jaxreward.setup.judging_scores import (
  Rows,
  Scorer,
  Scores,
  Views,
  make_scorer,
  over_rows,
  probed,
)
from jaxreward.tasks import Task, free

SIDE = 224  # of images from files, if the config names none
INSIDE = "train"  # of a task's own prompts


def task_of(config: ConfigDict) -> Task:
  """The task of the prompts: any words with the grammar "free"."""
  task = setup.make_task(config)
  return free.TASK if task.name == free.TASK.name else task


def prompt_numbers(prompts: Sequence[Prompt]) -> np.ndarray:
  """int [Q], equal for prompts of one meaning."""
  meanings = np.array([prompt.meaning for prompt in prompts])
  return np.unique(meanings, return_inverse=True)[1].reshape(-1)


def drawn(config: ConfigDict, split: str) -> Rows:
  """Rows of a task's own prompts, drawn and labeled by it.

  A row holds an image of the prompt, one that differs in an attribute, and what
  the task's preferences add: other renders, images of neighbouring prompts and
  corrupted ones.
  """
  options, task = config.eval.judging, setup.make_task(config)
  assert task.preferences is not None and task.draw is not None
  prompts = preferences.choose_rows(
    task.prompts(split), options.rows, config.eval.seed
  )
  key = rng.stream_key(config.eval.seed, "judging")
  batch = task.batch(prompts)
  ids = preferences.row_ids(batch)
  samples = task.draw(key, dataclasses.replace(batch, ids=ids), with_worse=True)
  rows = processes.fetch(task.preferences(key, prompts, samples))
  prob = preferences.preference_probabilities(
    key, rows.score, margin=options.margin, ties="half"
  )
  members = np.asarray(rows.members)
  aspects = {
    name: np.asarray(rows.aspects)[..., i]
    for i, name in enumerate(rows.aspect_names)
  }
  rating = np.asarray(rows.score, np.float64)
  labels = Labels(
    np.asarray(prob, np.float64), rating, prompt_numbers(prompts),
    np.full(members.shape, -1), rating,
  )  # fmt: skip
  take = lambda index: np.asarray(rows.images)[members[index]] / np.float32(255)
  return Rows(tuple(prompts), take, labels, aspects, task)


def side_of(config: ConfigDict) -> int:
  """Pixels a side of the judged images."""
  task = task_of(config)
  return config.eval.judging.side or task.drawn_side or SIDE


def _is_drawn(source: str) -> bool:
  return source in {*tasks.OWN, INSIDE}


def load(config: ConfigDict, source: str, field: str) -> Rows:
  """The rows of a source.

  Args:
    config: of the run.
    source: a file, or the name of the task for its held-out prompts, or
      `INSIDE` for its training prompts.
    field: config field of the source, for errors.
  """
  if _is_drawn(source):
    return drawn(config, "heldout" if source in tasks.OWN else INSIDE)
  task, side = task_of(config), side_of(config)
  frames = config.eval.judging.frames
  table = judging_rows.read(
    config, source, task.parse, field, config.eval.judging.rows
  )
  return Rows(
    table.prompts,
    functools.partial(judging_rows.images, table, side, frames=frames),
    Labels(table.prob, judge.ratings(table.prob, table.rating),
           prompt_numbers(table.prompts), table.model, table.rating),
    table.aspects, task, table.answers, max(frames, 1),
  )  # fmt: skip


def check(config: ConfigDict) -> None:
  """Validates the fields of the judging without reading files.

  Raises:
    UserError: names the field and the fix.
  """
  options, path = config.eval.judging, config.eval.preferences
  for name, least in (
    ("rows", 2), ("rows_at_once", 1), ("views", 0), ("severities", 1),
    ("side", 0), ("frames", 0),
  ):  # fmt: skip
    if options[name] < least:
      raise UserError(
        f"config.eval.judging.{name}={options[name]}: it must be at least"
        f" {least}"
      )
  for field, value in (
    ("eval.preferences", path), ("eval.judging.inside", options.inside),
  ):  # fmt: skip
    if _is_drawn(value) and options.frames:
      raise UserError(
        f"config.eval.judging.frames={options.frames}: config.{field}="
        f'"{value}" draws images; set it to 0, or name a file of clips'
      )
    if _is_drawn(value):
      task = setup.make_task(config)
      if task.preferences is None or task.draw is None:
        raise UserError(
          f'config.{field}="{value}": with config.data.grammar="{task.name}"'
          " nothing is drawn and labeled; name a file of preferences"
        )
  if path == INSIDE:
    raise UserError(
      f'config.eval.preferences="{INSIDE}": training prompts tell what a reward'
      " remembers; put them in config.eval.judging.inside"
    )
  if not any(config[section] for section in reward_setup.JUDGED):
    raise UserError(
      f"config.eval.preferences={shown(path, 60)}: there is no reward to"
      " judge; name some in config.rewards"
    )
  reward_setup.bind(config, reward_setup.JUDGED, options.frames)
  _check_combination(config)


def _check_combination(config: ConfigDict) -> None:
  combine = config.eval.judging.combine
  field = f'config.eval.judging.combine="{shown(combine, 60)}"'
  if combine not in combination.SIGNS:
    raise UserError(
      f"{field} is not known{nearest(combine, combination.SIGNS)}; it is one of"
      f" {', '.join(combination.SIGNS)}"
    )
  if combine != "none" and len(config.rewards) < 2:
    raise UserError(
      f"{field}: weights are fitted to two rewards or more; name them in"
      ' config.rewards, or set it to "none"'
    )


def data(config: ConfigDict) -> list[PictureRow]:
  """Image rows that the judging reads; see `jobs.check_data`."""
  rows: list[PictureRow] = []
  for field, path in (
    ("eval.preferences", config.eval.preferences),
    ("eval.judging.inside", config.eval.judging.inside),
  ):
    if path and not _is_drawn(path):
      most, parse = config.eval.judging.rows, task_of(config).parse
      table = judging_rows.read(config, path, parse, field, most)
      if field == "eval.preferences":
        _require_ratings(config, table.rating)
      rows += table.checked()
  return rows


def run(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
  """{"rewards": {name: results}, "differences", "source", "rows"}."""
  options = config.eval.judging
  mesh = setup.make_mesh(config)
  rewards = reward_setup.load(
    config, workdir, reward_setup.JUDGED, mesh, options.frames
  )
  size, seed = options.rows_at_once, config.eval.seed
  with jax.set_mesh(mesh):
    rows = load(config, config.eval.preferences, "eval.preferences")
    count, labels = len(rows.prompts), rows.labels
    logging.info(
      "judging %s on %d rows of up to %d images ...",
      ", ".join(rewards), count, labels.gold.shape[1],
    )  # fmt: skip
    scorer = make_scorer(rewards, rows.task, size, side_of(config))
    scores, fit = _scores(rows, scorer, size), None
    if options.combine != "none":
      candidates = {name: scores[name] for name in config.rewards}
      sums, fit = combination.combined(
        labels, candidates, positive=options.combine == "positive"
      )
      scores = {**scores, **sums}
    results = {
      name: judge.agreement(labels, values, rows.answers, seed=seed)
      for name, values in scores.items()
    }
    if fit is not None:
      results[combination.FITTED]["weights"] = fit
    _add_views(results, rows, scorer, scores, config)
    if options.inside:
      inside = load(config, options.inside, "eval.judging.inside")
      for name, values in _scores(inside, scorer, size).items():
        outcome = judge.share(*judge.pair_outcomes(inside.labels, values))
        results[name]["inside"] = outcome
      _add_gaps(results)
    for name in results:
      if name in rewards and (
        table := probed(rows, rewards[name], options.views, size, seed)
      ):
        results[name]["probes"] = table
  return {
    "source": config.eval.preferences, "rows": count, "rewards": results,
    "differences": judge.side_by_side(labels, scores),
  }  # fmt: skip


def _require_ratings(config: ConfigDict, rating: np.ndarray) -> None:
  if checks.gate_of(config) and not np.isfinite(rating).any():
    raise UserError(
      f"config.eval.judging.gate: config.eval.preferences="
      f"{shown(config.eval.preferences, 60)} has comparisons and no ratings, with"
      " which scores could correlate; name a file with ratings, or set the gate to"
      " None"
    )


def require_gate(config: ConfigDict, results: dict[str, Any]) -> None:
  """Stops a run whose rewards agree too little with the ratings.

  Judges are calibrated before a policy follows them in Meta-CoT,
  https://arxiv.org/abs/2604.24625: a correlation of .8 or more, and an error of at
  most a quarter of the scale.

  Args:
    config: of the run.
    results: of `run`.

  Raises:
    UserError: names the reward and what it has missed.
  """
  if not (limits := checks.gate_of(config)):
    return
  for name, reward in config.rewards.items():
    if reward.get("weight", 1.0):
      agreement = results["rewards"][name]
      if text := judge.missed(agreement, **limits):
        raise UserError(
          f"config.rewards.{name}: {text} (config.eval.judging.gate); take another"
          " judge, or lower the gate"
        )


def _scores(rows: Rows, scorer: Scorer, size: int) -> Scores:
  def fn(part: np.ndarray) -> Scores:
    return scorer(rows.images(part), [rows.prompts[i] for i in part])

  return over_rows(fn, len(rows.prompts), size)


def _add_gaps(results: dict[str, dict[str, Any]]) -> None:
  """Adds accuracy inside less that outside, of rewards that have both."""
  both = {
    name: result
    for name, result in results.items()
    if result["n"] and result.get("inside", {}).get("n")
  }
  gaps = pairs.shift_gap(
    {name: result["inside"]["accuracy"] for name, result in both.items()},
    {name: result["accuracy"] for name, result in both.items()},
  )
  for name, gap in gaps.items():
    results[name]["gap"] = gap


def _add_views(
  results: dict[str, dict[str, Any]],
  rows: Rows,
  scorer: Scorer,
  scores: Scores,
  config: ConfigDict,
) -> None:
  options, prompt = config.eval.judging, rows.labels.prompt
  if not options.views:
    return
  views = Views(
    rows, scorer, options.rows_at_once, options.views, config.eval.seed
  )
  for view, (index, others) in (
    ("mirrored", views.mirrored()),
    ("reworded", views.reworded()),
  ):
    for name, values in others.items():
      results[name][view] = judge.invariance(
        scores[name][index], values, prompt[index]
      )
  for name, by_kind in views.corrupted(options.severities).items():
    results[name]["corrupted"] = judge.corrupted(by_kind, prompt[: views.count])
  table, others = views.contrasts()
  for name, values in others.items():
    blocks = values.reshape(-1, 2, 2)
    results[name]["contrast"] = judge.contrasts(blocks, np.arange(len(table)))
