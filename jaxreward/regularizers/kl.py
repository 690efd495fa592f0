"""Distances that keep a policy near a reference, in closed form.

No gradient flows into the reference's arrays. Each function returns a `Mean`
over the unmasked rows; multiply its value by the coefficient of the config.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, require_not_negative, shown
from jaxreward.numerics import Mean
from jaxreward.regularizers.sample_estimates import difference
from jaxreward.types import ArrayLike

ScalarOrRows = ArrayLike | np.floating | float


# Divisors of mean (mu - mu_ref)^2, by name.
FORMS = ("exact", "without_dt", "without_variance", "velocity")
# The form in each sampler's published code; see docs/defaults.md.
AUTHORS = {
  "flow_sde": "without_dt",
  "linear_sde": "exact",
  "dance_sde": "exact",
  "cps": "without_variance",
  "precise_sde": "exact",
  "renoise": "exact",
}


def form_of(form: Any, sampler: str) -> str:
  """The form of the KL for a sampler.

  Args:
    form: one of `FORMS`, or "authors" for that of the sampler's authors.
    sampler: by name, as in `flow.steppers.REGISTRY`.

  Raises:
    UserError: an unknown form, or one that the sampler does not have.
  """
  forms = ("authors", *FORMS)
  if form not in forms:
    raise UserError(
      f"form={shown(form)}: it is one of"
      f" {', '.join(forms)}{nearest(str(form), forms)}"
    )
  if form == "without_dt" and sampler == "cps":
    raise UserError(
      'form="without_dt": the noise of the sampler "cps"'
      ' is no multiple of sqrt(dt); use "without_variance", as its authors do'
      ' for SD3 and FLUX, or "exact", as they do for Qwen-Image'
    )
  return AUTHORS.get(sampler, "exact") if form == "authors" else form


def step_kl(
  mean: Float[ArrayLike, "B *L"],
  reference_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  dt: ScalarOrRows,
  c_v: ScalarOrRows,
  mask: Bool[ArrayLike, "B"],
  *,
  form: str = "authors",
  sampler: str = "",
) -> Mean:
  """KL between two Gaussian steps of equal noise, averaged over elements.

  KL = mean (mu - mu_ref)^2 / (2 std^2), std = s sqrt(dt), in nats per latent
  element: the form "exact". Published code divides by other constants, which
  changes the relative weight of the steps:

    exact             2 std^2  Flow-GRPO for Wan; FlowCPS for Qwen-Image
    without_dt        2 s^2    Flow-GRPO for SD3, FLUX and Qwen-Image
    without_variance  1        FlowCPS for SD3 and FLUX
    velocity          c_v^2    Flow-Factory: mean (v - v_ref)^2

  A step without noise (std = 0) has no density: the first two give 0.

  Args:
    mean: mu of the step under the trained parameters.
    reference_mean: mu_ref of the same step under the reference.
    std: the step's noise, scalar or [B].
    dt: length of the step, greater than 0, scalar or [B]; read only by
      "without_dt".
    c_v: factor of the velocity in the mean, not 0, scalar or [B]; read only
      by "velocity".
    mask: False for padding, which may hold anything.
    form: one of `FORMS`, or "authors" for that of the sampler's authors.
    sampler: by name, set by the job.

  Returns:
    The mean over unmasked rows.

  Raises:
    UserError: an unknown form, or one that the sampler does not have.
  """
  form = form_of(form, sampler)
  return Mean.of(_rows(mean, reference_mean, std, dt, c_v, mask, form), mask)


def gated_step_kl(
  mean: Float[ArrayLike, "B *L"],
  reference_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  dt: ScalarOrRows,
  c_v: ScalarOrRows,
  gate: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  *,
  form: str = "exact",
  sampler: str = "",
) -> Mean:
  """`step_kl` over the samples that an advantage gates (GARDO).

  `gate` weights samples so that the mean over all is the mean over the gated ones;
  without any, the KL is 0. He et al. 2025, https://arxiv.org/abs/2512.24138.
  """
  form = form_of(form, sampler)
  rows = _rows(mean, reference_mean, std, dt, c_v, mask, form)
  return Mean.of(rows * jnp.where(mask, gate, 0.0), mask)


def dual_kl(
  mean: Float[ArrayLike, "B *L"],
  reference_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  dt: ScalarOrRows,
  c_v: ScalarOrRows,
  log_prob: Float[ArrayLike, "B"],
  old_log_prob: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  *,
  drop: float = 0.1,
  form: str = "exact",
  sampler: str = "",
) -> Mean:
  """`step_kl` and `drop` times `step_drop`: a reference, and the policy that drew.

  The dual trust region of SAGE-GRPO, https://arxiv.org/abs/2603.21872, read in the
  authors' code: 1 and .1 of the two under one weight, which adapts (`adapt`).

  Args:
    mean: see `step_kl`.
    reference_mean: see `step_kl`.
    std: see `step_kl`.
    dt: see `step_kl`.
    c_v: see `step_kl`.
    log_prob: of the stored step under the trained parameters.
    old_log_prob: when it was sampled; no gradient.
    mask: False for padding, which may hold anything.
    drop: weight of the second, at least 0.
    form: see `step_kl`.
    sampler: by name, set by the job.
  """
  require_not_negative("", drop=drop)
  form = form_of(form, sampler)
  kl = _rows(mean, reference_mean, std, dt, c_v, mask, form)
  return Mean.of(kl + drop * difference(old_log_prob, log_prob, mask), mask)


def _rows(mean, reference_mean, std, dt, c_v, mask, form):
  """The KL of each row under a form, 0 where masked."""
  square = _mean_square(mean, reference_mean, mask)
  if form == "without_variance":
    return square
  if form == "velocity":
    return square / jnp.square(c_v)
  variance = jnp.square(jnp.asarray(std, square.dtype))
  noisy = variance > 0
  kl = jnp.where(noisy, square / (2 * jnp.where(noisy, variance, 1)), 0.0)
  return kl * dt if form == "without_dt" else kl


def velocity_distance(
  v: Float[ArrayLike, "B *L"],
  v_reference: Float[ArrayLike, "B *L"],
  mask: Bool[ArrayLike, "B"],
) -> Mean:
  """Mean (v - v_reference)^2, the usual tie of likelihood-free objectives."""
  return Mean.of(_mean_square(v, v_reference, mask), mask)


def group_velocity_distance(
  group_v: Float[ArrayLike, "R G *L"],
  group_v_reference: Float[ArrayLike, "R G *L"],
  group_mask: Bool[ArrayLike, "R G"],
) -> Mean:
  """`velocity_distance` for objectives on whole groups."""
  flat = lambda x: jnp.reshape(x, (-1, *jnp.shape(x)[2:]))
  return velocity_distance(
    flat(group_v), flat(group_v_reference), jnp.reshape(group_mask, -1)
  )


def group_guided_distance(
  group_v: Float[ArrayLike, "R G *L"],
  group_v_reference: Float[ArrayLike, "R G *L"],
  group_v_reference_empty: Float[ArrayLike, "R G *L"],
  group_mask: Bool[ArrayLike, "R G"],
  *,
  guidance: float = 4.5,
) -> Mean:
  """`group_velocity_distance` to the reference under classifier-free guidance.

  mean (v - v_empty - guidance (v_reference - v_empty))^2. CRD,
  https://arxiv.org/abs/2603.14128: the policy, drawn without guidance, stays near a
  teacher with it.

  Args:
    group_v: velocity of the trained parameters.
    group_v_reference: of the reference.
    group_v_reference_empty: of the reference under the empty prompt.
    group_mask: False for padding.
    guidance: 1 is the reference itself.
  """
  empty = jnp.asarray(group_v_reference_empty)
  teacher = empty + guidance * (group_v_reference - empty)
  return group_velocity_distance(group_v, teacher, group_mask)


def data_matching(
  v: Float[ArrayLike, "B *L"],
  u: Float[ArrayLike, "B *L"],
  real: Bool[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> Mean:
  """Flow matching on the reference images of each group, mean (v - u)^2.

  The loss of pre-training in the place of a distance to a network (DDRL, 2025,
  https://arxiv.org/abs/2512.04332), and the real data without which retraining on own
  samples collapses (Ferbach et al. 2024, https://arxiv.org/abs/2407.09499).
  `rollout.real` makes reference images members of a group.

  Args:
    v: velocity of the trained parameters at x_t.
    u: the target there, eps - x0.
    real: True for rows of reference images; the others have no part.
    mask: False for padding, which may hold anything.
  """
  counts = jnp.asarray(mask) & jnp.asarray(real).astype(bool)
  return Mean.of(_mean_square(v, u, counts), counts)


def _mean_square(x, reference, mask):
  """Mean over elements of the squared difference [B], 0 in masked rows."""
  x = jnp.asarray(x)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  rows = jnp.reshape(mask, jnp.shape(mask) + (1,) * (x.ndim - 1))
  # Selected before the square: padding must not reach the gradient either.
  difference = jnp.where(rows, x - jax.lax.stop_gradient(reference), 0.0)
  return jnp.mean(jnp.square(difference), axis=tuple(range(1, x.ndim)))


def tail_distance(
  drift: Float[ArrayLike, "B"], mask: Bool[ArrayLike, "B"]
) -> Mean:
  """Mean |v - v_ref|^2 over the last steps of the sampler, per element.

  The KL between steps of equal noise is a multiple of it, step by step; here all
  steps weigh the same. The tie of IPRO, https://arxiv.org/abs/2510.14255, whose
  weights of steps are unverified; for objectives on the feed "tail".

  Args:
    drift: that distance, over the steps with a gradient.
    mask: False for padding, which may hold anything.
  """
  return Mean.of(jnp.where(mask, drift, 0.0), mask)
