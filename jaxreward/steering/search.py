"""Search over the latents of a stochastic sampler."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.errors import MOST_STEPS, require_counts
from jaxreward.steering.methods import Steering
from jaxreward.steering.particles import Particles, Trace


def lookahead_beams(
  *, beams: int = 4, branches: int = 2, lookahead: int = 6
) -> Steering:
  """Diffusion latent beam search: beams branch, and the best are kept.

  Oshima et al. 2025, https://arxiv.org/abs/2501.19252. At every step but the
  last each of B beams branches into K, a short ODE rollout from every branch
  gives a clean estimate, and the B branches of highest score go on. The defaults
  are the authors'. One beam is greedy search; one branch is the best of B
  samples. A velocity is computed for every branch, also where branches are
  equal, and counted as such: B K T for the steps and B K (T - 1) `lookahead`
  for the rollouts.

  Args:
    beams: B.
    branches: K; above 1 the sampler has to be stochastic.
    lookahead: Euler steps of a rollout; 1 scores what the next velocity says.

  Raises:
    UserError: an option out of its range.
  """
  require_counts("steering.", beams=beams, branches=branches)
  require_counts("steering.", most=MOST_STEPS, lookahead=lookahead)
  count = beams * branches

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    shape = (len(prompts.ids), draw.group, count)
    start = jnp.arange(count) // branches * branches
    state = draw.select(state, jnp.broadcast_to(start, shape))
    for step in range(draw.steps - 1):
      state, _ = draw.advance(params, state, step, step + 1, scale)
      guess = draw.lookahead(params, state, step + 1, lookahead, scale)
      score = draw.scores(draw.pixels(guess, decoder), prompts)
      best = jnp.sort(jax.lax.top_k(score, beams)[1], axis=-1)
      state = draw.select(state, jnp.repeat(best, branches, axis=-1))
    pixels, score = draw.finish(
      params, state, draw.steps - 1, prompts, decoder, scale
    )
    rollouts = lookahead * (draw.steps - 1)
    trace = Trace(
      network_evaluations=count * (draw.steps + rollouts),
      reward_calls=count * draw.steps,
      score=score.max(-1),
    )
    return draw.take(pixels, score.argmax(-1)), trace

  return Steering(count, run, needs_noise=branches > 1)
