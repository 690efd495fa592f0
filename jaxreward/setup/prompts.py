"""The prompts that a config names, and batches of them."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from jaxreward.data import pipeline, sources
from jaxreward.data.scenes import grammar
from jaxreward.errors import UserError, shown
from jaxreward.setup.policies import make_policy, picture_side


def load_prompts(
  config: ConfigDict, split: str | None
) -> tuple[grammar.Prompt, ...]:
  """The prompts of `config.data` of one split; None for all of a file's.

  Of the grammar's own prompts only those are taken that the policy knows.

  Raises:
    UserError: a prompt of one's own that the policy does not know.
  """
  policy, source = make_policy(config), config.data.source
  free = config.data.grammar == "free"
  if split is None:
    found = sources.all_prompts(
      source, free=free, with_pictures=policy.takes_source
    )
  else:
    found = sources.load_prompts(
      source, split, policy.kinds if source == "scenes" else None,
      free=free, with_pictures=policy.takes_source,
    )  # fmt: skip
  for prompt in found if policy.kinds else ():
    if grammar.KIND_NAMES[prompt.kind] not in policy.kinds:
      raise UserError(
        f'config.data.source={source}: the prompt "{shown(prompt.text)}" is of the kind'
        f' "{grammar.KIND_NAMES[prompt.kind]}", and config.model.condition='
        f'"class" knows {", ".join(policy.kinds)} alone, such as "a red circle"'
        ' or "three squares"; leave it out, or set config.model.condition to'
        ' "text"'
      )
  return found


def prompt_batches(config: ConfigDict) -> pipeline.PromptBatches:
  """Batches of `config.rollout.prompts` training prompts, by the step.

  Prompts in any words are of one kind, and come equally often.
  """
  free = config.data.grammar == "free"
  return pipeline.prompt_batches(
    load_prompts(config, "train"), seed=config.seed,
    batch_size=config.rollout.prompts,
    kind_weights=None if free else config.data.kind_weights,
    side=picture_side(make_policy(config)),
  )  # fmt: skip


def prompt_ids(config: ConfigDict) -> np.ndarray:
  """uint32 [N], the ids of all training prompts."""
  prompts = load_prompts(config, "train")
  return np.array([prompt.prompt_id for prompt in prompts], np.uint32)
