"""Low-rank adapters for Linen models, without changing the model.

y = x W + b + (alpha / rank) (x A) B, with A [in, rank] and B [rank, out]
(Hu et al. 2021, https://arxiv.org/abs/2106.09685). A method interceptor adds
a child module `lora` to every chosen `nn.Dense`; paths and initial values of
the base parameters stay as they are. B starts at 0, so that step 0 is the base
model bit for bit. A is drawn as PEFT draws it, uniform in +-1 / sqrt(in).

Parameters are nested dicts. Train the adapter alone:

  base, adapter = lora.split(params)
  loss = lambda adapter: objective(lora.merge(base, adapter))
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError
from jaxreward.types import Array, Params, Policy

NAME = "lora"
# Adapters are small: replicated. Add this to an architecture's table.
SHARDING_RULES = ((rf"(^|/){NAME}/[ab]$", ()),)

F = TypeVar("F", bound=Callable[..., Any])


class Adapter(nn.Module):
  """(alpha / rank) (x A) B, in float32."""

  features: int
  rank: int
  alpha: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    a = self.param("a", init, (x.shape[-1], self.rank), jnp.float32)
    b = self.param(
      "b", nn.initializers.zeros, (self.rank, self.features), jnp.float32
    )
    low = jnp.asarray(x, jnp.float32) @ a
    return (low @ b) * (self.alpha / self.rank)


def with_lora(
  apply_fn: F, *, rank: int, alpha: float, targets: str = ".*"
) -> F:
  """The function, with adapters in every chosen `nn.Dense` that it calls.

  Args:
    apply_fn: anything that runs Linen modules: `model.init`, `model.apply`,
      or a function around them.
    rank: of the adapters, 1 or more.
    alpha: scale; the adapter's output is multiplied by alpha / rank.
    targets: regex searched in the module's path, such as
      "attention/(query|value)$".

  Returns:
    A function of the same signature, whose parameters hold adapters.
  """
  if rank < 1:
    raise UserError(f"lora.rank is {rank}; adapters need 1 or more.")
  try:
    pattern = re.compile(targets)
  except re.error as error:
    raise UserError(f'lora.targets is "{targets}": {error}.') from error

  def adapt(next_fn, args, kwargs, context):
    y = next_fn(*args, **kwargs)
    module = context.module
    if not isinstance(module, nn.Dense) or context.method_name != "__call__":
      return y
    if not pattern.search("/".join(module.path)):
      return y
    adapter = Adapter(module.features, rank, alpha, name=NAME)
    x = args[0] if args else kwargs["inputs"]
    return y + adapter(x).astype(y.dtype)

  @functools.wraps(apply_fn)
  def adapted(*args, **kwargs):
    with nn.intercept_methods(adapt):
      return apply_fn(*args, **kwargs)

  return adapted  # pyrefly: ignore


def adapt_policy(
  policy: Policy, *, rank: int, alpha: float, targets: str = ".*"
) -> Policy:
  """The policy with adapters in `init`, `encode` and `velocity`.

  Adapters are float32 whatever the type of the base, since they are trained.

  Raises `UserError` when `targets` matches no layer.
  """
  wrap = functools.partial(with_lora, rank=rank, alpha=alpha, targets=targets)

  def init(key: Array) -> Params:
    base, adapter = split(wrap(policy.init)(key))
    adapter32 = jax.tree.map(lambda x: x.astype(jnp.float32), adapter)
    return merge(base, adapter32)

  adapted = dataclasses.replace(
    policy,
    init=init,
    encode=wrap(policy.encode),
    velocity=wrap(policy.velocity),
    sharding_rules=(*policy.sharding_rules, *SHARDING_RULES),
  )
  abstract = jax.eval_shape(adapted.init, jax.random.key(0))
  if not jax.tree.leaves(split(abstract)[1]):
    raise UserError(
      f'lora.targets is "{targets}", which matches no dense layer of the model.'
    )
  return adapted


def split(params: Params) -> tuple[Params, Params]:
  """(base, adapter): the tree without adapters, and the adapters alone."""
  base: dict[str, Any] = {}
  adapter: dict[str, Any] = {}
  for name, child in params.items():
    if name == NAME:
      adapter[name] = child
    elif isinstance(child, dict):
      base[name], below = split(child)
      if below:
        adapter[name] = below
    else:
      base[name] = child
  return base, adapter


def merge(base: Params, adapter: Params) -> Params:
  """Inverse of `split`; raises ValueError when both hold a parameter."""
  params = dict(base)
  for name, child in adapter.items():
    if name not in params:
      params[name] = child
    elif isinstance(child, dict) and isinstance(params[name], dict):
      params[name] = merge(params[name], child)
    else:
      raise ValueError(f"both trees hold {name}.")
  return params


def fuse(params: Params, *, alpha: float) -> Params:
  """Plain weights W + (alpha / rank) A B, for the model without adapters.

  Stacks of layers [depth, in, out] are fused layer by layer; the sum is taken
  in float32 and stored in the kernel's type.
  """
  fused: dict[str, Any] = {}
  for name, child in params.items():
    if name != NAME:
      fused[name] = (
        fuse(child, alpha=alpha) if isinstance(child, dict) else child
      )
  if NAME in params:
    a, b = params[NAME]["a"], params[NAME]["b"]
    kernel = fused["kernel"]
    change = (alpha / a.shape[-1]) * (a @ b)
    fused["kernel"] = (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
  return fused


def pad(adapter: Params, fresh: Params, *, alpha: float) -> Params:
  """Pads an adapter to another rank and alpha, as a starting point.

  Args:
    adapter: as from `split`, with alpha equal to its rank.
    fresh: adapters at step 0, which add 0, of at least the same layers.
    alpha: of the fresh ones.

  Returns:
    `fresh` with the adapter in its first ranks: the same function.

  Raises:
    UserError: an adapted layer missing from `fresh`, or a larger rank.
  """
  params = dict(fresh)
  for name, child in adapter.items():
    if name not in fresh:
      raise UserError(
        f"it adapts a layer {name} that config.lora.targets leaves out"
      )
    if name == NAME:
      params[name] = _padded(child, fresh[name], alpha)
    else:
      params[name] = pad(child, fresh[name], alpha=alpha)
  return params


def _padded(pair: Params, fresh: Params, alpha: float) -> Params:
  a, b = np.array(fresh["a"]), np.array(fresh["b"])
  rank, full_rank = pair["a"].shape[-1], a.shape[-1]
  if rank > full_rank:
    raise UserError(
      f"its rank is {rank}, and config.lora.rank={full_rank}; set that to {rank} or"
      " more"
    )
  # Layers missing from the file keep the fresh A, or they would never learn.
  idle = ~pair["a"].any(-2) & ~pair["b"].any(-1)
  a[..., :rank] = np.where(idle[..., None, :], a[..., :rank], pair["a"])
  b[..., :rank, :] = pair["b"] * (full_rank / alpha)
  return {"a": a, "b": b}


def add(params: Params, adapter: Params) -> Params:
  """Parameters with an adapter merged into their kernels, on the host.

  Layers are added one by one in float32 and kept in the kernel's type.
  """
  result: dict[str, Any] = dict(params)
  for name, child in adapter.items():
    if name != NAME:
      result[name] = add(params[name], child)
  if NAME in adapter:
    a, b = adapter[NAME]["a"], adapter[NAME]["b"]
    kernel = np.asarray(params["kernel"])
    result["kernel"] = (
      np.stack([_sum(*row) for row in zip(kernel, a, b, strict=True)])
      if kernel.ndim == 3
      else _sum(kernel, a, b)
    )
  return result


def _sum(kernel: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return (kernel.astype(np.float32) + a @ b).astype(kernel.dtype)
