"""Tree search over the steps of a stochastic sampler."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward import rng
from jaxreward.errors import UserError, require_counts
from jaxreward.flow import rollout
from jaxreward.flow.sampler import State
from jaxreward.steering.methods import Steering, require_pick
from jaxreward.steering.particles import Particles, Trace


class Tree:
  """Soft values of one image's tree, on the host.

  Level 0 is a root without latents, level 1 an initial noise, and each step
  leads one level down. `source[n]` is the rollout that node n came with.
  """

  def __init__(
    self, is_noisy: Sequence[bool], tilt: float, width: float, growth: float
  ):
    """Levels, the last one of samples: `is_noisy` of what leads to each."""
    self.is_noisy, self.tilt = tuple(is_noisy), tilt
    self.width, self.growth = width, growth
    self.children: list[list[int]] = [[]]
    self.value, self.visits, self.source = [-np.inf], [0], [-1]

  def shares(self, node: int) -> np.ndarray:
    """Probabilities of a node's children, in proportion to exp(tilt value)."""
    value = np.array([self.value[child] for child in self.children[node]])
    if not np.isfinite(value).any():
      return np.full(len(value), 1 / len(value))
    share = np.exp(self.tilt * (value - value.max()))
    return share / share.sum()

  def descend(
    self, uniform: Sequence[float], *, is_greedy: bool, grows: bool = True
  ) -> list[int]:
    """The path to a node that gets a new child, or to a sample.

    Args:
      uniform: in [0, 1), one per level.
      is_greedy: follow the highest value, not a draw by `shares`.
      grows: stop where a node may have one more child.
    """
    path = [0]
    for level, is_noisy in enumerate(self.is_noisy):
      node, children = path[-1], self.children[path[-1]]
      limit = self.width * self.visits[node] ** self.growth if is_noisy else 1
      if not children or (grows and len(children) < limit):
        return path
      share = self.shares(node)
      place = share.argmax()
      if not is_greedy:
        place = (share.cumsum() <= uniform[level]).sum()
      path.append(children[min(int(place), len(children) - 1)])
    return path

  def insert(
    self, path: Sequence[int], source: int, reward: float
  ) -> list[int]:
    """Adds what a rollout from the end of a path went through, and its reward.

    Values above are (1 / tilt) log mean exp(tilt value) of the children.
    Returns the whole path.
    """
    path = list(path)
    while len(path) <= len(self.is_noisy):
      self.children[path[-1]].append(len(self.value))
      path.append(len(self.value))
      self.children.append([])
      self.value.append(reward)
      self.visits.append(0)
      self.source.append(source)
    for node in reversed(path):
      self.visits[node] += 1
      if self.children[node]:
        value = np.array([self.value[child] for child in self.children[node]])
        most = value.max()
        if np.isfinite(most):
          mean = np.exp(self.tilt * (value - most)).mean()
          most += np.log(mean) / self.tilt
        self.value[node] = float(most)
    return path


