"""Preference losses with labels in doubt, in places, or without pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.numerics import Mean
from jaxreward.objectives.preference import flow_dpo, margin_of
from jaxreward.objectives.reductions import keep, mean_square
from jaxreward.types import ArrayLike

Latents = Float[ArrayLike, "B *L"]
Rows = Float[ArrayLike, "B"]
Loss = tuple[Mean, dict[str, Mean]]


def smoothed_dpo(
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
  temperature: float = 0.2,
) -> Loss:
  """`flow_dpo` whose label is as sure as the gap of the pair's rewards.

  L = mean -(1 - a) log sigmoid(h) - a log sigmoid(-h), h = -beta / 2 margin,
  a = 1 / (exp((w - l) / temperature) + 1): 1/2 for equal rewards, where the loss is
  least at h = 0, and `flow_dpo` for a wide gap.
  MCTS-DPO, https://arxiv.org/abs/2405.00451, whose a is 1 / (N_w / N_l + 1) with the
  visits of a search tree; here the ratio is that of exponentials of the rewards
  (unverified).

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
    temperature: gap of rewards that makes a label sure, above 0.

  Returns:
    (loss, metrics) as `flow_dpo`, and label_noise, the mean a.

  Raises:
    UserError: a temperature that is not positive.
  """
  require_positive("objective.", beta=beta)
  if not temperature > 0:
    raise UserError(f"objective.temperature={temperature}: it must be above 0")
  margin, metrics = margin_of(
    v_chosen, v_rejected, v_ref_chosen, v_ref_rejected, u_chosen, u_rejected,
    mask,
  )  # fmt: skip
  better, worse = keep(mask, signal_chosen, signal_rejected)
  doubt = jax.nn.sigmoid(-(better - worse) / temperature)
  doubt = jax.lax.stop_gradient(doubt)
  logit = beta / 2 * margin
  loss = (1 - doubt) * jax.nn.softplus(logit)
  loss = loss + doubt * jax.nn.softplus(-logit)
  return Mean.of(loss, mask), metrics | {"label_noise": Mean.of(doubt, mask)}


def masked_dpo(
  v_chosen: Latents,
  v_rejected: Latents,
  v_ref_chosen: Latents,
  v_ref_rejected: Latents,
  u_chosen: Latents,
  u_rejected: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
  threshold: float = 0.25,
) -> Loss:
  """`flow_dpo` in the places where the two samples of a pair differ.

  Errors are means over the elements with |x0_chosen - x0_rejected| > threshold times
  the largest of the pair; where all are equal nothing is learned. The masked form of
  SimpleTuner takes masks from files; that they follow from the difference is chosen
  here.

  Args:
    v_chosen: see `flow_dpo`, as up to u_rejected.
    v_rejected: see there.
    v_ref_chosen: see there.
    v_ref_rejected: see there.
    u_chosen: see there.
    u_rejected: see there.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.
    threshold: share of the largest difference, in [0, 1); 0 takes all that differ.

  Returns:
    (loss, metrics) as `flow_dpo`, and place_share, the share of the elements.

  Raises:
    UserError: a threshold outside [0, 1).
  """
  require_positive("objective.", beta=beta)
  if not 0 <= threshold < 1:
    raise UserError(f"objective.threshold={threshold}: it lies in [0, 1)")
  u_chosen, u_rejected = keep(mask, u_chosen, u_rejected)
  apart = jnp.abs(u_chosen - u_rejected)  # one noise: that of x0
  axes = tuple(range(1, apart.ndim))
  top = jnp.max(apart, axis=axes, keepdims=True)
  is_place = apart > threshold * top
  share = jnp.mean(is_place, axis=axes)
  scale = is_place / jnp.sqrt(jnp.maximum(share, 1e-12)).reshape(top.shape)
  weigh = lambda x: keep(mask, x)[0] * scale
  margin, metrics = margin_of(
    weigh(v_chosen), weigh(v_rejected), weigh(v_ref_chosen),
    weigh(v_ref_rejected), weigh(u_chosen), weigh(u_rejected), mask,
  )  # fmt: skip
  loss = jax.nn.softplus(beta / 2 * margin)
  return Mean.of(loss, mask), metrics | {"place_share": Mean.of(share, mask)}


def single_dpo(
  v: Latents,
  v_reference: Latents,
  u: Latents,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
  neutral: float = 0.25,
) -> Loss:
  """A preference loss on single samples, good or bad, without pairs.

  L = mean -log sigmoid(-beta / 2 c (e - e_ref)), e = mean (v - u)^2, with c = 1 for
  an advantage above `neutral`, -1 for one below -`neutral`, and no loss between.
  FDPO (M-HalDetect), https://arxiv.org/abs/2308.06394, where labels are of segments
  of an answer; here they are of whole samples. beta is that of flow models.

  Args:
    v: velocity of the trained parameters at x_t.
    v_reference: of the reference there; no gradient.
    u: the target, eps - x0.
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.
    neutral: smaller advantages have no label, 0 or above.

  Returns:
    (loss, metrics): labelled, the share with a label, and accuracy, how many of
    these the policy moves the right way against the reference.

  Raises:
    UserError: a bound below 0.
  """
  require_positive("objective.", beta=beta)
  if not neutral >= 0:
    raise UserError(f"objective.neutral={neutral}: it must be 0 or above")
  v, v_reference, u, advantage = keep(mask, v, v_reference, u, advantage)
  label = jnp.sign(advantage) * (jnp.abs(advantage) > neutral)
  label = jax.lax.stop_gradient(label)
  reference = jax.lax.stop_gradient(mean_square(v_reference - u))
  moved = mean_square(v - u) - reference
  loss = jnp.abs(label) * jax.nn.softplus(beta / 2 * label * moved)
  has_label = mask & (label != 0)
  metrics = {
    "labelled": Mean.of(jnp.abs(label), mask),
    "accuracy": Mean.of((1 - jnp.sign(label * moved)) / 2, has_label),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def inpo(
  v_inverted_chosen: Latents,
  v_inverted_rejected: Latents,
  v_ref_inverted_chosen: Latents,
  v_ref_inverted_rejected: Latents,
  u_inverted_chosen: Latents,
  u_inverted_rejected: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 2000.0,
) -> Loss:
  """InPO: `flow_dpo` at the latents that really lead to the two samples.

  x_t is the sample integrated back by the policy's own ODE from 0 to t, and the target
  (x_t - x0) / t the mean velocity of that path: where the path is straight the error is
  0. Lu et al. 2025, https://arxiv.org/abs/2503.18454, beta 2000 and 10 steps over
  [0, 1], read in the authors' code, whose inversion ends at the grid's level below t;
  here 10 equal steps end at t itself.

  Args:
    v_inverted_chosen: velocity of the trained parameters at the winner's x_t.
    v_inverted_rejected: and at the loser's.
    v_ref_inverted_chosen: velocity of the reference there; no gradient.
    v_ref_inverted_rejected: and at the loser's; no gradient.
    u_inverted_chosen: target of the winner; no gradient.
    u_inverted_rejected: and of the loser; no gradient.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference.

  Returns:
    (loss, metrics) as `flow_dpo`.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", beta=beta)
  return flow_dpo(
    v_inverted_chosen, v_inverted_rejected, v_ref_inverted_chosen,
    v_ref_inverted_rejected, u_inverted_chosen, u_inverted_rejected, mask,
    beta=beta,
  )  # fmt: skip
