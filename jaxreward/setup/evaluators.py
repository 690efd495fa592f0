"""The evaluators that a config names."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward.errors import UserError
from jaxreward.evaluation import evaluators
from jaxreward.methods import asks


def bind(config: ConfigDict) -> evaluators.Evaluators:
  """Those of `config.eval.evaluators`, by name.

  Raises:
    UserError: an entry that is no section, names no function, or a function
      that reads what no evaluation offers.
  """
  functions = {}
  for name, section in config.eval.evaluators.items():
    field = f"eval.evaluators.{name}"
    if not isinstance(section, ConfigDict):
      raise UserError(
        f"config.{field}={section!r}: an evaluator is a section; name its"
        f" function in config.{field}.fn"
      )
    fn = config_lib.bind(
      section, evaluators.REGISTRY, field=field, key="fn", supplied=asks
    )
    evaluators.require(fn, f"{field}.fn={section.fn}")
    functions[name] = fn
  return evaluators.Evaluators(functions)