def tree_search(
  *,
  rollouts: int = 16,
  tilt: float = 10.0,
  width: float = 1.0,
  growth: float = 0.5,
  pick: str = "best",
) -> Steering:
  """Diffusion tree sampling and search: rollouts of one image share a tree.

  Jain et al. 2025, https://arxiv.org/abs/2506.20701. A rollout descends to a
  node that may have one more child, draws the rest of the sample from there, and
  hands its reward up as a soft value. "drawn" (DTS) descends in proportion to
  exp(tilt value) and draws the image in the same way; "best" (DTS*) descends by
  the highest value and takes the best image. Unverified: `tilt`, `width` and
  `growth`; DTS* has no bonus for exploration here. The images of a batch step
  together, so that a rollout costs all of them what the longest one does; that
  is counted. Latents of all steps of all rollouts are kept.

  Args:
    rollouts: of each image; 1 is plain sampling.
    tilt: lambda, per unit of the reward.
    width: a node of n visits has up to width n^growth children.
    growth: at least 0, below 1.
    pick: "best" or "drawn".

  Raises:
    UserError: an option out of its range.
  """
  require_counts("steering.", rollouts=rollouts)
  for name, value in (("tilt", tilt), ("width", width)):
    if not 0 < value < float("inf"):
      raise UserError(
        f"steering.{name}={value:g}: expected a finite number above 0"
      )
  if not 0 <= growth < 1:
    raise UserError(f"steering.growth={growth:g}: expected at least 0, below 1")
  require_pick(pick)
  is_greedy = pick == "best"

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    steps, images = draw.steps, len(prompts.ids) * draw.group
    std = np.asarray(draw.make(draw.group, 1.0).table.std)
    noisy = [True, *(std > 0).tolist()]
    trees = [
      Tree(noisy, float(tilt), float(width), float(growth))
      for _ in range(images)
    ]
    history = jnp.zeros((rollouts, steps + 1, *state.latents.shape))
    rows, velocities = np.arange(images), 0
    scores = np.zeros((rollouts, images), np.float32)
    for index in range(rollouts):
      uniform = _uniform(draw.keys(prompts.ids, index), steps + 1)
      paths = [
        tree.descend(u, is_greedy=is_greedy)
        for tree, u in zip(trees, np.asarray(uniform).tolist(), strict=True)
      ]
      source = np.array(
        [tree.source[path[-1]] for tree, path in zip(trees, paths, strict=True)]
      )
      first = np.array([len(path) - 2 for path in paths])
      history, latents = _grow(
        draw, params, state, history, index, source, first, scale
      )
      velocities += steps - max(0, int(first.min()))
      score = draw.scores(draw.pixels(latents, decoder), prompts)
      scores[index] = np.asarray(score).reshape(-1)
      for tree, path, reward in zip(trees, paths, scores[index], strict=True):
        tree.insert(path, index, float(reward))
    member = scores.argmax(0)
    if not is_greedy:
      uniform = _uniform(draw.keys(prompts.ids, rollouts), steps + 1)
      ends = [
        tree.descend(u, is_greedy=False, grows=False)[-1]
        for tree, u in zip(trees, np.asarray(uniform).tolist(), strict=True)
      ]
      member = np.array(
        [tree.source[end] for tree, end in zip(trees, ends, strict=True)]
      )
    last = np.full(images, steps)
    pixels = draw.pixels(_recall(draw, history, member, last), decoder)
    trace = Trace(
      network_evaluations=velocities,
      reward_calls=rollouts,
      score=jnp.asarray(scores[member, rows].reshape(-1, draw.group)),
    )
    return pixels, trace

  return Steering(1, run, needs_noise=True, kept=rollouts)


@functools.partial(jax.jit, static_argnums=1)
def _uniform(keys, count: int):
  return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def _of_rows(sampler, values):
  """[P G] -> [C, M]."""
  layout = sampler.layout
  rows = jnp.asarray(values)[layout.prompt_index * layout.group + layout.member]
  return rollout.to_chunks(rows, layout.chunks)


@functools.partial(jax.jit, static_argnums=0)
def _recall(draw: Particles, history, source, step):
  """Latents [C, M, ...] of a rollout and a step per image."""
  sampler = draw.make(draw.group, 1.0)
  chunks, rows = history.shape[2:4]
  return history[
    _of_rows(sampler, source), _of_rows(sampler, step),
    jnp.arange(chunks)[:, None], jnp.arange(rows),
  ]  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _grow(
  draw: Particles, params, state: State, history, index, source, first, scale
) -> tuple[Any, Any]:
  """(latents of all steps, of the samples) with one more rollout.

  Args:
    draw: one particle for each image.
    params: of the policy.
    state: before any step; the first rollout is that of its keys.
    history: latents [R, T + 1, C, M, ...].
    index: of this rollout.
    source: rollout that each image goes on from.
    first: steps that it keeps; -1 for none, nor the initial noise.
    scale: of the guidance.
  """
  sampler = draw.make(draw.group, 1.0 if scale is None else scale)
  again = jax.vmap(lambda keys: rng.fold_each(keys, index))(state.keys)
  keys = jnp.where(index == 0, state.keys, again)
  change = jnp.asarray(sampler.table.t)[0] * (
    sampler.noise(keys) - sampler.noise(state.keys)
  )
  past = _recall(draw, history, source, jnp.maximum(first, 0))
  first = _of_rows(sampler, first)
  wide = lambda x: x.reshape(*x.shape, *(1,) * (past.ndim - 2))
  latents = jnp.where(wide(first < 0), state.latents + change, past)
  start = jnp.maximum(first, 0)
  history = history.at[index, 0].set(latents)

  def body(i, carry):
    state, history = carry
    after, _ = sampler.step(params, state, i)
    latents = jnp.where(wide(start <= i), after.latents, state.latents)
    return dataclasses.replace(after, latents=latents), history.at[
      index, i + 1
    ].set(latents)

  state = dataclasses.replace(state, latents=latents, keys=keys)
  state, history = jax.lax.fori_loop(
    start.min(), sampler.steps, body, (state, history)
  )
  return history, state.latents
