"""The references of a config, and the arrays that feeds offer of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import feeds, methods, user_code
from jaxreward.errors import (
  UserError,
  is_finite,
  nearest,
  require_not_negative,
  shown,
)
from jaxreward.setup import players
from jaxreward.training.references import RULES, Rule, decayed

OLD, REFERENCE = "old", "reference"
_SEEDED = ("earlier",)  # rules whose draws follow `config.seed`


def names(config: ConfigDict) -> tuple[str, ...]:
  """Names beyond those that every feed knows."""
  return tuple(n for n in config.references if n not in (OLD, REFERENCE))


def extended(config: ConfigDict, feed: feeds.Feed) -> feeds.Feed:
  """A feed with arrays of every reference and copy that the config names."""
  return feeds.with_references(feed, names(config) + players.copies(config))


def bind(config: ConfigDict, follows: bool) -> dict[str, Rule]:
  """The rules by name, without those of networks that never move.

  Args:
    config: of the run.
    follows: whether samples are drawn by a policy that follows the trained one,
      the reference "old".

  Raises:
    UserError: an unknown rule or option.
  """
  rules: dict[str, Rule] = {}
  if follows:
    decay: Any = config.objective.get("old_decay", 0.0)
    rate: Any = config.objective.get("old_rate", 0.0)
    if not (is_finite(decay) and 0 <= decay < 1):
      raise UserError(
        f"config.objective.old_decay={shown(decay)}: expected at least 0 and"
        " less than 1"
      )
    flat: Any = config.objective.get("old_flat", 0)
    require_not_negative("config.objective.", old_rate=rate, old_flat=flat)
    rules[OLD] = decayed(decay=decay, rate=rate, flat=flat)
  for name, section in config.references.items():
    field = f"references.{name}"
    if not isinstance(section, ConfigDict):
      raise UserError(
        f"config.{field}={section!r}: a reference is a section; name its rule in"
        f" config.{field}.rule ({', '.join(RULES)})"
      )
    if section.get("rule") in _SEEDED:
      section = ConfigDict({"seed": config.seed} | section.to_dict())
    make_rule = config_lib.bind(section, RULES, field=field, key="rule")
    rule = _call(f"config.{field}", make_rule)
    if name == OLD and not follows:
      raise UserError(
        f"config.{field}.rule: config.objective.name="
        f'"{config.objective.name}" draws with the trained parameters and reads'
        " no old policy; give the reference another name"
      )
    if not name.isidentifier():
      raise UserError(
        f"config.{field}: arrays are called after it, as in v_{REFERENCE}; give"
        " it a name of letters and digits"
      )
    if name == REFERENCE and section.rule == "fixed":
      continue  # the initial parameters are there anyway
    rules[name] = rule
  return rules


def tied(
  fn: Callable[..., Any], config: ConfigDict, field: str
) -> Callable[..., Any]:
  """A term whose arrays of the reference are those of another network.

  Args:
    fn: with its options.
    config: of the run.
    field: the term's section, whose `reference` names the network.

  Raises:
    UserError: one that the config does not name, or a term that reads none.
  """
  section = operator.attrgetter(field)(config)
  reference = section.get("reference", REFERENCE)
  if reference == REFERENCE:
    return fn
  known = (*names(config), *players.copies(config))
  own = [name for name in methods.asks(fn) if REFERENCE in name]
  if not own or reference not in known:
    what = (
      f"config.references has {', '.join(known) or 'no section'}"
      f"{nearest(str(reference), known)}"
    )
    raise UserError(
      f"config.{field}.reference={shown(reference)}:"
      f" {what if own else 'the term reads no reference; leave it out'}"
    )
  return methods.renamed(
    fn, {name: name.replace(REFERENCE, reference) for name in own}
  )


def check(config: ConfigDict, follows: bool, metrics: Iterable[str]) -> None:
  """Refuses rules that would fail during the run.

  Args:
    config: of the run.
    follows: see `bind`.
    metrics: names of those that an update has.
  """
  bind(config, follows)
  metrics = sorted(metrics)
  for name, section in config.references.items():
    metric = section.get("metric", "kl")
    if section.rule == "reset" and metric not in metrics:
      raise UserError(
        f'config.references.{name}.metric="{metric}": no update of this run has'
        f" a metric of this name{nearest(str(metric), metrics)}; a term gives one,"
        f" as config.regularizers.{metric}"
      )


def _call(field: str, make_rule: Callable[..., Any]) -> Any:
  try:
    return user_code.call(field, make_rule)
  except UserError as error:
    if str(error).startswith("config."):
      raise
    raise UserError(f"{field}.{error}") from error
