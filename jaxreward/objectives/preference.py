"""Policy losses from pairs: chosen and rejected samples of the same prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square
from jaxreward.types import ArrayLike

Latents = Float[ArrayLike, "B *L"]


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
  """
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
  loss = jax.nn.softplus(beta / 2 * margin)
  metrics = {
    "accuracy": Mean.of((1 - jnp.sign(margin)) / 2, mask),
    "margin": Mean.of(margin, mask),
    "error_chosen": Mean.of(error_chosen, mask),
    "error_rejected": Mean.of(error_rejected, mask),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)
