"""Networks that a loss may evaluate, and the arrays of one micro-batch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.feeds.contract import Feed, Plan, Rows
from jaxreward.flow import guidance, log_prob, path, rollout, steppers
from jaxreward.types import (
  Array,
  ArrayLike,
  Cond,
  Params,
  Policy,
  PromptEmbeddings,
)


@dataclasses.dataclass(frozen=True)
class Network:
  """A policy with the parameters of one role.

  Attributes:
    policy: the architecture.
    params: its parameters.
    words: policy inputs of P prompts: tokens or embeddings.
    plan: of the run.
  """

  policy: Policy
  params: Params
  words: ArrayLike | PromptEmbeddings
  plan: Plan

  @functools.cached_property
  def _guided(self) -> tuple[Cond, Cond | None]:
    return guidance.conditioning(
      self.policy, self.params, self.words, self.plan.guidance_scale
    )

  @functools.cached_property
  def _plain(self) -> Cond:
    return guidance.conditioning(self.policy, self.params, self.words, 1.0)[0]

  def _guided_rows(self, index: ArrayLike) -> tuple[Cond, Cond | None]:
    cond, uncond = self._guided
    return rollout.gather_cond(cond, index), rollout.gather_uncond(
      uncond, index
    )

  def velocity(self, x: Array, t: Array, index: ArrayLike) -> Array:
    """Without guidance: x [M, ...], t [M], prompts' indices [M]."""
    return self.plain(index)(x, t)

  def plain(self, index: ArrayLike) -> Callable[[Array, Array], Array]:
    """(x [M, ...], t [M]) -> `velocity`; texts are encoded once, for a scan."""
    cond = rollout.gather_cond(self._plain, index)
    return lambda x, t: self.policy.velocity(self.params, x, t, cond)

  def empty(self, x: Array, t: Array, index: ArrayLike) -> Array:
    """`velocity` without the words, of the empty prompt."""
    cond, uncond = guidance.conditioning(
      self.policy, self.params, self.words, jnp.float32(0)
    )
    cond = rollout.gather_cond(cond, index)
    uncond = rollout.gather_uncond(uncond, index)
    return self.policy.velocity(
      self.params, x, t, guidance.without_words(cond, uncond)
    )

  def path_log_probs(self, path: Array, index: ArrayLike) -> Array:
    """Log-probabilities [M, T] of the steps of paths [M, T + 1, ...]."""
    table = jax.tree.map(jnp.asarray, self.plan.table)

    def one(item):
      x_t, x_next, step = item
      rows = dict(x_t=x_t, x_next=x_next, step=step, prompt_index=index)
      return self.step(rows)[0]

    along = jnp.moveaxis(path, 1, 0)
    return jax.lax.map(jax.checkpoint(one), (along[:-1], along[1:], table)).T

  def guided(
    self, index: ArrayLike
  ) -> Callable[[Array, steppers.StepTable], Array]:
    """(x [M, ...], step) -> the velocity with the rollout's guidance."""
    cond, uncond = self._guided_rows(index)

    def velocity(x: Array, step: steppers.StepTable) -> Array:
      return log_prob.step_velocity(
        self.policy, self.params, cond, uncond, x, step,
        self.plan.guidance_scale,
      )  # fmt: skip

    return velocity

  def step(self, rows: Rows) -> tuple[Array, Array]:
    """(log-probability [M], mean) of stored steps, guided as they were."""
    cond, uncond = self._guided_rows(rows["prompt_index"])
    return log_prob.step_log_prob(
      self.policy, self.params, cond, uncond, rows["x_t"], rows["x_next"],
      rows["step"], guidance_scale=self.plan.guidance_scale,
      replay=self.plan.replay,
      is_sealed=self.plan.old_log_prob == "sealed",
    )  # fmt: skip


class Arrays:
  """The arrays of a micro-batch by name; each is computed at most once.

  Args:
    feed: that made the rows.
    rows: of this micro-batch, leaves [M, ...].
    networks: role -> function that makes its `Network`: "policy" is differentiated,
      "old" drew the samples, "reference" is where training began.
    score: (latents [M, ...], prompts' indices [M]) -> (scores [M], images), for
      feeds that differentiate them. A third argument, "other", scores by the
      prompts that `align.controls` or the batch set against these; "pull" gives,
      in the place of scores, inner products with the rewards' gradients in the
      image, each of length 1; "errors" gives a reward's `Scores.errors`, [M, N].
    more: name -> function that computes a further array of the rows.
    predictions: name -> function of predicted samples [M, ...] and the rows.
  """

  def __init__(
    self,
    feed: Feed,
    rows: Rows,
    networks: Mapping[str, Callable[[], Network]],
    plan: Plan,
    score: Callable[..., Any] | None = None,
    more: Mapping[str, Callable[[Rows], Array]] | None = None,
    predictions: Mapping[str, Callable[[Array, Rows], Array]] | None = None,
  ):
    self._more, self._predictions = more or {}, predictions or {}
    self.rows, self.plan, self.score = rows, plan, score
    self._feed, self._networks = feed, networks
    self._cache: dict[Any, Any] = {}

  def __call__(self, name: str) -> Any:
    """The array of this name, prepared or offered."""
    if name in self._more:
      return self.once(name, lambda: self._more[name](self.rows))
    if name in self._predictions:
      predict = self._predictions[name]
      return self.once(name, lambda: predict(self("x0_hat"), self.rows))
    if name not in self._feed.offers:
      return self.rows[name]
    return self.once(name, lambda: self._feed.offers[name](self))

  def once(self, key: Any, compute: Callable[[], Any]) -> Any:
    """A value cached under a key, computed on first use."""
    if key not in self._cache:
      self._cache[key] = compute()
    return self._cache[key]

  def network(self, role: str) -> Network:
    """The network of a role."""
    return self.once(("network", role), self._networks[role])

  def velocity(self, role: str, x: str = "x_t", t: str = "t") -> Array:
    """The velocity of a network at rows of these names."""
    return self.once(
      ("velocity", role, x, t),
      lambda: self.network(role).velocity(
        self.rows[x], self.rows[t], self.rows["prompt_index"]
      ),
    )

  def step(self, role: str) -> tuple[Array, Array]:
    """(log-probability, mean) of the rows' steps under a network."""
    if role == "old" and self.plan.is_on_policy:
      return jax.lax.stop_gradient(self.step("policy"))
    return self.once(("step", role), lambda: self.network(role).step(self.rows))


def scored(
  arrays: Arrays, name: str, latents: Array, of: str = "own"
) -> tuple[Array, Array]:
  """(scores [M], images [M, ...]) of latents, differentiable.

  Gradients are stopped in masked rows: the slope of a reward may be infinite
  there, and the mask of the loss would multiply it by 0.

  Args:
    arrays: of the micro-batch.
    name: under which the result is kept.
    latents: [M, ...], finished samples.
    of: see `Arrays`.
  """
  score, rows = arrays.score, arrays.rows
  assert score is not None

  def compute():
    mask = path.expand(rows["mask"], latents)
    safe = jnp.where(mask, latents, jax.lax.stop_gradient(latents))
    options = () if of == "own" else (of,)
    return score(safe, rows["prompt_index"], *options)

  return arrays.once(("scored", name, of), compute)


def row(name: str) -> Callable[[Arrays], Array]:
  """Offers an array of the rows by its name."""
  return lambda arrays: arrays.rows[name]


def spread(x: ArrayLike, times: int) -> Array:
  """An array repeated along a new first axis."""
  return jnp.broadcast_to(x, (times, *jnp.shape(x)))
