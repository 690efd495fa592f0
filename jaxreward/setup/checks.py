"""Range checks that types cannot express, before any computation.

Options of methods and contents of files are checked where they are bound or read;
the checks here are for values that would stop a run later, or with a traceback.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxreward import tasks, user_code
from jaxreward.data.prompts import SPLITS
from jaxreward.errors import (
  LARGEST,
  MOST_STEPS,
  UserError,
  is_finite,
  nearest,
  shown,
)
from jaxreward.setup import tracking, videos
from jaxreward.training import optimizer

SEEDS = ("seed", "eval.seed")
SCALES = ("eval.guidance_scales", "train_reward.sampling.guidance_scales")
DECAYS = ("ema.decay", "train_reward.ema_decay")
COMPUTED, STORED = ("float32", "bfloat16"), ("float32", "bfloat16", "float16")
NAMES = {
  "model.dtype": COMPUTED,
  "model.param_dtype": COMPUTED,
  "align.split": ("times", "samples"),
  "video.scored": videos.SCORED,
  "autoencoder.dtype": COMPUTED,
  "text_encoder.dtype": COMPUTED,
  "image_encoder.dtype": COMPUTED,
  "reward_model.backbone.dtype": COMPUTED,
  "pretrain.export_dtype": STORED,
  "finetune.export_dtype": STORED,
  "export.dtype": ("same", *STORED),
  "sample.split": SPLITS,
  "data.grammar": tuple(tasks.TASKS),
}

_OPTIMIZERS = ("optimizer", "train_reward.optimizer")
# Fields per section, by their range.
_COUNTS = {  # 1 or more
  "pretrain": ("steps", "batch_size"),
  "finetune": ("steps", "batch_size", "times", "drawn"),
  "rollout": ("prompts", "microbatch"),
  "align": ("iterations", "times", "updates", "pairs", "last_steps"),
  "eval": ("samples", "quick_samples", "group", "microbatch"),
  "sample": ("prompts", "group", "microbatch", "scale"),
  "train_reward": ("train_rows", "heldout_rows", "steps", "rows"),
  "train_reward.sampling": ("samples", "microbatch"),
  "checkpoint": ("keep",),
  "video": ("frames",),
  "text_encoder": ("area",),
}
_STEPS = tuple(
  f"{section}.num_steps"
  for section in ("rollout", "eval", "sample", "train_reward.sampling")
)
_COUNTS_OR_NONE = {  # 0 or more
  "rollout": ("window_start", "window_size"),
  "eval": ("every",),
  "align": ("hold_policy",),
  "checkpoint": ("every",),
  "train_reward": ("evaluate_every", "save_every"),
  "train_reward.pictures": ("renders", "spoiled", "borrowed"),
  "train_reward.users": ("count", "unseen"),
  "data.users": ("count", "unseen"),
  "lora": ("rank",),
  "finetune": ("microbatch",),
}
_POSITIVE = {
  "rollout": ("shift",),
  "pretrain": ("shift",),
  "train_reward.sampling": ("shift",),
  "lora": ("alpha",),
}
_NOT_NEGATIVE = {
  "pretrain": ("time_std", "moments"),
  "finetune": ("shift",),
  "train_reward": ("margin",),
  "checkpoint": ("grace",),
  "video": ("fade",),
  "eval.judging.gate": ("error",),
}
_FINITE = {
  "rollout": ("guidance_scale",),
  "sample": ("guidance_scale",),
  "pretrain": ("time_mean",),
}
_GATE = "eval.judging.gate"
_SHARES = {
  "data": ("caption_drop",),
  "pretrain": ("caption_corruption", "caption_drop"),
  "finetune": ("validation",),
  "train_reward.pictures": ("strict_weight",),
  "train_reward.users": ("weight",),
  "data.users": ("drop",),
  "data.scored": ("drop",),
}


# Counts whose product is the number of samples, or of their rows, at once.
SAMPLES = {
  "rollout": ("rollout.prompts", "rollout.group"),
  "eval": ("eval.samples", "eval.group"),
  "sample": ("sample.prompts", "sample.group"),
}
_PRODUCTS = (
  *SAMPLES.values(),
  (*SAMPLES["rollout"], "align.times"),
  ("train_reward.train_rows", "train_reward.pictures_per_row"),
  ("train_reward.heldout_rows", "train_reward.pictures_per_row"),
)


def _fields(sections: Mapping[str, Sequence[str]]) -> list[str]:
  return [
    f"{section}.{name}" for section in sections for name in sections[section]
  ]


def check(config: ConfigDict) -> None:
  """Checks the fields that the config has.

  Raises:
    UserError: the field, its value and what it takes.
  """
  for field, choices in NAMES.items():
    _check_name(field, _value(config, field), choices)
  for fields, is_right, expectation in (
    (SEEDS, _is_seed, "a whole number from 0 to 2**32 - 1"),
    (SCALES, _are_scales, "one finite number or more, as in 1.0,2.0"),
    (DECAYS, _is_decay, "at least 0 and less than 1"),
    (
      _fields(_COUNTS),
      lambda v: _is_count(v, 1, LARGEST),
      f"a whole number, at least 1 and at most {LARGEST:,}",
    ),
    (
      _STEPS,
      lambda v: _is_count(v, 1, MOST_STEPS),
      f"a whole number, at least 1 and at most {MOST_STEPS:,}",
    ),
    (
      ("train_reward.pictures_per_row",),
      lambda v: _is_count(v, 2, LARGEST),
      "a whole number, at least 2: pictures are compared in pairs",
    ),
    (
      _fields(_COUNTS_OR_NONE),
      lambda v: _is_count(v, 0, LARGEST),
      f"a whole number, at least 0 and at most {LARGEST:,}",
    ),
    (
      _fields(_POSITIVE),
      lambda v: is_finite(v) and v > 0,
      "a number greater than 0",
    ),
    (
      _fields(_NOT_NEGATIVE),
      lambda v: is_finite(v) and v >= 0,
      "a number >= 0",
    ),
    (_fields(_FINITE), is_finite, "a finite number"),
    (
      (f"{_GATE}.pearson",),
      lambda v: is_finite(v) and -1 <= v <= 1,
      "a number from -1 to 1",
    ),
    (
      _fields(_SHARES),
      lambda v: is_finite(v) and 0 <= v <= 1,
      "a number from 0 to 1",
    ),
    (
      ("train_reward.label_noise",),
      lambda v: is_finite(v) and 0 <= v < 0.5,
      "at least 0 and less than 0.5",
    ),
    (
      ("data.kind_weights",),
      functools.partial(_are_kind_weights, len(_kinds(config))),
      f"{len(_kinds(config))} numbers >= 0, not all 0, in the order"
      f" {', '.join(_kinds(config))}",
    ),
  ):
    for field in fields:
      value = _value(config, field)
      if value is not None and not is_right(value):
        raise UserError(
          f"config.{field}={shown(value)}: expected {expectation}"
        )

  for section in _OPTIMIZERS:
    options = _value(config, section)
    if isinstance(options, ConfigDict):
      optimizer.require_ranges(f"config.{section}.", **options.to_dict())
  for fields in _PRODUCTS:
    require_product(config, fields)
  _check_gate(config)
  tracking.bind(config)


def gate_of(config: ConfigDict) -> dict[str, Any]:
  """What `config.eval.judging.gate` asks for: "pearson", "error", both or neither."""
  limits = {k: _value(config, f"{_GATE}.{k}") for k in ("pearson", "error")}
  return {name: limit for name, limit in limits.items() if limit is not None}


def _check_gate(config: ConfigDict) -> None:
  """Refuses a gate that no evaluation of rewards would close."""
  limits = gate_of(config)
  if not limits:
    return
  name, value = next(iter(limits.items()))
  start = f"config.{_GATE}.{name}={shown(value)}"
  if not _value(config, "eval.preferences"):
    raise UserError(
      f"{start}: rewards are held against ratings of config.eval.preferences,"
      " which is empty; name a file of preferences, or set it to None"
    )
  names = (config.job,)
  if config.job == "pipeline":
    names = tuple(_value(config, "jobs") or ())
  if "align" in names and "evaluate" not in names[: names.index("align")]:
    raise UserError(
      f"{start}: nothing is evaluated before align; set config.job=pipeline and"
      " config.jobs=evaluate,align, or set it to None"
    )


def require_product(
  config: ConfigDict, fields: Sequence[str], **more: int
) -> None:
  """Refuses more samples at once than fit on any machine.

  Args:
    config: of the run.
    fields: counts that are multiplied; one that is missing skips the check.
    **more: further factors, by their dotted fields or by words.

  Raises:
    UserError: names the fields, their values and the bound.
  """
  values = {field: _value(config, field) for field in fields} | more
  counts = list(values.values())
  if all(_is_count(v, 1) for v in counts) and math.prod(counts) > LARGEST:
    factors = " times ".join(
      f"config.{field}={shown(v, 20)}" for field, v in values.items()
    )
    raise UserError(f"{factors} are more than {LARGEST:,} samples; lower them")


def _check_name(field: str, value: Any, choices: Sequence[str]) -> None:
  if value is not None and value not in choices:
    raise UserError(
      f'config.{field}="{shown(value)}" is none of {", ".join(choices)}'
      f"{nearest(str(value), choices)}"
    )


def validate_options(
  fn: Callable[..., Any], *shapes: Any, field: str, prefix: str = "config."
) -> Any:
  """Calls a function on shapes only, so that it checks its own options.

  Args:
    fn: a method with its options bound.
    *shapes: trees of `jax.ShapeDtypeStruct`; nothing is computed.
    field: of the config, for errors that do not name it.
    prefix: of the function's own errors.

  Returns:
    Its return value, as shapes.

  Raises:
    UserError: the function's own message; for user code, with the line of its
      file.
  """
  try:
    with user_code.blamed(f"config.{field}", host=False):
      return jax.eval_shape(fn, *shapes)
  except UserError as error:
    text = str(error)
    if text.startswith("config."):  # it names the field itself
      raise
    raise UserError(f"{prefix}{text}") from error


def _value(config: ConfigDict, field: str) -> Any:
  """The value of a dotted field; None if it does not exist."""
  value: Any = config
  for part in field.split("."):
    if not isinstance(value, ConfigDict) or part not in value:
      return None
    value = value[part]
  return value


def _is_seed(value: Any) -> bool:
  return is_finite(value) and value == int(value) and 0 <= value < 2**32


def _is_count(value: Any, least: int, most: float = math.inf) -> bool:
  return is_finite(value) and value == int(value) and least <= value <= most


def _are_scales(value: Any) -> bool:
  return isinstance(value, tuple | list) and (
    len(value) > 0 and all(is_finite(v) for v in value)
  )


def _is_decay(value: Any) -> bool:
  return is_finite(value) and 0 <= value < 1


def _kinds(config: ConfigDict) -> tuple[str, ...]:
  """The categories of prompts; those of the first task where none counts."""
  name = _value(config, "data.source")
  if name not in tasks.OWN:
    name = _value(config, "data.grammar")
  task = tasks.TASKS.get(str(name))
  if task is None or not task.is_weighted:
    task = next(iter(tasks.TASKS.values()))
  return tuple(task.categories.values())


def _are_kind_weights(count: int, value: Any) -> bool:
  if not isinstance(value, tuple | list) or len(value) != count:
    return False
  return all(is_finite(v) and v >= 0 for v in value) and sum(value) > 0
