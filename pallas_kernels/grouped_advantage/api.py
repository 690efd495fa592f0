"""Public functions of the fused advantage and loss."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest
from jaxreward.numerics import Max, Mean, Metric, masked_std
from jaxreward.types import Array, ArrayLike
from pallas_kernels import dispatch
from pallas_kernels.grouped_advantage import gpu, reference, tpu
from pallas_kernels.grouped_advantage.reference import STATISTICS, Options

STDS = ("group", "batch", "none")
BASELINES = ("group", "leave_one_out")
MAX_GROUP = 1024  # full groups must fit into a TPU's VMEM
How = tuple[str, tuple[str, ...], Options]


def advantage(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  *,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
  baseline: str = "group",
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> Float[Array, "P G"]:
  """Deviation from the prompt's mean, in standard deviations.

  Equals `jaxreward.advantages.group`, or with baseline="leave_one_out"
  `jaxreward.advantages.leave_one_out`, for the same arguments.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    std: "group", "batch" (over all rewards, of all devices) or "none".
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.
    baseline: "group" or "leave_one_out".
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the prompts; groups stay whole.

  Returns:
    advantage float32, 0 where masked, a constant.

  Raises:
    UserError: an unknown `std`, `baseline` or `implementation`, or groups
      above 1,024 (but for implementation="xla").
  """
  options = _options(std, baseline, epsilon, clip)
  how = _how(implementation, batch_axes, options, signal.shape[1])
  rows = _signal_rows(signal, mask, options)
  value, _ = _fused(how, None, None, None, *rows)
  return jax.lax.stop_gradient(value)


def grouped_policy_loss(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  log_prob: Float[ArrayLike, "P G T"],
  old_log_prob: Float[ArrayLike, "P G T"],
  step_mask: Bool[ArrayLike, "P G T"] | None = None,
  *,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
  baseline: str = "group",
  clip_range: float = 1e-4,
  clip_range_high: float | None = None,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> tuple[Mean, dict[str, Mean], Float[Array, "P G"]]:
  """Advantage and clipped policy loss of whole groups, in one pass.

  `advantage`, then L = mean max(-A r, -A clip(r, 1 - low, 1 + high)) with
  r = exp(log_prob - old_log_prob) over all members and steps. Equals
  `jaxreward.objectives.flow_grpo` on the P G T rows (Liu et al., 2025,
  https://arxiv.org/abs/2505.05470, eq. 4). The gradient is made in the same
  pass and reaches log_prob alone.

  Args:
    signal: composed reward; anything where masked.
    mask: True where the reward is valid.
    log_prob: of the stored steps under the trained parameters.
    old_log_prob: of the same steps when they were sampled.
    step_mask: False for single steps to ignore; all count if None.
    std: as in `advantage`.
    epsilon: as in `advantage`.
    clip: as in `advantage`.
    baseline: as in `advantage`.
    clip_range: the ratio counts down to 1 - clip_range.
    clip_range_high: and up to 1 + clip_range_high; None for `clip_range`.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the prompts; groups stay whole.

  Returns:
    (loss, metrics as in `flow_grpo`, advantage).

  Raises:
    UserError: inconsistent shapes, and as in `advantage`.
  """
  if log_prob.shape[:2] != signal.shape or log_prob.shape != old_log_prob.shape:
    raise UserError(
      f"log_prob {log_prob.shape} and old_log_prob {old_log_prob.shape} must"
      f" both be [P, G, T] over the signal's {signal.shape}"
    )
  options = _options(std, baseline, epsilon, clip, clip_range, clip_range_high)
  how = _how(implementation, batch_axes, options, signal.shape[1])
  rows = _signal_rows(signal, mask, options)
  keep = None if step_mask is None else jnp.asarray(step_mask, jnp.float32)
  value, sums = _fused(how, jnp.asarray(log_prob), old_log_prob, keep, *rows)
  loss, metrics = _means(sums)
  return loss, metrics, jax.lax.stop_gradient(value)


def clipped_loss(
  log_prob: Float[ArrayLike, "B"],
  old_log_prob: Float[ArrayLike, "B"],
  advantage: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  *,
  clip_range: float = 1e-4,
  clip_range_high: float | None = None,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> tuple[Mean, dict[str, Metric]]:
  """`jaxreward.objectives.flow_grpo` for given advantages.

  Uses the same kernel, for micro-batches with partial groups.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: of the same step when it was sampled; no gradient.
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    clip_range: the ratio counts down to 1 - clip_range.
    clip_range_high: and up to 1 + clip_range_high; None for `clip_range`.
    implementation: see `dispatch.choose`.
    batch_axes: mesh axes that share the rows.

  Returns:
    (loss, metrics).
  """
  low, high = _bounds(clip_range, clip_range_high)
  options = Options(std="given", low=low, high=high)
  how = _how(implementation, batch_axes, options)
  rows = (advantage[:, None], jnp.asarray(mask)[:, None], None)
  cube = lambda x: jnp.asarray(x)[:, None, None]
  _, sums = _fused(how, cube(log_prob), cube(old_log_prob), None, *rows)
  loss, metrics = _means(sums)
  gap = jnp.abs(jax.lax.stop_gradient(log_prob) - old_log_prob)
  return loss, metrics | {"log_ratio_max": Max.of(gap, mask)}


def _options(std, baseline, epsilon, clip, clip_range=0.0, clip_high=None):
  for field, value, choices in (
    ("std", std, STDS),
    ("baseline", baseline, BASELINES),
  ):
    if value not in choices:
      raise UserError(
        f'advantage.{field} is "{value}"; it must be'
        f" {' or '.join(choices)}{nearest(value, choices)}."
      )
  clip = clip and float(clip)
  low, high = _bounds(clip_range, clip_high)
  alone = baseline == "leave_one_out"
  return Options(std, float(epsilon), clip, alone, low, high)


def _bounds(clip_range, clip_high):
  high = clip_range if clip_high is None else clip_high
  return 1 - float(clip_range), 1 + float(high)


def _how(implementation, batch_axes, options, members=1) -> How:
  if members > MAX_GROUP and implementation != "xla":
    raise UserError(
      f"a group of {members} samples is above the kernel's {MAX_GROUP}: use"
      ' smaller groups, or implementation="xla"'
    )
  return dispatch.choose(implementation), tuple(batch_axes), options


def _signal_rows(signal, mask, options):
  """(signal, mask, scale); the batch's deviation is computed over all
  devices."""
  signal, mask = jnp.asarray(signal), jnp.asarray(mask, bool)
  if options.std != "batch":
    return signal, mask, None
  signal32 = signal.astype(jnp.float32)
  low = jnp.min(signal32, where=mask, initial=jnp.inf)
  return signal, mask, masked_std(jnp.where(mask, signal32 - low, 0.0), mask)


def _means(sums):
  """(loss, metrics) from sums [P, 7]."""
  total = dict(zip(STATISTICS, jnp.sum(sums, axis=0), strict=True))
  loss, count = total.pop("loss"), jax.lax.stop_gradient(total.pop("count"))
  metrics = jax.lax.stop_gradient(total)
  return Mean(loss, count), {k: Mean(x, count) for k, x in metrics.items()}


def _rows_first(how, with_gradient, signal, mask, scale, *cubes):
  """Runs the backend on one device's prompts; operands start with prompts."""
  implementation, _, options = how
  prompts_last = lambda x: jnp.moveaxis(x, 0, -1)
  prompts_first = lambda x: jnp.moveaxis(x, -1, 0)
  turn = lambda x: jnp.transpose(x, (2, 1, 0))  # [P, G, T] <-> [T, G, P]
  operands = [turn(x) for x in cubes]
  run: Callable[..., tuple[Array, ...]] = reference.run
  if implementation != "xla":
    run = dispatch.backend(implementation, tpu, gpu)
  outputs = run(
    prompts_last(signal), prompts_last(mask), prompts_last(scale), *operands, *[None] * (3 - len(operands)),
    options=options, with_gradient=with_gradient,
  )  # fmt: skip
  result = [prompts_first(x) for x in outputs[:2]]
  return *result, *map(turn, outputs[2:])


def _run(how, with_gradient, log_prob, old_log_prob, keep, signal, mask, scale):
  implementation, batch_axes, _ = how
  scale = 0.0 if scale is None else scale
  scale = jnp.broadcast_to(jnp.float32(scale), (signal.shape[0], 1))
  cubes = [x for x in (log_prob, old_log_prob, keep) if x is not None]
  operands = (signal, mask.astype(jnp.float32), scale, *cubes)
  body = functools.partial(_rows_first, how, with_gradient)
  if implementation == "xla":
    return body(*operands)
  return dispatch.over_rows(body, batch_axes, *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(how: How, log_prob, old_log_prob, keep, signal, mask, scale):
  """(advantage [P, G], sums [P, 7], or None without log-probabilities)."""
  operands = (old_log_prob, keep, signal, mask, scale)
  outputs = _run(how, False, log_prob, *operands)
  return outputs[0], outputs[1] if log_prob is not None else None


def _fused_forward(how, log_prob, *rest):
  if log_prob is None:
    return _fused(how, None, *rest), (None, None)
  value, sums, gradient = _run(how, True, log_prob, *rest)
  return (value, sums), (gradient, log_prob[:0])


def _fused_backward(how, residuals, cotangents):
  """The loss is linear in the gradient of the forward pass; the rest is
  constant."""
  del how
  gradient, like = residuals
  if gradient is None:
    return (None,) * 6
  pull = gradient * cotangents[1][:, 0, None, None]
  return pull.astype(like.dtype), None, None, None, None, None


_fused.defvjp(_fused_forward, _fused_backward)
