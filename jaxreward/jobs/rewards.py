"""The rewards that a config names, found, bound and loaded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.jobs import reward_model

_RESERVED = ("weight", "weights")


def load(
  config: ConfigDict, workdir: epath.Path, sections: Sequence[str]
) -> dict[str, rewards.Reward]:
  """The rewards of some sections, "rewards" or "heldout_rewards".

  A section's entry is `dict(fn=..., weight=..., **arguments)`; `fn` is a name
  of the registry, a dotted path or "file.py:function". A learned reward takes
  `weights`, its safetensors file; without, the one trained in the working
  directory.

  Raises:
    UserError: what is wrong with an entry, before anything runs.
  """
  functions: dict[str, Any] = {}
  weights: dict[str, float] = {}
  contexts: dict[str, dict[str, Any]] = {}
  for section in sections:
    for name in config[section]:
      if name in functions:
        raise UserError(
          f'config.{section}.{name}: "{name}" stands in another section too;'
          " a held-out reward is one that is not trained on"
        )
      entry, field = config[section][name], f"{section}.{name}"
      learned = entry.get("fn") == "learned"
      fn = config_lib.bind(
        entry, rewards.REGISTRY, field=field, key="fn", positional=2,
        reserved=_RESERVED,
        supplied=("params", "scorer", "mean", "std") if learned else (),
      )  # fmt: skip
      if learned:
        fn, contexts[name] = _load_learned(fn, entry, workdir, field)
      functions[name] = fn
      weights[name] = float(entry.get("weight", 1.0))
  return rewards.build(functions, weights, contexts)


def _load_learned(fn, entry, workdir, field):
  """(function with its architecture bound, arrays it takes)."""
  path = epath.Path(
    entry.get("weights", "") or workdir / reward_model.MODEL_FILE
  )
  if not path.exists():
    raise UserError(
      f"config.{field}: there is no reward model at {path}; train one first"
      f" (job train_reward) or name its file in config.{field}.weights"
    )
  model = reward_model.load(path)
  bound = functools.partial(fn, scorer=model.scorer)
  context = {"params": model.params, "mean": model.mean, "std": model.std}
  return functools.update_wrapper(bound, fn), context
