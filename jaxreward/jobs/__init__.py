"""Jobs: the verbs a person runs, one file each.

A job is `run(config: ConfigDict, workdir: epath.Path) -> None`. Modules are
imported when their job is asked for, so that starting one job does not wait
for what the others need. After a job that measures something, `report` writes
report.html of all that the working directory holds by then.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes
from jaxreward.errors import UserError, shown

Job = Callable[[ConfigDict, epath.Path], None]


# Name -> whether it leaves a report of all that the working directory holds.
JOBS: dict[str, bool] = {
  "align": True,
  "compile_check": False,
  "evaluate": True,
  "export": False,
  "pipeline": False,
  "pretrain": True,
  "sample": False,
  "train_reward": True,
}
# Jobs that look and leave no run behind: they need no working directory.
LOOKING = ("compile_check",)
# Jobs on a run that is there: the working directory holds their config.
READING = ("export",)
_TAKES = 2  # arguments: the config, the working directory


def find(config: ConfigDict) -> Job:
  """The job that `config.job` names: the `run` of a module, or "file.py:fn".

  Raises:
    UserError: there is none, or a value in the config makes no sense to it.
  """
  if "job" not in config:
    raise UserError(f"config.job is missing; known: {', '.join(JOBS)}")
  if config.job in JOBS:
    importlib.import_module("jaxreward.setup.checks").check(config)
    return importlib.import_module(f"jaxreward.jobs.{config.job}").run
  names = dict.fromkeys(JOBS, report)  # whose values nobody looks at here
  job = config_lib.resolve_callable(config.job, names, field="job")
  config_lib.bind(
    ConfigDict({"fn": config.job}), {config.job: job}, field="job", key="fn",
    positional=_TAKES,
  )  # fmt: skip
  return job


def report(name: str, workdir: epath.Path) -> None:
  """Writes report.html where a job that measures something has ended."""
  processes.wait_for_all("job")  # what it has written is there
  if JOBS.get(name, False) and processes.is_first():
    collect = importlib.import_module("jaxreward.report.collect")
    logging.info("report: %s", collect.report_from_workdir(workdir))


def check(name: str, config: ConfigDict) -> None:
  """Lets a job look at what its config names, text files included."""
  module = importlib.import_module(f"jaxreward.jobs.{name}")
  try:
    getattr(module, "check", lambda config: None)(config)
    if name == config.job:
      importlib.import_module("jaxreward.setup.text_files").check(config)
  except (AttributeError, KeyError) as error:
    last = traceback.extract_tb(error.__traceback__)[-1]
    if "ml_collections" not in last.filename:
      raise
    raise UserError(
      f"the config lacks {shown(str(error).splitlines()[0], 40)}, which the job"
      f' "{name}" reads; begin with base.py, as the configs that ship do'
    ) from error


def check_data(name: str, config: ConfigDict, workdir: epath.Path) -> None:
  """Looks at the files that a job will read, before anything is built.

  A job's `data(config, workdir)` gives its rows of pictures and reads texts on
  the way. Every process has to call it: pictures are looked at by one each.

  Raises:
    UserError: the file, the line, and what is wrong with it.
  """
  module = importlib.import_module(f"jaxreward.jobs.{name}")
  if hasattr(module, "data"):
    checks = importlib.import_module("jaxreward.data.image_checks")
    checks.check(processes.on_all(lambda: module.data(config, workdir)))


def rehearse(config: ConfigDict) -> None:
  """Tries a person's own rewards, for a job that will ask them."""
  names = config.jobs if config.job == "pipeline" else (config.job,)
  if {"align", "evaluate"} & set(names):
    importlib.import_module("jaxreward.setup.rehearsal").run(config)
