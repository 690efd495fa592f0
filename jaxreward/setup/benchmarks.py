"""A generator judged on a benchmark: its prompts, images, scores and features."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, paths, processes, setup, tasks
from jaxreward.data import benchmarks, repeats
from jaxreward.data.benchmarks import Item
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.images import read_images
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, require_counts, shown
from jaxreward.evaluation import benchmarks as numbers
from jaxreward.evaluation import set_metrics
from jaxreward.report import grids
from jaxreward.rewards import sets
from jaxreward.setup import rewards as reward_setup
from jaxreward.setup import videos
from jaxreward.setup.judging_scores import make_scorer, over_rows

FIELD = "eval.benchmark"
POLICY = "policy"  # among the folders: what is drawn here
FOLDER = "images"  # in the working directory
SCORES_FILE = "benchmark_scores.jsonl"

# (P prompts, uint32 ids [P]) -> [P, G, H, W, 3] in [0, 1]
Draw = Callable[[Sequence[Prompt], np.ndarray], np.ndarray]


def is_asked(config: ConfigDict) -> bool:
  """Whether the config names a benchmark."""
  return bool(config.eval.benchmark.prompts or config.eval.benchmark.images)


def sides(config: ConfigDict) -> tuple[str, ...]:
  """Folders of images, and `POLICY`."""
  return tuple(config.eval.benchmark.images) or (POLICY,)


def check(config: ConfigDict) -> None:
  """Validates the section without reading files.

  Raises:
    UserError: names the field and the fix.
  """
  section = config.eval.benchmark
  counts = {k: section[k] for k in ("group", "side", "rows_at_once", "nearest")}
  require_counts(f"config.{FIELD}.", **counts)
  if not section.prompts and POLICY in sides(config):
    raise UserError(
      f"config.{FIELD}.prompts is empty: name the benchmark's file of prompts"
    )
  if len(set(sides(config))) < len(sides(config)):
    raise UserError(
      f"config.{FIELD}.images={sides(config)}: one is named twice"
    )
  if not len(config.rewards) and not section.reference:
    raise UserError(
      "config.rewards is empty: name what judges the images, as"
      ' rewards.objects.fn="objects", or a folder in'
      f" config.{FIELD}.reference"
    )
  reward_setup.bind(config, ("rewards",))
  if POLICY in sides(config):
    if config.eval.steering.name != "none":
      raise UserError(
        f'config.eval.steering.name="{config.eval.steering.name}": images of a'
        ' benchmark are drawn by the policy alone; use "none"'
      )
    policy = setup.make_policy(config)
    if policy.takes_source or videos.is_video(policy):
      raise UserError(
        f'config.model.name="{config.model.name}": images of config.{FIELD} are'
        " drawn from words alone; draw them elsewhere and name their folder"
      )


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """Prompts, and the files of each side: name -> files of each prompt."""

  items: list[Item]
  prompts: list[Prompt]
  task: tasks.Task
  files: dict[str, list[list[str]]]
  reference: list[str]

  @property
  def categories(self) -> list[str]:
    return [item.category for item in self.items]


def load(config: ConfigDict) -> Benchmark:
  """The benchmark without what is drawn here.

  Raises:
    UserError: a file or folder that is not as it should be.
  """
  section = config.eval.benchmark
  source = section.prompts or section.images[0]
  field = f"{FIELD}.{'prompts' if section.prompts else 'images'}"
  items = benchmarks.read(source, field)
  task = tasks.get(config.data.grammar, source)
  prompts = []
  for item in items:
    try:
      prompts.append(task.parse(item.prompt))
    except UserError as error:
      raise UserError(f"{item.place}: {error}") from error
  folders = {
    side: benchmarks.find_images(side, items, f"{FIELD}.images")
    for side in sides(config) if side != POLICY
  }  # fmt: skip
  reference = []
  if section.reference:
    at = files_of_folder(section.reference, section.nearest)
    reference = [str(path) for path in at]
    for side in sides(config):
      count = sum(map(len, folders.get(side, [])))
      if side == POLICY:
        count = len(items) * section.group
      if count <= section.nearest:
        raise UserError(
          f"config.{FIELD}.nearest={section.nearest}:"
          f" {shown(side, 60)} has {count} images, and more are needed; lower it"
        )
  return Benchmark(items, prompts, task, folders, reference)


def files_of_folder(folder: str, nearest: int) -> list[epath.Path]:
  """Its images; more than `nearest` are needed.

  Raises:
    UserError: there are fewer.
  """
  images = benchmarks.every_image(
    paths.find(folder, f"config.{FIELD}.reference")
  )
  if len(images) <= nearest:
    raise UserError(
      f"config.{FIELD}.reference={shown(folder, 60)}: it has {len(images)} images;"
      f" more than config.{FIELD}.nearest={nearest} are needed"
    )
  return images


def data(config: ConfigDict) -> list[PictureRow]:
  """Images that are read, for checks before anything is loaded."""
  loaded = load(config)
  rows = [
    PictureRow(item.place, {f"image {i}": f for i, f in enumerate(group)})
    for side in loaded.files.values()
    for item, group in zip(loaded.items, side, strict=True)
  ]
  field = f"config.{FIELD}.reference"
  return rows + [PictureRow(field, {"image 0": f}) for f in loaded.reference]


def drawn(
  config: ConfigDict, loaded: Benchmark, draw: Draw, workdir: epath.Path
) -> list[list[str]]:
  """Draws what is not there yet into WORKDIR/images, in GenEval's layout."""
  section, folder = config.eval.benchmark, workdir / FOLDER
  place = lambda i, g: folder / f"{i:05d}" / "samples" / f"{g:04d}.png"
  names = [
    [str(place(i, g)) for g in range(section.group)]
    for i in range(len(loaded.items))
  ]
  size = section.rows_at_once
  ids = repeats.spread([p.prompt_id for p in loaded.prompts])
  for start in range(0, len(loaded.items), size):
    rows = list(range(start, min(start + size, len(loaded.items))))
    is_there = lambda rows=rows: all(
      epath.Path(name).exists() for i in rows for name in names[i]
    )
    if processes.on_first(is_there):
      continue
    padded = rows + rows[-1:] * (size - len(rows))
    images = draw([loaded.prompts[i] for i in padded], ids[padded])
    write = functools.partial(_write, images, rows, loaded.items, place)
    processes.on_first(write)
    logging.info("%d of %d prompts drawn", rows[-1] + 1, len(loaded.items))
  processes.wait_for_all("benchmark")
  return names


