"""Configs: files with `get_config(arg)`, checked overrides, bound arguments.

A config is a locked `ml_collections.ConfigDict` of numbers, text, booleans,
tuples and sections. Every failure is a `UserError` of one line.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from jaxreward import reading
from jaxreward.binding import (
  bind,
  blame,
  find_file,
  load_module,
  resolve_callable,
  split_arg,
)
from jaxreward.errors import UserError, nearest, one_line, shown

__all__ = [
  "bind",
  "blame",
  "differences",
  "find_file",
  "flatten",
  "from_json",
  "load",
  "load_module",
  "load_sibling",
  "override",
  "parse_arg",
  "resolve_callable",
  "split_arg",
  "to_json",
]

# Sections that take new entries and arguments from the command line.
OPEN_SECTIONS = (
  "rewards",
  "heldout_rewards",
  "judged_rewards",
  "regularizers",
  "players",
  "eval.evaluators",
  "references",
  "trackers",
  "data.layout.columns",
)
# Sections that name one method: `name` and its arguments.
METHOD_SECTIONS = (
  "model",
  "autoencoder",
  "text_encoder",
  "image_encoder",
  "objective",
  "advantage",
  "composition",
  "rollout.sampler",
  "align.depth",
  "align.combine",
  "rollout.schedule",
  "rollout.window_move",
  "rollout.start",
  "align.density",
  "data.users.encoder",
  "eval.sampler",
  "eval.steering",
  "eval.start",
  "sample.sampler",
  "sample.steering",
  "sample.start",
  "train_reward.loss",
  "train_reward.curation",
  "train_reward.sampling.sampler",
  "train_reward.backbone_optimizer",
  "train_reward.last_layers",
  "reward_model.backbone",
  "reward_model.head",
  "verdicts.rule",
)
# Fields and sections that may change when a run is resumed: they leave its
# results unchanged (for the mesh, within float tolerance).
NOT_RESULTS = (
  "workdir",
  "checkpoint",
  "logging",
  "mesh",
  "topology",
  "compile_check",
  "export",
  "processes",
  "profile",
  "progress",
  "report",
  "trackers",
)

_ABSENT = object()
_LARGEST = 10**300
_DEEPEST = 32  # nested sections


def load_config_file(spec: str) -> ConfigDict:
  """`get_config` of "configs/x.py" or "configs/x.py:arg", not yet locked."""
  path, arg = split_arg(spec)
  module = load_module(path)
  get_config = getattr(module, "get_config", None)
  if not callable(get_config):
    raise UserError(f"{path}: defines no function get_config(arg)")
  takes_arg = bool(inspect.signature(get_config).parameters)
  if arg is not None and not takes_arg:
    raise UserError(f'{path}: get_config takes no argument, got "{arg}"')
  try:
    config = get_config(arg) if takes_arg else get_config()
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    raise blame(error, path, find_file(path).resolve()) from error
  if isinstance(config, Mapping | ConfigDict):
    _require_names(config, path)
  if isinstance(config, Mapping):
    config = ConfigDict(config)
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"{path}: get_config returned {type(config).__name__}, not a ConfigDict"
    )
  return config


def _require_names(
  section: Mapping | ConfigDict, path: str, field: str = "config"
) -> None:
  """Refuses keys that are not text, and endless nesting."""
  if field.count(".") > _DEEPEST:
    raise UserError(
      f"{path}: {shown(field)} is nested too deeply: more than {_DEEPEST}"
      " sections in one another"
    )
  plain = isinstance(section, ConfigDict)
  fields = (
    section.items(preserve_field_references=True) if plain else section.items()
  )
  for key, value in fields:
    if not isinstance(key, str):
      raise UserError(
        f"{path}: {shown(field)} has the key {shown(repr(key))}; each is the"
        ' name of a field, as in {"seed": 1}'
      )
    if isinstance(value, Mapping | ConfigDict):
      _require_names(value, path, f"{field}.{key}")


def load_sibling(spec: str, beside: str) -> ConfigDict:
  """Config of a file near another: `load_sibling("base.py", __file__)`."""
  return load_config_file(str(pathlib.Path(beside).resolve().parent / spec))


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
  """Loads a config file, applies the overrides in order and locks it.

  Args:
    spec: "configs/x.py" or "configs/x.py:arg".
    overrides: pairs of a dotted field and its value as text.
  """
  config = load_config_file(spec)
  override(config, overrides)
  return config


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
  """Typed values of "a=1,b" style config arguments.

  Args:
    arg: comma-separated `name=value` entries; a bare name of a boolean is
      true; a bare value goes to the first name.
    **defaults: known names with their default values; a tuple lists the
      choices, the first being the default.

  Raises:
    UserError: an unknown name or choice, with the nearest known one, or text
      that is not a value of the field's type.
  """
  choices = {k: v for k, v in defaults.items() if isinstance(v, tuple)}
  values = defaults | {name: of[0] for name, of in choices.items()}
  default_name, *_ = defaults
  flags = [name for name, value in defaults.items() if isinstance(value, bool)]
  for entry in filter(None, (arg or "").split(",")):
    name, equals, text = entry.partition("=")
    if not equals:
      bare = [*choices.get(default_name, ()), *flags]
      if default_name in flags + list(choices) and entry not in bare:
        raise _unknown_arg(entry, bare)
      name, text = (name, "true") if name in flags else (default_name, entry)
    if name not in defaults:
      raise _unknown_arg(name, list(defaults))
    default = values[name]
    value = _parse(f"argument {name}", text, type(default), default)
    if value not in choices.get(name, (value,)):
      raise _unknown_arg(value, choices[name])
    values[name] = value
  return values


def _unknown_arg(name: str, known: Sequence[str]) -> UserError:
  return UserError(
    f'config argument "{name}" is not known{nearest(name, known)}; known:'
    f" {', '.join(known)}"
  )


def override(config: ConfigDict, pairs: Sequence[tuple[str, str]]) -> None:
  """Sets fields from text, each to its own type, and locks the config."""
  with config.unlocked():
    for key, text in pairs:
      _switch_method(config, key, text)
    for key, text in pairs:
      _set(config, key, text)
  config.lock()


def _switch_method(config: ConfigDict, key: str, text: str) -> None:
  """Switching to another method drops the arguments of the old one."""
  section, _, field = key.rpartition(".")
  if section not in METHOD_SECTIONS or field != "name":
    return
  *outer, name = section.split(".")
  parent: Any = config
  for part in outer:
    parent = parent.get(part)
    if not isinstance(parent, ConfigDict):
      return  # `_set` reports the unknown field
  old = parent.get(name)
  if isinstance(old, ConfigDict) and old.get("name") != text:
    dropped = [k for k in old if k != "name"]
    if dropped:
      logging.info(
        "config.%s is %s now: dropped the arguments of %s (%s)",
        section, shown(text), shown(old.get("name")),
        shown(", ".join(dropped), 100),
      )  # fmt: skip
    parent[name] = ConfigDict({"name": text})


def _is_of_open(parts: Sequence[str]) -> bool:
  """Whether the section at this path is an open one, or in one."""
  starts = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
  return any(start in OPEN_SECTIONS for start in starts)


def _is_open(parts: Sequence[str]) -> bool:
  """Whether the section at this path takes new fields."""
  return _is_of_open(parts) or ".".join(parts) in METHOD_SECTIONS


def _set(config: ConfigDict, key: str, text: str) -> None:
  *sections, name = parts = key.split(".")
  if len(parts) > _DEEPEST:
    raise UserError(
      f"config.{shown(key)} is nested too deeply: more than {_DEEPEST} sections"
      " in one another"
    )
  if not all(
    part.isprintable() and part.strip() == part != "" for part in parts
  ):
    raise UserError(
      f"config.{shown(key)}: names of fields are words joined by single dots"
    )
  node = config
  for i, part in enumerate(sections):
    if part not in node:
      if not _is_open(parts[: i + 1]):
        raise _unknown(config, node, key)
      node[part] = ConfigDict()
    node = node[part]
    if not isinstance(node, ConfigDict):
      raise UserError(
        f"config.{shown(key)}: config.{shown('.'.join(parts[: i + 1]))} is "
        f"{shown(repr(node))}, not a section"
      )
  if name not in node:
    if not _is_open(sections):
      raise _unknown(config, node, key)
    node[name] = _literal(text)
  elif _is_of_open(sections) and _is_none(text):
    del node[name]
  elif isinstance(node[name], ConfigDict):
    node[name] = _parse_section(key, text, node[name])
  else:
    value = _parse(f"config.{key}", text, node.get_type(name), node[name])
    try:
      node[name] = value
    except TypeError as error:
      raise UserError(
        f"config.{key}={shown(text)}: {one_line(error)}"
      ) from error


def _unknown(config: ConfigDict, node: ConfigDict, key: str) -> UserError:
  """The error for an unknown field; prefers fields with the same last name."""
  paths = list(flatten(config))
  last = key.rpartition(".")[2]
  same = [p for p in paths if p.rpartition(".")[2] == last]
  hint = nearest(key, same) or (f' (did you mean "{same[0]}"?)' if same else "")
  hint = hint or nearest(key, paths)
  if not hint:
    hint = f"; the fields there are {', '.join(sorted(node))}"
  return UserError(f"config.{shown(key, 100)}: no such field{hint}")


def _is_none(text: str) -> bool:
  return text.lower() == "none"


def _literal(text: str) -> Any:
  """A Python literal, true, false or none, or else the text itself."""
  literals = {"true": True, "false": False, "none": None}
  if text.lower() in literals:
    return literals[text.lower()]
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    return text
  if not isinstance(value, dict):
    return value
  try:
    return ConfigDict(value)
  except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
    return text  # not a section: its keys are not names


def _parse_section(key: str, text: str, section: ConfigDict) -> ConfigDict:
  value = _literal(text)
  if _is_open(key.split(".")) and isinstance(value, ConfigDict):
    return value
  raise UserError(
    f"config.{key}={shown(text)}: this is a section; set one of its "
    f"fields: {', '.join(sorted(section))}"
  )


def _parse(field: str, text: str, kind: type, current: Any) -> Any:
  """Text as a value of the field's type, or an error with the type."""
  if _is_none(text) and current is None:
    return None
  if kind is type(None):
    return _literal(text)
  if kind in (tuple, list):
    return kind(_parse_sequence(field, text, current or ()))
  booleans = {"true": True, "false": False, "1": True, "0": False}
  readers: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (lambda t: booleans[t.lower()], "true or false"),
    int: (int, "an integer"),
    float: (float, "a number"),
    str: (str, "text"),
  }
  reader, expected = readers.get(kind, (_literal, kind.__name__))
  try:
    value = reader(text)
    if kind not in readers and not isinstance(value, kind):
      raise ValueError
  except (ValueError, KeyError):
    if isinstance(current, tuple | list):
      text, expected = f"...{text}...", f"{expected} in each place"
      current = ",".join(map(str, current))
    example = "" if current is None else f", as in {field}={current}"
    raise UserError(
      f"{field}={shown(text)}: expected {expected}{example}"
    ) from None
  return value


