"""Objectives that match the policy's samples to a teacher's by two scores.

A one-step prediction x0_hat is noised again to a time s <= t, where the teacher (the
reference) and a player that learns the policy's own samples (`fake_score`, named
"fake") predict x0: where they differ, samples are too many or too few. Rows are (sample,
time). Nothing but x0_hat has a gradient, except in `score_implicit`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square, per_row
from jaxreward.types import Array, ArrayLike

Loss = tuple[Mean, dict[str, Mean]]
Rows = Float[ArrayLike, "B"]
Latents = Float[ArrayLike, "B *L"]


def distribution_matching(
  x0_hat: Latents,
  x_again: Latents,
  again_t: Rows,
  v_reference_again: Latents,
  v_fake_again: Latents,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  floor: float = 0.1,
  weighted: bool = True,
) -> Loss:
  """DMD on flows, each row with a weight of its own.

  L = mean w mean |x0_hat - sg(x0_hat + d)|^2,
  d = (x0_real - x0_fake) / max(mean |x0_real - x0_hat|, floor), x0 = x - s v at the
  re-noised x. With w = exp(A / T) of mean 1 (the advantage "exponential") it is
  Hallo-Live's HP-DMD (https://arxiv.org/abs/2604.23632; its weights are unverified),
  without weights the step of DMD2 (https://arxiv.org/abs/2405.14867).

  Args:
    x0_hat: predictions, differentiable.
    x_again: noised again.
    again_t: s.
    v_reference_again: of the teacher there.
    v_fake_again: of the player "fake" there.
    advantage: w.
    mask: False for padding, which may hold anything.
    floor: smallest divisor.
    weighted: False for w = 1.

  Returns:
    (loss, metrics): score_gap, mean |d|, and row_weight.
  """
  x0_hat, x, s, real, fake, weight = keep(
    mask, x0_hat, x_again, again_t, v_reference_again, v_fake_again, advantage
  )
  weight = weight if weighted else jnp.ones_like(weight)
  move = _move(x0_hat, x, s, real, fake, floor)
  metrics = {
    "score_gap": Mean.of(_size(move), mask),
    "row_weight": Mean.of(weight, mask),
  }
  loss = Mean.of(jax.lax.stop_gradient(weight) * _towards(x0_hat, move), mask)
  return loss, jax.lax.stop_gradient(metrics)


def salient_matching(
  x0_hat: Latents,
  x_again: Latents,
  again_t: Rows,
  v_reference_again: Latents,
  v_fake_again: Latents,
  saliency: Latents,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  floor: float = 0.1,
  least: float = 0.1,
) -> Loss:
  """`distribution_matching`, more where the reward looks.

  L = mean w mean m |x0_hat - sg(x0_hat + d)|^2, with m the reward's |gradient| in
  x0_hat, at least `least` of its mean, of mean 1 per row; w as there. Equal saliency is
  `distribution_matching`. Stream-R1, https://arxiv.org/abs/2605.03849, of videos, whose
  balance of several rewards is left to the composition; constants are unverified.

  Args:
    x0_hat: see `distribution_matching`, as up to v_fake_again.
    x_again: see there.
    again_t: see there.
    v_reference_again: see there.
    v_fake_again: see there.
    saliency: |d score / d x0_hat|, summed over channels.
    advantage: w.
    mask: False for padding, which may hold anything.
    floor: see there.
    least: smallest share of the mean saliency.

  Returns:
    (loss, metrics): score_gap, row_weight, and peak, the mean of the largest m.
  """
  x0_hat, x, s, real, fake, saliency, weight = keep(
    mask, x0_hat, x_again, again_t, v_reference_again, v_fake_again, saliency,
    advantage,
  )  # fmt: skip
  axes = tuple(range(1, x0_hat.ndim))
  mean = lambda y: jnp.mean(y, axis=axes, keepdims=True)
  share = mean(saliency)
  share = jnp.where(share > 0, saliency / jnp.where(share > 0, share, 1.0), 1.0)
  share = jnp.maximum(share, least)
  share = jax.lax.stop_gradient(share / mean(share))
  move = _move(x0_hat, x, s, real, fake, floor)
  gap = jnp.square(x0_hat - jax.lax.stop_gradient(x0_hat + move))
  loss = jax.lax.stop_gradient(weight) * jnp.mean(share * gap, axis=axes)
  metrics = {
    "score_gap": Mean.of(_size(move), mask),
    "row_weight": Mean.of(weight, mask),
    "peak": Mean.of(share.max(axis=axes), mask),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def continuous_matching(
  x0_hat: Latents,
  x0_beyond: Latents,
  x_again: Latents,
  again_t: Rows,
  v_reference_again: Latents,
  v_empty_again: Latents,
  v_fake_again: Latents,
  x_beyond_again: Latents,
  beyond_again_t: Rows,
  v_reference_beyond_again: Latents,
  v_fake_beyond_again: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  guidance: float = 7.0,
  floor: float = 0.1,
) -> Loss:
  """CDM: guidance, matching on the path, and matching beside it.

  L = |x0_hat - sg(x0_hat + d + guidance g)|^2 in two terms, with d as in
  `distribution_matching` and g = (x0_real - x0_empty) / max(mean |x0_real - x0_hat|,
  floor); and the first of them for the prediction from x - (t - near_t) v, where the
  policy's own velocity leads, at a time that its sampler need not have. All weights are
  1 and guidance 7 in the authors' code (https://arxiv.org/abs/2605.06376), which draws
  another noise for guidance.

  Args:
    x0_hat: predictions, differentiable.
    x0_beyond: from the extrapolated point, differentiable.
    x_again: x0_hat noised again.
    again_t: s, its time.
    v_reference_again: of the teacher there.
    v_empty_again: the same without words.
    v_fake_again: of the player "fake" there.
    x_beyond_again: x0_beyond noised again.
    beyond_again_t: its time.
    v_reference_beyond_again: of the teacher there.
    v_fake_beyond_again: of the player "fake" there.
    mask: False for padding, which may hold anything.
    guidance: weight of g.
    floor: smallest divisor.

  Returns:
    (loss, metrics): score_gap, mean |d|, and guidance_gap, mean |g|.
  """
  x0_hat, x, s, real, empty, fake = keep(
    mask, x0_hat, x_again, again_t, v_reference_again, v_empty_again,
    v_fake_again,
  )  # fmt: skip
  beyond, y, r, real_beyond, fake_beyond = keep(
    mask, x0_beyond, x_beyond_again, beyond_again_t, v_reference_beyond_again,
    v_fake_beyond_again,
  )  # fmt: skip
  move = _move(x0_hat, x, s, real, fake, floor)
  guide = _move(x0_hat, x, s, real, empty, floor)
  far = _move(beyond, y, r, real_beyond, fake_beyond, floor)
  loss = _towards(x0_hat, move) + _towards(x0_hat, guidance * guide)
  loss += _towards(beyond, far)
  metrics = {
    "score_gap": Mean.of(_size(move), mask),
    "guidance_gap": Mean.of(_size(guide), mask),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def surrogate_matching(
  x0_hat: Latents,
  x_again: Latents,
  again_t: Rows,
  v_reference_again: Latents,
  v_empty_again: Latents,
  v_fake_again: Latents,
  v_surrogate_again: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  guidance: float = 3.5,
  share: float = 0.3,
  floor: float = 0.1,
) -> Loss:
  """TDM-R1: matching, and two rewards that are differences of velocities.

  L = |x0_hat - sg(x0_hat + d)|^2 + share |... guidance g|^2 + (1 - share) |... r|^2,
  d and g as in `continuous_matching` and
  r = (x0_surrogate - x0_real) / max(mean |x0_surrogate - x0_hat|, floor): where a copy
  of the teacher that prefers rewarded samples (the player "surrogate",
  `preferred_score`) would go. The reward itself needs no gradient. Luo et al. 2026,
  https://arxiv.org/abs/2603.07700, read in the authors' code: weights .3 and 3.5, no
  floor, and surrogate and normalisers with guidance 2.5 to 4.5, which is none here.
  There a later latent of the sampler is noised again, not the prediction.

  Args:
    x0_hat: predictions, differentiable.
    x_again: x0_hat noised again.
    again_t: its time.
    v_reference_again: of the teacher there.
    v_empty_again: the same without words.
    v_fake_again: of the player "fake" there.
    v_surrogate_again: of the player "surrogate" there.
    mask: False for padding, which may hold anything.
    guidance: weight of g.
    share: of guidance among the two rewards, in [0, 1].
    floor: smallest divisor.

  Returns:
    (loss, metrics): score_gap, mean |d|, guidance_gap, mean |g|, and reward_gap,
    mean |r|.

  Raises:
    UserError: a share outside [0, 1].
  """
  if not 0 <= share <= 1:
    raise UserError(f"objective.share={share}: it must lie between 0 and 1")
  x0_hat, x, s, real, empty, fake, liked = keep(
    mask, x0_hat, x_again, again_t, v_reference_again, v_empty_again,
    v_fake_again, v_surrogate_again,
  )  # fmt: skip
  move = _move(x0_hat, x, s, real, fake, floor)
  guide = _move(x0_hat, x, s, real, empty, floor)
  rise = _move(x0_hat, x, s, liked, real, floor)
  loss = _towards(x0_hat, move) + share * _towards(x0_hat, guidance * guide)
  loss += (1 - share) * _towards(x0_hat, rise)
  metrics = {
    "score_gap": Mean.of(_size(move), mask),
    "guidance_gap": Mean.of(_size(guide), mask),
    "reward_gap": Mean.of(_size(rise), mask),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def score_implicit(
  x_again: Latents,
  again_t: Rows,
  again_noise: Latents,
  v_reference_again: Latents,
  v_empty_again: Latents,
  v_fake_again: Latents,
  scores: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  reward: float = 1.0,
  guidance: float = 1.0,
  huber: float = 1e-2,
) -> Loss:
  """Diff-Instruct*: the reward, and a robust divergence of scores.

  With s = -(x + (1 - t) v) / t the scores at the re-noised x, s_q = -eps / t that of its
  own noise and y = s_fake - s_ref, of the guided teacher,
  L = -reward r(x0_hat) + mean t^2 -(y / sqrt(|y|^2 + k^2)) . (s_fake - s_q),
  |y|^2 and the product as means over elements, k = huber. Gradients reach the policy
  through x alone, also within both networks. Luo et al. 2024,
  https://arxiv.org/abs/2410.20898, whose sign, with weight t^2, k and gradient through y
  are unverified; rewards 1 to 100 and guidance 7.5 there.

  Args:
    x_again: x0_hat noised again, differentiable.
    again_t: its time.
    again_noise: eps.
    v_reference_again: of the teacher there, differentiable in x.
    v_empty_again: the same without words.
    v_fake_again: of the player "fake" there.
    scores: of x0_hat, differentiable.
    mask: False for padding, which may hold anything.
    reward: weight of the scores.
    guidance: of the teacher; 1 for none.
    huber: k; the pull is linear in y below it and of length 1 above.

  Returns:
    (loss, metrics): divergence, tail_reward, score_gap (root mean y^2).

  Raises:
    UserError: a k that is not positive.
  """
  if not huber > 0:
    raise UserError(f"objective.huber={huber}: it must be above 0")
  x, t, noise, real, empty, fake, scores = keep(
    mask, x_again, again_t, again_noise, v_reference_again, v_empty_again,
    v_fake_again, scores,
  )  # fmt: skip
  t = jnp.where(mask, t, 1.0)
  time = per_row(t, x.ndim)
  score = lambda v: -(x + (1 - time) * v) / time
  gap = score(fake) - score(empty + guidance * (real - empty))
  axes = tuple(range(1, x.ndim))
  size = mean_square(gap)
  inner = jnp.mean(gap * (score(fake) + noise / time), axis=axes)
  divergence = -jnp.square(t) * inner / jnp.sqrt(size + huber**2)
  metrics = {
    "divergence": Mean.of(divergence, mask),
    "tail_reward": Mean.of(scores, mask),
    "score_gap": Mean.of(jnp.sqrt(size + 1e-20), mask),
  }
  loss = Mean.of(divergence - reward * scores, mask)
  return loss, jax.lax.stop_gradient(metrics)


def _move(x0_hat, x, s, v, v_other, floor: float) -> Array:
  """(x0 of v - x0 of v_other) / max(mean |x0 of v - x0_hat|, floor), a constant."""
  time = per_row(s, x.ndim)
  x0, other = x - time * v, x - time * v_other
  size = jnp.maximum(_size(x0 - x0_hat), floor)
  return jax.lax.stop_gradient((x0 - other) / per_row(size, x.ndim))


def _towards(x: Array, move: Array) -> Array:
  """Mean |x - sg(x + move)|^2: minus twice the move is its gradient, by size."""
  return mean_square(x - jax.lax.stop_gradient(x + move))


def _size(x: Array) -> Array:
  return jnp.mean(jnp.abs(x), axis=tuple(range(1, x.ndim)))
