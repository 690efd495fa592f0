"""The feed "predicted": one-step predictions of noised samples, and their scores.

A row has one sample and one noise at two times, t and `near_t` = max(t - `align.gap`,
0). Nothing is drawn in the loss: a reward's gradient reaches the policy through one
evaluation of the network. The arrays of "noised" are there too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.feeds import noised, rollouts
from jaxreward.feeds.contract import Rows
from jaxreward.feeds.networks import Arrays, row, scored
from jaxreward.flow import path
from jaxreward.types import Array


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [K, B, ...] of "noised", and the point with less noise."""
  rows = noised.make(trajectory, credit, prompt_ids, plan, key)
  near = jnp.maximum(rows["t"] - plan.gap, 0.0)
  near_x = rollouts.noise_at(rows["x0"][0], rows["noise"], near)
  return rows | {"near_t": near, "x_near": near_x}


def _x0_hat(arrays: Arrays) -> Array:
  rows = arrays.rows
  return path.x0_from_velocity(rows["x_t"], arrays("v"), rows["t"])


def _near_x0_hat(arrays: Arrays) -> Array:
  rows = arrays.rows
  return path.x0_from_velocity(rows["x_near"], arrays("near_v"), rows["near_t"])


def _x_solved(arrays: Arrays) -> Array:
  """Where one step of the reference leads from x_t at `near_t`."""
  rows = arrays.rows
  step = path.expand(rows["t"] - rows["near_t"], rows["x_t"])
  x = rows["x_t"] - step * arrays("v_reference")
  return jax.lax.stop_gradient(x)


def _recovered(arrays: Arrays, start: str, v: str, end: str) -> Array:
  """The sample that a step and the row's own noise give back (SRPO).

  x0 = (x' - s' eps) / (1 - s') with x' = x + (s' - s) v; exact where v = eps - x0.
  Rows that end at a time of 1 have no such sample; they are left at 0.
  """
  rows = arrays.rows
  x, t, t_end = rows[f"x_{start}"], rows[_TIMES[start]], rows[_TIMES[end]]
  x = x + path.expand(t_end - t, x) * arrays(v)
  left = jnp.where(t_end < 1, 1 - t_end, jnp.inf)
  noise = path.expand(t_end, x) * rows["noise"]
  return (x - noise) / path.expand(left, x)


_TIMES = {"t": "t", "near": "near_t"}


def _pull(arrays: Arrays) -> Array:
  """<image, sg(sum_k w_k g_k / |g_k|)> with g_k the gradient of reward k there."""
  return scored(arrays, "x0_hat", arrays("x0_hat"), "pull")[0]


def _scores(name: str, latents: Any, of: str = "own"):
  """Scores of latents, differentiable; by this prompt or another."""
  return lambda arrays: scored(arrays, name, latents(arrays), of)[0]


def _named(name: str):
  return lambda arrays: arrays(name)


def solved(role: str):
  """The velocity of a network where the reference's step has led."""

  def compute(arrays: Arrays) -> Array:
    rows = arrays.rows
    network = arrays.network(role)
    return network.velocity(
      arrays("x_solved"), rows["near_t"], rows["prompt_index"]
    )

  return lambda arrays: arrays.once(("solved", role), lambda: compute(arrays))


_denoised = lambda arrays: arrays.once(
  "denoised", lambda: _recovered(arrays, "t", "v", "near")
)
_inverted = lambda arrays: arrays.once(
  "inverted", lambda: _recovered(arrays, "near", "near_v", "t")
)

_SCORED = {
  "scores": _scores("x0_hat", _named("x0_hat")),
  "near_scores": _scores("near_x0_hat", _named("near_x0_hat")),
  "denoised_scores": _scores("denoised", _denoised),
  "denoised_other_scores": _scores("denoised", _denoised, "other"),
  "inverted_scores": _scores("inverted", _inverted),
  "inverted_other_scores": _scores("inverted", _inverted, "other"),
  "pull": _pull,
}

FEED = dataclasses.replace(
  noised.FEED,
  make=make,
  offers={
    **noised.FEED.offers,
    "near_t": row("near_t"),
    "x_near": row("x_near"),
    "near_v": lambda arrays: arrays.velocity("policy", "x_near", "near_t"),
    "x_solved": _x_solved,
    "x0_hat": _x0_hat,
    "near_x0_hat": _near_x0_hat,
    "images": lambda arrays: scored(arrays, "x0_hat", arrays("x0_hat"))[1],
    **_SCORED,
  },
  latents=(
    *noised.FEED.latents, "x_near", "near_v", "x_solved", "x0_hat",
    "near_x0_hat", "images",
  ),
  scoring=(*_SCORED, "images"),
  solved=solved,
)  # fmt: skip
