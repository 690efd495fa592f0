"""Objectives on whole groups of samples of one prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.numerics import Mean, masked_mean
from jaxreward.types import Array, ArrayLike

Latents = Float[ArrayLike, "R G *L"]
Members = Float[ArrayLike, "R G"]


def dgpo(
  group_v: Latents,
  group_v_reference: Latents,
  group_u: Latents,
  group_advantage: Members,
  group_mask: Bool[ArrayLike, "R G"],
  *,
  beta: float = 100.0,
) -> tuple[Mean, dict[str, Mean]]:
  """DGPO: a preference between the better and the worse half of a group.

  l_i = mean (v_i - u_i)^2 under one noise and time per group,
  w = sigmoid(beta / G sum_i A_i (l_i - l_ref,i)), a constant,
  L = mean_i w A_i l_i.
  Luo et al. 2025, https://arxiv.org/abs/2510.08425; the form of the authors'
  code, `compute_group_dgpo_loss_allreduce`. It is the gradient of
  -log sigmoid(-beta / G sum_i A_i (l_i - l_ref,i)) divided by beta. That code
  also clips l by exp(l_old - l), which is omitted here.

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_v_reference: of the reference there; no gradient.
    group_u: targets, eps - x_0.
    group_advantage: A, centred on its group; no gradient.
    group_mask: False for samples that do not count, which may hold anything;
      G is the number of those that do.
    beta: strength of the reference; 10 to 100 are published, and 2000 to 5000
      with an averaged reference.

  Returns:
    (loss, metrics): group_weight (w), group_margin (the sum over beta) and
    matching_loss (l).

  Raises:
    UserError: a beta that is not positive.
  """
  require_positive("objective.", beta=beta)
  matching = _matching(group_v, group_u, group_mask)
  reference = _matching(group_v_reference, group_u, group_mask)
  advantage = jax.lax.stop_gradient(
    jnp.where(group_mask, group_advantage, 0.0).astype(jnp.float32)
  )
  count = jnp.maximum(group_mask.sum(1, keepdims=True), 1)
  moved = jax.lax.stop_gradient(advantage * (matching - reference))
  margin = moved.sum(1, keepdims=True) / count
  weight = jax.nn.sigmoid(beta * margin)
  metrics = {
    "group_weight": Mean.of(weight[:, 0], jnp.any(group_mask, 1)),
    "group_margin": Mean.of(margin[:, 0], jnp.any(group_mask, 1)),
    "matching_loss": Mean.of(matching, group_mask),
  }
  loss = Mean.of(weight * advantage * matching, group_mask)
  return loss, jax.lax.stop_gradient(metrics)


def rank_dpo(
  group_v: Latents,
  group_v_reference: Latents,
  group_u: Latents,
  group_advantage: Members,
  group_mask: Bool[ArrayLike, "R G"],
  *,
  beta: float = 2000.0,
) -> tuple[Mean, dict[str, Mean]]:
  """RankDPO: all ordered pairs of a group, weighted by the cost of a swap.

  s_i = l_i - l_ref,i with l_i = mean (v_i - u_i)^2, psi_i the label in [0, 1],
  Delta_ij = |2^psi_i - 2^psi_j| |1 / log(1 + tau_i) - 1 / log(1 + tau_j)|, tau the
  place by psi, 1 for the best, L = sum over psi_i > psi_j of
  Delta_ij (-log sigmoid(-beta (s_i - s_j))), summed over a group.
  Karthik et al. 2024, https://arxiv.org/abs/2410.18013. That tau is the place by
  the labels and not by the policy, and beta, are unverified. Labels are shares of
  won comparisons: the composition "win_rate" with the advantage "given".

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_v_reference: of the reference there; no gradient.
    group_u: targets, eps - x_0.
    group_advantage: psi; no gradient.
    group_mask: False for samples that do not count, which may hold anything.
    beta: strength of the tie to the reference.

  Returns:
    (loss, metrics): accuracy, the share of ordered pairs that the policy ranks
    right against the reference, and matching_loss.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", beta=beta)
  matching = _matching(group_v, group_u, group_mask)
  reference = _matching(group_v_reference, group_u, group_mask)
  moved = matching - jax.lax.stop_gradient(reference)
  label = jax.lax.stop_gradient(
    jnp.where(group_mask, group_advantage, -jnp.inf).astype(jnp.float32)
  )
  place = 1 + jnp.sum(label[:, None, :] > label[:, :, None], axis=2)
  safe = jnp.where(group_mask, label, 0.0)
  gain, discount = jnp.exp2(safe), 1 / jnp.log1p(place.astype(jnp.float32))
  apart = lambda x: jnp.abs(x[:, :, None] - x[:, None, :])
  ordered = (safe[:, :, None] > safe[:, None, :]) & (
    group_mask[:, :, None] & group_mask[:, None, :]
  )
  weight = jnp.where(ordered, apart(gain) * apart(discount), 0.0)
  margin = moved[:, :, None] - moved[:, None, :]
  loss = jnp.sum(weight * jax.nn.softplus(beta * margin), axis=(1, 2))
  metrics = {
    "accuracy": Mean.of((1 - jnp.sign(margin)) / 2, ordered),
    "matching_loss": Mean.of(matching, group_mask),
  }
  return Mean.of(loss, jnp.any(group_mask, 1)), jax.lax.stop_gradient(metrics)


