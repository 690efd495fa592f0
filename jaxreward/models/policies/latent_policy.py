"""A policy over latents, from a network with `encode` and `init_forward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreward.errors import UserError, nearest, require_counts
from jaxreward.models import attention, blocks, fields, sequence
from jaxreward.types import Array, Cond, Params, Policy

Net = TypeVar("Net", bound=nn.Module)


def make_net(
  kind: Callable[..., Net],
  sizes: Mapping[str, dict[str, Any]],
  size: str,
  options: Mapping[str, Any],
) -> Net:
  """The network of a named size, with overrides of its fields.

  Raises:
    UserError: an unknown size, remat mode or form of attention.
  """
  if size not in sizes:
    raise UserError(
      f'model.size="{size}" is not known{nearest(size, sizes)}; it is one of'
      f" {', '.join(sizes)}"
    )
  require_counts("config.model.", unroll=options.get("unroll", 1))
  blocks.require_remat(options.get("remat", "none"))
  attention.check(
    options.get("attention", "plain"), options.get("dtype", jnp.float32)
  )
  return kind(**{**sizes[size], **options})


def make(
  net: nn.Module,
  prompts: Cond,
  *,
  latent_shape: tuple[int, ...],
  param_dtype: Any = jnp.float32,
  sharding_rules: tuple[tuple[str, tuple[str | None, ...]], ...],
  layout: tuple[Any, ...],
  pictures: Cond | None = None,
  public_config: Mapping[str, Any],
  public_fields: fields.Fields,
) -> Policy:
  """The network's functions as a `Policy`.

  Without an autoencoder, pixels are the first three latent channels, centred at
  grey.

  Args:
    net: called as (x, t, cond), with methods `encode` (prompts) and
      `init_forward` (x, t, prompts).
    prompts: shapes of the inputs of `encode`, for one prompt.
    latent_shape: (H, W, C) or (F, H, W, C).
    param_dtype: of the parameters that `init` creates.
    sharding_rules: of its parameters.
    layout: of its parameters.
    pictures: shapes of the extra inputs of `encode` for one source image; None
      if it takes none.
    public_config: the diffusers config of the network.
    public_fields: accepted fields of a public config.
  """

  def init(key: Array) -> Params:
    x, t = jnp.zeros((1, *latent_shape)), jnp.zeros((1,))
    shapes = prompts | (pictures or {})
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    params = net.init(key, x, t, empty, method="init_forward")["params"]
    return jax.tree.map(lambda p: p.astype(param_dtype), params)

  def encode(params: Params, prompts: Cond) -> Cond:
    return net.apply({"params": params}, prompts, method="encode")

  def velocity(params: Params, x_t: Array, t: Array, cond: Cond) -> Array:
    x_t, t, cond = jax.tree.map(sequence.rows, (x_t, t, cond))
    v: Any = net.apply({"params": params}, x_t, t, cond)
    return v

  return Policy(
    init=init,
    encode=encode,
    velocity=velocity,
    to_pixels=lambda latents, decoder=None: latents[..., :3] * 0.5 + 0.5,
    latent_shape=latent_shape,
    sharding_rules=sharding_rules,
    layout=layout,
    public_config=public_config,
    public_fields=public_fields,
    prompts=prompts,
    takes_source=pictures is not None,
    pictures=pictures,
  )
