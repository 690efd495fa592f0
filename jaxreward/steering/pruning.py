"""Best of N where most of the samples are given up on the way."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError, require_counts
from jaxreward.steering.methods import Steering
from jaxreward.steering.particles import Particles, Trace


def require_looks(looks: Sequence[int]) -> None:
  """Refuses looks that are not rising numbers of steps.

  Raises:
    UserError: names the looks.
  """
  are_whole = looks and all(isinstance(look, int) for look in looks)
  if not are_whole or any(a >= b for a, b in itertools.pairwise((0, *looks))):
    raise UserError(
      f"steering.looks={looks}: expected rising numbers of steps, from 1 on"
    )


def survivors(particles: int, keep: Sequence[float]) -> tuple[int, ...]:
  """Particles before the first look and after each; at least one."""
  counts = [particles]
  for share in keep:
    counts.append(max(1, round(counts[-1] * share)))
  return tuple(counts)


def cost(
  counts: Sequence[int], looks: Sequence[int], steps: int
) -> tuple[int, int]:
  """(velocities, images scored) of one set, the last scores included.

  Args:
    counts: from `survivors`.
    looks: steps before each look.
    steps: T.
  """
  lengths = [b - a for a, b in itertools.pairwise((0, *looks, steps))]
  velocities = sum(n * k for n, k in zip(counts, lengths, strict=True))
  return velocities, sum(counts)


def pruned(
  *,
  particles: int = 16,
  looks: tuple[int, ...] = (1, 3, 5),
  keep: tuple[float, ...] = (0.4, 0.4, 0.5),
  by: str = "",
) -> Steering:
  """Best of N with successive pruning by the scores of clean estimates.

  TTSnap, https://arxiv.org/abs/2511.22242: the score on the way is a reward's of
  what the network's velocity leads to, and the authors' is one that learned the
  clean reward from such estimates (`train_reward.sampling.estimates`); they have
  one for each look. The shares are the authors', and they look after 3, 7 and 12 of
  20 steps. Particles that are given up are drawn no further.
  Keeping all is the best of N.

  Args:
    particles: N for each image.
    looks: steps taken before each look, rising, fewer than the sampler's.
    keep: share of the particles that go on after each; at least one does.
    by: name of the reward at the looks, whatever its weight; the last choice is
      by all rewards, and so are the looks if empty.

  Raises:
    UserError: an option out of its range.
  """
  require_counts("steering.", particles=particles)
  if len(looks) != len(keep) or not looks:
    raise UserError(
      f"steering.looks={looks}, steering.keep={keep}: one share is needed for each"
      " look, and at least one look"
    )
  require_looks(looks)
  if not all(0 < share <= 1 for share in keep):
    raise UserError(f"steering.keep={keep}: expected shares above 0, at most 1")
  counts = survivors(particles, keep)

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    velocities, calls = cost(counts, looks, draw.steps)
    position = 0
    for look, count in zip(looks, counts[1:], strict=True):
      state, guess = draw.advance(params, state, position, look, scale)
      score = draw.scores(draw.pixels(guess, decoder), prompts, draw.look)
      best = jnp.sort(jax.lax.top_k(score, count)[1], axis=-1)
      draw, state = draw.keep(state, best)
      position = look
    pixels, score = draw.finish(
      params, state, position, prompts, decoder, scale
    )
    trace = Trace(velocities, calls, score.max(-1))
    return draw.take(pixels, score.argmax(-1)), trace

  return Steering(particles, run, least_steps=looks[-1] + 1, by=by)
