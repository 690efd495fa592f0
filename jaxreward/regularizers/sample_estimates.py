"""Distances estimated on the sampled steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.numerics import Mean
from jaxreward.types import ArrayLike

Rows = Float[ArrayLike, "B"]
ESTIMATES = ("k1", "k2", "k3")


def sampled_kl(
  log_prob: Rows,
  reference_log_prob: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  estimate: str = "k3",
) -> Mean:
  """KL to the reference, estimated from the sampled step, per latent element.

  With r = log p_ref - log p: k1 = -r, k2 = r^2 / 2, k3 = exp(r) - r - 1, which is
  never negative. As a loss, k1 has no gradient in expectation and k2 that of the
  KL, for steps of the policy itself.
  Schulman 2020, http://joschu.net/blog/kl-approx.html; k3 is that of GRPO, Shao et
  al. 2024, https://arxiv.org/abs/2402.03300, eq. 4. `step_kl` is exact.

  Args:
    log_prob: of the stored step under the trained parameters.
    reference_log_prob: under the reference; no gradient.
    mask: False for padding, which may hold anything.
    estimate: one of `ESTIMATES`.

  Raises:
    UserError: an unknown estimate.
  """
  r = difference(reference_log_prob, log_prob, mask)
  forms = {
    "k1": lambda: -r,
    "k2": lambda: jnp.square(r) / 2,
    "k3": lambda: jnp.expm1(r) - r,
  }
  if estimate not in forms:
    raise UserError(
      f'estimate="{estimate}": it is one of {", ".join(ESTIMATES)}'
    )
  return Mean.of(forms[estimate](), mask)


def step_drop(
  log_prob: Rows, old_log_prob: Rows, mask: Bool[ArrayLike, "B"]
) -> Mean:
  """How much less likely the sampled steps have become: mean (old - new).

  The tie to the sampling policy of SAGE-GRPO, https://arxiv.org/abs/2603.21872,
  with weight .1 beside a tie to a reference.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: when it was sampled; no gradient.
    mask: False for padding, which may hold anything.
  """
  return Mean.of(difference(old_log_prob, log_prob, mask), mask)


def difference(constant, log_prob, mask):
  """constant - log_prob in float32, 0 in masked rows."""
  log_prob = jnp.where(mask, jnp.asarray(log_prob, jnp.float32), 0.0)
  constant = jax.lax.stop_gradient(jnp.where(mask, constant, 0.0))
  return constant - log_prob