def crd(
  group_v: Latents,
  group_v_old: Latents,
  group_u: Latents,
  group_advantage: Members,
  group_mask: Bool[ArrayLike, "R G"],
  *,
  beta: float = 100.0,
) -> tuple[Mean, dict[str, Mean]]:
  """CRD: implicit rewards, less their group's mean, are to equal the rewards.

  rho_i = l_old,i - l_i with l_i = mean (v_i - u_i)^2 under one noise and time per
  group, L = mean_i (beta (rho_i - mean rho) - (A_i - mean A))^2: the constant that
  nobody knows, the partition function of a prompt, drops out.
  Centered Reward Distillation, https://arxiv.org/abs/2603.14128, its uniform
  weighting, read in Flow-Factory, where no gradient flows through mean rho, which
  leaves the sum over a group the same. beta is unverified.

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_v_old: of the policy that drew the samples; no gradient.
    group_u: targets, eps - x_0.
    group_advantage: A; no gradient.
    group_mask: False for samples that do not count, which may hold anything.
    beta: implicit reward per unit of error.

  Returns:
    (loss, metrics): implicit_gap, mean |beta (rho - mean rho)|, and matching_loss.

  Raises:
    UserError: a beta that is not positive.
  """
  require_positive("objective.", beta=beta)
  matching = _matching(group_v, group_u, group_mask)
  old = jax.lax.stop_gradient(_matching(group_v_old, group_u, group_mask))
  centre = lambda x: x - masked_mean(x, group_mask, axis=1, keepdims=True)
  advantage = jnp.where(group_mask, group_advantage, 0.0).astype(jnp.float32)
  implicit = beta * centre(old - matching)
  error = implicit - jax.lax.stop_gradient(centre(advantage))
  metrics = {
    "implicit_gap": Mean.of(jnp.abs(implicit), group_mask),
    "matching_loss": Mean.of(matching, group_mask),
  }
  loss = Mean.of(jnp.square(error), group_mask)
  return loss, jax.lax.stop_gradient(metrics)


def consistent_dpo(
  group_v: Latents,
  group_v_reference: Latents,
  group_u: Latents,
  group_mask: Bool[ArrayLike, "R G"],
  *,
  beta: float = 100.0,
) -> tuple[Mean, dict[str, Mean]]:
  """CREAM: the policy judges its own samples, as sure as its previous copy agrees.

  l_i = mean (v_i - u_i)^2 under one noise and time per group stands for -log p. The
  pair is the least and the largest l, and C = (tau + 1) / 2 with Kendall's tau of the
  group's l and l_ref, L = -C log sigmoid(h) - (1 - C) log sigmoid(-h),
  h = -beta / 2 ((l_w - l_ref,w) - (l_l - l_ref,l)). No reward is read; let the reference
  be the policy of the previous round.
  Wang et al. 2024, https://arxiv.org/abs/2410.12735, of texts there, read in the
  authors' code, its form with one C per prompt; equal l count half here, and by their
  place there. beta is that of flow models.

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_v_reference: of the reference there; no gradient.
    group_u: targets, eps - x_0.
    group_mask: False for samples that do not count, which may hold anything.
    beta: strength of the tie to the reference.

  Returns:
    (loss, metrics): consistency (C), accuracy as `flow_dpo`, and matching_loss.

  Raises:
    UserError: a beta that is not positive.
  """
  require_positive("objective.", beta=beta)
  matching = _matching(group_v, group_u, group_mask)
  reference = _matching(group_v_reference, group_u, group_mask)
  value, reference = jax.lax.stop_gradient((matching, reference))
  mask = jnp.asarray(group_mask)
  others = (
    mask[:, :, None] & mask[:, None, :] & ~jnp.eye(mask.shape[1], dtype=bool)
  )
  order = lambda x: jnp.sign(x[:, :, None] - x[:, None, :])
  agreement = masked_mean(order(value) * order(reference), others, axis=(1, 2))
  consistency = (agreement + 1) / 2
  best = jnp.argmin(jnp.where(mask, value, jnp.inf), 1, keepdims=True)
  worst = jnp.argmax(jnp.where(mask, value, -jnp.inf), 1, keepdims=True)
  gain = matching - reference
  margin = jnp.take_along_axis(gain, best, 1)
  margin = (margin - jnp.take_along_axis(gain, worst, 1))[:, 0]
  loss = consistency * jax.nn.softplus(beta / 2 * margin)
  loss = loss + (1 - consistency) * jax.nn.softplus(-beta / 2 * margin)
  counts = (best != worst)[:, 0]  # so for two unequal members at least
  metrics = {
    "consistency": Mean.of(consistency, counts),
    "accuracy": Mean.of((1 - jnp.sign(margin)) / 2, counts),
    "matching_loss": Mean.of(matching, mask),
  }
  return Mean.of(loss, counts), jax.lax.stop_gradient(metrics)


