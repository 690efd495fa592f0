"""Steering methods.

Each is a function of its options, checks them, and returns a `Steering` that
samples: run(particles, params, prompts, decoder, scale) -> (pixels
[P, G, H, W, C], Trace), where `scale` is the guidance scale, an array, or None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError, require_counts
from jaxreward.steering import weights
from jaxreward.steering.particles import Particles, Trace
from jaxreward.types import Array

PICKS = ("best", "drawn")


@dataclasses.dataclass(frozen=True)
class Steering:
  """A method with its options.

  Attributes:
    particles: N for each image.
    run: see the module's docstring.
    needs_noise: whether the sampler has to be stochastic.
    needs_gradient: whether the rewards have to be differentiable.
    least_steps: of the sampler.
    kept: trajectories that are stored for each image.
    by: name of the reward that scores clean estimates on the way; all rewards
      do if empty.
    clear: name of the reward that says whether they can be judged; none if empty.
  """

  particles: int
  run: Callable[..., tuple[Array, Trace]]
  needs_noise: bool = False
  needs_gradient: bool = False
  least_steps: int = 1
  kept: int = 1
  by: str = ""
  clear: str = ""


def best_of_n(*, particles: int = 4) -> Steering:
  """The best of N samples by the reward.

  Args:
    particles: N.

  Raises:
    UserError: fewer than one.
  """
  require_counts("steering.", particles=particles)

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    pixels, score = draw.finish(params, state, 0, prompts, decoder, scale)
    trace = Trace(
      network_evaluations=draw.count * draw.steps,
      reward_calls=draw.count,
      score=score.max(-1),
    )
    return draw.take(pixels, score.argmax(-1)), trace

  return Steering(particles, run)


def fk(
  *,
  particles: int = 4,
  tilt: float = 10.0,
  potential: str = "max",
  first: int = 2,
  every: int = 2,
  threshold: float = 1.0,
  pick: str = "best",
) -> Steering:
  """Feynman-Kac steering: particles are resampled by intermediate rewards.

  Singhal et al. 2025, https://arxiv.org/abs/2501.06848. On the way, the
  network's estimates of the clean sample are scored, and particles are resampled
  in proportion to the potentials of `weights.reweigh`. The defaults are the
  authors' (lambda 10, "max", 4 particles, four looks at equal distances) with three exceptions:
  resampling is systematic, not multinomial; the best score starts at -inf; and
  weights are kept at looks that do not resample.

  Args:
    particles: N for each image; the sampler has to be stochastic.
    tilt: lambda, per unit of the reward.
    potential: see `weights.reweigh`.
    first: steps before the first look.
    every: steps between looks.
    threshold: a set is resampled where its effective number of particles is
      below this share of N; 1 resamples wherever weights differ.
    pick: "best" by the reward, or "drawn" by the weights, which is exact as N
      grows.

  Raises:
    UserError: an option out of its range.
  """
  weights.check_potential(potential)
  require_counts("steering.", particles=particles, first=first, every=every)
  if not 0 < threshold <= 1:
    raise UserError(
      f"steering.threshold={threshold:g}: expected a share above 0, at most 1"
    )
  if not 0 <= tilt < float("inf"):
    raise UserError(
      f"steering.tilt={tilt:g}: expected a finite number, 0 or above"
    )
  require_pick(pick)
  look = _look(potential, float(tilt), float(threshold))

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    sets = (len(prompts.ids), draw.group, draw.count)
    flat = (-1, draw.count)
    lineage = weights.start((sets[0] * sets[1], sets[2]))
    position, shares = 0, []
    for step in range(first, draw.steps, every):
      state, guess = draw.advance(params, state, position, step, scale)
      score = draw.scores(draw.pixels(guess, decoder), prompts)
      keys = draw.keys(prompts.ids, step)
      lineage, parents, share = look(keys, lineage, score.reshape(flat))
      state = draw.select(state, parents.reshape(sets))
      position, shares = step, [*shares, share]
    pixels, score = draw.finish(
      params, state, position, prompts, decoder, scale
    )
    member = score.argmax(-1)
    if pick == "drawn":
      lineage = weights.reweigh(
        lineage, score.reshape(flat), potential=potential, scale=float(tilt),
        is_last=True,
      )  # fmt: skip
      keys = draw.keys(prompts.ids, draw.steps)
      member = _draw(keys, lineage.log_weight).reshape(sets[:2])
    trace = Trace(
      network_evaluations=draw.count * draw.steps,
      reward_calls=draw.count * (len(shares) + 1),
      score=jnp.take_along_axis(score, member[..., None], -1)[..., 0],
      resampled=jnp.stack(shares).mean() if shares else jnp.zeros(()),
    )
    return draw.take(pixels, member), trace

  return Steering(particles, run, needs_noise=True, least_steps=first + 1)


def require_pick(pick: str) -> None:
  """Refuses a way to pick the image that there is not."""
  if pick not in PICKS:
    raise UserError(
      f'steering.pick="{pick}" is not known; there are {", ".join(PICKS)}'
    )


def _look(potential: str, tilt: float, threshold: float) -> Callable[..., Any]:
  """Jitted (keys, lineage, score [S, N]) -> (lineage, parents, share)."""

  @jax.jit
  def look(keys, lineage, score):
    lineage = weights.reweigh(
      lineage, score, potential=potential, scale=tilt, is_last=False
    )
    is_few = weights.effective_number(lineage.log_weight)
    is_few = is_few < threshold * score.shape[-1] * (1 - 1e-6)
    parents = weights.systematic(keys, lineage.log_weight)
    identity = jnp.arange(score.shape[-1])
    parents = jnp.where(is_few[:, None], parents, identity)
    copies = weights.select(lineage, parents)
    lineage = jax.tree.map(
      lambda new, old: jnp.where(is_few[:, None], new, old), copies, lineage
    )
    return lineage, parents, is_few.mean()

  return look


@jax.jit
def _draw(keys, log_weight):
  logits = jnp.log(weights.normalized(log_weight))
  return jax.vmap(jax.random.categorical)(keys, logits)
