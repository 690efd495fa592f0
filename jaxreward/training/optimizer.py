"""Optax chains by name, and an update that skips non-finite steps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from optax import contrib

from jaxreward.errors import (
  UserError,
  is_finite,
  nearest,
  require_counts,
  require_not_negative,
  require_positive,
  shown,
)
from jaxreward.numerics import Mean
from jaxreward.types import ArrayLike, Params

METRICS = ("grad_norm", "update_norm", "skipped_updates")  # of every update

# Linen's dense and convolution weights, adapters, and nothing else: a bias of
# scanned layers is [depth, features], so the number of axes tells nothing.
MATRICES = r"(^|/)(kernel|lora/[ab])$"


def make_schedule(
  *,
  learning_rate: float,
  schedule: str = "constant",
  warmup_steps: int = 0,
  total_steps: int = 0,
  final_scale: float = 0.0,
) -> optax.Schedule:
  """Learning rate of step n = 0, 1, ...

  lr min(1, (n + 1) / warmup) d(p), p = (n - warmup) / (total - warmup) in
  [0, 1]; d falls from 1 to `final_scale` along half a cosine or a line. The
  warm-up starts at lr / warmup, since a step at rate 0 is wasted.
  """
  decays = {
    "constant": lambda p: jnp.ones_like(p),
    "cosine": lambda p: 0.5 * (1 + jnp.cos(jnp.pi * p)),
    "linear": lambda p: 1 - p,
  }
  if schedule not in decays:
    raise UserError(
      f'optimizer.schedule is "{schedule}"{nearest(schedule, decays)}; '
      f"it must be one of {', '.join(decays)}."
    )
  if schedule != "constant" and total_steps <= warmup_steps:
    raise UserError(
      f"optimizer.warmup_steps is {warmup_steps} of {total_steps} steps in "
      f'all: schedule "{schedule}" has none left to decay in.'
    )

  def rate(step):
    n = jnp.asarray(step, jnp.float32)
    warm = jnp.minimum(1.0, (n + 1) / max(warmup_steps, 1))
    progress = (n - warmup_steps) / max(total_steps - warmup_steps, 1)
    decay = decays[schedule](jnp.clip(progress, 0.0, 1.0))
    if schedule != "constant":
      decay = final_scale + (1 - final_scale) * decay
    return learning_rate * warm * decay

  return rate


def make_optimizer(
  *,
  name: str = "adamw",
  learning_rate: float,
  schedule: str = "constant",
  warmup_steps: int = 0,
  total_steps: int = 0,
  final_scale: float = 0.0,
  clip_norm: float | None = 1.0,
  weight_decay: float = 0.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  momentum: float = 0.95,
  adam_scale: float = 1.0,
  matrices: str = MATRICES,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Clip by global norm, then an optimizer under a schedule.

  Args:
    name: "adamw"; "muon" (matrices by Muon, the rest by Adam); or "sgd".
    learning_rate: peak rate.
    schedule: "constant", "cosine" or "linear", see `make_schedule`.
    warmup_steps: steps of linear warm-up.
    total_steps: steps until the decay ends; not read by "constant".
    final_scale: share of the peak rate left at the end of a decay.
    clip_norm: largest global norm of the gradient; None or 0 for no bound.
    weight_decay: decoupled, times the rate, on matrices only.
    b1: Adam's first decay.
    b2: Adam's second decay.
    eps: Adam's and Muon's epsilon.
    momentum: of "muon" and "sgd".
    adam_scale: rate of Muon's Adam part, relative to `learning_rate`.
    matrices: regex on the parameter path ("a/b/kernel"); matching arrays with
      two or more axes are matrices [..., in, out], the axes before them
      (scanned layers) independent.

  Returns:
    (transformation, schedule), the schedule for logging the rate.

  Raises:
    UserError: an unknown name, or an option out of its range.
  """
  require_ranges(
    learning_rate=learning_rate, warmup_steps=warmup_steps,
    final_scale=final_scale, clip_norm=clip_norm, weight_decay=weight_decay,
    b1=b1, b2=b2, eps=eps, momentum=momentum, adam_scale=adam_scale,
  )  # fmt: skip
  rate = make_schedule(
    learning_rate=learning_rate,
    schedule=schedule,
    warmup_steps=warmup_steps,
    total_steps=total_steps,
    final_scale=final_scale,
  )
  adam = dict(b1=b1, b2=b2, eps=eps)
  decayed = lambda params: matrix_mask(params, matrices)
  optimizers = {
    "adamw": lambda: optax.adamw(
      rate, **adam, weight_decay=weight_decay, mask=decayed
    ),
    "muon": lambda: _muon(
      rate, adam, momentum, weight_decay, adam_scale, matrices
    ),
    "sgd": lambda: optax.chain(
      optax.trace(decay=momentum, nesterov=True),
      optax.add_decayed_weights(weight_decay, mask=decayed),
      optax.scale_by_learning_rate(rate),
    ),
  }
  if name not in optimizers:
    raise UserError(
      f'optimizer.name is "{name}"{nearest(name, optimizers)}; '
      f"it must be one of {', '.join(optimizers)}."
    )
  chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  return optax.chain(*chain, optimizers[name]()), rate


