"""Pallas kernels instead of plain functions, by the config.

`config.kernels.implementation` is "xla" for plain operations, which XLA fuses
by itself, "auto" for the kernel of the platform, or a form of
`pallas_kernels.dispatch.IMPLEMENTATIONS`. A kernel takes the same arguments as
the function it replaces, and returns the same numbers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxreward.flow import log_prob, sampler
from pallas_kernels import dispatch
from pallas_kernels.grouped_advantage import api as grouped
from pallas_kernels.pairwise_loss import api as pairwise
from pallas_kernels.sde_step import api as sde

Registry = Mapping[str, Callable[..., Any]]


def implementation(config: ConfigDict) -> str | None:
  """The implementation of the kernels, None for plain operations.

  Raises:
    UserError: an unknown implementation.
  """
  name = config.kernels.implementation
  dispatch.check(name, "config.kernels.")
  return None if name == "xla" else name


def take_step(config: ConfigDict) -> sampler.TakeStep | None:
  """The fused step of a rollout."""
  form = implementation(config)
  if form is None:
    return None
  return functools.partial(sde.sde_step, implementation=form)


def replay(config: ConfigDict) -> log_prob.Replay | None:
  """The fused log-probability of a stored step."""
  form = implementation(config)
  if form is None:
    return None
  return functools.partial(sde.transition, implementation=form)


def advantages(registry: Registry, config: ConfigDict) -> dict[str, Any]:
  """The registry with the fused group statistics."""
  form = implementation(config)
  if form is None:
    return dict(registry)

  def fused(baseline: str):
    @functools.wraps(registry[baseline])
    def run(signal, mask, **options):
      defaults = _defaults(registry[baseline])
      return grouped.advantage(
        signal, mask, baseline=baseline, implementation=form,
        **defaults | options,
      )  # fmt: skip

    return run

  return dict(registry) | {name: fused(name) for name in grouped.BASELINES}


def objectives(registry: Registry, config: ConfigDict) -> dict[str, Any]:
  """The registry with the fused clipped loss."""
  form = implementation(config)
  if form is None:
    return dict(registry)

  @functools.wraps(registry["flow_grpo"])
  def flow_grpo(log_prob, old_log_prob, advantage, mask, **options):
    return grouped.clipped_loss(
      log_prob, old_log_prob, advantage, mask, implementation=form, **options
    )

  return dict(registry) | {"flow_grpo": flow_grpo}


def compositions(registry: Registry, config: ConfigDict) -> dict[str, Any]:
  """The registry with win rates that keep no [G, G] matrix in memory."""
  form = implementation(config)
  if form is None:
    return dict(registry)
  rate = functools.partial(pairwise.win_rate, implementation=form)

  @functools.wraps(registry["win_rate"])
  def win_rate(scores, masks, weights, **options):
    return registry["win_rate"](scores, masks, weights, rate=rate, **options)

  return dict(registry) | {"win_rate": win_rate}


def group_losses(config: ConfigDict) -> dict[str, Callable[..., Any]]:
  """Preference losses over all pairs of a group, from its ratings."""
  form = config.kernels.implementation
  dispatch.check(form, "config.kernels.")

  @functools.wraps(pairwise.pairwise_loss)
  def run(scores, ratings, mask, **options):
    return pairwise.pairwise_loss(
      scores, ratings, mask, implementation=form, **options
    )

  return {"pairwise": run}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
  """Values of the function's arguments that are given by name only."""
  return {
    name: parameter.default
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  }
