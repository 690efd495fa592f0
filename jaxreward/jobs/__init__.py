"""Jobs: one verb per file.

A job is `run(config: ConfigDict, workdir: epath.Path) -> None`. Modules are
imported on demand, so that starting one job does not import the others. After a
job with measurements, `report` writes report.html from the working directory.
"""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes
from jaxreward.errors import UserError, shown

Job = Callable[[ConfigDict, epath.Path], None]


# Name -> whether it writes a report.
JOBS: dict[str, bool] = {
  "align": True,
  "compile_check": False,
  "evaluate": True,
  "export": False,
  "finetune": True,
  "pipeline": False,
  "pretrain": True,
  "sample": False,
  "train_reward": True,
}
# Jobs that only inspect: they need no working directory.
LOOKING = ("compile_check",)
# Jobs on an existing run: the working directory holds their config.
READING = ("export",)
PER_REPORT = 20  # seconds of a job for a second of report.html, while it runs
_TAKES = 2  # arguments: the config, the working directory


def find(config: ConfigDict) -> Job:
  """The job that `config.job` names: the `run` of a module, or "file.py:fn".

  Raises:
    UserError: an unknown job, or an invalid value in the config.
  """
  if "job" not in config:
    raise UserError(f"config.job is missing; known: {', '.join(JOBS)}")
  if config.job in JOBS:
    importlib.import_module("jaxreward.setup.checks").check(config)
    return importlib.import_module(f"jaxreward.jobs.{config.job}").run
  names = dict.fromkeys(JOBS, report)  # values are not used
  job = config_lib.resolve_callable(config.job, names, field="job")
  config_lib.bind(
    ConfigDict({"fn": config.job}), {config.job: job}, field="job", key="fn",
    positional=_TAKES,
  )  # fmt: skip
  return job


def report(name: str, workdir: epath.Path) -> None:
  """Writes report.html after a job with measurements."""
  processes.wait_for_all("job")  # all files are written
  if JOBS.get(name, False) and processes.is_first():
    collect = importlib.import_module("jaxreward.report.collect")
    logging.info("report: %s", collect.report_from_workdir(workdir))


class Refresh:
  """Writes report.html while a job runs; called after every evaluation.

  A page takes a second or several, by its curves and images: calls are skipped
  so that at most a twentieth of the job's time goes into them.

  Args:
    workdir: of the run.
    clock: seconds.
  """

  def __init__(
    self, workdir: epath.Path, clock: Callable[[], float] = time.monotonic
  ):
    self.workdir, self.clock = workdir, clock
    self.ended, self.took = clock(), 1.0

  def __call__(self) -> None:
    start = self.clock()
    if not processes.is_first() or start - self.ended < PER_REPORT * self.took:
      return
    collect = importlib.import_module("jaxreward.report.collect")
    try:
      collect.report_from_workdir(self.workdir)
    except UserError as error:  # the run goes on without a page
      logging.warning("no report for now: %s", error)
    self.ended = self.clock()
    self.took = self.ended - start


def check(name: str, config: ConfigDict) -> None:
  """Runs a job's own validation of the config, text files included."""
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
  """Checks the input files of a job before anything is built.

  A job's `data(config, workdir)` returns its image rows and reads texts on the way.
  Every process has to call it: each image is checked by one of them.

  Raises:
    UserError: names the file, the line and the mistake.
  """
  module = importlib.import_module(f"jaxreward.jobs.{name}")
  if hasattr(module, "data"):
    checks = importlib.import_module("jaxreward.data.image_checks")
    checks.check(processes.on_all(lambda: module.data(config, workdir)))


def rehearse(config: ConfigDict) -> None:
  """Tries user rewards, for jobs that score images."""
  names = config.jobs if config.job == "pipeline" else (config.job,)
  if {"align", "evaluate"} & set(names):
    importlib.import_module("jaxreward.setup.rehearsal").run(config)
