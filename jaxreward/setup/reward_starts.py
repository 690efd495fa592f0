"""Parameters of a reward model before its first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxreward import paths, rng
from jaxreward.errors import UserError, shown
from jaxreward.reward_models import RewardModel, inputs
from jaxreward.setup import reward_model
from jaxreward.types import Params


def whole(
  config: ConfigDict, model: RewardModel, base: Params | None
) -> Params:
  """All parameters at step 0."""
  params = model.start(rng.stream_key(config.seed, "reward model"))
  if base is not None and config.train_reward.init_from_policy:
    assert model.backbone.from_policy  # checked
    trunk = model.backbone.from_policy(params["backbone"], base)
    params = params | {"backbone": trunk}
  return _continued(config, model, params)


def start(
  config: ConfigDict,
  model: RewardModel,
  base: Params | None,
  batch: Callable[[], Any],
) -> tuple[Params, Params | None]:
  """(trained parameters, frozen parameters) at step 0.

  Args:
    config: of the run.
    model: the model.
    base: the policy's parameters, if it starts from them.
    batch: () -> training rows, for a backbone that is fitted to some.
  """
  params = whole(config, model, base)
  if model.backbone.fit is not None:
    params = {**params, "backbone": _fitted(model, params["backbone"], batch())}
  return model.split(rng.stream_key(config.seed, "adapters"), params)


def _fitted(model: RewardModel, params: Params, batch: Any) -> Params:
  """The backbone's parameters, fitted to rows; see `Backbone.fit`."""
  fit = model.backbone.fit
  assert fit is not None
  run = jax.jit(lambda p, x, tokens, k: fit(p, x, tokens, inputs.Noise(keys=k)))
  return run(params, batch.images, batch.tokens, batch.details.keys)


def _continued(
  config: ConfigDict, model: RewardModel, params: Params
) -> Params:
  """All parameters, those of `train_reward.init_from` in their places.

  Raises:
    UserError: a file that is none of a reward model, or of one that does not fit.
  """
  path = config.train_reward.init_from
  if not path:
    return params
  other = reward_model.load(
    paths.find(path, "config.train_reward.init_from")
  ).params
  take = model.backbone.from_reward or (lambda own, theirs: theirs)
  backbone = take(params["backbone"], other["backbone"])
  describe = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  if describe(backbone) != describe(params["backbone"]):
    raise UserError(
      f"config.train_reward.init_from={shown(path, 90)}: its backbone is another"
      " than config.reward_model.backbone; give that the same name and sizes"
    )
  # What is added up after training is left behind.
  head = {k: x for k, x in other["head"].items() if k in params["head"]}
  is_same = describe(head) == describe(params["head"])
  return {"backbone": backbone, "head": head if is_same else params["head"]}