def _parse_sequence(field: str, text: str, current: Sequence[Any]) -> list[Any]:
  """Items of "(1, 2)", "1,2" or "a,b", converted to the current item type.

  A tuple of integers also accepts floats, since weights are often written so.
  """
  value = _literal(text)
  if isinstance(value, str):
    value = [t.strip().strip("\"'") for t in text.strip("()[] ").split(",")]
    value = [t for t in value if t]
  items = list(value) if isinstance(value, list | tuple) else [value]
  types = {type(c) for c in current}
  if len(types) != 1:
    return items
  kind = types.pop()
  if kind is int and items and all(type(i) in (int, float) for i in items):
    kind = float if any(type(i) is float for i in items) else int
  if kind in (bool, int, float, str):
    return [_parse(field, str(i), kind, current) for i in items]
  return items


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON text; infinities are kept, as {"$float"}.

  Raises:
    UserError: a value that JSON does not round-trip.
  """
  return json.dumps(_encode("config", config), indent=2, allow_nan=False)


def _encode(field: str, value: Any) -> Any:
  if isinstance(value, ConfigDict | dict):
    return {
      _text(field, k): _encode(f"{field}.{k}", value[k]) for k in sorted(value)
    }
  if isinstance(value, list | tuple):
    return [_encode(field, v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return {"$float": str(value)}
  if isinstance(value, int) and abs(value) >= _LARGEST:
    raise UserError(f"{field} is a whole number of more than 300 digits")
  if isinstance(value, str):
    return _text(field, value)
  if value is None or isinstance(value, bool | int | float):
    return value
  raise UserError(
    f"{field} holds a {type(value).__name__}; a config holds "
    "numbers, text, booleans, tuples and sections"
  )


def _text(field: str, text: Any) -> Any:
  """A text or a key as it is, once a file of UTF-8 can hold it."""
  try:
    str(text).encode()
  except UnicodeEncodeError as error:
    half = shown(text[error.start], 10)
    raise UserError(
      f"{shown(field, 100)}={shown(text, 100)}: it holds {half}, a byte that is"
      " not UTF-8 or half a character; a run could not be resumed: rename the"
      " file, or write the text anew"
    ) from error
  return text


def from_json(text: str) -> ConfigDict:
  """The config back from `to_json`, locked; every list becomes a tuple."""
  value = _decode(reading.parse(text, "the config"))
  if not isinstance(value, dict):
    raise ValueError(f"expected an object, found {shown(repr(value))}")
  return ConfigDict(value).lock()


def _decode(value: Any) -> Any:
  if isinstance(value, dict):
    if set(value) == {"$float"}:
      return float(value["$float"])
    return {k: _decode(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(_decode(v) for v in value)
  return value


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
  """The fields of a config by their dotted names."""
  fields = {}
  for key in config:
    value = config[key]
    if isinstance(value, ConfigDict) and value:
      fields.update(flatten(value, f"{prefix}{key}."))
    else:
      fields[prefix + key] = value
  return fields


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
  """Lines "field: old -> new" for what changes results; empty if nothing."""
  before, after = (flatten(from_json(to_json(c))) for c in (old, new))
  show = lambda v: "(absent)" if v is _ABSENT else repr(v)
  text = lambda v: shown(show(v), 100)
  lines = []
  for key in sorted(before.keys() | after.keys()):
    a, b = before.get(key, _ABSENT), after.get(key, _ABSENT)
    if key.split(".")[0] not in NOT_RESULTS and show(a) != show(b):
      lines.append(f"{shown(key, 80)}: {text(a)} -> {text(b)}")
  return lines
