"""Players that change the parameters of a reward which the loss follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward import rewards
from jaxreward.errors import UserError, one_line, shown
from jaxreward.setup.players import Roles
from jaxreward.training import state
from jaxreward.types import Params, PromptBatch


def require_gradients(roles: Roles, takes_gradients: bool) -> None:
  """Refuses players that change rewards whose gradient nobody takes."""
  for role in roles:
    if role.player.tunes and not takes_gradients:
      raise UserError(
        f"config.players.{role.name}.fn: it changes a reward that the loss follows"
        " by its gradient; take an objective that does in config.objective.name, such"
        ' as "noised_reward"'
      )


def tuned(
  roles: Roles, contexts: Any, states: Mapping[str, Params]
) -> dict[str, Any]:
  """Contexts of the rewards, as players change their parameters."""
  contexts = dict(contexts)
  for role in roles:
    name, tune = role.player.tunes, role.player.tune
    if name and role.name in states:
      assert tune is not None
      shared = contexts[name].shared
      params = tune(shared["params"], states[role.name])
      contexts[name] = dataclasses.replace(
        contexts[name], shared={**shared, "params": params}
      )
  return contexts


def require_effect(
  roles: Roles,
  states: Mapping[str, state.Player],
  differentiated: Mapping[str, rewards.Reward],
  shape: tuple[int, ...],
  prompts: PromptBatch,
) -> dict[str, float]:
  """Refuses players that leave the reward they change as it is.

  Returns {name: largest gradient in an image of noise} of these rewards, which the
  same program gives.

  Args:
    roles: of the run.
    states: of the players.
    differentiated: rewards whose gradient the loss takes.
    shape: of an iteration's images, [P, G, H, W, C].
    prompts: P prompts.

  Raises:
    UserError: a reward of weight 0, without features, or with others.
  """
  images = rewards.probe_images(shape)
  in_images: dict[str, float] = {}
  for role in roles:
    name, field = role.player.tunes, f"config.players.{role.name}"
    if not name:
      continue
    if name not in differentiated:
      raise UserError(
        f"{field}.reward={shown(name)}: the loss does not follow it; give it a"
        f" weight in config.rewards.{name}.weight"
      )
    contexts = rewards.contexts_of(differentiated, prompts)

    @jax.jit
    def largest(own, contexts, images, plain, role=role, name=name):
      def total(own, images):
        changed = tuned((role,), contexts, {role.name: own})
        one = {name: differentiated[name]}
        scores = rewards.device_scores(one, changed, images, plain)[name]
        return jnp.nansum(scores)

      most = lambda x: jnp.abs(x).max()
      slopes, in_image = jax.grad(total, argnums=(0, 1))(own, images)
      leaves = [most(slope) for slope in jax.tree.leaves(slopes)]
      return jnp.stack(leaves).max(), most(in_image)

    try:
      params = states[role.name].params
      values = largest(params, contexts, images, prompts.plain)
      slope, in_images[name] = map(float, values)
    except (UserError, KeyError, TypeError, ValueError) as error:
      raise UserError(
        f"{field}.reward={shown(name)}: the player does not fit this reward's"
        f" parameters: {one_line(error)}"
      ) from error
    if slope == 0:
      raise UserError(
        f"{field}.reward={shown(name)}: the player changes nothing in its scores;"
        " name a reward that reads what it changes"
      )
  return in_images