def require_ranges(prefix: str = "optimizer.", **options: Any) -> None:
  """Refuses numbers of `make_optimizer` that are out of their ranges.

  Args:
    prefix: of their names in the message.
    **options: of `make_optimizer`; those without a range are not read.

  Raises:
    UserError: names the option, its value and the range.
  """
  select = lambda *names: {k: options[k] for k in names if k in options}
  require_counts(prefix, least=0, **select("warmup_steps"))
  require_positive(prefix, **select("eps"))
  require_not_negative(
    prefix, **select("learning_rate", "weight_decay", "adam_scale", "clip_norm")
  )
  for name, value in select("b1", "b2", "momentum").items():
    if not (is_finite(value) and 0 <= value < 1):
      raise UserError(
        f"{prefix}{name}={shown(value)}: expected at least 0 and less than 1"
      )
  for name, value in select("final_scale").items():
    if not (is_finite(value) and 0 <= value <= 1):
      raise UserError(
        f"{prefix}{name}={shown(value)}: expected a number from 0 to 1"
      )


def scaled(
  tx: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
  """The optimizer with the updates of some parts scaled.

  Args:
    tx: from `make_optimizer`.
    rates: {name at the top of the parameters: factor of its learning rate}.

  Raises:
    UserError: a factor that is negative or not finite.
  """
  for name, rate in rates.items():
    if not 0 <= rate < math.inf:
      raise UserError(
        f"config.train_reward.{name}_rate={rate}: it must be finite and 0 or above"
      )
  factors = {name: rate for name, rate in rates.items() if rate != 1.0}
  if not factors:
    return tx

  def scale(updates: Params) -> Params:
    return {
      name: optax.tree.scale(factors.get(name, 1.0), part)
      for name, part in updates.items()
    }

  return optax.chain(tx, optax.stateless(lambda updates, _: scale(updates)))


def by_part(
  parts: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
  """An optimizer per part, by its name at the top of the parameters.

  Each clips by the norm of its own gradients and keeps its own schedule.
  """
  labels = lambda params: {name: name for name in params}
  return optax.partition({**parts}, labels)


def masked(
  tx: optax.GradientTransformation, mask_of: Callable[[Params], Params]
) -> optax.GradientTransformation:
  """The optimizer on a part of the entries of its parameters.

  The others see no gradient, count for no norm, and do not decay.

  Args:
    tx: from `make_optimizer`.
    mask_of: parameters -> tree of 1 and 0, each broadcast to its parameter.
  """

  def only(tree: Params, params: Params) -> Params:
    return jax.tree.map(lambda x, m: x * m, tree, mask_of(params))

  def update(updates, state, params=None):
    updates, state = tx.update(only(updates, params), state, params)
    return only(updates, params), state

  return optax.GradientTransformation(tx.init, update)


def last_layers(
  params: Params, counts: Mapping[str, int], first: str, frozen: str = "$^"
) -> Params:
  """1 for what is trained, 0 for the first layers of a part and what feeds them.

  Args:
    params: a tower's; "layers" is followed by arrays whose first axis is the
      layer.
    counts: {part at the top: layers that are trained, from the last on}.
    first: regex of paths before the layers.
    frozen: regex of paths that are not trained, whatever the counts.

  Raises:
    UserError: a part that is not there, or with fewer layers.
  """
  pattern, never, parts = re.compile(first), re.compile(frozen), set()

  def mask(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    part = name.split("/")[0]
    if never.search(name):
      return np.float32(0)
    if part not in counts:
      return np.float32(1)
    parts.add(part)
    if pattern.search(name):
      return np.float32(0)
    if "/layers/" not in name:
      return np.float32(1)
    depth, count = leaf.shape[0], counts[part]
    if not 0 <= count <= depth:
      raise UserError(
        f"config.train_reward.last_layers.{part}={count}: the tower has {depth}"
        " layers"
      )
    keep = np.arange(depth) >= depth - count
    return keep.astype(np.float32).reshape(-1, *(1,) * (len(leaf.shape) - 1))

  tree = jax.tree_util.tree_map_with_path(mask, params)
  for part in counts:
    if part not in parts:
      raise UserError(
        f"config.train_reward.last_layers.{part}: there is no such part"
        f"{nearest(part, params)}; there are {', '.join(params)}"
      )
  return tree


def matrix_mask(params: Params, matrices: str = MATRICES) -> Params:
  """Tree of bool: whether a parameter is a matrix (or a stack of them)."""
  pattern = re.compile(matrices)

  def is_matrix(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return pattern.search(name) is not None and jnp.ndim(leaf) >= 2

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def apply_if_finite(
  optimizer: optax.GradientTransformation,
  grads: Params,
  opt_state: optax.OptState,
  params: Params,
  *,
  loss: Float[ArrayLike, ""],
  weight: Float[ArrayLike, ""] | None = None,
) -> tuple[Params, optax.OptState, dict[str, Mean]]:
  """One optimizer step, or none when the loss or the gradient is not finite.

  A skipped step leaves parameters and optimizer state as they were, bit for
  bit. It is branch-free, so it runs under `jit` on any mesh.

  Args:
    optimizer: from `make_optimizer`.
    grads: gradient tree, like `params`.
    opt_state: the optimizer's state.
    params: the trained parameters.
    loss: the scalar that was differentiated.
    weight: of the batch; a step on a batch of weight 0 is skipped too, where
      momentum and weight decay would have moved the parameters.

  Returns:
    (params, opt_state, metrics): grad_norm before clipping and update_norm,
    over steps taken, and skipped_updates, 1 for a skipped step.
  """
  grad_norm = optax.tree.norm(grads)
  is_taken = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  if weight is not None:
    is_taken &= jnp.asarray(weight) > 0
  updates, new_state = optimizer.update(grads, opt_state, params)
  update_norm = optax.tree.norm(updates)
  # Finite gradients can still overflow inside the optimizer.
  is_taken &= jnp.isfinite(update_norm)
  new_params = optax.apply_updates(params, updates)
  choose = lambda new, old: jnp.where(is_taken, new, old)
  means = (
    Mean.of(grad_norm, is_taken),
    Mean.of(update_norm, is_taken),
    Mean.of(~is_taken),
  )
  metrics = dict(zip(METRICS, means, strict=True))
  return (
    jax.tree.map(choose, new_params, params),
    jax.tree.map(choose, new_state, opt_state),
    metrics,
  )


def _muon(rate, adam, momentum, weight_decay, adam_scale, matrices):
  """Muon on matrices over their last two axes, Adam on the rest."""
  axes = contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

  def dimensions(params):
    mask = matrix_mask(params, matrices)
    return jax.tree.map(lambda matrix: axes if matrix else None, mask)

  return contrib.muon(
    rate,
    beta=momentum,
    eps=adam["eps"],
    weight_decay=weight_decay,
    adam_b1=adam["b1"],
    adam_b2=adam["b2"],
    adam_learning_rate=lambda step: adam_scale * rate(step),
    muon_weight_dimension_numbers=dimensions,
  )
