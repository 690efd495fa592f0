"""The task that a config names."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxreward import tasks


def make_task(config: ConfigDict) -> tasks.Task:
  """The task of `config.data.grammar` on the prompts of `config.data.source`.

  Raises:
    UserError: see `tasks.get`.
  """
  return tasks.get(config.data.grammar, config.data.source)
