"""Clipped policy gradients on the Gaussian steps of a stochastic sampler.

`log_prob` is the *mean* over latent elements of the log density of one stored
step, so the ratio is per element and clip ranges of 1e-4 and below are right;
with D elements a range of e lets the joint log ratio move by D * e.

Every loss is a `Mean` over samples, to be minimised, with a dict of metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.errors import require_positive
from jaxreward.methods import prepares, whole_samples
from jaxreward.numerics import Max, Mean, Metric
from jaxreward.objectives.reductions import (
  by_sample,
  keep,
  mean_square,
  per_row,
)
from jaxreward.types import Array, ArrayLike

Loss = tuple[Mean, dict[str, Metric]]
Rows = Float[ArrayLike, "B"]
ScalarOrRows = ArrayLike | np.floating | float


def flow_grpo(
  log_prob: Rows,
  old_log_prob: Rows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  clip_range: float = 1e-4,
  clip_range_high: float | None = None,
) -> Loss:
  """Clipped ratio objective of Flow-GRPO, for one denoising step.

  L = mean max(-A r, -A clip(r, 1 - low, 1 + high)), r = exp(log_prob - old).
  At r = 1 the gradient is exactly -A grad log_prob.
  Liu et al. 2025, https://arxiv.org/abs/2505.05470, eq. 4, without the KL
  term, which is `regularizers.step_kl`.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: of the same step when it was sampled; no gradient.
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    clip_range: the ratio counts down to 1 - clip_range.
    clip_range_high: and up to 1 + clip_range_high; None for `clip_range`.

  Returns:
    (loss, metrics): ratio, mean and maximum of |log r| as log_ratio_abs and
    log_ratio_max, approx_kl and the share of samples at each side whose
    gradient the clip removed.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive(
    "objective.", clip_range=clip_range, clip_range_high=clip_range_high
  )
  log_prob, old_log_prob, advantage = keep(
    mask, log_prob, old_log_prob, advantage
  )
  log_ratio = log_prob - jax.lax.stop_gradient(old_log_prob)
  low = clip_range
  high = clip_range if clip_range_high is None else clip_range_high
  loss, metrics = _clipped(log_ratio, advantage, mask, low, high)
  return Mean.of(loss, mask), metrics


def grpo_guard(
  log_prob: Rows,
  old_log_prob: Rows,
  mean: Float[ArrayLike, "B *L"],
  old_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  dt: ScalarOrRows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  clip_range: float = 2e-6,
  clip_range_high: float | None = None,
) -> Loss:
  """Flow-GRPO with a ratio centred and scaled alike at every step.

  log r = (log_prob - old + b) std, b = mean (mu - mu_old)^2 / (2 std^2),
  L = clipped loss / dt. The plain log ratio of two Gaussians is biased to one
  side by -b, so the upper clip hardly ever binds; log r here is the
  projection of mu - mu_old on the stored noise, with zero mean.
  Wang et al. 2025, https://arxiv.org/abs/2510.22319. b is per sample; the
  first release of the authors' code averaged it over the batch.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: of the same step when it was sampled; no gradient.
    mean: mu, the step's mean under the trained parameters.
    old_mean: mu_old, as it was sampled; no gradient.
    std: the step's noise, s sqrt(dt), scalar or [B]; greater than 0.
    dt: length of the step, scalar or [B].
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    clip_range: the ratio counts down to 1 - clip_range.
    clip_range_high: and up to 1 + clip_range_high; None for `clip_range`.

  Returns:
    (loss, metrics) as in `flow_grpo`.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive(
    "objective.", clip_range=clip_range, clip_range_high=clip_range_high
  )
  log_prob, old_log_prob, advantage, mean, old_mean = keep(
    mask, log_prob, old_log_prob, advantage, mean, old_mean
  )
  shift = mean_square(mean - jax.lax.stop_gradient(old_mean))
  bias = shift / (2 * jnp.square(std))
  log_ratio = (log_prob - jax.lax.stop_gradient(old_log_prob) + bias) * std
  low = clip_range
  high = clip_range if clip_range_high is None else clip_range_high
  loss, metrics = _clipped(log_ratio, advantage, mask, low, high)
  return Mean.of(loss / per_row(dt, 1), mask), metrics


def flow_dppo(
  log_prob: Rows,
  old_log_prob: Rows,
  mean: Float[ArrayLike, "B *L"],
  old_mean: Float[ArrayLike, "B *L"],
  std: ScalarOrRows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  threshold: float = 1e-5,
) -> Loss:
  """Ratio objective inside an exact KL trust region, without a clip.

  L = mean keep * (-A r). A sample is dropped when its step has moved by
  d = mean (mu - mu_old)^2 / (2 std^2) >= threshold and the update would move
  it further: A > 0 and r > 1, or A < 0 and r < 1. Dropped samples add nothing
  and still count in the mean. https://arxiv.org/abs/2606.11025.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: of the same step when it was sampled; no gradient.
    mean: mu, the step's mean under the trained parameters.
    old_mean: mu_old, as it was sampled.
    std: the step's noise, s sqrt(dt), scalar or [B]; greater than 0.
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    threshold: largest d, in nats per latent element.

  Returns:
    (loss, metrics): those of `flow_grpo`, with clip fractions for the dropped
    samples, and step_kl, the mean d.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", threshold=threshold)
  log_prob, old_log_prob, advantage, mean, old_mean = keep(
    mask, log_prob, old_log_prob, advantage, mean, old_mean
  )
  advantage = jax.lax.stop_gradient(advantage)
  log_ratio = log_prob - jax.lax.stop_gradient(old_log_prob)
  ratio = jnp.exp(log_ratio)
  distance = mean_square(mean - old_mean) / (2 * jnp.square(std))
  distance = jax.lax.stop_gradient(distance)
  far = distance >= threshold
  high = far & (advantage > 0) & (ratio > 1)
  low = far & (advantage < 0) & (ratio < 1)
  loss = jnp.where(high | low, 0.0, -advantage * ratio)
  metrics = _metrics(log_ratio, ratio, low, high, mask)
  return Mean.of(loss, mask), metrics | {"step_kl": Mean.of(distance, mask)}


