"""Objectives on the forward process: no likelihood, no stochastic sampler.

A finished sample x0 is noised again, x_t = (1 - t) x0 + t eps, and the
network's velocity is pulled towards or pushed from u = eps - x0 according to
the sample's advantage. All arrays share the row axis B, one row per
(sample, time); v_old is the velocity of the sampling policy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square, per_row
from jaxreward.types import Array, ArrayLike

Loss = tuple[Mean, dict[str, Mean]]
Rows = Float[ArrayLike, "B"]
Latents = Float[ArrayLike, "B *L"]


def diffusion_nft(
  v: Latents,
  v_old: Latents,
  x0: Latents,
  x_t: Latents,
  t: Rows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 1.0,
  adv_clip: float = 5.0,
  adv_mode: str = "all",
  adaptive_weight: bool = True,
  weight_floor: float = 1e-5,
) -> Loss:
  """DiffusionNFT: contrast of an implicit positive and negative policy.

  v+- = v_old +- beta (v - v_old),
  e+- = (x_t - t v+-) - x0, r = clip(A / (2 adv_clip) + 1/2, 0, 1),
  L = adv_clip / beta mean[r |e+|^2 / w+ + (1 - r) |e-|^2 / w-],
  with |.|^2 the mean over elements and w = stop_gradient(max(mean |e|,
  weight_floor)) per sample, or 1 without `adaptive_weight`. Unweighted, each
  sample's minimiser is v_old + (2 r - 1) / beta (u - v_old).
  Zheng et al. 2025, https://arxiv.org/abs/2509.16117, eq. 5, in the x0 form
  of the authors' code.

  Args:
    v: velocity of the trained parameters at (x_t, t).
    v_old: velocity of the sampling policy there; no gradient.
    x0: the finished samples.
    x_t: the noised samples.
    t: times in (0, 1].
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    beta: strength of the implicit policies' step; 1 or 0.1 are published.
    adv_clip: advantage that maps to r = 1; also scales the loss.
    adv_mode: "all"; "positive_only" or "negative_only" set the other sign
      to 0; "one_only" uses 1 for positive and 0 for the rest; "binary" the
      sign.
    adaptive_weight: whether to divide by w.
    weight_floor: smallest w.

  Returns:
    (loss, metrics): optimality (r), loss_positive, loss_negative and
    velocity_shift, mean (v - v_old)^2.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive(
    "objective.", beta=beta, adv_clip=adv_clip, weight_floor=weight_floor
  )
  v, v_old, x0, x_t, t, advantage = keep(mask, v, v_old, x0, x_t, t, advantage)
  v_old = jax.lax.stop_gradient(v_old)
  r = _optimality(jax.lax.stop_gradient(advantage), adv_clip, adv_mode)

  def error(velocity):
    residual = x_t - per_row(t, x_t.ndim) * velocity - x0
    square = mean_square(residual)
    if not adaptive_weight:
      return square
    axes = tuple(range(1, residual.ndim))
    weight = jnp.mean(jnp.abs(residual), axis=axes)
    return square / jax.lax.stop_gradient(jnp.maximum(weight, weight_floor))

  # Written with the shift, so that both are v_old exactly when v is.
  shift = beta * (v - v_old)
  positive = r * error(v_old + shift)
  negative = (1 - r) * error(v_old - shift)
  scale = adv_clip / beta
  metrics = {
    "optimality": Mean.of(r, mask),
    "loss_positive": Mean.of(scale * positive, mask),
    "loss_negative": Mean.of(scale * negative, mask),
    "velocity_shift": Mean.of(mean_square(v - v_old), mask),
  }
  metrics = jax.lax.stop_gradient(metrics)
  return Mean.of(scale * (positive + negative), mask), metrics


