"""Best of N by what a judge says of clean estimates on the way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_counts
from jaxreward.steering.methods import Steering
from jaxreward.steering.particles import Particles, Trace
from jaxreward.steering.pruning import require_looks
from jaxreward.types import Array, ArrayLike

AGGREGATES = ("min", "mean", "last")


def aggregated(
  values: Float[ArrayLike, "S *B"], aggregate: str
) -> Float[Array, "*B"]:
  """One number for the scores of S steps: the least, the mean, or the last."""
  values = jnp.asarray(values)
  if aggregate == "min":
    return values.min(0)
  return values[-1] if aggregate == "last" else values.mean(0)


def stepwise(
  *,
  particles: int = 4,
  looks: tuple[int, ...] = (4, 7),
  aggregate: str = "min",
  by: str = "",
) -> Steering:
  """Best of N by the scores of the steps on the way, a process reward.

  The score of a sample is that of S clean estimates and of the finished image, as one
  number. ViLBench, https://arxiv.org/abs/2503.20271, of reasoning in words there, whose
  model learns the share of continuations of a step that end right
  (`train_reward.sampling.estimates` teaches one to read estimates). "last" is the best
  of N.

  Args:
    particles: N for each image.
    looks: steps taken before each look, rising, fewer than the sampler's.
    aggregate: "min", "mean" or "last".
    by: name of the reward of the looks and of the finished image, whatever its
      weight; all rewards if empty.

  Raises:
    UserError: an option out of its range.
  """
  require_counts("steering.", particles=particles)
  require_looks(looks)
  if aggregate not in AGGREGATES:
    raise UserError(
      f'steering.aggregate="{aggregate}": it is one of {", ".join(AGGREGATES)}'
    )

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    position, values = 0, []
    for look in looks:
      state, guess = draw.advance(params, state, position, look, scale)
      pixels = draw.pixels(guess, decoder)
      values.append(draw.scores(pixels, prompts, draw.look))
      position = look
    pixels, score = draw.finish(
      params, state, position, prompts, decoder, scale
    )
    last = draw.scores(pixels, prompts, draw.look) if by else score
    best = aggregated(jnp.stack([*values, last]), aggregate).argmax(-1)
    trace = Trace(
      network_evaluations=draw.count * draw.steps,
      reward_calls=draw.count * (len(looks) + 1 + bool(by)),
      score=jnp.take_along_axis(score, best[..., None], -1)[..., 0],
    )
    return draw.take(pixels, best), trace

  return Steering(particles, run, least_steps=looks[-1] + 1, by=by)


@jax.jit
def asked_once(
  chance: Float[ArrayLike, "*B N"],
  asked: Bool[ArrayLike, "*B N"],
  is_clear: Bool[ArrayLike, "*B N"],
  answer: Float[ArrayLike, "*B N"],
) -> tuple[Array, Array]:
  """(chances, who has been asked): who is clear now and was not asked yet is.

  An answer that failed, which is not finite, is none.
  """
  new = jnp.asarray(is_clear) & ~jnp.asarray(asked) & jnp.isfinite(answer)
  return jnp.where(new, answer, chance), jnp.asarray(asked) | new


@jax.jit
def survivor(
  outcome: Float[ArrayLike, "*B N"],
  chance: Float[ArrayLike, "*B N"],
  asked: Bool[ArrayLike, "*B N"],
  threshold: ArrayLike | float,
) -> Array:
  """The best outcome of those that may become right; without any, the likeliest.

  Who was never clear enough to be asked stays, an outcome that failed never does, and
  outcomes decide between those that are equally likely.
  """
  chance, asked = jnp.asarray(chance), jnp.asarray(asked)
  is_scored = jnp.isfinite(outcome)
  stays = is_scored & (~asked | (chance >= threshold))
  likely = jnp.where(is_scored, chance, -jnp.inf)
  likeliest = is_scored & (likely == likely.max(-1, keepdims=True))
  left = jnp.where(stays.any(-1, keepdims=True), stays, likeliest)
  return jnp.where(left, outcome, -jnp.inf).argmax(-1)


def potential(
  *,
  particles: int = 20,
  looks: tuple[int, ...] = (3, 5, 7),
  by: str = "",
  clear: str = "",
  threshold: float = 0.5,
) -> Steering:
  """Best of those samples that, once clear enough to judge, could still become right.

  At the first look at which an estimate is clear, a judge says whether it can become
  right; who it says no of is not chosen, and among the others the rewards choose.
  PARM, https://arxiv.org/abs/2501.13926, of token images, read in the authors' code,
  20 samples: both questions are asked of one model, the second once per sample.
  Here samples that are given up are drawn to their end, which keeps shapes, and every
  look is scored.

  Args:
    particles: N for each image.
    looks: steps taken before each look, rising, fewer than the sampler's.
    by: name of the reward that says whether an estimate can become right, in [0, 1],
      whatever its weight.
    clear: name of the reward that says whether it can be judged, likewise; without
      one every estimate can at the first look.
    threshold: of both, in [0, 1].

  Raises:
    UserError: an option out of its range.
  """
  require_counts("steering.", particles=particles)
  require_looks(looks)
  if not by:
    raise UserError(
      'steering.by="": name the reward that says, from 0 to 1, whether an estimate'
      " can become right"
    )
  if not 0 <= threshold <= 1:
    raise UserError(
      f"steering.threshold={threshold:g}: it is a probability, from 0 to 1"
    )
  looks = looks if clear else looks[:1]

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    shape = (len(prompts.ids), draw.group, draw.count)
    chance, asked = jnp.zeros(shape), jnp.zeros(shape, bool)
    position = 0
    for look in looks:
      state, guess = draw.advance(params, state, position, look, scale)
      pixels = draw.pixels(guess, decoder)
      is_clear = jnp.ones(shape, bool)
      if clear:
        is_clear = draw.scores(pixels, prompts, draw.clear) >= threshold
      answer = draw.scores(pixels, prompts, draw.look)
      chance, asked = asked_once(chance, asked, is_clear, answer)
      position = look
    pixels, score = draw.finish(
      params, state, position, prompts, decoder, scale
    )
    member = survivor(score, chance, asked, threshold)
    trace = Trace(
      network_evaluations=draw.count * draw.steps,
      reward_calls=draw.count * (len(looks) * (1 + bool(clear)) + 1),
      score=jnp.take_along_axis(score, member[..., None], -1)[..., 0],
    )
    return draw.take(pixels, member), trace

  return Steering(particles, run, least_steps=looks[-1] + 1, by=by, clear=clear)
