"""Runs several jobs in a row in one working directory.

A job that has finished leaves a mark, so a run that was stopped goes on with
the job it was in.
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


def check(config: ConfigDict, done: Collection[str] = ()) -> None:
  """Refuses what a job to come would refuse, before the first of them runs.

  Args:
    config: of the run.
    done: jobs that have finished.

  Raises:
    UserError: no job at all, a name that is none, or the pipeline itself, or
      what a job refuses.
  """
  known = [k for k in jobs.JOBS if k not in ("pipeline", *jobs.LOOKING)]
  if not config.jobs:
    raise UserError(
      "config.jobs is empty: there is nothing to run; name jobs, as in"
      " --config.jobs=pretrain,evaluate"
    )
  for name in config.jobs:
    if name not in known:
      raise UserError(
        f'config.jobs holds "{name}", which is no job{nearest(name, known)};'
        f" known: {', '.join(known)}"
      )
  for name in config.jobs:
    if name not in done:
      jobs.check(name, config)


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """What the jobs to come read from files; see `jobs.check_data`."""
  done = workdirs.read_record(workdir / MARKS_FILE)
  found: list[PictureRow] = []
  for name in config.jobs:
    module = importlib.import_module(f"jaxreward.jobs.{name}")
    if name not in done and hasattr(module, "data"):
      found += module.data(config, workdir)
  return found


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Runs `config.jobs` in order; see `check` for what is refused first."""
  marks = workdir / MARKS_FILE
  done = processes.on_first(lambda: workdirs.read_record(marks))
  check(config, done)
  for name in config.jobs:
    if name in done:
      logging.info("%s: finished before", name)
      continue
    start = time.monotonic()
    importlib.import_module(f"jaxreward.jobs.{name}").run(config, workdir)
    jobs.report(name, workdir)
    done[name] = round(time.monotonic() - start, 1)
    files.write_atomic(marks, json.dumps(done).encode())
    logging.info("%s: %.0f s", name, done[name])
