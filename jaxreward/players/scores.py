"""Copies of the policy that learn its samples: what they are like, or are worth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import require_not_negative, require_positive
from jaxreward.methods import prepares
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player
from jaxreward.types import Array, ArrayLike

Latents = Float[ArrayLike, "B *L"]
Rows = Float[ArrayLike, "B"]
NOISED = ("x_t", "t", "noise", "x0", "mask", "prompt_index")


def _velocity(arrays: Arrays) -> Array:
  """Of the player at the noised samples."""
  return arrays.network().velocity(
    arrays("x_t"), arrays("t"), arrays("prompt_index")
  )


def _first_velocity(arrays: Arrays) -> Array:
  """Of the policy where training began, there."""
  return arrays.reference().velocity(
    arrays("x_t"), arrays("t"), arrays("prompt_index")
  )


def fake_score() -> Player:
  """Flow matching on the policy's own samples: the "fake" teacher of distillation.

  It starts as the policy, and learns before it in every iteration. Its velocity at
  noised samples is their score, which objectives read as `v_NAME_again` and compare
  with the reference's. Yin et al. 2024 (DMD), https://arxiv.org/abs/2311.18828.
  """
  return Player(
    lambda key, sizes: {}, matching, offers={"fake_velocity": _velocity},
    reads=NOISED, copies=True, leads=True,
  )  # fmt: skip


def matching(
  fake_velocity: Latents,
  noise: Latents,
  x0: Latents,
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Mean |v - (eps - x0)|^2 over elements, per row."""
  return Mean.of(_error(fake_velocity, noise, x0), mask), {}


def preferred_score(
  *,
  beta: float = 10.0,
  clip: float = 5.0,
  reference: float = 1e-3,
  most: float = 0.05,
) -> Player:
  """A copy of the policy that prefers what was rewarded: TDM-R1's surrogate.

  With l = mean |v - (eps - x0)|^2, l_ref that of the policy where training began and
  A the reward's z-score in its group of G,
  L = mean softplus(z) / beta + reference mean |v - v_ref|^2,
  z = (beta / G) sum_j A_j (l_j - l_ref,j) of each group: rewarded samples are to
  become likelier than under the reference. Rows that have moved the way A asks,
  by mean |v - v_ref|^2 > most, have no gradient in z. Any reward will do; its
  gradient in a sample is the difference to the reference's velocity, which
  `surrogate_matching` reads. Luo et al. 2026, https://arxiv.org/abs/2603.07700, read
  in the authors' code: beta 1 or 10, and `most` is compared with the mean of the
  batch. There a group shares its noise, latents of the sampler are noised
  besides samples, and a second bound holds the copy near an average of itself.

  Args:
    beta: sharpness of the preference.
    clip: largest absolute A.
    reference: weight of the distance to the reference.
    most: distance beyond which a row stops.

  Raises:
    UserError: a beta or clip that is not above 0, or another below 0.
  """
  require_positive("", beta=beta, clip=clip)
  require_not_negative("", reference=reference, most=most)

  def read(preferred_velocity, first_velocity, noise, x0, signal, mask, prompt_index):  # fmt: skip
    error = _error(preferred_velocity, noise, x0)
    gain = error - _error(first_velocity, noise, x0)
    return dict(gain=gain, signal=signal, mask=mask, index=prompt_index)

  def finish(columns: Any) -> dict[str, Array]:
    return {"pull": preference_pull(**columns, beta=beta, clip=clip)}

  @prepares(read, finish, ("pull",))
  def loss(preferred_velocity, first_velocity, noise, x0, pull, mask):
    return preferred_matching(
      preferred_velocity, first_velocity, noise, x0, pull, mask,
      reference=reference, most=most,
    )  # fmt: skip

  return Player(
    lambda key, sizes: {}, loss,
    offers={
      "preferred_velocity": _velocity, "first_velocity": _first_velocity
    },
    reads=(*NOISED, "signal"), copies=True, leads=True,
  )  # fmt: skip


def preference_pull(
  gain: Float[ArrayLike, "*N"],
  signal: Float[ArrayLike, "*N"],
  mask: Bool[ArrayLike, "*N"],
  index: ArrayLike,
  *,
  beta: float,
  clip: float,
) -> Float[Array, "*N"]:
  """sigmoid(z) A: the slope of G softplus(z) / beta in each row's l.

  Args:
    gain: l - l_ref.
    signal: rewards, compared within their group.
    mask: rows that count.
    index: of the prompt, whose rows are a group.
    beta: see `preferred_score`.
    clip: the same.
  """
  valid = jnp.ravel(jnp.asarray(mask))
  index = jnp.ravel(jnp.asarray(index))
  same = (index[:, None] == index[None]) & valid
  count = jnp.maximum(same.sum(1), 1)

  def mean(x: Array) -> Array:
    rows = jnp.where(same, x, 0.0)
    return rows.sum(1) / count

  reward = jnp.where(valid, jnp.ravel(signal), 0.0)
  centred = jnp.where(valid, reward - mean(reward), 0.0)
  std = jnp.sqrt(mean(jnp.square(centred)))
  advantage = jnp.clip(centred / (std + 1e-4), -clip, clip)
  z = beta * mean(advantage * jnp.where(valid, jnp.ravel(gain), 0.0))
  pull = jax.nn.sigmoid(z) * advantage
  return jax.lax.stop_gradient(jnp.where(valid, pull, 0.0)).reshape(
    jnp.shape(mask)
  )


def preferred_matching(
  preferred_velocity: Latents,
  first_velocity: Latents,
  noise: Latents,
  x0: Latents,
  pull: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  reference: float,
  most: float,
) -> tuple[Mean, dict[str, Mean]]:
  """The loss of `preferred_score` by its slopes `pull`."""
  rows = lambda x: jnp.where(
    jnp.expand_dims(jnp.asarray(mask), tuple(range(1, jnp.ndim(x)))), x, 0.0
  )
  v, first, noise, x0 = map(
    rows, (preferred_velocity, first_velocity, noise, x0)
  )
  pull = jnp.where(mask, pull, 0.0)
  error, distance = _error(v, noise, x0), _mean_square(v - first)
  gain = error - _error(first, noise, x0)
  is_done = (distance > most) & (pull * gain < 0)
  moving = jnp.where(is_done, jax.lax.stop_gradient(error), error)
  metrics = {
    "distance": Mean.of(distance, mask),
    "stopped": Mean.of(is_done, mask),
    "agreement": Mean.of(pull * gain < 0, jnp.asarray(mask) & (pull != 0)),
  }
  loss = Mean.of(pull * moving + reference * distance, mask)
  return loss, jax.lax.stop_gradient(metrics)


def _mean_square(x: Array) -> Array:
  return jnp.square(x).reshape(len(x), -1).mean(1)


def _error(v: Latents, noise: Latents, x0: Latents) -> Array:
  """Mean |v - (eps - x0)|^2 over elements, [B]."""
  return _mean_square(jnp.asarray(v) - (jnp.asarray(noise) - x0))
