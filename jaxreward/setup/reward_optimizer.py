"""The optimizer of a reward model: of its head and of its backbone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxreward.errors import UserError
from jaxreward.reward_models import RewardModel
from jaxreward.setup import players
from jaxreward.training import optimizer
from jaxreward.types import Params


def make(config: ConfigDict, model: RewardModel):
  """The optimizer of `config.train_reward`, of both parts of a model.

  Raises:
    UserError: names the field and the fix.
  """
  tx, counts = _of_parts(config), config.train_reward.last_layers.to_dict()
  is_cut = model.train == "full" and model.backbone.frozen != "$^"
  if not counts and not is_cut:
    return tx
  if model.train != "full":
    raise UserError(
      "config.train_reward.last_layers says which layers are trained, and"
      f' config.reward_model.train="{model.train}": set it to "full"'
    )

  def mask_of(params: Params) -> Params:
    tower = optimizer.last_layers(
      params["backbone"], counts, model.backbone.first, model.backbone.frozen
    )
    return {
      "backbone": tower,
      "head": jax.tree.map(jnp.ones_like, params["head"]),
    }

  jax.eval_shape(mask_of, model.param_shapes)
  return optimizer.masked(tx, mask_of)


def _of_parts(config: ConfigDict):
  options = config.train_reward
  try:
    tx, _ = optimizer.make_optimizer(
      **options.optimizer.to_dict(), total_steps=options.steps
    )
  except UserError as error:
    raise UserError(f"config.train_reward.{error}") from error
  backbone = options.backbone_optimizer
  if backbone.name == "same":
    return optimizer.scaled(tx, {"backbone": options.backbone_rate})
  if options.backbone_rate != 1.0:
    raise UserError(
      f"config.train_reward.backbone_rate={options.backbone_rate}: the backbone"
      f' has an optimizer of its own, config.train_reward.backbone_optimizer.name="{backbone.name}";'
      " set its learning_rate"
    )
  field = "train_reward.backbone_optimizer"
  backbone_tx = players.optimizer_of(backbone.to_dict(), field, options.steps)
  return optimizer.by_part({"backbone": backbone_tx, "head": tx})
