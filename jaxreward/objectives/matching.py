"""Flow matching: supervised training on images, and weighted regression."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, shown
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square
from jaxreward.types import Array, ArrayLike

Latents = Float[ArrayLike, "B *L"]
Rows = Float[ArrayLike, "B"]


def flow_matching(
  v: Latents,
  u: Latents,
  t: Rows,
  weight: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  weighting: str = "uniform",
) -> tuple[Mean, dict[str, Mean]]:
  """Weighted flow matching: L = mean weight w(t) mean (v - u)^2, u = eps - x0.

  Lipman et al. 2023, https://arxiv.org/abs/2210.02747; the weightings are
  those of Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1.

  On a dataset `weight` is the row's own. On a policy's own samples it is the
  advantage: with `curated` at a low temperature this is rejection sampling, with
  `exponential` reward-weighted regression.

  Args:
    v: velocity of the trained parameters at x_t.
    u: the target there.
    t: times in (0, 1].
    weight: of the rows; no gradient.
    mask: False for padding, which may hold anything.
    weighting: w: "uniform" 1; "sigma_sqrt" t^-2; "cosmap"
      2 / (pi (1 - 2 t + 2 t^2)).

  Returns:
    (loss, metrics): matching_loss, mean (v - u)^2 without any weight.
  """
  v, u, weight = keep(mask, v, u, weight)
  matching = mean_square(v - u)
  t = jnp.where(mask, jnp.asarray(t, matching.dtype), 1.0)
  loss = jax.lax.stop_gradient(weight) * _weight(t, weighting) * matching
  metrics = {"matching_loss": Mean.of(matching, mask)}
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def _weight(t: Array, weighting: str) -> Array:
  """w(t) of `flow_matching`."""
  forms = {
    "uniform": lambda: jnp.ones_like(t),
    "sigma_sqrt": lambda: 1 / jnp.square(t),
    "cosmap": lambda: 2 / (math.pi * (1 - 2 * t + 2 * jnp.square(t))),
  }
  if weighting not in forms:
    raise UserError(
      f'objective.weighting is "{shown(weighting)}"; it must be one of'
      f" {', '.join(forms)}{nearest(str(weighting), forms)}"
    )
  return forms[weighting]()