def _of_samples(columns: Mapping[str, Array]) -> dict[str, Array]:
  """The mean log-ratio of each sample over its steps, at every row."""
  flat, place, total = by_sample(columns)
  size = flat["sample"].size
  mean = total(flat["log_ratio"]) / jnp.maximum(total(jnp.ones(size)), 1)
  return {"sample_log_ratio": mean[place].reshape(columns["sample"].shape)}


@prepares(
  lambda log_prob, old_log_prob, sample, mask: {
    "log_ratio": jnp.where(mask, log_prob - old_log_prob, 0.0),
    "sample": sample, "valid": mask,
  },
  _of_samples,
  gives=("sample_log_ratio",),
)  # fmt: skip
@whole_samples
def gspo(
  log_prob: Rows,
  sample_log_ratio: Rows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  clip_range: float = 1e-4,
  clip_range_high: float | None = None,
) -> Loss:
  """Clipped ratio of whole samples in the place of single steps.

  L = mean max(-A s, -A clip(s, 1 - low, 1 + high)) with
  s = exp(mean over the steps of log_prob - old): a sample is clipped as one.
  GSPO, Zheng et al. 2025, https://arxiv.org/abs/2507.18071, eq. 5, of texts there,
  with steps in the place of tokens. The mean is over the steps in one optimizer
  step: take all of them, `align.split="samples"` or `align.updates=1`.

  Args:
    log_prob: of the stored step under the trained parameters.
    sample_log_ratio: log s before this optimizer step.
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    clip_range: the ratio counts down to 1 - clip_range.
    clip_range_high: and up to 1 + clip_range_high; None for `clip_range`.

  Returns:
    (loss, metrics) as in `flow_grpo`, of s.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive(
    "objective.", clip_range=clip_range, clip_range_high=clip_range_high
  )
  log_prob, ratio, advantage = keep(mask, log_prob, sample_log_ratio, advantage)
  # The value of the sample's ratio; each step has its share of the gradient.
  log_ratio = jax.lax.stop_gradient(ratio - log_prob) + log_prob
  low = clip_range
  high = clip_range if clip_range_high is None else clip_range_high
  loss, metrics = _clipped(log_ratio, advantage, mask, low, high)
  return Mean.of(loss, mask), metrics


def _clipped(log_ratio, advantage, mask, clip_low, clip_high):
  """Pessimistic clipped loss [B] and its metrics."""
  advantage = jax.lax.stop_gradient(advantage)
  ratio = jnp.exp(log_ratio)
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  loss = jnp.maximum(-advantage * ratio, -advantage * clipped)
  low = (advantage < 0) & (ratio < 1 - clip_low)
  high = (advantage > 0) & (ratio > 1 + clip_high)
  return loss, _metrics(log_ratio, ratio, low, high, mask)


def _metrics(
  log_ratio: Array, ratio: Array, low: Array, high: Array, mask: ArrayLike
) -> dict[str, Metric]:
  """Shared metrics; approx_kl is the unbiased, non-negative r - 1 - log r."""
  log_ratio, ratio = jax.lax.stop_gradient((log_ratio, ratio))
  return {
    "ratio": Mean.of(ratio, mask),
    "log_ratio_abs": Mean.of(jnp.abs(log_ratio), mask),
    "log_ratio_max": Max.of(jnp.abs(log_ratio), mask),
    "approx_kl": Mean.of(jnp.expm1(log_ratio) - log_ratio, mask),
    "clip_fraction_low": Mean.of(low, mask),
    "clip_fraction_high": Mean.of(high, mask),
  }
