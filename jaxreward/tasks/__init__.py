"""Tasks: prompts, and how their images are judged.

A new task is one module with a `Task` and one line here.
"""

from __future__ import annotations

import dataclasses

from jaxreward.errors import UserError, nearest
from jaxreward.tasks import free
from jaxreward.tasks.contract import Reward, Task
from jaxreward.tasks.motion import task as motion
from jaxreward.tasks.portraits import task as portraits
from jaxreward.tasks.scenes import task as scenes

TASKS: dict[str, Task] = {
  "scenes": scenes.SCENES,
  "edits": scenes.EDITS,
  "free": free.TASK,
  "portraits": portraits.PORTRAITS,
  "portrait_edits": portraits.EDITS,
  "motion": motion.MOTION,
}

# Tasks with their own prompts: sources that are not files.
OWN = tuple(name for name, task in TASKS.items() if task.own is not None)

__all__ = ["OWN", "TASKS", "Reward", "Task", "get", "rewards"]


def get(name: str, source: str) -> Task:
  """The task of a config, on the prompts of a source.

  Args:
    name: of `TASKS`.
    source: the name of a task with its own prompts, or a file or folder.

  Raises:
    UserError: an unknown name, or prompts that the task cannot judge.
  """
  if name not in TASKS:
    raise UserError(
      f'config.data.grammar="{name}" is none of {", ".join(TASKS)}'
      f"{nearest(name, TASKS)}"
    )
  task = TASKS[name]
  if source in OWN:
    if name == source:
      return task
    if task is free.TASK:
      return free.of(TASKS[source])
  elif task.reads_files:
    return dataclasses.replace(task, own=None, has_pictures=None)
  if not task.reads_files:
    raise UserError(
      f'config.data.grammar="{name}": it judges the tasks of'
      f' config.data.source="{name}" alone, which is "{source}"'
    )
  raise UserError(
    f'config.data.source="{source}": set config.data.grammar to "{source}", or'
    ' to "free" for a policy that draws other sizes'
  )


def rewards() -> dict[str, Reward]:
  """The rewards of all tasks, by name."""
  return {n: fn for task in TASKS.values() for n, fn in task.rewards.items()}
