"""Checks of types and shapes that are made when a function is first called.

Making them takes longer than importing the package, and a test calls few functions.
"""

import functools

import beartype

# an int is welcome where a float is expected
_CONF = beartype.BeartypeConf(is_pep484_tower=True)


def check(function):
  """`beartype.beartype`, but nothing is done before the first call."""

  @functools.cache
  def checked():
    return beartype.beartype(function, conf=_CONF)

  @functools.wraps(function)
  def call(*args, **kwargs):
    return checked()(*args, **kwargs)

  return call
