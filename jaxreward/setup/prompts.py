"""The prompts that a config names, and batches of them."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from jaxreward import tasks
from jaxreward.data import pipeline
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, shown
from jaxreward.setup.policies import make_policy, picture_side
from jaxreward.setup.task import make_task


def load_prompts(config: ConfigDict, split: str | None) -> tuple[Prompt, ...]:
  """The prompts of `config.data` of one split; None for all of a file's.

  Of a task's own prompts, categories that the policy does not know are skipped.

  Raises:
    UserError: a prompt of a file whose category the policy does not know.
  """
  policy, task, source = (
    make_policy(config),
    make_task(config),
    config.data.source,
  )
  is_own = task.own is not None and not task.has_pictures and split is not None
  prompts = task.prompts(
    split, source, policy.kinds if is_own else (),
    with_pictures=policy.takes_source, known=tasks.OWN,
  )  # fmt: skip
  for prompt in prompts if policy.kinds else ():
    category = task.categories[prompt.category]
    if category not in policy.kinds:
      raise UserError(
        f'config.data.source={source}: the prompt "{shown(prompt.text)}" is of'
        f' the kind "{category}", and config.model.condition='
        f'"class" knows {", ".join(policy.kinds)} alone, such as "a red circle"'
        ' or "three squares"; leave it out, or set config.model.condition to'
        ' "text"'
      )
  return prompts


def prompt_batches(config: ConfigDict) -> pipeline.PromptBatches:
  """Batches of `config.rollout.prompts` training prompts, by the step."""
  return make_task(config).batches(
    load_prompts(config, "train"), seed=config.seed,
    batch_size=config.rollout.prompts,
    kind_weights=config.data.kind_weights,
    side=picture_side(make_policy(config)),
  )  # fmt: skip


def prompt_ids(config: ConfigDict) -> np.ndarray:
  """uint32 [N], the ids of all training prompts."""
  prompts = load_prompts(config, "train")
  return np.array([prompt.prompt_id for prompt in prompts], np.uint32)
