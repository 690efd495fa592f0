"""Policy losses from pairs: chosen and rejected samples of the same prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.methods import prepares
from jaxreward.numerics import Mean, masked_mean
from jaxreward.objectives.reductions import keep, mean_square
from jaxreward.types import ArrayLike

Latents = Float[ArrayLike, "B *L"]
Rows = Float[ArrayLike, "B"]
Loss = tuple[Mean, dict[str, Mean]]


def flow_dpo(
  v_chosen: Latents,
  v_rejected: Latents,
  v_ref_chosen: Latents,
  v_ref_rejected: Latents,
  u_chosen: Latents,
  u_rejected: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
) -> tuple[Mean, dict[str, Mean]]:
  """Direct preference optimisation on flow-matching errors.

  e = mean (v - u)^2, u = eps - x0,
  margin = (e_chosen - e_ref_chosen) - (e_rejected - e_ref_rejected),
  L = mean -log sigmoid(-beta / 2 margin).
  Draw the same eps and t for both samples of a pair.
  Wallace et al. 2023, https://arxiv.org/abs/2311.12908, eq. 14; with the mean
  over elements, beta between 100 and 5000 is published.

  Args:
    v_chosen: velocity of the trained parameters on the noised winner.
    v_rejected: and on the noised loser.
    v_ref_chosen: velocity of the reference on the winner; no gradient.
    v_ref_rejected: and on the loser; no gradient.
    u_chosen: flow-matching target of the winner.
    u_rejected: and of the loser.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.

  Returns:
    (loss, metrics): accuracy (share of pairs ranked right against the
    reference; ties count half), margin, error_chosen and error_rejected.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", beta=beta)
  margin, metrics = margin_of(
    v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected,
    mask,
  )  # fmt: skip
  return Mean.of(jax.nn.softplus(beta / 2 * margin), mask), metrics


def gap_dpo(
  v_chosen: Latents,
  v_rejected: Latents,
  v_ref_chosen: Latents,
  v_ref_rejected: Latents,
  u_chosen: Latents,
  u_rejected: Latents,
  signal_chosen: Rows,
  signal_rejected: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 5000.0,
  base: float = 2.0,
) -> Loss:
  """`flow_dpo` with pairs weighted by the gap of their rewards.

  L = mean (base^w - base^l) -log sigmoid(-beta / 2 margin), with w and l the
  rewards of the pair in [0, 1]: clear pairs count, near ties hardly.
  GAPO (AnimeReward), https://arxiv.org/abs/2504.10044, read in the authors' code,
  which averages the log-sigmoid over the batch before weighting it: correct only
  for one pair.

  Args:
    v_chosen: see `flow_dpo`, as up to u_rejected.
    v_rejected: see there.
    v_ref_chosen: see there.
    v_ref_rejected: see there.
    u_chosen: see there.
    u_rejected: see there.
    signal_chosen: w, the reward of the winner.
    signal_rejected: l.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.
    base: of the gain, above 1.

  Returns:
    (loss, metrics) as `flow_dpo`, and gain, the mean weight.

  Raises:
    UserError: a base that is not above 1.
  """
  require_positive("objective.", beta=beta)
  if not base > 1:
    raise UserError(f"objective.base={base}: it must be above 1")
  margin, metrics = margin_of(
    v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected,
    mask,
  )  # fmt: skip
  better, worse = keep(mask, signal_chosen, signal_rejected)
  gain = jax.lax.stop_gradient(base**better - base**worse)
  loss = gain * jax.nn.softplus(beta / 2 * margin)
  return Mean.of(loss, mask), metrics | {"gain": Mean.of(gain, mask)}


