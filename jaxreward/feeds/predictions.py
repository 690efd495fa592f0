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

from jaxreward import rng
from jaxreward.feeds import noised_samples, rollouts
from jaxreward.feeds.contract import Rows
from jaxreward.feeds.networks import Arrays, row, scored
from jaxreward.flow import path
from jaxreward.types import Array


def make(trajectory, credit, prompt_ids, plan, key) -> Rows:
  """Rows [K, B, ...] of "noised", and the point with less noise."""
  rows = noised_samples.make(trajectory, credit, prompt_ids, plan, key)
  near = jnp.maximum(rows["t"] - plan.gap, 0.0)
  near_x = rollouts.noise_at(rows["x0"][0], rows["noise"], near)
  again = rollouts.keys_of(trajectory, prompt_ids, jax.random.fold_in(key, 1))
  again = [rng.fold_each(again, k) for k in range(len(near))]
  again = jnp.stack([jax.random.key_data(keys) for keys in again])
  return rows | {"near_t": near, "x_near": near_x, "again": again}


def _x0_hat(arrays: Arrays) -> Array:
  rows = arrays.rows
  return path.x0_from_velocity(rows["x_t"], arrays("v"), rows["t"])


def _near_x0_hat(arrays: Arrays) -> Array:
  rows = arrays.rows
  return path.x0_from_velocity(rows["x_near"], arrays("near_v"), rows["near_t"])


def _stepped(arrays: Arrays, v: str) -> Array:
  """Where a step by a velocity leads from x_t at `near_t`; a constant."""
  rows = arrays.rows
  step = path.expand(rows["t"] - rows["near_t"], rows["x_t"])
  return jax.lax.stop_gradient(rows["x_t"] - step * arrays(v))


def _recovered(arrays: Arrays, start: str, v: str, end: str) -> Array:
  """The sample that a step and the row's own noise give back (SRPO).

  x0 = (x' - s' eps) / (1 - s') with x' = x + (s' - s) v; exact where v = eps - x0.
  Rows that end at a time of 1 have no such sample; they are left at 0.
  """
  rows = arrays.rows
  x, t, t_end = rows[f"x_{start}"], rows[_TIMES[start]], rows[_TIMES[end]]
  x = x + path.expand(t_end - t, x) * arrays(v)
  divisor = jnp.where(t_end < 1, 1 - t_end, jnp.inf)
  noise = path.expand(t_end, x) * rows["noise"]
  return (x - noise) / path.expand(divisor, x)


_TIMES = {"t": "t", "near": "near_t"}


def _pull(arrays: Arrays) -> Array:
  """<image, sg(sum_k w_k g_k / |g_k|)> with g_k the gradient of reward k there."""
  return scored(arrays, "x0_hat", arrays("x0_hat"), "pull")[0]


def _scores(name: str, latents: Any, of: str = "own"):
  """Scores of latents, differentiable; by this prompt or another."""
  return lambda arrays: scored(arrays, name, latents(arrays), of)[0]


def _errors(latents: str):
  """`Scores.errors` of latents, [M, N], differentiable, by their own prompts."""
  return lambda arrays: scored(arrays, latents, arrays(latents), "errors")[0]


def _named(name: str):
  return lambda arrays: arrays(name)


def _again(arrays: Arrays, of: str) -> tuple[Array, Array, Array]:
  """(x, time, noise) of predictions that are noised once more.

  The time is uniform in (0, t), and in [.02, .98]; a gradient flows through x.
  """

  def compute():
    rows, x0 = arrays.rows, arrays(of)
    keys = jax.random.wrap_key_data(rows["again"])
    keys = rng.fold_each(keys, len(of))
    u = jax.vmap(jax.random.uniform)(rng.fold_each(keys, 0))
    t = jnp.clip(u * rows["t"], 0.02, 0.98)
    noise = rng.normal_each(rng.fold_each(keys, 1), x0.shape[1:])
    return path.interpolate(x0, noise, t), t, noise

  return arrays.once(("again", of), compute)


