"""A dataset that a task draws, written as a user would bring it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from jaxreward import files, processes, rng, setup
from jaxreward.errors import UserError, shown
from jaxreward.setup import offline, videos
from jaxreward.types import Policy

FOLDER = "dataset"  # in the working directory
_TRIED = 3  # edits for each that is kept: some have no exact answer


def write(
  config: ConfigDict, policy: Policy, workdir: epath.Path
) -> ConfigDict:
  """The config with `data.dataset` or `data.preferences` as files.

  Where it names a task, `finetune.drawn` images of the task's training prompts are
  written into the working directory, with metadata.jsonl; for policies that edit,
  the answers with the images that they start from, to which preferences prefer
  them.
  """
  if not offline.is_drawn(config):
    return config
  folder = workdir / FOLDER
  if processes.on_first(lambda: not (folder / "metadata.jsonl").exists()):
    rows = _drawn(config, policy)
    processes.on_first(lambda: _save(folder, rows))
  processes.wait_for_all("dataset")
  config = config.copy_and_resolve_references()
  if offline.origin(config) == "preferences":
    config.data.preferences = str(folder / "metadata.jsonl")
  else:
    config.data.dataset = str(folder)
  return config


def _drawn(config: ConfigDict, policy: Policy) -> list[dict[str, Any]]:
  """Rows with arrays in the place of files, uint8."""
  task, origin = offline.file_task(config), offline.origin(config)
  name, is_pairs = config.data[origin], origin == "preferences"
  prompts = task.prompts("train", categories=policy.kinds)
  count = config.finetune.drawn
  tried = _TRIED * count if task.has_pictures else count
  picks = np.linspace(0, len(prompts) - 1, tried).astype(int)
  prompts = [prompts[i] for i in picks]
  batch = task.batch(prompts, side=setup.picture_side(policy))
  columns: dict[str, Any] = {}
  if batch.target is not None and batch.source is not None:
    known = np.isfinite(np.asarray(batch.target)).all((1, 2, 3))
    keep = np.flatnonzero(known)[:count]
    prompts = [prompts[i] for i in keep]
    columns = {
      "target": _bytes(np.asarray(batch.target)[keep]),
      "image": _bytes(np.asarray(batch.source)[keep]),
    }
  elif task.draw is not None:
    key = rng.stream_key(config.seed, "dataset")
    images = np.asarray(task.draw(key, batch, with_worse=is_pairs))
    columns = {"image": images[:, 0]}
    if is_pairs:
      columns["worse"] = images[:, 1]
  if not columns or (
    policy.takes_source > ("target" in columns)
    and not (videos.is_video(policy))
  ):
    raise UserError(
      f"config.data.{origin}={shown(name, 60)}: the task draws no images that"
      f' "{config.model.name}" learns from; name a folder'
    )
  if is_pairs:
    columns = {
      "chosen": columns.get("target", columns["image"]),
      "rejected": columns.get("worse", columns["image"]),
      "source": columns["image"],
    }
  elif videos.is_video(policy):
    columns = {"image": columns.get("target", columns["image"])}
  return [
    {"prompt": p.text} | {k: x[i] for k, x in columns.items()}
    for i, p in enumerate(prompts)
  ]


def _bytes(images: Any) -> np.ndarray:
  return np.asarray(jnp.round(jnp.clip(images, 0, 1) * 255), np.uint8)


def _save(folder: epath.Path, rows: Sequence[dict[str, Any]]) -> None:
  lines = []
  for i, row in enumerate(rows):
    line = {"prompt": row["prompt"]}
    for name, x in row.items():
      if name == "prompt":
        continue
      file = io.BytesIO()
      Image.fromarray(x).save(file, "PNG")
      line[name] = f"{i}-{name}.png"
      files.write_atomic(folder / line[name], file.getvalue())
    lines.append(json.dumps(line))
  files.write_atomic(folder / "metadata.jsonl", "\n".join(lines) + "\n")
  logging.info("%d drawn images are in %s", len(rows), folder)
