"""The implicit reward of a policy relative to the one it was tuned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import (
  UserError,
  nearest,
  require_counts,
  require_positive,
)
from jaxreward.flow import guidance
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, Policy, PromptBatch

OWN = "workdir:policy"
WEIGHTINGS = ("likelihood", "uniform")  # (1 - t) / t, or 1


def load_policies(
  weights: str = OWN,
  *,
  reference: str = "",
  beta: float = 2000.0,
  draws: int = 8,
  policy_of: Callable[[str, str], tuple[Policy, Params]],
) -> Loaded:
  """Two sets of parameters of the run's policy.

  Args:
    weights: of the tuned one, as `eval.checkpoint` names it.
    reference: of the one it was tuned from; `init.checkpoint` if empty.
    beta: of the loss that it was tuned by.
    draws: of noise and time.
    policy_of: (spec, name of its field) -> the policy and its parameters.
  """
  policy, params = policy_of(weights, "weights")
  arrays = {"params": params, "reference": policy_of(reference, "reference")[1]}
  rules = dict.fromkeys(arrays, policy.sharding_rules)
  static = {"policy": policy, "beta": beta, "draws": draws}
  return Loaded(static, arrays, rules)


def _check(options: Mapping[str, Any]) -> None:
  require_positive("", beta=options.get("beta"))
  require_counts("", draws=options.get("draws", 1))


vars(load_policies)["check"] = _check


@declare(loads=load_policies)
def implicit(
  images: Float[ArrayLike, "P G H W 3"],
  prompts: PromptBatch,
  *,
  policy: Policy,
  params: Params,
  reference: Params,
  beta: float,
  draws: int,
) -> Float[Array, "P G"]:
  """beta / 2 E[|v_ref - u|^2 - |v - u|^2], u = noise - x_0, means over elements.

  The reward that preference optimization fits without a reward model, by the
  bound of Wallace et al. 2023, https://arxiv.org/abs/2311.12908: with the beta of
  `objectives.flow_dpo` a difference of two rewards is the logit of the pair that
  its loss is taken of. Lin et al. 2024, https://arxiv.org/abs/2409.03650, compare
  it with a reward model (read in the abstract). Times are stratified over [0, 1],
  and noise and times are the same for all images.

  Args:
    images: in [0, 1]; one with a value that is not finite scores NaN.
    prompts: P prompts.
    policy: on pixels, with words of its own.
    params: of the tuned policy.
    reference: of the policy it was tuned from.
    beta: of the loss that it was tuned by.
    draws: of noise and time that the mean is of.
  """
  gains = _gains(images, prompts, policy, params, reference, draws, "uniform")
  return beta / 2 * gains


def _gains(
  images: ArrayLike,
  prompts: PromptBatch,
  policy: Policy,
  params: Params,
  reference: Params,
  draws: int,
  weighting: str,
) -> Float[Array, "P G"]:
  """E w(t) [|v_ref - u|^2 - |v - u|^2], means over elements; see `WEIGHTINGS`."""
  images = jnp.asarray(images)
  p, g = images.shape[:2]
  x = (2 * images - 1).reshape(p * g, *images.shape[2:])

  def error(weights: Params, x_t: Array, t: Array, target: Array) -> Array:
    cond, _ = guidance.conditioning(policy, weights, prompts.words, 1.0)
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf, g, 0), cond)
    velocity = policy.velocity(weights, x_t, jnp.full((p * g,), t), cond)
    return jnp.square(velocity - target).mean(tuple(range(1, x.ndim)))

  def gain(draw: Array) -> Array:
    noise = jax.random.normal(
      jax.random.fold_in(jax.random.key(0), draw), x.shape[1:]
    )
    t = (draw + 0.5) / draws
    at = (1 - t) * x + t * noise, t, noise - x
    weight = (1 - t) / t if weighting == "likelihood" else 1.0
    return weight * (error(reference, *at) - error(params, *at))

  gains = jax.lax.map(gain, jnp.arange(draws))
  return gains.mean(0).reshape(p, g)


def load_strong_and_weak(
  weights: str = OWN,
  *,
  reference: str = "",
  weighting: str = "likelihood",
  draws: int = 16,
  policy_of: Callable[[str, str], tuple[Policy, Params]],
) -> Loaded:
  """A better and a weaker set of parameters of the run's policy.

  Args:
    weights: of the strong one, as `eval.checkpoint` names it.
    reference: of the weak one; `init.checkpoint` if empty.
    weighting: of times, one of `WEIGHTINGS`.
    draws: of noise and time.
    policy_of: (spec, name of its field) -> the policy and its parameters.
  """
  pair = load_policies(
    weights, reference=reference, draws=draws, policy_of=policy_of
  )
  static = {k: v for k, v in pair.static.items() if k != "beta"}
  static["weighting"] = weighting
  return Loaded(static, pair.arrays, pair.rules)


def _check_ratio(options: Mapping[str, Any]) -> None:
  require_counts("", draws=options.get("draws", 1))
  weighting = options.get("weighting", "likelihood")
  if weighting not in WEIGHTINGS:
    raise UserError(
      f'weighting="{weighting}" is none of {", ".join(WEIGHTINGS)}'
      f"{nearest(weighting, WEIGHTINGS)}"
    )


vars(load_strong_and_weak)["check"] = _check_ratio


@declare(loads=load_strong_and_weak)
def density_ratio(
  images: Float[ArrayLike, "P G H W 3"],
  prompts: PromptBatch,
  *,
  policy: Policy,
  params: Params,
  reference: Params,
  draws: int,
  weighting: str,
) -> Float[Array, "P G"]:
  """log p_strong(x | c) - log p_weak(x | c), in nats per element, without training.

  CDR (Dr. SoW), Xu et al. 2024, https://arxiv.org/abs/2411.02481, of language models:
  a better aligned model over a weaker one annotates preferences. Of flows it is
  E[(1 - t) / t (|v_weak - u|^2 - |v_strong - u|^2)], u = noise - x_0: with t uniform
  and exact velocities this is the log-ratio itself, by the identity of Kong et al.
  2023, https://arxiv.org/abs/2302.03792, since (1 - t) / t |v - u|^2 dt is half the
  error in x_0 times the change of the signal-to-noise ratio. The mapping to flows is
  ours. Times are stratified over [0, 1]; noise and times are the same for all images.

  Args:
    images: in [0, 1]; one with a value that is not finite scores NaN.
    prompts: P prompts.
    policy: on pixels, with words of its own.
    params: of the strong policy.
    reference: of the weak one.
    draws: of noise and time that the mean is of.
    weighting: "likelihood" as above, or "uniform", without the factor of time.
  """
  return _gains(images, prompts, policy, params, reference, draws, weighting)