def dynamic_dpo(
  v_chosen: Latents,
  v_rejected: Latents,
  v_ref_chosen: Latents,
  v_ref_rejected: Latents,
  u_chosen: Latents,
  u_rejected: Latents,
  signal_chosen: Rows,
  signal_rejected: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
  growth: float = 0.5,
  rate: float = 0.5,
) -> Loss:
  """`flow_dpo` with a beta that grows with the gap of a pair's rewards.

  beta_i = beta (1 + growth (1 - exp(-rate d_i))), d = w - l, and never below
  beta / 1000.
  MM-RLHF, https://arxiv.org/abs/2502.10391, the form of the paper; the released
  trainer ignores the pair's gap and has one beta per batch. growth and rate are
  unverified, and beta is that of flow models.

  Args:
    v_chosen: see `flow_dpo`, as up to u_rejected.
    v_rejected: see there.
    v_ref_chosen: see there.
    v_ref_rejected: see there.
    u_chosen: see there.
    u_rejected: see there.
    signal_chosen: w, the reward of the winner.
    signal_rejected: l.
    mask: False for padding, which may hold anything.
    beta: of a pair without a gap.
    growth: beta grows by this share at most; 0 is `flow_dpo`.
    rate: how fast, per unit of reward.

  Returns:
    (loss, metrics) as `flow_dpo`, and pair_beta, the mean beta_i.

  Raises:
    UserError: a growth or a rate below 0.
  """
  require_positive("objective.", beta=beta)
  if not (growth >= 0 and rate >= 0):
    raise UserError(
      f"objective.growth={growth} and rate={rate}: both must be 0 or above"
    )
  margin, metrics = margin_of(
    v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected,
    mask,
  )  # fmt: skip
  better, worse = keep(mask, signal_chosen, signal_rejected)
  gap = jax.lax.stop_gradient(better - worse)
  pair_beta = jnp.maximum(
    beta * (1 - growth * jnp.expm1(-rate * gap)), beta / 1000
  )
  loss = jax.nn.softplus(pair_beta / 2 * margin)
  return Mean.of(loss, mask), metrics | {"pair_beta": Mean.of(pair_beta, mask)}


def _shares(columns):
  """Each group's deviation over the mean of all pairs that count."""
  mask, std = columns["mask"], columns["std"]
  mean = masked_mean(std, mask)
  share = std / jnp.where(mean > 0, mean, 1.0)
  return {"group_share": jnp.where(mask, share, 0.0)}


@prepares(
  lambda group_std, mask: {"std": group_std, "mask": mask},
  _shares,
  gives=("group_share",),
)
def hierarchical_dpo(
  v_chosen: Latents,
  v_rejected: Latents,
  v_ref_chosen: Latents,
  v_ref_rejected: Latents,
  u_chosen: Latents,
  u_rejected: Latents,
  signal_chosen: Rows,
  signal_rejected: Rows,
  group_gap: Rows,
  group_share: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
) -> Loss:
  """`flow_dpo` over pairs of a group, weighted within and between groups.

  The weight of a pair is (w - l) / mean gap of its group, times the group's
  standard deviation over the mean of all: both have mean 1.
  DP2O-SR, https://arxiv.org/abs/2510.18851; best and worst quarter of a group by
  the authors' readme. The form of both weights, and beta, are unverified: no
  training code is public.

  Args:
    v_chosen: see `flow_dpo`, as up to u_rejected.
    v_rejected: see there.
    v_ref_chosen: see there.
    v_ref_rejected: see there.
    u_chosen: see there.
    u_rejected: see there.
    signal_chosen: w, the reward of the winner.
    signal_rejected: l.
    group_gap: mean w - l of the group's pairs.
    group_share: standard deviation of the group's rewards, over its mean in the
      optimizer step.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.

  Returns:
    (loss, metrics) as `flow_dpo`, and pair_weight, the mean weight.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", beta=beta)
  margin, metrics = margin_of(
    v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected,
    mask,
  )  # fmt: skip
  better, worse, gap, share = keep(
    mask, signal_chosen, signal_rejected, group_gap, group_share
  )
  weight = (better - worse) / jnp.where(gap > 0, gap, 1.0) * share
  weight = jax.lax.stop_gradient(weight)
  loss = weight * jax.nn.softplus(beta / 2 * margin)
  return Mean.of(loss, mask), metrics | {"pair_weight": Mean.of(weight, mask)}


def margin_of(
  v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected, mask
):
  """(margin [B], the metrics of every pair loss); negative is ranked right."""
  v_chosen, v_rejected, u_chosen, u_rejected, ref_chosen, ref_rejected = keep(
    mask,
    v_chosen,
    v_rejected,
    u_chosen,
    u_rejected,
    v_ref_chosen,
    v_ref_rejected,
  )
  error_chosen = mean_square(v_chosen - u_chosen)
  error_rejected = mean_square(v_rejected - u_rejected)
  reference = mean_square(ref_chosen - u_chosen)
  reference = reference - mean_square(ref_rejected - u_rejected)
  margin = error_chosen - error_rejected - jax.lax.stop_gradient(reference)
  metrics = {
    "accuracy": Mean.of((1 - jnp.sign(margin)) / 2, mask),
    "margin": Mean.of(margin, mask),
    "error_chosen": Mean.of(error_chosen, mask),
    "error_rejected": Mean.of(error_rejected, mask),
  }
  return margin, jax.lax.stop_gradient(metrics)
