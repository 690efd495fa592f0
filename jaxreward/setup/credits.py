"""Credit of an iteration: scores composed into a signal, then an advantage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxreward import advantages, methods, rng
from jaxreward.errors import UserError
from jaxreward.feeds import Credit, Plan
from jaxreward.flow import path
from jaxreward.rewards import Reward, mask_inapplicable, scoring
from jaxreward.types import Array, ArrayLike, PromptBatch

if TYPE_CHECKING:
  from jaxreward.setup.updates import Updater


def credit_of(
  updater: Updater,
  scores: dict[str, Array],
  prompts: PromptBatch,
  stats: Any,
  iteration: Array,
  step_scores: dict[str, Array] | None = None,
  offered: Mapping[str, dict[str, Array]] | None = None,
  extra: Mapping[str, Any] | None = None,
  images: Array | None = None,
) -> tuple[Credit, Any]:
  """(credit, the advantage's new state) of an iteration's scores.

  Args:
    updater: static parts.
    scores: {name: [P, G]}.
    prompts: P prompts.
    stats: state of the advantage.
    iteration: int32.
    step_scores: {name: [P, G, T + 1]} where the advantage asks for them.
    offered: "stds", {name: [P, G]} of the rewards that say how unsure they are,
      and "references", {name: [P, M]}, scores of the policy where training began,
      which a composition may take by keyword; an advantage may ask for the first,
      and for "places", {name: [P, G, h, w]} of the rewards that score them.
    extra: what else the advantage asks for, by name.
    images: [P, G, H, W, C], which a composition may take by keyword.

  Of rewards that stay apart, the signal, the advantage and the state are
  {name: ...}.
  """
  first = next(iter(scores.values()))
  mask = jnp.broadcast_to(jnp.asarray(prompts.mask)[:, None], first.shape)
  masked_scores, weights = mask_inapplicable(scores, updater.weights, prompts)
  options = {"stds": {}, "references": {}, "places": {}} | dict(offered or {})
  places = options.pop("places")
  if offered is not None and "stds" in offered:
    _require_stds(updater.advantage, offered["stds"])
  compose_inputs = {
    key: mask_inapplicable(rows, updater.weights, prompts)[0]
    for key, rows in methods.named(updater.compose, **options).items()
  }
  compose_inputs |= methods.named(
    updater.compose, iteration=iteration, images=images
  )
  signal, mask = updater.compose(masked_scores, mask, weights, **compose_inputs)
  offers = dict(
    signal=signal, mask=mask, scores=masked_scores, prompt_ids=prompts.ids,
    steps=updater.plan.at(iteration, updater.levels(stats)).table,
    key=rng.stream_key(updater.seed, "advantage", iteration),
    stds=options["stds"], places=places, real=_real(updater.plan, mask),
  )  # fmt: skip
  offers |= extra or {}
  offers["unweighted"] = {
    k: v for k, v in masked_scores.items() if _is_zero(weights[k])
  }
  if step_scores is not None:
    _require_steps(step_scores, len(updater.plan.table.t))
    compose = lambda rows: updater.compose(
      mask_inapplicable(rows, updater.weights, prompts)[0],
      mask,
      weights,
      **compose_inputs,
    )
    step_signal, step_mask = jax.vmap(compose, -1, -1)(step_scores)
    kind = "jump" if updater.advantage.jumps else "step"
    offers |= {f"{kind}_signal": step_signal, f"{kind}_mask": step_mask}
  columns: dict[str, Array] = {}
  if updater.loss.names:
    advantage, stats = _apart(updater, offers, weights, stats)
  else:
    advantage, columns, stats = advantages.with_columns(
      updater.advantage, offers, stats
    )
  if (
    jax.tree.leaves(advantage)[0].ndim == 3
    and not updater.plan.feed.is_per_step
  ):
    raise UserError(
      "config.advantage.name: it gives credit to each denoising step, which"
      " config.objective.name does not read; take an objective on the sampler's"
      ' steps, such as "flow_grpo"'
    )
  return Credit(signal, advantage, mask, columns), stats


def _real(plan: Plan, mask: Array) -> Array:
  """Which members of a group are reference images, bool [P, G]."""
  is_real = jnp.arange(mask.shape[1]) >= plan.group - plan.real
  return jnp.broadcast_to(is_real, mask.shape)


def require_stds(
  advantage: advantages.Advantage,
  rewards: Mapping[str, Reward],
  images: jax.ShapeDtypeStruct,
  prompts: PromptBatch,
) -> None:
  """Refuses an advantage of doubt where no reward has any; nothing is computed.

  What rewards on the host say is known with their first scores.

  Args:
    advantage: of the run.
    rewards: that it trains on.
    images: shapes of an iteration's images, [P, G, H, W, C].
    prompts: P prompts.
  """
  if "stds" not in advantage.names or any(r.is_host for r in rewards.values()):
    return
  outputs = scoring.trace(rewards, images, prompts).out_info
  stds = {k: x.std for k, x in outputs.items() if x.std is not None}
  _require_stds(advantage, stds)


def _require_stds(advantage: advantages.Advantage, stds: Mapping[str, Any]):
  if "stds" in advantage.names and not stds:
    raise UserError(
      "config.advantage.name: it reads how unsure rewards are, and no reward in"
      ' config.rewards gives that; take "learned" with a head that does, such'
      ' as "ellipsoid"'
    )


def _is_zero(weight: Any) -> bool:
  return isinstance(weight, float | int) and weight == 0


def _apart(
  updater: Updater, offers: dict[str, Any], weights: Any, stats: Any
) -> tuple[dict[str, Array], Any]:
  """The advantage of each reward on its own, times the reward's weight."""
  advantage, states = {}, {}
  by_name = [k for k in ("signal", "step_signal", "jump_signal") if k in offers]
  for name in updater.loss.names:
    reward_offers = offers | {key: offers[key][name] for key in by_name}
    value, states[name] = advantages.credit(
      updater.advantage, reward_offers, stats[name]
    )
    weight = jnp.asarray(weights[name])
    advantage[name] = value * path.expand(weight, value)
  return advantage, states


def _require_steps(step_scores: Mapping[str, ArrayLike], steps: int) -> None:
  for name, rows in step_scores.items():
    if rows.shape[-1] != steps + 1:
      raise UserError(
        f"config.rewards.{name}: its per_step has {rows.shape[-1]} values per"
        f" sample; it takes config.rollout.num_steps + 1 = {steps + 1}: one"
        " before each step, and one of the sample"
      )
