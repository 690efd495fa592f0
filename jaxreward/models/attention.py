"""Softmax attention: plain, or by a kernel that stores no logits.

The logits of an image of 1024 pixels are 2 GB per layer in float32. The kernels
are `pallas_kernels.stream_attention` and those shipped with JAX: flash
attention (Dao et al. 2022, https://arxiv.org/abs/2205.14135) in Pallas on TPUs,
cuDNN's on GPUs. Their backward passes recompute the weights.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward import compat, processes
from jaxreward.errors import UserError, nearest
from jaxreward.models import sequence
from jaxreward.types import Array
from pallas_kernels import stream_attention

FORMS = ("auto", "plain", "flash", "fused", "cudnn")
_WHERE = {"flash": ("tpu",), "fused": ("tpu",), "cudnn": ("gpu", "cuda")}
_BLOCKS = (512, 256, 128)  # tokens; the largest that pads little is used


def check(form: str, dtype: jnp.dtype | type) -> None:
  """Raises `UserError` unless the form is known and supports these arrays."""
  if form not in FORMS:
    raise UserError(
      f'model.attention="{form}" is none of {", ".join(FORMS)}'
      f"{nearest(form, FORMS)}"
    )
  if form == "cudnn" and jnp.dtype(dtype).itemsize != 2:
    raise UserError(
      f'model.attention="cudnn" takes 16 bits and model.dtype is'
      f' "{jnp.dtype(dtype)}": set model.dtype="bfloat16", or'
      ' model.attention="plain"'
    )


def require_platform(form: str, platform: str) -> None:
  """Raises `UserError` for a form that the platform does not support."""
  if platform not in _WHERE.get(form, (platform,)):
    raise UserError(
      f'model.attention="{form}" needs a {_WHERE[form][0].upper()}, and this'
      f' is a {platform.upper()}: use "auto"'
    )


def choose(form: str, dtype: jnp.dtype | type, platform: str) -> str:
  """Resolves "auto"; other forms are returned unchanged.

  "flash" on TPUs, "cudnn" on GPUs in 16 bits, else "plain". "fused" where
  `is_fused` does not hold is "flash".
  """
  if form == "fused":
    return "flash" if platform == "tpu" else "plain"
  if form != "auto":
    return form
  candidates = [name for name, where in _WHERE.items() if platform in where]
  is_wide = jnp.dtype(dtype).itemsize != 2
  return (
    "plain"
    if not candidates or (candidates == ["cudnn"] and is_wide)
    else candidates[0]
  )


def is_fused(
  form: str, heads: int, width: int, tokens: int, mask: Array | None
) -> bool:
  """Whether `stream_attention` supports a layer: no mask, heads not sharded.

  Args:
    form: one of `FORMS`; "fused" runs on any platform, interpreted off TPUs.
    heads: attention heads.
    width: features of a head.
    tokens: total over all streams.
    mask: key mask.
  """
  is_on = form == "fused" or (form == "auto" and processes.platform() == "tpu")
  fits = stream_attention.fits(heads, width, tokens)
  return is_on and mask is None and fits and not sequence.is_cut()


def attention(
  q: Float[Array, "B N H D"],
  k: Float[Array, "B M K D"],
  v: Float[Array, "B M K D"],
  mask: Bool[Array, "B M"] | None = None,
  form: str = "plain",
  *,
  causal: bool = False,
) -> Float[Array, "B N H*D"]:
  """Softmax attention, sums in float32.

  Args:
    q: queries.
    k: keys; their heads may be fewer, if they divide those of the queries.
    v: values.
    mask: False for keys to ignore.
    form: one of `FORMS`; "flash" supports neither `causal` nor fewer heads
      and falls back to "plain".
    causal: whether a token attends to itself and earlier ones only.

  Returns:
    [B, N, H * D].
  """
  q, k, v = map(sequence.heads, (q, k, v))
  form = choose(form, q.dtype, processes.platform())
  if form == "flash" and (causal or k.shape[2] != q.shape[2]):
    form = "plain"
  if form == "flash":
    y = sequence.by_device(flash, q, k, v, mask)
  else:
    name = None if form == "plain" else form
    key_mask = None if mask is None else mask[:, None, None, :]
    run = functools.partial(
      jax.nn.dot_product_attention,
      mask=key_mask, implementation=name, is_causal=causal,
    )  # fmt: skip
    y = sequence.attend(run, q, k, v)
  return y.reshape(*y.shape[:2], -1)


def after_prefix(
  q: Float[Array, "B G N H D"],
  prefix: tuple[Float[Array, "B P K D"], Float[Array, "B P K D"]],
  mask: Bool[Array, "B P"],
  answers: tuple[Float[Array, "B G S K D"], Float[Array, "B G S K D"]],
  start: Array | int,
) -> Float[Array, "B G*N H*D"]:
  """Causal attention of G answers to the prefix of their row and to themselves.

  The prefix is stored once, not once per answer.

  Args:
    q: queries of N tokens of every answer.
    prefix: keys and values; each of their heads serves H / K heads of q.
    mask: False for keys of the prefix to ignore.
    answers: keys and values, padded to the maximum length of an answer.
    start: position of the first query within the answer; later keys are
      ignored.
  """
  b, g, n, h, d = q.shape
  (prefix_k, prefix_v), (answer_k, answer_v) = prefix, answers
  q = q.reshape(b, g, n, prefix_k.shape[2], -1, d)
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  early = product("bgnkrd,bpkd->bgnkrp", q, prefix_k)
  early = jnp.where(mask[:, None, None, None, None], early, -jnp.inf)
  late = product("bgnkrd,bgskd->bgnkrs", q, answer_k)
  is_past = jnp.arange(late.shape[-1]) <= start + jnp.arange(n)[:, None]
  late = jnp.where(is_past[None, None, :, None, None], late, -jnp.inf)
  logits = jnp.concatenate([early, late], -1) * d**-0.5
  weight = jax.nn.softmax(logits, -1).astype(prefix_v.dtype)
  early, late = jnp.split(weight, [prefix_k.shape[1]], -1)
  y = product("bgnkrp,bpkd->bgnkrd", early, prefix_v)
  y = y + product("bgnkrs,bgskd->bgnkrd", late, answer_v)
  return y.astype(q.dtype).reshape(b, g * n, h * d)


def flash(
  q: Float[Array, "B N H D"],
  k: Float[Array, "B M H D"],
  v: Float[Array, "B M H D"],
  mask: Bool[Array, "B M"] | None = None,
) -> Float[Array, "B N H D"]:
  """Flash attention on one TPU; tokens are padded to full blocks."""
  library = compat.flash_attention
  (b, n, _, d), m = q.shape, k.shape[1]
  across, along = _block(n), _block(m)
  ids = None
  if mask is not None or m % along:
    key_mask = jnp.ones((b, m), bool) if mask is None else mask
    # Queries are in segment 0, as are the visible keys.
    hidden = jnp.logical_not(_fill(key_mask, along)).astype(jnp.int32)
    ids = library.SegmentIds(jnp.zeros((b, n + -n % across), jnp.int32), hidden)
  sizes = library.BlockSizes(
    block_q=across, block_k_major=along, block_k=along, block_b=1,
    block_q_major_dkv=across, block_q_dkv=across,
    block_k_major_dkv=along, block_k_dkv=along,
    block_q_dq=across, block_k_major_dq=along, block_k_dq=along,
  )  # fmt: skip
  heads_first = lambda x, block: _fill(x, block).swapaxes(1, 2)
  y = library.flash_attention(
    heads_first(q, across), heads_first(k, along), heads_first(v, along),
    segment_ids=ids, sm_scale=d**-0.5, block_sizes=sizes,
  )  # fmt: skip
  return y.swapaxes(1, 2)[:, :n]


def _block(tokens: int) -> int:
  """The largest block that pads by at most a sixth."""
  blocks = (b for b in _BLOCKS if 6 * (-tokens % b) <= tokens)
  return next(blocks, _BLOCKS[-1])


def _fill(x: Array, block: int) -> Array:
  """Pads tokens with zeros to full blocks."""
  extra = -x.shape[1] % block
  return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2))
