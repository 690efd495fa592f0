"""The trackers that a config names."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable

from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward.errors import UserError
from jaxreward.training import trackers

_EXTRAS = ("wandb", "mlflow")


def bind(
  config: ConfigDict,
) -> dict[str, Callable[[trackers.Run], trackers.Tracker]]:
  """name -> tracker with its options, of `config.trackers`.

  Raises:
    UserError: an unknown tracker or option, or a package that is missing.
  """
  bound: dict[str, Callable[[trackers.Run], trackers.Tracker]] = {}
  for name, section in (config.get("trackers") or {}).items():
    field = f"trackers.{name}"
    if not isinstance(section, ConfigDict):
      raise UserError(
        f"config.{field}={section!r}: a tracker is a section; name its function"
        f" in config.{field}.fn"
      )
    bound[name] = config_lib.bind(
      section, trackers.REGISTRY, field=field, key="fn", positional=1
    )
    package = section.fn
    if package in _EXTRAS and importlib.util.find_spec(package) is None:
      raise UserError(
        f'config.{field}.fn="{package}": the package is missing; pip install'
        f' "jaxreward[{package}]"'
      )
  return bound


def openers(
  config: ConfigDict, workdir: epath.Path, job: str
) -> dict[str, Callable[[int | None], trackers.Tracker]]:
  """name -> function of the purge step that opens the job's tracker."""
  run = trackers.Run(workdir, job, config_lib.flatten(config))

  def opener(tracker):
    return lambda step: tracker(dataclasses.replace(run, purge_step=step))

  return {name: opener(tracker) for name, tracker in bind(config).items()}
