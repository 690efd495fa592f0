"""Losses of differences between samples of a prompt, on the sampler's steps.

A pair needs two samples at once, while rows come in micro-batches. Before each
optimizer step all rows are read once (`methods.prepares`): a pair's loss and its
derivative by the log-probability of a row become columns, and the gradient is that
of the pairs to first order, which is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, require_positive
from jaxreward.methods import prepares, whole_samples
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import by_sample, keep
from jaxreward.types import Array, ArrayLike

Loss = tuple[Mean, dict[str, Mean]]
Rows = Float[ArrayLike, "B"]
Columns = Mapping[str, Array]


def _pairs_of_steps(columns: Columns, *, beta: float, clip_range: float) -> Any:
  """Columns from pairs of rows at one step of one prompt, for `d3po`."""
  flat = {k: x.ravel() for k, x in columns.items()}
  move = jnp.log(_band(jnp.exp(flat["move"]), clip_range))

  def pair_terms(a):
    sign = jnp.sign(a["advantage"] - flat["advantage"])
    pair = (
      (a["prompt"] == flat["prompt"]) & (a["t"] == flat["t"]) & (sign != 0)
      & a["valid"] & flat["valid"]
    )  # fmt: skip
    z = beta * sign * (a["move"] - move)
    pull = jnp.where(pair, -beta * sign * jax.nn.sigmoid(-z), 0.0)
    half = lambda x: jnp.where(pair, x, 0.0).sum() / 2
    return pull.sum(), half(jax.nn.softplus(-z)), half(jnp.ones_like(z))

  rows = jax.lax.map(pair_terms, flat | {"move": move})
  shape = columns["move"].shape
  names = ("pull", "pair_loss", "pair_count")
  return {k: x.reshape(shape) for k, x in zip(names, rows, strict=True)}


@prepares(
  lambda log_prob, reference_log_prob, advantage, prompt, t, mask: {
    "move": jnp.where(mask, log_prob - reference_log_prob, 0.0),
    "advantage": advantage,
    "prompt": prompt,
    "t": jnp.broadcast_to(t, jnp.shape(mask)),
    "valid": mask,
  },
  _pairs_of_steps,
  gives=("pull", "pair_loss", "pair_count"),
)
def d3po(
  log_prob: Rows,
  reference_log_prob: Rows,
  pull: Rows,
  pair_loss: Rows,
  pair_count: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 0.1,
  clip_range: float = 0.1,
) -> Loss:
  """D3PO: the preference between two samples, at each of their steps.

  L = mean over pairs and steps of -log sigmoid(beta y (log rho_a - log rho_b)),
  rho = clip(p / p_ref, 1 - clip_range, 1 + clip_range), y the sign of A_a - A_b;
  equal ones make no pair. No gradient flows through a rho outside the band.
  Yang et al. 2023, https://arxiv.org/abs/2311.13231, read in the authors' code,
  which sums log-probabilities over elements where the mean is taken here: a band
  of .1 then hardly binds, and beta is per element. Take all steps of a group in
  one optimizer step, `align.updates=1`.

  Args:
    log_prob: of the stored step under the trained parameters.
    reference_log_prob: under the reference; no gradient.
    pull: derivative of the pairs' losses by log rho.
    pair_loss: this row's share of them.
    pair_count: its share of their number.
    mask: False for padding, which may hold anything.
    beta: strength of the tie to the reference, above 0.
    clip_range: of rho.

  Returns:
    (loss, metrics): ratio, mean rho.

  Raises:
    UserError: a band that is not inside (0, 1).
  """
  require_positive("objective.", beta=beta)
  if not 0 < clip_range < 1:
    raise UserError(f"objective.clip_range={clip_range}: it lies in (0, 1)")
  log_prob, reference, pull, pair_loss, count = keep(
    mask, log_prob, reference_log_prob, pull, pair_loss, pair_count
  )
  ratio = jnp.exp(log_prob - jax.lax.stop_gradient(reference))
  rho = _band(ratio, clip_range)
  loss = _first_order(pair_loss, pull, jnp.log(rho))
  metrics = {"ratio": Mean.of(jax.lax.stop_gradient(rho), mask)}
  total = Mean(jnp.sum(loss), jax.lax.stop_gradient(jnp.sum(count)))
  return total, metrics


def _pairs_of_samples(columns: Columns, *, scale: float, clip_range: float):
  """Columns from pairs of samples of one prompt, for `prdp` and `rebel`.

  With m the sum of a sample's moves and e_ab = m_a - m_b - (A_a - A_b) / scale the
  loss of a pair is e^2, or that of clipped moves where it is larger.
  """
  flat, place, total = by_sample(columns)
  size = flat["sample"].size
  near = flat["old"] + jnp.clip(
    flat["move"] - flat["old"], -clip_range, clip_range
  )
  top = lambda x: jax.ops.segment_max(x, place, size)
  samples = {
    "move": total(flat["move"]),
    "near": total(near),
    "advantage": top(jnp.where(flat["valid"], flat["advantage"], -jnp.inf)),
    "prompt": top(flat["prompt"]),
    "there": total(jnp.ones(size)) > 0,
    "place": jnp.arange(size),
  }
  samples["advantage"] = jnp.where(samples["there"], samples["advantage"], 0.0)

  def pair_terms(a):
    pair = (
      (a["prompt"] == samples["prompt"]) & (a["place"] != samples["place"])
      & a["there"] & samples["there"]
    )  # fmt: skip
    target = (a["advantage"] - samples["advantage"]) / scale
    plain = a["move"] - samples["move"] - target
    clipped = a["near"] - samples["near"] - target
    larger = jnp.square(clipped) > jnp.square(plain)
    add = lambda x, condition: jnp.where(pair & condition, x, 0.0).sum()
    worst = jnp.maximum(jnp.square(plain), jnp.square(clipped))
    return (
      add(2 * plain, ~larger), add(2 * clipped, larger),
      add(worst / 2, True), add(jnp.full(size, 0.5), True),
    )  # fmt: skip

  rows = jax.lax.map(pair_terms, samples)
  steps = jnp.maximum(total(jnp.ones(size)), 1)
  # Loss and count of a sample are divided over its rows.
  pull, pull_near, loss, count = (x[place] for x in rows)
  spread = steps[place]
  shape = columns["move"].shape
  columns_of_rows = (pull, pull_near, loss / spread, count / spread)
  names = ("pull", "pull_near", "pair_loss", "pair_count")
  return {
    k: x.reshape(shape) for k, x in zip(names, columns_of_rows, strict=True)
  }


@prepares(
  lambda log_prob, reference_log_prob, old_log_prob, advantage, prompt, sample,
  mask: {
    "move": jnp.where(mask, log_prob - reference_log_prob, 0.0),
    "old": jnp.where(mask, old_log_prob - reference_log_prob, 0.0),
    "advantage": advantage, "prompt": prompt, "sample": sample, "valid": mask,
  },
  lambda columns, *, beta, clip_range: _pairs_of_samples(
    columns, scale=beta, clip_range=clip_range
  ),
  gives=("pull", "pull_near", "pair_loss", "pair_count"),
)  # fmt: skip
@whole_samples
def prdp(
  log_prob: Rows,
  reference_log_prob: Rows,
  old_log_prob: Rows,
  pull: Rows,
  pull_near: Rows,
  pair_loss: Rows,
  pair_count: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  beta: float = 4e4,
  clip_range: float = 1e-4,
) -> Loss:
  """PRDP: log-ratios of two samples should differ as their rewards do.

  L = mean over pairs of (beta (m_a - m_b) - (A_a - A_b))^2, m the sum over steps of
  log p - log p_ref, which is the paper's times beta^2; or of the same with each
  step's log-ratio within clip_range of its value when it was sampled, where that is
  larger. At its minimum the policy is
  p_ref exp(r / beta) / Z. An advantage that does not divide keeps the differences
  of rewards: `dict(name="group", std="none")`.
  Deng et al. 2024, https://arxiv.org/abs/2402.08714. Log-probabilities are means
  over elements here: beta is that of the paper, about 10, times their number.
  clip_range is unverified. Take all steps of a group in one optimizer step,
  `align.updates=1`.

  Args:
    log_prob: of the stored step under the trained parameters.
    reference_log_prob: under the reference; no gradient.
    old_log_prob: when it was sampled; no gradient.
    pull: derivative of the pairs' losses by m.
    pull_near: by the clipped m.
    pair_loss: this row's share of the losses.
    pair_count: its share of their number.
    mask: False for padding, which may hold anything.
    beta: temperature of the tilted reference, per element.
    clip_range: of a step's log-ratio, around that of the sampling policy.

  Returns:
    (loss, metrics): prediction_error, the loss, in squares of the reward.

  Raises:
    UserError: an option that is not positive.
  """
  require_positive("objective.", beta=beta, clip_range=clip_range)
  log_prob, reference, old, pull, pull_near, pair_loss, count = keep(
    mask, log_prob, reference_log_prob, old_log_prob, pull, pull_near,
    pair_loss, pair_count,
  )  # fmt: skip
  move = log_prob - jax.lax.stop_gradient(reference)
  start = jax.lax.stop_gradient(old - reference)
  near = start + jnp.clip(move - start, -clip_range, clip_range)
  loss = _first_order(pair_loss, pull, move) + _first_order(0, pull_near, near)
  weight = jax.lax.stop_gradient(jnp.sum(count))
  total = jnp.sum(loss) * beta**2
  error = {"prediction_error": jax.lax.stop_gradient(Mean(total, weight))}
  return Mean(total, weight), error


@prepares(
  lambda log_prob, old_log_prob, advantage, prompt, sample, mask: {
    "move": jnp.where(mask, log_prob - old_log_prob, 0.0),
    "old": jnp.zeros(jnp.shape(mask)),
    "advantage": advantage, "prompt": prompt, "sample": sample, "valid": mask,
  },
  lambda columns, *, eta: _pairs_of_samples(
    columns, scale=eta, clip_range=jnp.inf
  ),
  gives=("pull", "pair_loss", "pair_count"),
)  # fmt: skip
@whole_samples
def rebel(
  log_prob: Rows,
  old_log_prob: Rows,
  pull: Rows,
  pair_loss: Rows,
  pair_count: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  eta: float = 4e3,
) -> Loss:
  """REBEL: the same regression around the sampling policy.

  L = mean over pairs of (eta (m_a - m_b) - (A_a - A_b))^2, m the sum over steps of
  log p - log p_old: 0 where log-ratios differ as advantages do over eta.
  Gao et al. 2024, https://arxiv.org/abs/2404.16767; RLCM's second loss,
  https://arxiv.org/abs/2404.03673. There log-probabilities are sums over elements
  and eta is 1; here they are means, and eta is about the number of elements.
  Take all steps of a group in one optimizer step, `align.updates=1`.

  Args:
    log_prob: of the stored step under the trained parameters.
    old_log_prob: when it was sampled; no gradient.
    pull: derivative of the pairs' losses by m.
    pair_loss: this row's share of the losses.
    pair_count: its share of their number.
    mask: False for padding, which may hold anything.
    eta: of the log-ratios, above 0.

  Returns:
    (loss, metrics): prediction_error, the loss.
  """
  log_prob, old, pull, pair_loss, count = keep(
    mask, log_prob, old_log_prob, pull, pair_loss, pair_count
  )
  move = log_prob - jax.lax.stop_gradient(old)
  total = jnp.sum(_first_order(pair_loss, pull, move)) * eta**2
  weight = jax.lax.stop_gradient(jnp.sum(count))
  error = {"prediction_error": jax.lax.stop_gradient(Mean(total, weight))}
  return Mean(total, weight), error


def _band(ratio: Array, clip_range: float) -> Array:
  return jnp.clip(ratio, 1 - clip_range, 1 + clip_range)


def _first_order(value: Any, slope: Array, x: Array) -> Array:
  """Returns `value`, with `slope` as its derivative by x."""
  value, slope = jax.lax.stop_gradient((value, slope))
  return value + slope * (x - jax.lax.stop_gradient(x))
