"""Credit for every denoising step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.advantages.contract import Advantage, Sizes
from jaxreward.advantages.group import group, whitened
from jaxreward.errors import (
  UserError,
  require_counts,
  require_not_negative,
  require_positive,
)
from jaxreward.flow import steppers
from jaxreward.numerics import masked_mean, masked_std
from jaxreward.types import Array, ArrayLike


def gains(
  step_signal: Float[ArrayLike, "P G S"],
) -> Float[Array, "P G T"]:
  """The gain of each step: R_{i+1} - R_i, with T = S - 1.

  R_i is the reward of the latents before step i, finished by the ODE, and R_T
  that of the sample: the gains of a sample add up to R_T - R_0.
  """
  return jnp.diff(jnp.asarray(step_signal), axis=-1)


def critic(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  step_values: Float[ArrayLike, "P G T"],
  *,
  epsilon: float = 1e-4,
  clip: float = 1.0,
) -> Float[Array, "P G T"]:
  """The reward of a sample beyond the value predicted at each step.

  A_t = clip(shaped - V(x_t, t, c), -clip, clip), shaped = (r - mean r) /
  (std r + epsilon) over the iteration, with V a player that gives "value"
  (AC-Flow, Fan et al. 2025, https://arxiv.org/abs/2510.18072, whose actor loss is
  `objectives.ac_flow`).

  Args:
    signal: composed reward.
    mask: True where the reward is valid.
    step_values: V of the latents before each step.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage, greater than 0.

  Returns:
    advantage, 0 where masked.
  """
  require_positive("advantage.", clip=clip)
  target = whitened(signal, mask, epsilon=epsilon)[..., None]
  advantage = jnp.clip(target - step_values, -clip, clip)
  return jnp.where(jnp.asarray(mask)[..., None], advantage, 0.0)


def dense(
  step_signal: Float[ArrayLike, "P G S"],
  step_mask: Bool[ArrayLike, "P G S"],
  *,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """The gain of each step, compared with the same step of the group.

  A = clip((d - mean_G d) / (std_G d + epsilon), -clip, clip) with d the gains,
  one mean and one deviation per prompt and step.
  DenseGRPO, https://arxiv.org/abs/2601.20218; `calibrated` finds the noise level of
  each step first, as the paper does.

  Args:
    step_signal: composed reward of every step's latents, finished by the ODE on
      the sampler's own times, and of the sample last.
    step_mask: True where it is valid; a sample with an invalid step is excluded
      from every step.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.
  """
  mask = jnp.all(jnp.asarray(step_mask), axis=-1, keepdims=True)
  gain = jnp.where(mask, gains(step_signal), 0.0)
  return bounded(step_scores(gain, mask, epsilon), mask, clip)


def calibrated(
  *,
  iterations: int = 10,
  start: float = 0.7,
  margin: int = 2,
  change: float = 0.01,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Advantage:
  """`dense`, after levels of noise are found at which as many steps gain as lose.

  In the first `iterations`, in which the policy waits (`align.hold_policy`), the
  level s_t of each step, std_t = s_t sqrt(dt), moves by `change`: up by a prompt in
  whose group |gaining - losing| < margin, else down; by the mean over the prompts.
  From then on it stays, and the sampler draws with it.
  DenseGRPO, https://arxiv.org/abs/2601.20218 (read in the paper's text), of one
  prompt; the first level and how many samples are counted are unverified.

  Args:
    iterations: of the calibration.
    start: the first level of all steps.
    margin: of the two counts, in samples.
    change: of a level in an iteration, and the least one.
    epsilon: see `dense`.
    clip: see `dense`.
  """
  require_positive("advantage.", start=start, margin=margin, change=change)
  require_counts("config.advantage.", iterations=iterations)

  def init(sizes: Sizes) -> dict[str, Array]:
    return {
      "levels": jnp.full(sizes.steps, start, jnp.float32),
      "done": jnp.int32(0),
    }

  def update(
    step_signal: Float[ArrayLike, "P G S"],
    step_mask: Bool[ArrayLike, "P G S"],
    state: dict[str, Array],
  ) -> tuple[Float[Array, "P G T"], dict[str, Array]]:
    mask = jnp.all(jnp.asarray(step_mask), axis=-1, keepdims=True)
    gain = jnp.where(mask, gains(step_signal), 0.0)
    ahead = jnp.abs(jnp.sum(jnp.sign(gain), axis=1))  # [P, T]
    vote = jnp.where(ahead < margin, change, -change)
    counts = jnp.broadcast_to(mask.any(1), vote.shape)
    moved = state["levels"] + masked_mean(vote, counts, axis=0)
    is_open = state["done"] < iterations
    levels = jnp.where(is_open, jnp.maximum(moved, change), state["levels"])
    after = {"levels": levels, "done": state["done"] + is_open}
    return dense(step_signal, step_mask, epsilon=epsilon, clip=clip), after

  return Advantage(
    init, update, levels=lambda state: state["levels"], settles=iterations
  )


def noise_weighted(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  steps: steppers.StepTable,
  *,
  form: str = "scaled",
  scale: float = 2.25,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """`group`, weighted at each step by its noise.

  A_t = A scale std_t, or with the form "mean" A std_t / mean std over the noisy
  steps: early steps, which matter more, weigh more. A clipped loss scales with
  its advantage, so this is a weight on the loss of a step.
  TempFlow-GRPO, https://arxiv.org/abs/2508.04324: 2.25 in the authors' code, and
  a normalised weight in the paper. `branched` has their branches too.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    steps: constants of the sampler's steps.
    form: "scaled" or "mean".
    scale: of the form "scaled".
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`; of A, before the weight.

  Returns:
    advantage, 0 where masked and at steps without noise.

  Raises:
    UserError: another form.
  """
  advantage = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  weight = _by_noise(steps, form, scale)
  return jax.lax.stop_gradient(advantage[..., None] * weight)


def _by_noise(
  steps: steppers.StepTable, form: str, scale: float
) -> Float[Array, "T"]:
  if form not in ("scaled", "mean"):
    raise UserError(f'config.advantage.form="{form}": it is "scaled" or "mean"')
  noise = jnp.asarray(steps.std, jnp.float32)
  if form == "scaled":
    return scale * noise
  mean_noise = masked_mean(noise, noise > 0)
  return noise / jnp.where(mean_noise > 0, mean_noise, 1.0)


def branched(
  step_signal: Float[ArrayLike, "P G S"],
  step_mask: Bool[ArrayLike, "P G S"],
  steps: steppers.StepTable,
  *,
  form: str = "scaled",
  scale: float = 2.25,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """The reward of each step's own branch, weighted by its noise.

  A_t = clip((R_t - mean_G R_t) / (std_G R_t + epsilon), -clip, clip) w_t, with R_t
  the reward of what noise in step t alone leads to (`rollout.aside`), one mean and one
  deviation per prompt and step, and w_t as in `noise_weighted`. A group has several
  initial noises, each shared by some (`rollout.branch.members`).
  TempFlow-GRPO, https://arxiv.org/abs/2508.04324: 24 are 6 branches of each of 4, by
  accounts of the authors' code.

  Args:
    step_signal: composed reward; at t + 1 that of the branch of step t.
    step_mask: True where it is valid; a sample with an invalid step is excluded.
    steps: constants of the sampler's steps.
    form: see `noise_weighted`.
    scale: see `noise_weighted`.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage, before the weight; None or 0 for no bound.

  Returns:
    advantage, 0 where masked and at steps without noise.
  """
  mask = jnp.all(jnp.asarray(step_mask), axis=-1, keepdims=True)
  reward = jnp.where(mask, jnp.asarray(step_signal)[..., 1:], 0.0)
  advantage = bounded(step_scores(reward, mask, epsilon), mask, clip)
  return jax.lax.stop_gradient(advantage * _by_noise(steps, form, scale))


def equalised(
  signal: Float[ArrayLike, "P G"],
  mask: Bool[ArrayLike, "P G"],
  steps: steppers.StepTable,
  *,
  std: str = "group",
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """`group`, scaled so that all steps have gradients of equal size.

  A_t = A median(N) / N_t with N_t = |c_v| / std, the size of the derivative of a
  step's log-probability by the velocity; the median is over the noisy steps.
  The gradient norm equaliser of SAGE-GRPO, https://arxiv.org/abs/2603.21872, which
  puts the factor on the clipped loss of the step.

  Args:
    signal: composed reward; anything where masked.
    mask: True where it is valid.
    steps: constants of the sampler's steps.
    std: see `group`.
    epsilon: see `group`.
    clip: see `group`; of A, before the weight.

  Returns:
    advantage, 0 where masked and at steps without noise.
  """
  advantage = group(signal, mask, std=std, epsilon=epsilon, clip=clip)
  noise = jnp.asarray(steps.std, jnp.float32)
  noisy = noise > 0
  size = jnp.abs(jnp.asarray(steps.c_v)) / jnp.where(noisy, noise, 1.0)
  middle = jnp.nanmedian(jnp.where(noisy, size, jnp.nan))
  weight = jnp.where(noisy, middle / jnp.where(noisy, size, 1.0), 0.0)
  return jax.lax.stop_gradient(advantage[..., None] * weight)


def values(
  jump_signal: Float[ArrayLike, "P G S"],
  jump_mask: Bool[ArrayLike, "P G S"],
  *,
  discount: float = 0.9,
  anchor: float = 0.1,
  anchored: float = 0.5,
  epsilon: float = 1e-4,
  clip: float | None = 5.0,
) -> Float[Array, "P G T"]:
  """Value of each step, relative to the group and anchored at its own size.

  Q_t = sum_k discount^k R_{t+k} over the remaining steps, with R_t the reward
  after step t, omega_t = Q_t / mean_t Q_t,
  A_t = omega_t ((Q_t - mean_G Q_t) / (std_G Q_t + epsilon) + anchor Q_t), the last
  term in the first share `anchored` of the steps. Rewards should be positive; a
  group of equal rewards still gets credit from it.
  VGPO, https://arxiv.org/abs/2512.12387, in the expanded form: the published
  (1 + anchor std) quotient is 0 / epsilon in a group of equal rewards. discount
  and anchor are unverified.

  Args:
    jump_signal: composed reward of every step's latents, finished by one Euler step,
      and of the sample last.
    jump_mask: True where it is valid; a sample with an invalid step is excluded.
    discount: of later steps, in [0, 1].
    anchor: weight of the value itself.
    anchored: share of the steps, from the noise on, that it counts for.
    epsilon: added to the standard deviation.
    clip: largest absolute advantage; None or 0 for no bound.

  Returns:
    advantage, 0 where masked.

  Raises:
    UserError: a share or a discount outside [0, 1].
  """
  for name, value in (("discount", discount), ("anchored", anchored)):
    if not 0 <= value <= 1:
      raise UserError(f"config.advantage.{name}={value}: it lies in [0, 1]")
  mask = jnp.all(jnp.asarray(jump_mask), axis=-1, keepdims=True)
  reward = jnp.where(mask, jnp.asarray(jump_signal)[..., 1:], 0.0)
  value = to_go(reward, discount)
  mean_value = jnp.maximum(jnp.mean(value, axis=-1, keepdims=True), epsilon)
  share = value / mean_value
  count = round(anchored * reward.shape[-1])
  anchor_term = jnp.where(
    jnp.arange(reward.shape[-1]) < count, anchor * value, 0.0
  )
  advantage = share * (step_scores(value, mask, epsilon) + anchor_term)
  return bounded(advantage, mask, clip)


def to_go(
  rewards: Float[ArrayLike, "P G T"], discount: float
) -> Float[Array, "P G T"]:
  """sum_k discount^k r_{t+k} over the remaining steps."""
  rewards = jnp.moveaxis(jnp.asarray(rewards), -1, 0)

  def back(later, now):
    later = now + discount * later
    return later, later

  start = jnp.zeros(rewards.shape[1:], rewards.dtype)
  _, returns = jax.lax.scan(back, start, rewards, reverse=True)
  return jnp.moveaxis(returns, 0, -1)


def step_scores(
  values: Float[Array, "P G T"],
  mask: Bool[ArrayLike, "P G #T"],
  epsilon: float,
) -> Float[Array, "P G T"]:
  """z-score of every step within the group; anything where masked."""
  require_not_negative("advantage.", epsilon=epsilon)
  mask = jnp.broadcast_to(mask, values.shape)
  centred = values - masked_mean(values, mask, axis=1, keepdims=True)
  scale = masked_std(values, mask, axis=1, keepdims=True) + epsilon
  return centred / jnp.where(scale > 0, scale, 1.0)


def bounded(
  advantage: Float[Array, "P G T"],
  mask: Bool[ArrayLike, "P G #T"],
  clip: float | None,
) -> Float[Array, "P G T"]:
  """Clipped to [-clip, clip], without a bound for None or 0; 0 where masked."""
  require_not_negative("advantage.", clip=clip)
  if clip:
    advantage = jnp.clip(advantage, -clip, clip)
  return jnp.where(mask, advantage, 0.0)