def _x0_beyond(arrays: Arrays) -> Array:
  """The prediction from there."""
  rows, x = arrays.rows, arrays("x_beyond")
  net = arrays.network("policy")
  v = net.velocity(x, rows["near_t"], rows["prompt_index"])
  return path.x0_from_velocity(x, v, rows["near_t"])


def _at(point: str, x_and_t):
  """Offers of velocities at a point: name of a network -> offer."""

  def of(role: str):
    def compute(arrays: Arrays) -> Array:
      x, t = x_and_t(arrays)
      index = arrays.rows["prompt_index"]
      return arrays.network(role).velocity(x, t, index)

    return lambda arrays: arrays.once((point, role), lambda: compute(arrays))

  return of


AT_POINTS = {
  "solved": _at(
    "solved", lambda arrays: (arrays("x_solved"), arrays.rows["near_t"])
  ),
  "again": _at("again", lambda arrays: _again(arrays, "x0_hat")[:2]),
  "beyond_again": _at(
    "beyond_again", lambda arrays: _again(arrays, "x0_beyond")[:2]
  ),
}


def _empty_again(arrays: Arrays) -> Array:
  """The reference's velocity of the empty prompt there."""
  x, t, _ = _again(arrays, "x0_hat")
  return arrays.network("reference").empty(x, t, arrays.rows["prompt_index"])


def _saliency(arrays: Arrays) -> Array:
  """|d score / d x0_hat|, summed over the last axis and kept; no gradient."""
  x0 = jax.lax.stop_gradient(arrays("x0_hat"))
  score, index = arrays.score, arrays.rows["prompt_index"]
  assert score is not None
  slope = jax.grad(lambda x: score(x, index)[0].sum())(x0)
  size = jnp.abs(slope).sum(-1, keepdims=True)
  return jax.lax.stop_gradient(jnp.broadcast_to(size, x0.shape))


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
  "errors": _errors("x0_hat"),
  "near_errors": _errors("near_x0_hat"),
  "pull": _pull,
  "saliency": _saliency,
}

FEED = dataclasses.replace(
  noised_samples.FEED,
  make=make,
  offers={
    **noised_samples.FEED.offers,
    "near_t": row("near_t"),
    "x_near": row("x_near"),
    "near_v": lambda arrays: arrays.velocity("policy", "x_near", "near_t"),
    "x_solved": lambda arrays: _stepped(arrays, "v_reference"),
    "x0_hat": _x0_hat,
    "near_x0_hat": _near_x0_hat,
    "x_again": lambda arrays: _again(arrays, "x0_hat")[0],
    "again_t": lambda arrays: _again(arrays, "x0_hat")[1],
    "again_noise": lambda arrays: _again(arrays, "x0_hat")[2],
    "v_reference_again": AT_POINTS["again"]("reference"),
    "v_empty_again": _empty_again,
    "x_beyond": lambda arrays: _stepped(arrays, "v"),
    "x0_beyond": _x0_beyond,
    "x_beyond_again": lambda arrays: _again(arrays, "x0_beyond")[0],
    "beyond_again_t": lambda arrays: _again(arrays, "x0_beyond")[1],
    "v_reference_beyond_again": AT_POINTS["beyond_again"]("reference"),
    "images": lambda arrays: scored(arrays, "x0_hat", arrays("x0_hat"))[1],
    **_SCORED,
  },
  latents=(
    *noised_samples.FEED.latents, "x_near", "near_v", "x_solved", "x0_hat",
    "near_x0_hat", "errors", "near_errors", "images", "saliency", "x_again", "again_noise",
    "v_reference_again", "v_empty_again", "x_beyond", "x0_beyond",
    "x_beyond_again", "v_reference_beyond_again",
  ),
  scoring=(*_SCORED, "images"),
  at_points=AT_POINTS,
)  # fmt: skip