def seppo(
  group_v: Latents,
  group_v_old: Latents,
  group_u: Latents,
  group_real: Bool[ArrayLike, "R G"],
  group_mask: Bool[ArrayLike, "R G"],
  *,
  beta: float = 100.0,
) -> tuple[Mean, dict[str, Mean]]:
  """SePPO: a reference image against what an older policy drew.

  D_i = l_old,i - l_i with l_i = mean (v_i - u_i)^2, L = mean over pairs of a real
  member r and a drawn one j of -log sigmoid(beta / 2 (D_r - s_r D_j)), s_r = 1 where
  D_r >= 0 and -1 else: while the policy fits the image worse than the older one did,
  what that one drew is taken for a winner too.
  Zhang et al. 2024, https://arxiv.org/abs/2410.05255; the sign, its value at 0 and
  beta are unverified: no training code is public.

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_v_old: of the policy that drew the samples; no gradient.
    group_u: targets, eps - x_0.
    group_real: whether a member is a reference image.
    group_mask: False for samples that do not count, which may hold anything.
    beta: strength of the tie to the older policy.

  Returns:
    (loss, metrics): losing, the share of images with s = 1, and matching_loss.

  Raises:
    UserError: a beta that is not positive.
  """
  require_positive("objective.", beta=beta)
  matching = _matching(group_v, group_u, group_mask)
  old = jax.lax.stop_gradient(_matching(group_v_old, group_u, group_mask))
  gain = old - matching
  sign = jax.lax.stop_gradient(jnp.where(gain >= 0, 1.0, -1.0))
  is_real, is_drawn = group_mask & group_real, group_mask & ~group_real
  pairs = is_real[:, :, None] & is_drawn[:, None, :]
  margin = gain[:, :, None] - sign[:, :, None] * gain[:, None, :]
  metrics = {
    "losing": Mean.of(sign > 0, is_real),
    "matching_loss": Mean.of(matching, group_mask),
  }
  loss = Mean.of(jax.nn.softplus(-beta / 2 * margin), pairs)
  return loss, jax.lax.stop_gradient(metrics)


def grao(
  group_v: Latents,
  group_u: Latents,
  group_advantage: Members,
  group_real: Bool[ArrayLike, "R G"],
  group_mask: Bool[ArrayLike, "R G"],
  *,
  imitation: float = 0.5,
  alignment: float = 0.6,
) -> tuple[Mean, dict[str, Mean]]:
  """GRAO: own samples, a reference image, and the move from one to the other.

  With l_i = mean (v_i - u_i)^2 in the place of -log p, y the real member and i a drawn
  one, L = mean_i [A_i l_i + alignment (A_i - A_y) (l_i - l_y)] + imitation A_y l_y: a
  reference that beats the samples is imitated and they are left, one that they beat
  is not.
  Wang et al. 2025, https://arxiv.org/abs/2508.07750, of texts there; both weights, and
  that y counts in the group's statistics, are unverified. Negative advantages drive l
  up without bound: keep a tie to the reference beside.

  Args:
    group_v: velocities of the trained parameters at x_t.
    group_u: targets, eps - x_0.
    group_advantage: A, of the whole group; no gradient.
    group_real: whether a member is a reference image; of several, means are taken.
    group_mask: False for samples that do not count, which may hold anything.
    imitation: weight of the reference's own term; 0 with `alignment` 0 leaves
      REINFORCE.
    alignment: weight of the move.

  Returns:
    (loss, metrics): real_advantage (A_y), and matching_loss.

  Raises:
    UserError: a weight below 0.
  """
  if not (imitation >= 0 and alignment >= 0):
    raise UserError(
      f"objective.imitation={imitation} and alignment={alignment}: both must be 0"
      " or above"
    )
  matching = _matching(group_v, group_u, group_mask)
  advantage = jnp.where(group_mask, group_advantage, 0.0).astype(jnp.float32)
  advantage = jax.lax.stop_gradient(advantage)
  is_real, is_drawn = group_mask & group_real, group_mask & ~group_real
  is_real, is_drawn = jnp.asarray(is_real), jnp.asarray(is_drawn)
  mean_real = lambda x: masked_mean(x, is_real, axis=1, keepdims=True)
  best, error = mean_real(advantage), mean_real(matching)
  has_real = is_real.any(1, keepdims=True)
  move = jnp.where(has_real, (advantage - best) * (matching - error), 0.0)
  loss = advantage * matching + alignment * move + imitation * best * error
  metrics = {
    "real_advantage": Mean.of(best, has_real),
    "matching_loss": Mean.of(matching, group_mask),
  }
  return Mean.of(loss, is_drawn), jax.lax.stop_gradient(metrics)


def _matching(v: ArrayLike, u: ArrayLike, mask: ArrayLike) -> Array:
  """Mean (v - u)^2 of each member, [R, G]; 0 where masked."""
  rows = jnp.reshape(mask, jnp.shape(mask) + (1,) * (jnp.ndim(v) - 2))
  error = jnp.where(rows, jnp.asarray(v, jnp.float32) - u, 0.0)
  return jnp.mean(jnp.square(error), axis=tuple(range(2, error.ndim)))
