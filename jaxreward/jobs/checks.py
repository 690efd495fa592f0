"""Values of a config that no type tells from wrong ones, before anything runs.

What one method or one file needs is checked where it is bound or read; here
is what would otherwise end a run in the middle, or in a traceback.
"""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict

from jaxreward.data.scenes import grammar
from jaxreward.errors import UserError

SEEDS = ("seed", "eval.seed")
SCALES = ("eval.guidance_scales", "train_reward.sampling.guidance_scales")
PENALTIES = ("objective.kl",)
DECAYS = ("ema.decay", "objective.old_decay", "train_reward.ema_decay")


def check(config: ConfigDict) -> None:
  """Checks the fields that the config has.

  Raises:
    UserError: the field, its value and what it takes.
  """
  for fields, is_right, wanted in (
    (SEEDS, _is_seed, "a whole number from 0 to 2**32 - 1"),
    (SCALES, _are_scales, "one finite number or more, as in 1.0,2.0"),
    (DECAYS, _is_decay, "at least 0 and less than 1"),
    (PENALTIES, lambda v: is_finite(v) and v >= 0, "a number >= 0"),
    (
      ("data.kind_weights",),
      _are_kind_weights,
      f"{len(grammar.KINDS)} numbers >= 0, not all 0, in the order"
      f" {', '.join(grammar.KINDS)}",
    ),
  ):
    for field in fields:
      value = _value(config, field)
      if value is not None and not is_right(value):
        raise UserError(f"config.{field}={value}: expected {wanted}")


def is_finite(value: Any) -> bool:
  """Whether a value is a number, no truth value, and finite."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and math.isfinite(value)


def _value(config: ConfigDict, field: str) -> Any:
  """The value at a dotted field; None where there is none."""
  value: Any = config
  for part in field.split("."):
    if not isinstance(value, ConfigDict) or part not in value:
      return None
    value = value[part]
  return value


def _is_seed(value: Any) -> bool:
  return is_finite(value) and value == int(value) and 0 <= value < 2**32


def _are_scales(value: Any) -> bool:
  return isinstance(value, tuple | list) and (
    len(value) > 0 and all(is_finite(v) for v in value)
  )


def _is_decay(value: Any) -> bool:
  return is_finite(value) and 0 <= value < 1


def _are_kind_weights(value: Any) -> bool:
  if not isinstance(value, tuple | list) or len(value) != len(grammar.KINDS):
    return False
  return all(is_finite(v) and v >= 0 for v in value) and sum(value) > 0
