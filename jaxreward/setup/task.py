"""The task that a config names."""

from __future__ import annotations

import dataclasses
import functools

from ml_collections import ConfigDict

from jaxreward import tasks
from jaxreward.errors import UserError, nearest, shown


def make_task(config: ConfigDict) -> tasks.Task:
  """The task of `config.data.grammar` on the prompts of `config.data.source`.

  Raises:
    UserError: see `tasks.get`; or control images that the task does not draw.
  """
  task = tasks.get(config.data.grammar, config.data.source)
  control = config.data.control
  if not control:
    return task
  if control not in task.controls:
    known = ", ".join(task.controls) or (
      'those of its rows; leave the field empty, ""'
    )
    raise UserError(
      f'config.data.control="{shown(control)}": control images of'
      f' config.data.source="{config.data.source}" are {known}'
      f"{nearest(str(control), task.controls)}"
    )
  of_kind = lambda fn: functools.partial(fn, control=control)
  return dataclasses.replace(
    task, attach=of_kind(task.attach), pretraining=of_kind(task.pretraining)
  )