def _write(images, rows, items: Sequence[Item], place) -> None:
  for i, group in zip(rows, images, strict=False):
    record = {"prompt": items[i].prompt, **items[i].row, "key": items[i].key}
    about = place(i, 0).parent.parent / benchmarks.METADATA
    files.write_atomic(about, json.dumps(record) + "\n")
    for g, image in enumerate(group):
      pixels = grids.to_uint8(image[None])[0]
      files.write_atomic(place(i, g), grids.png(pixels))


def _pixels(
  groups: Sequence[Sequence[str]], index: np.ndarray, most: int, side: int
) -> np.ndarray:
  """float32 [B, most, side, side, 3]; NaN where a prompt has fewer images."""
  result = np.full((len(index), most, side, side, 3), np.nan, np.float32)
  where = [(b, g) for b, i in enumerate(index) for g in range(len(groups[i]))]
  names = [groups[index[b]][g] for b, g in where]
  for (b, g), image in zip(where, read_images(names, side), strict=True):
    result[b, g] = image / np.float32(255)
  return result


def _features(config: ConfigDict):
  """Files -> their features, by the tower of the section, unnormalised."""
  section = config.eval.benchmark
  options = section.tower.to_dict()
  tower = sets.load_set(options.pop("weights", ""), **options)
  encoder, params = tower.static["encoder"], tower.arrays["params"]
  run = jax.jit(lambda p, x: encoder.images(p, encoder.prepared(x)))

  def features(names: Sequence[str]) -> np.ndarray:
    size, rows = encoder.microbatch or 64, []
    for start in range(0, len(names), size):
      part = list(names[start : start + size])
      padded = part + part[-1:] * (size - len(part))
      x = read_images(padded, section.side).astype(np.float32) / 255
      rows.append(processes.fetch(run(params, x))[: len(part)])
    return np.concatenate(rows).astype(np.float64)

  return features


def run(
  config: ConfigDict, workdir: epath.Path, draw: Draw | None
) -> dict[str, Any]:
  """{"prompts", "sides": {name: {"scores", "features"}}, "differences"}.

  Every image and its scores are a line of WORKDIR/benchmark_scores.jsonl.

  Args:
    config: of the run.
    workdir: where images and scores are written.
    draw: prompts -> images; None if no side is drawn.
  """
  section, seed = config.eval.benchmark, config.eval.seed
  loaded = load(config)
  rewards = reward_setup.load(config, workdir, ("rewards",))
  side = loaded.task.drawn_side if loaded.task.verdict else section.side
  scorer = make_scorer(
    rewards, loaded.task, section.rows_at_once, side or section.side
  )
  features = _features(config) if section.reference else None
  real = None if features is None else features(loaded.reference)
  files_of = dict(loaded.files)
  if draw is not None:  # once all else is there
    files_of[POLICY] = drawn(config, loaded, draw, workdir)
  results, values, lines = {}, {}, []
  for name in sides(config):
    groups = files_of[name]
    most = max(map(len, groups))
    exists = np.arange(most) < np.array([[len(group)] for group in groups])

    def scores_of(index, groups=groups, most=most):
      pixels = _pixels(groups, index, most, side or section.side)
      return scorer(pixels, [loaded.prompts[i] for i in index])

    values[name] = {}
    if rewards:
      scores = over_rows(scores_of, len(loaded.items), section.rows_at_once)
      values[name] = {k: np.where(exists, x, np.nan) for k, x in scores.items()}
    results[name] = {
      "images": sum(map(len, groups)),
      "scores": {
        k: numbers.summary(x, loaded.categories, seed, exists)
        for k, x in values[name].items()
      },
    }
    if features is not None and real is not None:
      fake = features([f for group in groups for f in group])
      results[name]["features"] = {
        "frechet_distance": set_metrics.frechet_distance(real, fake)
      } | set_metrics.coverage_metrics(real, fake, section.nearest)
    lines += _lines(name, loaded.items, groups, values[name])
  text = "".join(json.dumps(line) + "\n" for line in lines)
  processes.on_first(lambda: files.write_atomic(workdir / SCORES_FILE, text))
  first, *others = sides(config)
  differences = {
    k: {
      name: numbers.difference(
        values[first][k], values[name][k], loaded.categories, seed
      )
      for name in others
    }
    for k in values[first]
  }  # fmt: skip
  return {
    "prompts": section.prompts or section.images[0], "sides": results,
    "differences": differences if others else {},
  }  # fmt: skip


def _lines(name, items, groups, values: Mapping[str, np.ndarray]):
  number = lambda x: float(x) if np.isfinite(x) else None
  return [
    {
      "side": name, "prompt": item.prompt, "category": item.category,
      "file": file, **{k: number(x[p, g]) for k, x in values.items()},
    }
    for p, (item, group) in enumerate(zip(items, groups, strict=True))
    for g, file in enumerate(group)
  ]  # fmt: skip
