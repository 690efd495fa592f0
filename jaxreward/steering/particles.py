"""Particles of a sampler: the jitted programs that steering methods call.

Every image to draw has a set of N particles: P prompts, G images each, so P x G N
rows of one sampler. A method is plain Python on the host that calls these
programs; each is compiled once, and nothing waits for the host unless a reward
runs there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer, Key

from jaxreward import rng
from jaxreward.flow import rollout
from jaxreward.flow.sampler import Sampler, State
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

# (images [P, S, H, W, C], prompts) -> scores [P, S], not finite where it failed
Score = Callable[[Array, PromptBatch], ArrayLike]
# the same -> weighted scores [K, P, S] of K rewards, and the gradient of each in
# the images [K, P, S, H, W, C]
Gradients = Callable[[Array, PromptBatch], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Trace:
  """Cost and outcome of steering, per image.

  Attributes:
    network_evaluations: velocities of the policy; a guided one counts as one,
      and a backward pass not at all.
    reward_calls: images scored by the reward.
    score: [P, G], of the selected images.
    resampled: share of the sets that were resampled, averaged over the looks;
      None for methods that do not resample.
  """

  network_evaluations: float
  reward_calls: float
  score: Array
  resampled: Array | None = None

  def metrics(self) -> dict[str, Any]:
    """Metrics of an evaluation, averaged over the images."""
    metrics = {
      "steered_reward": self.score,
      "network_evaluations": jnp.float32(self.network_evaluations),
      "reward_calls": jnp.float32(self.reward_calls),
    }
    if self.resampled is not None:
      metrics["resampled"] = self.resampled
    return metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Particles:
  """A sampler with N particles for each of P x G images.

  Attributes:
    make: (group, guidance scale) -> sampler of that many rows per prompt; it is
      called in jit.
    score: the reward.
    group: G.
    count: N.
    steps: T of the sampler.
    seed: of all random draws.
    stream: name of the sampler's own stream of keys.
    start: (prompts, decoder) -> clean latents [P, ...] to start from, or None.
    gradients: of the rewards, for methods that follow them; None where a
      reward has none.
    look: the reward of clean estimates on the way, for methods with one of its
      own; None for `score`.
    clear: whether clean estimates can be judged, for methods that ask.
  """

  make: Callable[[int, Any], Sampler]
  score: Score
  group: int
  count: int
  steps: int
  seed: int
  stream: str
  start: Callable[..., Array | None] = lambda *_: None
  gradients: Gradients | None = None
  look: Score | None = None
  clear: Score | None = None

  def _sampler(self, scale) -> Sampler:
    return self.make(self.group * self.count, 1.0 if scale is None else scale)

  def sets(self, x: ArrayLike) -> Array:
    """[P, G N, ...] -> [P, G, N, ...]."""
    x = jnp.asarray(x)
    return x.reshape(x.shape[0], self.group, self.count, *x.shape[2:])

  @functools.cached_property
  def init(self) -> Callable[..., State]:
    """Jitted (params, prompts, scale, decoder) -> state before any step."""

    def init(params, prompts, scale, decoder=None):
      key = rng.stream_key(self.seed, self.stream)
      return self._sampler(scale).init(
        params, key, prompts.words, prompts.ids, self.start(prompts, decoder)
      )

    return jax.jit(init)

  @functools.cached_property
  def advance(self) -> Callable[..., tuple[State, Array]]:
    """Jitted (params, state, first, last, scale) -> (state, x0_hat)."""

    def advance(params, state, first, last, scale):
      return self._sampler(scale).advance(params, state, first, last)

    return jax.jit(advance)

  @functools.cached_property
  def lookahead(self) -> Callable[..., Array]:
    """Jitted (params, state, taken, jumps, scale) -> clean estimates [C, M, ...].

    See `Sampler.lookahead`.
    """

    def lookahead(params, state, taken, jumps, scale):
      return self._sampler(scale).lookahead(params, state, taken, jumps)

    return jax.jit(lookahead)

  @functools.cached_property
  def from_noise(self) -> Callable[..., tuple[Array, Callable[..., Any]]]:
    """Jitted (params, state, latents, decoder, scale) -> (pixels, pullback).

    All steps, from a state whose latents [C, M, ...] are replaced; the pullback
    takes a cotangent of the pixels [P, G N, ...] to one of the latents. Memory
    grows with the steps.
    """

    def draw(params, state, latents, decoder, scale):
      def pixels_of(latents):
        begin = dataclasses.replace(state, latents=latents)
        end, _ = self._sampler(scale).scan(params, begin, lambda *_: None)
        return self.pixels(end.latents, decoder)

      return jax.vjp(pixels_of, latents)

    return jax.jit(draw)

  @functools.cached_property
  def pixels(self) -> Callable[..., Array]:
    """Jitted (latents [C, M, ...], decoder) -> pixels [P, G N, H, W, C]."""

    def pixels(latents, decoder):
      flat = rollout.from_chunks(latents)
      return self._sampler(None).pixels(flat, decoder)

    return jax.jit(pixels)

  @functools.cached_property
  def select(self) -> Callable[[State, Array], State]:
    """Jitted (state, parents [P, G, N] within their sets) -> state."""

    def select(state, parents):
      sampler = self._sampler(None)
      first = jnp.arange(parents.size).reshape(parents.shape)
      first -= jnp.arange(self.count)
      rows = jnp.arange(state.index.size).at[: parents.size]
      return sampler.select(state, rows.set((first + parents).reshape(-1)))

    return jax.jit(select)

  @functools.cached_property
  def _fewer(self) -> dict[int, Particles]:
    return {self.count: self}

  @functools.cached_property
  def _keep(self) -> Callable[..., State]:
    def keep(fewer, state, members):
      layout = fewer._sampler(None).layout
      sets = layout.member // fewer.count
      member = members[layout.prompt_index, sets, layout.member % fewer.count]
      rows = (layout.prompt_index * self.group + sets) * self.count + member

      def take(x):
        return rollout.to_chunks(rollout.from_chunks(x)[rows], layout.chunks)

      return dataclasses.replace(
        state, latents=take(state.latents), keys=take(state.keys),
        memory=jax.tree.map(take, state.memory), index=take(state.index),
        shared=tuple(map(take, state.shared)),
      )  # fmt: skip

    return jax.jit(keep, static_argnums=0)

  def keep(self, state: State, members: Array) -> tuple[Particles, State]:
    """Some particles of every set, [P, G, M], with the noise that they have.

    The others cost nothing from then on: the sampler returned has M a set.
    """
    count = members.shape[-1]
    if count not in self._fewer:
      self._fewer[count] = dataclasses.replace(self, count=count)
    fewer = self._fewer[count]
    return fewer, self._keep(fewer, state, members)

  @functools.cached_property
  def take(self) -> Callable[[Array, Array], Array]:
    """Jitted (pixels [P, G N, ...], member [P, G]) -> pixels [P, G, ...]."""

    def take(pixels, member):
      sets = self.sets(pixels)
      index = member.reshape(*member.shape, *(1,) * (sets.ndim - 2))
      return jnp.take_along_axis(sets, index, axis=2)[:, :, 0]

    return jax.jit(take)

  def keys(self, ids: Integer[ArrayLike, "P"], step: int) -> Key[Array, "S"]:
    """A key per set of N particles, S = P G, for a look after `step` steps."""
    key = rng.stream_key(self.seed, "steering", step)
    ids = jnp.repeat(jnp.asarray(ids), self.group)
    return rng.sample_keys(key, ids, jnp.arange(len(ids)) % self.group)

  def scores(
    self,
    pixels: Float[Array, "P S H W C"],
    prompts: PromptBatch,
    by: Score | None = None,
  ) -> Array:
    """Scores of images [P, G, N], by `score` if None; -inf where it failed."""
    score = self.sets((by or self.score)(jnp.clip(pixels, 0, 1), prompts))
    return jnp.where(jnp.isfinite(score), score, -jnp.inf)

  def finish(
    self,
    params: Params,
    state: State,
    position: int,
    prompts: PromptBatch,
    decoder: Params | None,
    scale: Any,
  ) -> tuple[Array, Array]:
    """(pixels [P, G N, H, W, C], scores [P, G, N]) after the steps that are left.

    Args:
      params: of the policy.
      state: after `position` steps.
      position: steps taken.
      prompts: P prompts.
      decoder: parameters of the autoencoder.
      scale: of the guidance, or None.
    """
    end, _ = self.advance(params, state, position, self.steps, scale)
    pixels = self.pixels(end.latents, decoder)
    return pixels, self.scores(pixels, prompts)

  def differentiate(
    self, pixels: Float[Array, "P S H W C"], prompts: PromptBatch
  ) -> tuple[Array, Array]:
    """(scores [P, G, N], gradients in the pixels [K, P, S, H, W, C]).

    One gradient for each of K rewards, times its weight. Scores are -inf, and
    gradients 0, where a reward failed; gradients are 0 outside [0, 1] too.
    """
    assert self.gradients is not None
    scores, gradients = self.gradients(jnp.clip(pixels, 0, 1), prompts)
    score = self.sets(scores.sum(0))
    inside = (pixels >= 0) & (pixels <= 1) & jnp.isfinite(gradients)
    gradients = jnp.where(inside, gradients, 0.0)
    return jnp.where(jnp.isfinite(score), score, -jnp.inf), gradients
