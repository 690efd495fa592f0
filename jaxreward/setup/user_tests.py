"""How well a reward model knows users: those it trained on, and new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import processes, setup
from jaxreward.data import preferences
from jaxreward.data.preferences import PreferenceBatch, Preferences
from jaxreward.errors import UserError
from jaxreward.reward_models import RewardModel
from jaxreward.setup import reward_model
from jaxreward.types import Array, Params


def check(config: ConfigDict) -> None:
  """Refuses planted users that the rows cannot tell apart.

  Raises:
    UserError: unseen users alone, or too few held-out rows of each.
  """
  users, rows = config.train_reward.users, config.train_reward.heldout_rows
  if users.unseen and not users.count:
    raise UserError(
      f"config.train_reward.users.unseen={users.unseen}: unseen users need others"
      " to train on; set config.train_reward.users.count"
    )
  if users.shown < 1:
    raise UserError(
      f"config.train_reward.users.shown={users.shown}: a new user is known by 1"
      " row or more"
    )
  if users.unseen and rows // (users.count + users.unseen) <= users.shown:
    raise UserError(
      f"config.train_reward.users.shown={users.shown}: of"
      f" config.train_reward.heldout_rows={rows} each of"
      f" {users.count + users.unseen} users labels"
      f" {rows // (users.count + users.unseen)}, which leaves none to test"
    )


def evaluate(
  config: ConfigDict, model: RewardModel, params: Params, rows: Preferences
) -> dict[str, Any]:
  """Held-out accuracy by who answered; empty without planted users.

  Returns:
    "known" of users that were trained on, each scored as himself by a head with
    a table; "unseen" of new users, scored as the average one; and, of a head that
    adapts, "adapted" of the new users' rows, scored after
    `train_reward.users.shown` other rows of theirs. Shares as in
    `reward_model.evaluate`; "unseen" is of the same pairs as "adapted".
  """
  users = config.train_reward.users
  if not users.count or rows.user is None:
    return {}
  user = np.asarray(rows.user)
  score = reward_model.row_scorer(model)
  is_known, is_example = user < users.count, _first_rows(user, users.shown)
  numbers = jnp.asarray(np.where(is_known, user, -1))
  scores = score(params, rows, {"user": numbers})
  rest = ~is_known & ~is_example
  parts = {"known": (is_known, scores), "unseen": (rest, scores)}
  if model.head.adapt is not None and rest.any():
    new = np.unique(user[~is_known])
    adapt = jax.jit(lambda params, b: model.adapt(params, b, b.rating))
    tastes = np.stack(
      [_taste(adapt, params, rows, is_example & (user == u)) for u in new]
    )
    place = np.searchsorted(new, np.where(is_known, new[0], user))
    adapted = score(params, rows, {"taste": jnp.asarray(tastes[place])})
    parts["adapted"] = (rest, adapted)
  return {
    name: _share(config, rows, *part)
    for name, part in parts.items()
    if part[0].any()
  }


def _share(
  config: ConfigDict, rows: Preferences, mask: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
  """{accuracy, low, high, n} of the pairs of some rows."""
  results = reward_model.evaluate(
    preferences.take_rows(rows, np.flatnonzero(mask)), scores[mask],
    config.seed, setup.make_task(config).categories,
  )  # fmt: skip
  return {name: results[name] for name in ("accuracy", "low", "high", "n")}


def _first_rows(user: np.ndarray, count: int) -> np.ndarray:
  """bool [Q], the first `count` rows of every user."""
  first = np.zeros(len(user), bool)
  for number in np.unique(user):
    first[np.flatnonzero(user == number)[:count]] = True
  return first


def _taste(
  adapt: Callable[..., Array],
  params: Params,
  rows: Preferences,
  mask: np.ndarray,
) -> np.ndarray:
  """A user's taste from some rows, of all of which the number is the same."""
  some = preferences.take_rows(rows, np.flatnonzero(mask))
  batch = PreferenceBatch(
    preferences.as_float(some.images[some.members]), some.tokens, some.prob,
    some.score,
  )  # fmt: skip
  return processes.fetch(adapt(params, batch))
