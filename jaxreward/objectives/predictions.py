"""Objectives that follow a reward's gradient through a one-step prediction.

A finished or real sample x0 is noised once, x_t = (1 - t) x0 + t eps, and
x0_hat = x_t - t v is decoded and scored: one evaluation of the network in the place
of a sampler. Arrays share the row axis B, one row per (sample, time). `near_t` < t is
a second time under the same noise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.methods import prepares
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square, per_row
from jaxreward.types import Array, ArrayLike

Loss = tuple[Mean, dict[str, Mean]]
Rows = Float[ArrayLike, "B"]
Latents = Float[ArrayLike, "B *L"]


def srpo(
  denoised_scores: Rows,
  denoised_other_scores: Rows,
  inverted_scores: Rows,
  inverted_other_scores: Rows,
  t: Rows,
  near_t: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  margin: float = 0.7,
  praise: tuple[float, float] = (0.1, 0.25),
  blame: tuple[float, float] = (0.3, 0.01),
  latest: float = 0.95,
) -> Loss:
  """SRPO: relative rewards of samples that a step and their noise give back.

  With s = near_t and known eps, a step from t down to s gives
  x0 = (x_t - (t - s) v - s eps) / (1 - s), and one from s up to t the same at t:
  exact for any t where v = eps - x0, so that very noisy latents can be trained.
  With r+ and r- the scores by the words for and against,
  L = mean [relu(margin - ((1 + k) r+ - r-)) of the step down
            + relu(margin - ((1 + q) r- - r+)) of the step up] / 2,
  where k goes from praise[0] at t = 0 to praise[1] at t = 1, and q from blame[0] at
  s = 0 to blame[1] at s = 1. In the step up the velocity enters with the other sign:
  to please the words against there is to move from them. Shen et al. 2025,
  https://arxiv.org/abs/2509.06942, read in the authors' code, whose margin is .7 of
  HPSv2 and whose noise is that which the sample began as (`align.noise="first"`).
  Their two steps end at one time; here they have the same two ends.

  Args:
    denoised_scores: by the words for, after the step down; differentiable.
    denoised_other_scores: by the words against.
    inverted_scores: by the words for, after the step up.
    inverted_other_scores: by the words against.
    t: times in (0, 1].
    near_t: s.
    mask: False for padding, which may hold anything.
    margin: a difference above it has no gradient.
    praise: k at both ends of time.
    blame: q at both ends of time.
    latest: steps that end after this time are left out: 1 - t divides.

  Returns:
    (loss, metrics): relative_reward, of the step down, relative_inverted, of the
    step up, and tail_reward, r+ of the step down.

  Raises:
    UserError: latest outside (0, 1).
  """
  if not 0 < latest < 1:
    raise UserError(f"objective.latest={latest}: it must lie between 0 and 1")
  up, up_other, down, down_other, t, near_t = keep(
    mask, inverted_scores, inverted_other_scores, denoised_scores,
    denoised_other_scores, t, near_t,
  )  # fmt: skip
  share = lambda ends, at: ends[0] + (ends[1] - ends[0]) * at
  relative = (1 + share(praise, t)) * down - down_other
  inverted = (1 + share(blame, near_t)) * up_other - up
  loss = jnp.where(near_t <= latest, jax.nn.relu(margin - relative), 0.0)
  loss += jnp.where(t <= latest, jax.nn.relu(margin - inverted), 0.0)
  metrics = {
    "relative_reward": Mean.of(relative, mask),
    "relative_inverted": Mean.of(inverted, mask),
    "tail_reward": Mean.of(down, mask),
  }
  return Mean.of(loss / 2, mask), jax.lax.stop_gradient(metrics)


def noised_reward(
  denoised_scores: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  scale: float = 1.0,
) -> Loss:
  """The reward of samples that a step and their own noise give back.

  L = -scale mean r(x0), x0 as in the step down of `srpo`: one evaluation of the
  network at any time. D2-Align's second stage, https://arxiv.org/abs/2512.24146, with
  the player `bias_direction`; no code is public.

  Args:
    denoised_scores: differentiable.
    mask: False for padding, which may hold anything.
    scale: of the loss.

  Returns:
    (loss, metrics): tail_reward.
  """
  (scores,) = keep(mask, denoised_scores)
  metrics = {"tail_reward": Mean.of(scores, mask)}
  loss = Mean.of(-scale * scores, mask)
  return loss, jax.lax.stop_gradient(metrics)


def consistency_reward(
  v: Latents,
  v_reference: Latents,
  v_target_solved: Latents,
  x_t: Latents,
  x_solved: Latents,
  t: Rows,
  near_t: Rows,
  scores: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  segments: int = 1,
  huber: float = 1e-3,
  reward: float = 1.0,
) -> Loss:
  """Consistency distillation in segments, and the reward of its prediction.

  Time has S equal segments, and e is the lower end of that of t. The student jumps
  there at once, f(x, t) = x - (t - e) v. The teacher steps to near_t (no further than
  e), and the target, an average of the student, jumps from there:
  L = mean sqrt(d^2 + c^2) - c, d = f(x_t, t) - sg f_target(x_solved, near_t),
  less reward r(x0_hat).
  S = 1 is RG-LCD (Li et al. 2024, https://arxiv.org/abs/2403.11027; c and weight as in
  the authors' code, whose target is the student itself); S = 8, 4, 2 is MLCM (Xie et al. 2024,
  https://arxiv.org/abs/2406.05768; weights and schedule of S unverified). The teacher
  has no guidance here. Name the target as config.references.target.

  Args:
    v: velocity of the student at (x_t, t).
    v_reference: of the teacher there; no gradient.
    v_target_solved: of the target at (x_solved, near_t); no gradient.
    x_t: the noised samples.
    x_solved: where the teacher's step leads.
    t: times in (0, 1].
    near_t: where the teacher's step ends.
    scores: of x0_hat, differentiable.
    mask: False for padding, which may hold anything.
    segments: S.
    huber: c; below it the loss is quadratic.
    reward: weight of the scores.

  Returns:
    (loss, metrics): consistency, the first term, and tail_reward.

  Raises:
    UserError: fewer than one segment.
  """
  return _distilled(
    v, v_reference, v_target_solved, x_t, x_solved, t, near_t, scores, mask,
    segments, huber, reward, "tail_reward",
  )  # fmt: skip


def consistency_proxy(
  v: Latents,
  v_reference: Latents,
  v_target_solved: Latents,
  x_t: Latents,
  x_solved: Latents,
  t: Rows,
  near_t: Rows,
  latent_score: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  segments: int = 1,
  huber: float = 1e-3,
  reward: float = 1.0,
) -> Loss:
  """`consistency_reward` by a player that scores latents, such as `latent_proxy`.

  No reward is differentiated and nothing is decoded: RG-LCD's proxy.

  Args:
    v: see `consistency_reward`, as up to near_t.
    v_reference: see there.
    v_target_solved: see there.
    x_t: see there.
    x_solved: see there.
    t: see there.
    near_t: see there.
    latent_score: of x0_hat, differentiable.
    mask: False for padding, which may hold anything.
    segments: see there.
    huber: see there.
    reward: weight of the latent score.

  Returns:
    (loss, metrics): consistency and proxy_reward.
  """
  return _distilled(
    v, v_reference, v_target_solved, x_t, x_solved, t, near_t, latent_score,
    mask, segments, huber, reward, "proxy_reward",
  )  # fmt: skip


def _distilled(
  v, v_reference, v_target, x_t, x_solved, t, near_t, scores, mask,
  segments, huber, reward, name,
) -> Loss:  # fmt: skip
  """(loss, metrics) of `consistency_reward`; the scores are logged as `name`."""
  if segments < 1:
    raise UserError(f"objective.segments={segments}: at least 1 is needed")
  v, v_reference, v_target, x_t, x_solved, t, near_t, scores = keep(
    mask, v, v_reference, v_target, x_t, x_solved, t, near_t, scores
  )
  end = jnp.maximum(jnp.ceil(t * segments) - 1, 0) / segments
  of = lambda time: per_row(time, x_t.ndim)
  jump = x_t - of(t - end) * v
  short = x_t - of(t - end) * v_reference
  far = x_solved - of(near_t - end) * v_target
  target = jax.lax.stop_gradient(jnp.where(of(near_t > end), far, short))
  huber = float(huber)
  distance = jnp.sqrt(jnp.square(jump - target) + huber**2) - huber
  distance = distance.reshape(distance.shape[0], -1).mean(1)
  metrics = {
    "consistency": Mean.of(distance, mask),
    name: Mean.of(scores, mask),
  }
  loss = Mean.of(distance - reward * scores, mask)
  return loss, jax.lax.stop_gradient(metrics)


def _window(columns, *, latest: float = 0.2) -> dict[str, Array]:
  """Rows up to a time, each with the weight that makes their mean 1."""
  inside = columns["valid"] & (columns["t"] <= latest)
  count = jnp.maximum(inside.sum(), 1)
  share = inside * (columns["valid"].sum() / count)
  return {"window": share.astype(jnp.float32)}


_in_window = prepares(
  lambda t, mask: {"t": t, "valid": mask}, _window, gives=("window",)
)


@_in_window
def uncertain_reward(
  v: Latents,
  near_v: Latents,
  u: Latents,
  t: Rows,
  window: Rows,
  errors: Float[ArrayLike, "B *N"],
  near_errors: Float[ArrayLike, "B *N"],
  mask: Bool[ArrayLike, "B"],
  *,
  weight: float = 1.0,
  uncertainty: float = 0.1,
  latest: float = 0.4,
) -> Loss:
  """Ctrl-U: pixels on which two predictions differ count less.

  With e what is extracted from x0_hat less the control image, pixel by pixel, and U =
  |e(near_t) - e(t)|, which is how far the two extractions are apart,
  L = mean |v - u|^2 + |near_v - u|^2 + the mean over rows with t <= latest of
  weight mean_pixels(e^2 exp(-U)) + uncertainty mean_pixels(U).
  The gradient flows through U too. Zhang et al. 2024, https://arxiv.org/abs/2410.11236,
  read in the authors' code for depth and edges: t <= .4, weights 1 and .1, times one of
  1000 apart (`align.gap=0.001`), the second noisier there. Of segments theirs are a
  cross-entropy and a divergence; here channels of a map are pixels like others. The
  weight of the reward itself is not read, `kinds` are.

  Args:
    v: velocity at (x_t, t).
    near_v: velocity at (x_near, near_t), under the same noise.
    u: flow-matching target eps - x0.
    t: times in (0, 1].
    window: 1[t <= latest] over its mean in the optimizer step.
    errors: of x0_hat at t, differentiable.
    near_errors: of x0_hat at near_t, differentiable.
    mask: False for padding, which may hold anything.
    weight: of the reward's loss.
    uncertainty: of U.
    latest: the reward counts up to this time.

  Returns:
    (loss, metrics): matching_loss; control_error (e^2) and disagreement (U), of the
    window.
  """
  del latest  # read where the window is made
  v, near_v, u, window = keep(mask, v, near_v, u, window)
  window = jax.lax.stop_gradient(window)
  matching = mean_square(v - u) + mean_square(near_v - u)
  inside = jnp.asarray(mask) & (window > 0)
  errors, near_errors = keep(inside, errors, near_errors)
  pixels = lambda x: x.reshape(len(x), -1)
  errors, near_errors = pixels(errors), pixels(near_errors)
  gap = jnp.abs(near_errors - errors)
  terms = weight * jnp.square(errors) * jnp.exp(-gap) + uncertainty * gap
  terms = window * terms.mean(1)
  metrics = {
    "matching_loss": Mean.of(matching, mask),
    "control_error": Mean.of(mean_square(errors), inside),
    "disagreement": Mean.of(gap.mean(1), inside),
  }
  return Mean.of(matching + terms, mask), jax.lax.stop_gradient(metrics)


@_in_window
def one_step_reward(
  v: Latents,
  u: Latents,
  t: Rows,
  window: Rows,
  scores: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  weight: float = 0.5,
  latest: float = 0.2,
  fade: float = 0.0,
) -> Loss:
  """ControlNet++: flow matching, and the reward of slightly noised samples.

  L = mean |v - u|^2 - weight sum_i 1[t_i <= latest] (1 - t_i)^fade r(x0_hat_i)
  / sum_i 1[...], over all rows of the optimizer step; without a row in the window
  it is flow matching. Li et al. 2024, https://arxiv.org/abs/2404.07987, read in the
  authors' code; r is minus their detector's error, weight .5 (segments) or 1 (edges,
  depth), fade 0. ID-Booth (Tomasevic et al. 2025,
  https://arxiv.org/abs/2504.07392) has weight 1, latest 1 and fade 2, of
  `identity_triplet`.

  Args:
    v: velocity at (x_t, t).
    u: flow-matching target eps - x0.
    t: times in [0, 1].
    window: 1[t <= latest] over its mean in the optimizer step.
    scores: of x0_hat, differentiable.
    mask: False for padding, which may hold anything.
    weight: of the reward.
    latest: the largest time at which predictions are scored.
    fade: how fast the reward counts less with noise.

  Returns:
    (loss, metrics): matching_loss, tail_reward, of the window.

  Raises:
    UserError: a negative fade.
  """
  del latest  # read where the window is made
  if not fade >= 0:
    raise UserError(f"objective.fade={fade}: it must be 0 or above")
  v, u, t, window, scores = keep(mask, v, u, t, window, scores)
  window = jax.lax.stop_gradient(window)
  matching = mean_square(v - u)
  inside = jnp.asarray(mask) & (window > 0)
  metrics = {
    "matching_loss": Mean.of(matching, mask),
    "tail_reward": Mean.of(scores, inside),
  }
  factor = window * (1 - t) ** fade
  loss = Mean.of(
    matching - weight * factor * jnp.where(inside, scores, 0.0), mask
  )
  return loss, jax.lax.stop_gradient(metrics)


def reward_instruct(
  pull: Rows,
  scores: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  scale: float = 1.0,
) -> Loss:
  """R0: several rewards, each with a gradient of the same length in the image.

  L = -scale mean <image, sg(sum_k w_k g_k / |g_k|)>, g_k = d r_k / d image: a reward
  of small scale pulls as hard as one of large scale. With `align.noise="path"` the
  image is the prediction at a drawn step of a few-step sampler, whose earlier steps
  have no gradient: Reward-Instruct's R0+ (Luo et al. 2025,
  https://arxiv.org/abs/2503.13070; no code is public, and the length per image is
  unverified). Hold it near the start with `velocity_distance`; the authors hold the
  weights themselves.

  Args:
    pull: that inner product.
    scores: weighted sum of the rewards; watched alone.
    mask: False for padding, which may hold anything.
    scale: of the loss.

  Returns:
    (loss, metrics): tail_reward.
  """
  pull, scores = keep(mask, pull, scores)
  loss = Mean.of(-scale * pull, mask)
  return loss, {"tail_reward": jax.lax.stop_gradient(Mean.of(scores, mask))}
