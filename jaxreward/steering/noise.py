"""Gradient ascent of the reward in the initial noise of a sampler."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError, require_counts
from jaxreward.steering.methods import Steering
from jaxreward.steering.particles import Particles, Trace
from jaxreward.types import Array, ArrayLike


def reno(
  *,
  iterations: int = 50,
  learning_rate: float = 5.0,
  momentum: float = 0.9,
  clip: float = 0.1,
  prior: float = 0.01,
) -> Steering:
  """ReNO: the initial noise climbs the reward, held to the norm of noise.

  Eyring et al. 2024, https://arxiv.org/abs/2406.04312. SGD with Nesterov
  momentum on -reward + `prior` (|x|^2 / 2 - (d - 1) log |x|), whose least is at
  |x| = sqrt(d - 1), the gradient of each sample clipped by its norm. The image
  of the highest reward on the way is returned, the first one included. The
  rewards are those of the config, by their weights. Meant for samplers of a few
  steps: all of them are differentiated through. Defaults are the authors'.

  Args:
    iterations: updates; one more image than that is scored.
    learning_rate: of the noise.
    momentum: at least 0, below 1.
    clip: largest norm of a sample's gradient.
    prior: weight of the norm's term.

  Raises:
    UserError: an option out of its range.
  """
  return _ascent(
    1, iterations, learning_rate, momentum, clip, prior, is_clipped_each=False
  )


def carinox(
  *,
  particles: int = 5,
  iterations: int = 50,
  learning_rate: float = 5.0,
  momentum: float = 0.9,
  clip: float = 0.1,
  prior: float = 0.01,
) -> Steering:
  """CARINOX: `reno` from several seeds, with each reward's gradient clipped.

  Kasaei et al. 2025, https://arxiv.org/abs/2509.17458. Every reward's gradient
  has the norm's term in it, is clipped and then added to the others, and the sum
  is clipped again, as in the released code. The best image over all seeds and
  iterations is returned; by the weighted score here, by the unweighted one in
  that code. Which rewards count for which category is the config's: weights may
  name categories. Without an iteration this is the best of N.

  Args:
    particles: seeds for each image.
    iterations: as in `reno`.
    learning_rate: as in `reno`.
    momentum: as in `reno`.
    clip: of each reward's gradient and of their sum.
    prior: as in `reno`.

  Raises:
    UserError: an option out of its range.
  """
  return _ascent(
    particles, iterations, learning_rate, momentum, clip, prior,
    is_clipped_each=True,
  )  # fmt: skip


def norm_prior(x: Float[ArrayLike, "*B D"]) -> Float[Array, "*B D"]:
  """Gradient of |x|^2 / 2 - (D - 1) log |x|: x (1 - (D - 1) / |x|^2)."""
  x = jnp.asarray(x)
  square = jnp.square(x).sum(-1, keepdims=True)
  return x * (1 - (x.shape[-1] - 1) / square)


def clipped(
  x: Float[ArrayLike, "*B D"], most: ArrayLike | float
) -> Float[Array, "*B D"]:
  """Rows of norm at most `most`; 0 where a value is not finite."""
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  scaled = x * jnp.minimum(1, most / jnp.maximum(norm, 1e-12))
  return jnp.where(jnp.isfinite(norm), scaled, 0.0)


@functools.partial(jax.jit, static_argnames="is_clipped_each")
def update(
  x: Float[Array, "C M *L"],
  velocity: Float[Array, "C M *L"],
  gradients: Float[Array, "K C M *L"],
  *,
  learning_rate: ArrayLike | float,
  momentum: ArrayLike | float,
  clip: ArrayLike | float,
  prior: ArrayLike | float,
  is_clipped_each: bool,
) -> tuple[Array, Array]:
  """(noise, velocity) after a step of SGD with Nesterov momentum.

  Args:
    x: noise.
    velocity: 0 at first.
    gradients: of K rewards in the noise.
    learning_rate: see `reno`; so are the next three.
    momentum: see above.
    clip: see above.
    prior: see above.
    is_clipped_each: whether each reward's is clipped, with a prior of its own.
  """
  flat = lambda y, lead: y.reshape(*y.shape[:lead], -1)
  descent, pull = -flat(gradients, 3), prior * norm_prior(flat(x, 2))
  if is_clipped_each:
    descent = clipped(descent + pull, clip).sum(0)
  else:
    descent = descent.sum(0) + pull
  descent = clipped(descent, clip).reshape(x.shape)
  velocity = jnp.asarray(momentum * velocity + descent)
  return x - learning_rate * (descent + momentum * velocity), velocity


@jax.jit
def _best(score, pixels, best_score, best_pixels):
  """The better of two images per particle; score [P, G, N]."""
  rows = (score > best_score).reshape(pixels.shape[:2])
  is_better = rows.reshape(*rows.shape, *(1,) * (pixels.ndim - 2))
  pixels = jnp.where(is_better, pixels, best_pixels)
  return jnp.maximum(score, best_score), pixels


@jax.jit
def _pull(pullback, cotangents):
  """Gradients in the latents of K cotangents of the pixels."""
  return jax.vmap(lambda g: pullback(g)[0])(cotangents)


def _ascent(
  particles, iterations, learning_rate, momentum, clip, prior, *,
  is_clipped_each,
) -> Steering:  # fmt: skip
  require_counts("steering.", particles=particles)
  require_counts("steering.", least=0, iterations=iterations)
  if not 0 <= momentum < 1:
    raise UserError(
      f"steering.momentum={momentum:g}: expected at least 0, below 1"
    )
  for name, value, is_zero_fine in (
    ("learning_rate", learning_rate, False), ("clip", clip, False),
    ("prior", prior, True),
  ):  # fmt: skip
    if not (0 < value < float("inf") or (is_zero_fine and value == 0)):
      least = "0 or above" if is_zero_fine else "above 0"
      raise UserError(
        f"steering.{name}={value:g}: expected a finite number, {least}"
      )
  options = dict(
    learning_rate=learning_rate, momentum=momentum, clip=clip, prior=prior
  )

  def run(draw: Particles, params, prompts, decoder=None, scale=None):
    state = draw.init(params, prompts, scale, decoder)
    shape = (len(prompts.ids), draw.group, particles)
    noise, velocity = state.latents, jnp.zeros_like(state.latents)
    pixels, pullback = draw.from_noise(params, state, noise, decoder, scale)
    best_score, best = jnp.full(shape, -jnp.inf), pixels
    for _ in range(iterations):
      score, gradients = draw.differentiate(pixels, prompts)
      best_score, best = _best(score, pixels, best_score, best)
      noise, velocity = update(
        noise, velocity, _pull(pullback, gradients),
        is_clipped_each=is_clipped_each, **options,
      )  # fmt: skip
      pixels, pullback = draw.from_noise(params, state, noise, decoder, scale)
    score = draw.scores(pixels, prompts)
    best_score, best = _best(score, pixels, best_score, best)
    trace = Trace(
      network_evaluations=particles * draw.steps * (iterations + 1),
      reward_calls=particles * (iterations + 1),
      score=best_score.max(-1),
    )
    return draw.take(best, best_score.argmax(-1)), trace

  return Steering(particles, run, needs_gradient=True)
