"""Flow matching: supervised training on images, and weighted regression."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, require_positive, shown
from jaxreward.methods import prepares
from jaxreward.numerics import Mean
from jaxreward.objectives.reductions import keep, mean_square
from jaxreward.types import Array, ArrayLike

Latents = Float[ArrayLike, "B *L"]
Rows = Float[ArrayLike, "B"]
ERRORS = ("velocity", "x0")


def flow_matching(
  v: Latents,
  u: Latents,
  t: Rows,
  weight: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  weighting: str = "uniform",
  error: str = "velocity",
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
    error: "velocity", or "x0", that of the image x_t - t v: t^2 times as much,
      which diffusers' scripts for SD3 minimise and those for FLUX do not.

  Returns:
    (loss, metrics): matching_loss, mean (v - u)^2 without any weight.
  """
  v, u, weight = keep(mask, v, u, weight)
  matching = mean_square(v - u)
  t = jnp.where(mask, jnp.asarray(t, matching.dtype), 1.0)
  loss = jax.lax.stop_gradient(weight) * _weight(t, weighting) * matching
  if error not in ERRORS:
    raise UserError(
      f'objective.error is "{shown(error)}"; it must be one of'
      f" {', '.join(ERRORS)}{nearest(str(error), ERRORS)}"
    )
  loss = loss * jnp.square(t) if error == "x0" else loss
  metrics = {"matching_loss": Mean.of(matching, mask)}
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def _shares(columns) -> dict[str, Array]:
  """Rows of each kind, with weights that make their mean over all rows 1."""
  valid, real = columns["valid"], columns["real"]
  total = valid.sum()

  def share(kind):
    count = (valid & kind).sum()
    return jnp.where(valid & kind, total / jnp.maximum(count, 1), 0.0)

  return {"share": share(real) + share(~real)}


@prepares(
  lambda real, mask: {"real": real, "valid": mask}, _shares, gives=("share",)
)
def region_matching(
  v: Latents,
  u: Latents,
  place_weight: Float[ArrayLike, "B h w"],
  real: Bool[ArrayLike, "B"],
  share: Rows,
  mask: Bool[ArrayLike, "B"],
  *,
  anchor: float = 0.5,
) -> tuple[Mean, dict[str, Mean]]:
  """SRUM: flow matching on own samples by places, and on reference images whole.

  L = mean M (v - u)^2 over own samples + anchor mean (v - u)^2 over reference
  images (`rollout.real`), M the advantage's weights (`regional`), bilinear on the
  grid of latents. Without references, M = 1 is flow matching.
  https://arxiv.org/abs/2510.12784, read in the authors' code: .5 for composition, .1
  by default.

  Args:
    v: velocity of the trained parameters at x_t.
    u: the target there.
    place_weight: M; no gradient.
    real: rows of reference images.
    share: all rows over those of the row's kind, in the optimizer step.
    mask: False for padding, which may hold anything.
    anchor: weight of the reference images.

  Returns:
    (loss, metrics): matching_loss of own samples, without M; anchor_loss, of the
    references; place_weight, mean M.
  """
  v, u, weight, share = keep(mask, v, u, place_weight, share)
  weight, share = jax.lax.stop_gradient((weight, share))
  grid = v.shape[-3:-1] if v.ndim > 3 else v.shape[1:3]
  weight = jax.image.resize(weight, (len(v), *grid), "linear")
  lead = (1,) * (v.ndim - 4)
  weight = weight.reshape(len(v), *lead, *grid, *(1,) * (v.ndim > 3))
  error = jnp.square(v - u)
  axes = tuple(range(1, v.ndim))
  of_places = jnp.mean(weight * error, axis=axes)
  whole = jnp.mean(error, axis=axes)
  is_real = jnp.asarray(mask) & jnp.asarray(real).astype(bool)
  loss = share * jnp.where(is_real, anchor * whole, of_places)
  is_sample = jnp.asarray(mask) & ~is_real
  metrics = {
    "matching_loss": Mean.of(whole, is_sample),
    "anchor_loss": Mean.of(whole, is_real),
    "place_weight": Mean.of(jnp.mean(weight, axis=axes), is_sample),
  }
  return Mean.of(loss, mask), jax.lax.stop_gradient(metrics)


def contrastive_matching(
  v: Latents,
  v_others: Float[ArrayLike, "B N *L"],
  u: Latents,
  mask: Bool[ArrayLike, "B"],
  *,
  scale: float = 4.0,
  temperature: float = 0.07,
  matching_weight: float = 0.0,
) -> tuple[Mean, dict[str, Mean]]:
  """SoftREPA: an image is to be drawn better by its own prompt than by others.

  z_j = scale exp(-e_j / temperature), e_j = mean (v(x_t, prompt_j) - u)^2 under one
  noise and time, L = -log softmax(z)_own + matching_weight e_own. As z lies in
  (0, scale], L is above log(1 + N e^-scale) for N other prompts.
  https://arxiv.org/abs/2503.08250, read in the authors' code, where scale and
  temperature are parameters that nothing trains; there images of a batch share noise
  and time too, here each row has its own.

  Args:
    v: velocity of the trained parameters at x_t.
    v_others: under other prompts of the iteration, which are taken for different.
    u: the target there.
    mask: False for padding, which may hold anything.
    scale: largest logit.
    temperature: error by which a logit falls to 1 / e of it.
    matching_weight: of the plain loss; 0 for SD3, 10 for SD1.5 and SDXL.

  Returns:
    (loss, metrics): own_first, the share of rows whose own prompt has the least
    error, and matching_loss.

  Raises:
    UserError: an option out of its range.
  """
  require_positive("objective.", scale=scale, temperature=temperature)
  if not matching_weight >= 0:
    raise UserError(
      f"objective.matching_weight={matching_weight}: it must be 0 or above"
    )
  v, v_others, u = keep(mask, v, v_others, u)
  error = mean_square(v - u)
  errors = jax.vmap(mean_square)(v_others - u[:, None])
  errors = jnp.concatenate([error[:, None], errors], 1)
  logits = scale * jnp.exp(-errors / temperature)
  loss = -jax.nn.log_softmax(logits, 1)[:, 0] + matching_weight * error
  metrics = {
    "own_first": Mean.of(errors.argmin(1) == 0, mask),
    "matching_loss": Mean.of(error, mask),
  }
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
