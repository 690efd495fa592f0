"""The loss of a reward model over rows of preferences, and what it reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import reward_models, tasks
from jaxreward.data import preferences
from jaxreward.data.preferences import PreferenceBatch, Preferences
from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.reward_models import RewardModel, reads
from jaxreward.setup import checks, kernels
from jaxreward.types import ArrayLike, Params

_LABELS = {"label_prob", "row_prob"}


def preference_loss(config: ConfigDict, model: RewardModel):
  """The loss over all pairs of images in every row."""
  pair_loss, is_rated = bind(config), by_rating(config)

  def loss_fn(trained: Params, batch: PreferenceBatch, frozen: Params | None):
    rows = {"prob": batch.prob}
    for name in ("user", "keys", "mask", "context"):
      if (array := getattr(batch.details, name)) is not None:
        rows[name] = array
    outputs = model.outputs(trained, frozen, batch.images, batch.tokens, rows)
    arrays = reward_models.offers(model.head, outputs, batch)
    pair, answers = arrays["scores"], arrays["label_prob"]
    is_right = (pair[..., 0] > pair[..., 1]) == (answers > 0.5)
    has_answer = jnp.isfinite(answers) & (answers != 0.5)
    if is_rated:
      loss = pair_loss(outputs["value"], batch.rating, None)
    else:
      loss = pair_loss(**{name: arrays[name] for name in reads(pair_loss)})
    return loss, {"pair_accuracy": Mean.of(is_right, has_answer)}

  return loss_fn


def bind(config: ConfigDict):
  """The loss of `config.train_reward.loss`, its options bound."""
  return config_lib.bind(
    config.train_reward.loss,
    reward_models.REGISTRY | kernels.group_losses(config),
    field="train_reward.loss",
    supplied=lambda fn: (*reads(fn), "implementation", "batch_axes"),
  )  # fmt: skip


def by_rating(config: ConfigDict) -> bool:
  """Whether the loss reads ratings of images, not labels of pairs."""
  return config.train_reward.loss.name in kernels.group_losses(config)


def _check_ratings(config: ConfigDict) -> None:
  options = config.train_reward
  if options.label_noise and options.source in tasks.OWN:
    raise UserError(
      f'config.train_reward.loss.name="{options.loss.name}" compares ratings,'
      " which have no answers to flip: set"
      f" config.train_reward.label_noise={options.label_noise} to 0, or use"
      ' "bradley_terry"'
    )


def _aspects_of(outputs: Any) -> int:
  """Aspects in the data for which a head with these outputs is made."""
  for name in ("criteria", "aspect_scores"):
    if name in outputs:
      return outputs[name].shape[-1]
  return 2


def require_labels(
  config: ConfigDict,
  model: RewardModel,
  train: Preferences,
  heldout: Preferences | None = None,
) -> None:
  """Refuses data without what the model or the loss reads."""
  _require_ratings(config, train)
  _require_order(config, train, heldout)
  if model.context and train.context is None and heldout is not None:
    raise UserError(
      "config.reward_model.context=true: no row of"
      f" {config.train_reward.source} has a source image; set it to false, or"
      " name the column in config.data.layout.columns.source"
    )
  head = f'config.reward_model.head.name="{config.reward_model.head.name}"'
  users = model.head.users
  if users is not None and train.user is None:
    raise UserError(
      f"{head} tells users apart, and no row of"
      f" {config.train_reward.source} names one; set"
      " config.train_reward.users.count, or take another head"
    )
  if users and train.user is not None:
    count = int(np.asarray(train.user).max()) + 1
    if count > users:
      raise UserError(
        f"config.reward_model.head.users={users}: the rows have {count} users"
      )
    _require_known(config, head, heldout)
  made_for = lambda: _aspects_of(model.output_shapes(2, 3))
  _require_aspects(config, train, made_for)


def _require_aspects(
  config: ConfigDict, train: Preferences, made_for: Callable[[], int]
) -> None:
  """Refuses data without the aspects for which the head is made."""
  arguments = set(reads(bind(config)))
  aspects, what = train.aspects, "ratings of aspects"
  if arguments & set(reward_models.ANSWERS):
    aspects, what = train.aspect_prob, "answers per aspect"
  elif not arguments & set(reward_models.ASPECTS):
    return
  name = f'config.train_reward.loss.name="{config.train_reward.loss.name}"'
  if aspects is None:
    raise UserError(
      f"{name} reads {what}, and {config.train_reward.source} has none"
    )
  table = np.asarray(aspects).reshape(-1, jnp.shape(aspects)[-1])
  is_tie = (table == 0.5) & (aspects is train.aspect_prob)
  missing = ~(np.isfinite(table) & ~is_tie)
  for i, aspect in enumerate(train.aspect_names):
    if missing[:, i].all():
      raise UserError(
        f"{name} reads {what}, and no training row of"
        f' {config.train_reward.source} has one of "{aspect}"; leave it out'
      )
  count, expected = jnp.shape(aspects)[-1], made_for()
  if count != expected:
    head = f'config.reward_model.head.name="{config.reward_model.head.name}"'
    raise UserError(
      f"{head} has {expected} aspects, and {config.train_reward.source} has"
      f" {count}: {', '.join(train.aspect_names)}"
    )


def _require_ratings(config: ConfigDict, train: Preferences) -> None:
  options = config.train_reward
  name = f'config.train_reward.loss.name="{options.loss.name}"'
  arguments = set(reads(bind(config)))
  is_rated = bool(np.isfinite(np.asarray(train.score)).any())
  if (
    arguments & set(reward_models.RATED) or by_rating(config)
  ) and not is_rated:
    raise UserError(
      f"{name} reads ratings, and {options.source} holds answers to pairs alone:"
      ' use "bradley_terry", or name the column in'
      " config.data.layout.columns.rating"
    )
  has_answer = bool(np.isfinite(np.asarray(train.prob)).any())
  if arguments & _LABELS and not has_answer:
    raise UserError(
      f"{name} reads answers to pairs, and {options.source} has none; name the"
      " column in config.data.layout.columns.label"
    )


def _require_order(
  config: ConfigDict, train: Preferences, heldout: Preferences | None
) -> None:
  """Refuses rows of ties alone, and images that the loss cannot tell apart."""
  loss = config.train_reward.loss.name
  name = f'config.train_reward.loss.name="{loss}"'
  source = config.train_reward.source
  arguments = set(reads(bind(config)))
  is_rated = bool(arguments & set(reward_models.RATED))
  if by_rating(config) or loss in reward_models.OF_ORDER:
    differs = _spread(train.score) > 0
  elif is_rated:
    differs = _spread(np.ravel(np.asarray(train.score))) > 0 or _is_decided(
      train.prob
    )
  else:
    differs = _is_decided(train.prob) or not arguments & _LABELS
  if not differs:
    raise UserError(
      f"{name}: all training rows of {source} are ties, without any preference;"
      " give rows with an answer"
    )
  if "row_source" in arguments and not _has_twins(np.asarray(train.source)):
    raise UserError(
      f"{name} compares images of one generator with another's, and no row of"
      f" {source} has two of one and one of another; name their columns in"
      " config.data.layout.columns.models"
    )
  if heldout is not None:
    prob = np.asarray(heldout.prob)
    if np.isfinite(prob).any() and not _is_decided(prob):
      raise UserError(
        f"{config.train_reward.heldout or source}: all held-out rows are ties,"
        " on which no model can be tested; give rows with an answer"
      )


def _spread(ratings: ArrayLike) -> float:
  """The largest less the smallest finite rating of a row, at most."""
  x = np.asarray(ratings)
  is_known = np.isfinite(x)
  most = np.where(is_known, x, -np.inf).max(-1)
  return float((most - np.where(is_known, x, np.inf).min(-1)).max())


def _is_decided(prob: ArrayLike) -> bool:
  """Whether a pair has a winner."""
  prob = np.asarray(prob)
  return bool((np.isfinite(prob) & (prob != 0.5)).any())


def _has_twins(source: np.ndarray) -> bool:
  """Whether a row has two images of one source and one of another."""
  source = np.atleast_2d(source)
  there = source >= 0
  same = (source[:, :, None] == source[:, None]) & there[:, None]
  alike = np.where(there, same.sum(-1), 0)
  return bool(((alike > 1) & (alike < there.sum(-1, keepdims=True))).any())


def _require_known(
  config: ConfigDict, head: str, heldout: Preferences | None
) -> None:
  """Refuses held-out rows of users that training never sees."""
  if heldout is None or heldout.user is None:
    return
  if (np.asarray(heldout.user) < 0).all():
    side = f"config.train_reward.heldout={config.train_reward.heldout}"
    if not config.train_reward.heldout:
      side = f"the held-out rows of {config.train_reward.source}"
    raise UserError(
      f"{head} tells users apart, and no user of {side} is in the training rows"
    )


def _try_loss(config: ConfigDict, model: RewardModel) -> None:
  """Lets a loss check its options and the arrays it reads."""
  name = f'config.train_reward.loss.name="{config.train_reward.loss.name}"'
  loss, offers = bind(config), reward_models.names(model.head)
  for argument in reads(loss):
    if argument not in offers:
      raise UserError(
        f'{name} reads "{argument}", which config.reward_model.head.name='
        f'"{config.reward_model.head.name}" does not give; there are'
        f" {', '.join(offers)}"
      )
  outputs = model.output_shapes(2, 3)
  arrays = jax.eval_shape(
    functools.partial(reward_models.offers, model.head),
    outputs, preferences.some_rows(2, 3, _aspects_of(outputs)),
  )  # fmt: skip
  checks.validate_options(
    lambda arrays: loss(**arrays), {n: arrays[n] for n in reads(loss)},
    field="train_reward.loss", prefix="config.train_reward.",
  )  # fmt: skip


def check(config: ConfigDict, model: RewardModel) -> None:
  """Validates the loss and its options without allocating arrays.

  Raises:
    UserError: names the field and the fix.
  """
  kernels.implementation(config)
  if by_rating(config):
    _check_ratings(config)
  plain = config.copy_and_resolve_references()
  with plain.unlocked():
    plain.kernels.implementation = "xla"
  if not by_rating(config):
    _try_loss(plain, model)
    return
  ratings = jax.ShapeDtypeStruct((2, 2), jnp.float32)
  checks.validate_options(
    lambda scores, labels: bind(plain)(scores, labels, None), ratings, ratings,
    field="train_reward.loss", prefix="config.train_reward.loss.",
  )  # fmt: skip
