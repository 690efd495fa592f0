"""Runs several jobs in a row in one working directory.

Finished jobs are recorded, so that an interrupted run resumes at the job it was
in.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Collection

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, jobs, processes, workdirs
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError, nearest

MARKS_FILE = "finished.json"


def check(config: ConfigDict, finished: Collection[str] = ()) -> None:
  """Validates the config for every remaining job, before the first one runs.

  Args:
    config: of the run.
    finished: names of finished jobs.

  Raises:
    UserError: no jobs, an unknown name, the pipeline itself, or an error of a
      job.
  """
  job_names = [k for k in jobs.JOBS if k not in ("pipeline", *jobs.LOOKING)]
  if not config.jobs:
    raise UserError(
      "config.jobs is empty: there is nothing to run; name jobs, as in"
      " --config.jobs=pretrain,evaluate"
    )
  for name in config.jobs:
    if name not in job_names:
      raise UserError(
        f'config.jobs holds "{name}", which is no job{nearest(name, job_names)};'
        f" known: {', '.join(job_names)}"
      )
  for name in config.jobs:
    if name not in finished:
      jobs.check(name, config)


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the remaining jobs read; see `jobs.check_data`."""
  finished = workdirs.read_record(workdir / MARKS_FILE)
  rows: list[PictureRow] = []
  for name in config.jobs:
    module = importlib.import_module(f"jaxreward.jobs.{name}")
    if name not in finished and hasattr(module, "data"):
      rows += module.data(config, workdir)
  return rows


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Runs `config.jobs` in order; see `check` for the validation."""
  marks = workdir / MARKS_FILE
  seconds_of = processes.on_first(lambda: workdirs.read_record(marks))
  check(config, seconds_of)
  for name in config.jobs:
    if name in seconds_of:
      logging.info("%s: finished before", name)
      continue
    start = time.monotonic()
    importlib.import_module(f"jaxreward.jobs.{name}").run(config, workdir)
    jobs.report(name, workdir)
    seconds_of[name] = round(time.monotonic() - start, 1)
    files.write_atomic(marks, json.dumps(seconds_of).encode())
    logging.info("%s: %.0f s", name, seconds_of[name])
