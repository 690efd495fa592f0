"""Public function of the attention of streams: checks, dispatch, gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.types import Array
from pallas_kernels import dispatch
from pallas_kernels.stream_attention import reference, tpu
from pallas_kernels.stream_attention.kernel import Sizes

FORMS = ("auto", "xla", "tpu", "interpret")
MOST_TOKENS = 5120  # whose logits with a block of queries fit on the chip
How = tuple[str, tuple[str, ...], Sizes]


def fits(heads: int, width: int, tokens: int) -> bool:
  """Whether the kernel takes these sizes on a TPU."""
  return tokens <= MOST_TOKENS and bool(tpu.heads_of_cell(heads, width))


def stream_attention(
  streams: Sequence[tuple[Array, Array, Array]],
  heads: int,
  *,
  scales: Float[Array, "S2 D"] | None = None,
  rotary: tuple[Array, Array] | None = None,
  implementation: str = "auto",
  batch_axes: tuple[str, ...] = dispatch.BATCH_AXES,
) -> list[Float[Array, "B N F"]]:
  """Softmax attention of all tokens of several streams to all of them.

  Takes products as they are, heads side by side in the last axis, and gives
  them back so: nothing is transposed, joined, padded or split in the memory of
  the device. Sums and norms are float32.

  Args:
    streams: (q, k, v) of each, [B, N_i, heads * D].
    heads: of each.
    scales: of the RMS norms of q and k of each stream in turn, over the
      features of a head; None for no norm.
    rotary: cosines and sines [N, D / 2] of the rotation of neighbouring
      features after the norm, N tokens of all streams; no gradient.
    implementation: see `dispatch.choose`; there is no form for GPUs.
    batch_axes: mesh axes that share the rows.

  Returns:
    [B, N_i, heads * D] of each stream.

  Raises:
    UserError: sizes that the kernel does not take, or an unknown form.
  """
  form = dispatch.choose(implementation)
  if form not in FORMS:
    raise UserError(
      f'implementation="{implementation}": attention of streams has'
      f" {', '.join(FORMS)}"
    )
  streams = [tuple(stream) for stream in streams]
  if form == "xla":
    return reference.attend(streams, heads, scales, rotary)
  width = streams[0][0].shape[2] // heads
  count = tpu.heads_of_cell(heads, width)
  if not count:
    raise UserError(
      f"{heads} heads of {width} features do not fill registers of 128"
    )
  sizes = Sizes(
    tuple(q.shape[1] for q, _, _ in streams), count, width,
    scales is not None, rotary is not None,
  )  # fmt: skip
  in_cell = lambda x: jnp.tile(x.astype(jnp.float32), (1, count))
  shared = [] if scales is None else [in_cell(scales)]
  shared += [in_cell(jnp.repeat(part, 2, axis=-1)) for part in rotary or ()]
  return _attend((form, tuple(batch_axes), sizes), streams, shared)


def _run(how: How, streams, shared, residuals=()):
  form, batch_axes, sizes = how
  count, flat = len(shared), [x for stream in streams for x in stream]

  def run(*arrays):
    shared, rows = arrays[:count], arrays[count:]
    triples = [tuple(rows[i : i + 3]) for i in range(0, len(flat), 3)]
    return tpu.run(
      triples, shared, rows[len(flat) :], sizes=sizes,
      interpret=form.startswith("interpret"),
    )  # fmt: skip

  return dispatch.over_rows(
    run, batch_axes, *flat, *residuals, shared=tuple(shared)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how: How, streams, shared):
  return _run(how, streams, shared)[:-1]


def _forward(how, streams, shared):
  *outputs, log_sums = _run(how, streams, shared)
  return outputs, (streams, shared, outputs, log_sums)


def _backward(how, residuals, cotangents):
  streams, shared, outputs, log_sums = residuals
  grads = _run(how, streams, shared, (*outputs, *cotangents, log_sums))
  shared_grads = [jnp.zeros_like(x) for x in shared]
  if how[2].is_normed:
    *grads, scales = grads
    shared_grads[0] = scales.sum((0, 1))
  triples = [tuple(grads[i : i + 3]) for i in range(0, len(grads), 3)]
  return triples, shared_grads


_attend.defvjp(_forward, _backward)