def awm(
  v: Latents,
  v_old: Latents,
  x0: Latents,
  x_t: Latents,
  t: Rows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  weighting: str = "ghuber",
  power: float = 0.25,
  clip_range: float = 1.0,
  adv_clip: float = 5.0,
  adv_max: float = 1.0,
) -> Loss:
  """Advantage weighted matching: the flow loss as a pseudo log-likelihood.

  l = mean (v - u)^2 with u = (x_t - x0) / t, w(l, t) a weighting of it, and
  log r = w(l_old, t) - w(l, t),
  a = clip(A, -adv_clip, adv_clip) adv_max / adv_clip;
  then the clipped loss of PPO on a, so that on policy the gradient is a grad w.
  Xue et al. 2025, https://arxiv.org/abs/2509.25050. The ratio is per row,
  that is per (sample, time).

  Args:
    v: velocity of the trained parameters at (x_t, t).
    v_old: velocity of the sampling policy there; no gradient.
    x0: the finished samples.
    x_t: the noised samples.
    t: times in (0, 1].
    advantage: A; no gradient.
    mask: False for padding, which may hold anything.
    weighting: w: "uniform" l; "t" t l; "t2" t^2 l; "huber"
      t (sqrt(l + d) - sqrt(d)); "ghuber" t ((l + d)^power - d^power) / power;
      d = 1e-10.
    power: of "ghuber".
    clip_range: how far from 1 the ratio counts; 1, as in all of the authors'
      recipes, leaves only ratios above 2 to the clip.
    adv_clip: largest absolute advantage.
    adv_max: what the largest becomes; the scale of the loss.

  Returns:
    (loss, metrics): ratio, clip_fraction_low, clip_fraction_high,
    matching_loss (l) and velocity_shift.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive(
    "objective.",
    power=power,
    clip_range=clip_range,
    adv_clip=adv_clip,
    adv_max=adv_max,
  )
  v, v_old, x0, x_t, advantage = keep(mask, v, v_old, x0, x_t, advantage)
  v_old, advantage = jax.lax.stop_gradient((v_old, advantage))
  advantage = jnp.clip(advantage, -adv_clip, adv_clip) * (adv_max / adv_clip)
  t = jnp.where(mask, t, 1.0)
  target = (x_t - x0) / per_row(t, x_t.ndim)
  matching = mean_square(v - target)
  old = _weigh(mean_square(v_old - target), t, weighting, power)
  ratio = jnp.exp(old - _weigh(matching, t, weighting, power))
  clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
  loss = jnp.maximum(-advantage * ratio, -advantage * clipped)
  low = (advantage < 0) & (ratio < 1 - clip_range)
  high = (advantage > 0) & (ratio > 1 + clip_range)
  metrics = {
    "ratio": Mean.of(ratio, mask),
    "clip_fraction_low": Mean.of(low, mask),
    "clip_fraction_high": Mean.of(high, mask),
    "matching_loss": Mean.of(matching, mask),
    "velocity_shift": Mean.of(mean_square(v - v_old), mask),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def ac_flow(
  v: Latents,
  x0: Latents,
  noise: Latents,
  value: Rows,
  advantage: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  temperature: float = 2.0,
  adv_clip: float = 0.5,
) -> Loss:
  """AC-Flow: flow matching weighted by the error of a critic.

  L = mean w mean (v - u)^2, u = eps - x0,
  w = exp(temperature clip(A, -adv_clip, adv_clip)), A = r - V(x_t, t, c),
  with r the shaped reward of the finished sample (the advantage "whitened") and V
  a player that gives "value". Temperature 0 is flow matching on the policy's own
  samples. Fan et al. 2025, https://arxiv.org/abs/2510.18072; the weight's form and
  both constants are unverified. A `velocity_distance` holds the diversity.

  Args:
    v: velocity of the trained parameters at (x_t, t).
    x0: the finished samples.
    noise: eps.
    value: V; no gradient.
    advantage: r; no gradient.
    mask: False for padding, which may hold anything.
    temperature: of the weights.
    adv_clip: largest absolute A.

  Returns:
    (loss, metrics): critic_weight (w), critic_gap (|A|), matching_loss.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", adv_clip=adv_clip)
  v, x0, noise, value, advantage = keep(mask, v, x0, noise, value, advantage)
  gap = jax.lax.stop_gradient(advantage - value)
  weight = jnp.exp(temperature * jnp.clip(gap, -adv_clip, adv_clip))
  matching = mean_square(v - (noise - x0))
  metrics = {
    "critic_weight": Mean.of(weight, mask),
    "critic_gap": Mean.of(jnp.abs(gap), mask),
    "matching_loss": Mean.of(matching, mask),
  }
  return Mean.of(weight * matching, mask), jax.lax.stop_gradient(metrics)


def _optimality(advantage: Array, adv_clip: float, mode: str) -> Array:
  """Probability of being optimal, r in [0, 1], from the advantage."""
  a = jnp.clip(advantage, -adv_clip, adv_clip)
  modes = {
    "all": lambda: a,
    "positive_only": lambda: jnp.maximum(a, 0),
    "negative_only": lambda: jnp.minimum(a, 0),
    "one_only": lambda: jnp.where(a > 0, 1.0, 0.0),
    "binary": lambda: jnp.sign(a),
  }
  if mode not in modes:
    raise UserError(
      f'objective.adv_mode is "{mode}"; it must be one of {", ".join(modes)}.'
    )
  return jnp.clip(modes[mode]() / (2 * adv_clip) + 0.5, 0, 1)


def _weigh(loss: Array, t: Array, weighting: str, power: float) -> Array:
  """w(l, t) of `awm`."""
  tiny = 1e-10
  forms = {
    "uniform": lambda: loss,
    "t": lambda: t * loss,
    "t2": lambda: jnp.square(t) * loss,
    "huber": lambda: t * (jnp.sqrt(loss + tiny) - tiny**0.5),
    "ghuber": lambda: t * ((loss + tiny) ** power - tiny**power) / power,
  }
  if weighting not in forms:
    raise UserError(
      f'objective.weighting is "{weighting}"; '
      f"it must be one of {', '.join(forms)}."
    )
  return forms[weighting]()
