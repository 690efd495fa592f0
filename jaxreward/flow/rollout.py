"""Rollouts: from keys to samples, one scan over the denoising steps.

Samples lie on one flat axis of B rows (see `layout`), cut into chunks of a
fixed micro-batch. The update cuts its batches the same way, so both run the
network at one shape. Step facts (times, coefficients, index) are made before
the scan and fed to it; the body is pure, and its noise depends on nothing but
the sample's key and the step's index.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Key, Shaped

from jaxreward import rng
from jaxreward.flow import guidance, log_prob, multistep, steppers
from jaxreward.types import (
  Array,
  ArrayLike,
  Cond,
  Embedded,
  Params,
  Policy,
  Trajectory,
)

INITIAL_NOISE = 0xFFFF  # folded in place of a step index
# (x, v, noise, step) -> (next latents, their log-probability [B])
TakeStep = Callable[..., tuple[Array, Array]]


@flax.struct.dataclass
class Layout:
  """Which prompt and member every row of the flat sample axis is.

  Row b = m * C + c belongs to chunk c of C, place m of M, so that an axis
  sharded over devices stays sharded when it is cut into chunks.

  Attributes:
    prompt_index: int32 [B].
    member: int32 [B].
    mask: bool [B], False for padding.
    chunks: C, static.
  """

  prompt_index: ArrayLike
  member: ArrayLike
  mask: ArrayLike
  chunks: int = flax.struct.field(pytree_node=False)


def make_layout(
  prompts: int, group: int, microbatch: int, devices: int = 1, parts: int = 1
) -> Layout:
  """Lays P x G samples out in chunks of at most `microbatch` rows.

  Prompts, group, micro-batch and devices need not divide one another: the
  micro-batch is rounded up to a multiple of the devices and the last chunk is
  padded under a mask.

  Args:
    prompts: P.
    group: G.
    microbatch: rows of a chunk, at most, but for that rounding.
    devices: that the rows are spread over.
    parts: the number of chunks is a multiple of it.
  """
  up_to = lambda count, step: -(-count // step) * step
  total = prompts * group
  rows = up_to(min(microbatch, total), devices)
  chunks = -(-total // rows)
  if chunks % parts:
    chunks = up_to(chunks, parts)
    rows = up_to(-(-total // chunks), devices)
  sample = np.arange(rows * chunks)
  mask = sample < total
  sample = np.where(mask, sample, 0)
  return Layout(
    prompt_index=(sample // group).astype(np.int32),
    member=(sample % group).astype(np.int32),
    mask=mask,
    chunks=chunks,
  )


def to_chunks(
  x: Shaped[ArrayLike, "B *L"], chunks: int
) -> Shaped[ArrayLike, "{chunks} M *L"]:
  """[B, ...] -> [C, M, ...]."""
  return x.reshape(-1, chunks, *x.shape[1:]).swapaxes(0, 1)


def from_chunks(x: Shaped[ArrayLike, "C M *L"]) -> Shaped[ArrayLike, "C*M *L"]:
  """[C, M, ...] -> [B, ...]."""
  x = x.swapaxes(0, 1)
  return x.reshape(-1, *x.shape[2:])


def to_groups(
  x: Shaped[ArrayLike, "B *L"], prompts: int, group: int
) -> Shaped[ArrayLike, "{prompts} {group} *L"]:
  """[B, ...] -> [P, G, ...], padding dropped."""
  return x[: prompts * group].reshape(prompts, group, *x.shape[1:])


def from_groups(
  x: Shaped[ArrayLike, "P G *L"], layout: Layout
) -> Shaped[ArrayLike, "B *L"]:
  """[P, G, ...] -> [B, ...]; padding repeats the first sample, under the mask."""
  return x[layout.prompt_index, layout.member]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _take_rows(rows, x, index):
  del rows
  return x[index]


def _take_rows_forward(rows, x, index):
  return _take_rows(rows, x, index), index


def _take_rows_backward(rows, index, g):
  chosen = jax.nn.one_hot(index, rows, dtype=jnp.float32, axis=0)
  flat = g.reshape(g.shape[0], -1).astype(jnp.float32)
  total = jnp.matmul(chosen, flat, precision=jax.lax.Precision.HIGHEST)
  return total.reshape(rows, *g.shape[1:]).astype(g.dtype), None


_take_rows.defvjp(_take_rows_forward, _take_rows_backward)


def gather_cond(cond: Cond, index: Integer[ArrayLike, "B"]) -> Cond:
  """Rows of a per-prompt conditioning, one per sample.

  The gradient adds up each prompt's rows in one product, not in a scatter:
  that is fast on every backend, and its order of addition is fixed.
  """

  def take(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      return _take_rows(x.shape[0], x, index)
    return x[index]

  return jax.tree.map(take, cond)


def gather_uncond(
  uncond: Cond | None, index: Integer[ArrayLike, "B"]
) -> Cond | None:
  """The same of the empty prompt, of which one row may stand for all."""
  rows = {len(x) for x in jax.tree.leaves(uncond)}
  return uncond if rows <= {1} else gather_cond(uncond, index)


def _step(
  policy, params, cond, uncond, scale, keys, x, memory, step, index, record,
  take_step,
):  # fmt: skip
  """One denoising step: next latents, log-probability, the solver's memory.

  A step that is recorded may be replayed, so its velocity is sealed.
  """
  t, cond = steppers.network_time(step, x.shape[0], cond)
  run = log_prob.velocity if record else guidance.guided_velocity
  v = run(policy, params, x, t, cond, uncond, scale)
  if step.solver is not None:
    x_next, memory = multistep.advance(x, v, memory, step.solver)
    return x_next, jnp.zeros(x.shape[:1], jnp.float32), memory
  draw = lambda: rng.normal_each(rng.fold_each(keys, index), x.shape[1:])
  if take_step is not None:
    nothing = lambda: jnp.zeros(x.shape, jnp.float32)
    noise = jax.lax.cond(step.std > 0, draw, nothing)
    return *take_step(x, v, noise, step), memory
  mean = steppers.mean(x, v, step)
  x_next = jax.lax.cond(
    step.std > 0, lambda: mean + step.std * draw(), lambda: mean
  )
  return x_next, log_prob.transition(x, v, x_next, step), memory


def initial_noise(
  keys: Key[Array, "B"], shape: tuple[int, ...]
) -> Float[Array, "B *L"]:
  """x_1 of every sample, float32 [B, *shape]."""
  return rng.normal_each(rng.fold_each(keys, INITIAL_NOISE), shape)


def sample_chunk(
  policy: Policy,
  params: Params,
  keys: Key[Array, "M"],
  cond: Cond,
  uncond: Cond | None,
  table: steppers.StepTable,
  *,
  guidance_scale: float | Array = 1.0,
  record: bool = True,
  tail: int = 0,
  take_step: TakeStep | None = None,
):
  """Runs one micro-batch from noise to sample.

  Args:
    policy: the policy.
    params: its parameters.
    keys: typed keys [M], one per sample.
    cond: leaves [M, ...].
    uncond: leaves [1, ...] or [M, ...], or None.
    table: constants of T steps.
    guidance_scale: static.
    record: keep every latent and log-probability; False returns the sample.
    tail: keep the latents before the last `tail` steps, with the sample, in
      place of all; needs `record` to be False.
    take_step: what takes the place of mean, noise and log-probability of
      a step, such as a kernel.

  Returns:
    x_0 [M, H, W, C], and (latents [T + 1, M, ...], log_probs [T, M]), latents
    [2, M, ...] with `tail`, or None.
  """
  x1 = initial_noise(keys, policy.latent_shape)
  table = jax.tree.map(jnp.asarray, table)
  index = jnp.arange(table.t.shape[0], dtype=jnp.uint32)

  def body(carry, facts):
    (x, memory), (step, i) = carry, facts
    x_next, log_p, memory = _step(
      policy, params, cond, uncond, guidance_scale, keys, x, memory, step, i,
      record, take_step,
    )  # fmt: skip
    return (x_next, memory), (x_next, log_p) if record else None

  memory = () if table.solver is None else multistep.start(x1)
  start, facts = (x1, memory), (table, index)
  if tail:
    parts = [
      jax.tree.map(lambda x, s=s: x[s], facts)
      for s in (slice(None, -tail), slice(-tail, None))
    ]
    middle, _ = jax.lax.scan(body, start, parts[0])
    (x0, _), _ = jax.lax.scan(body, middle, parts[1])
    return x0, jnp.stack([middle[0], x0])
  (x0, _), rest = jax.lax.scan(body, start, facts)
  if rest is None:
    return x0, None
  latents, log_probs = rest
  return x0, (jnp.concatenate([x1[None], latents]), log_probs)


def finish(
  policy: Policy,
  params: Params,
  words: Integer[ArrayLike, "P W"] | Embedded,
  latents: Float[ArrayLike, "B *L"],
  layout: Layout,
  table: steppers.StepTable,
  first: Integer[ArrayLike, ""],
  *,
  guidance_scale: float | Array = 1.0,
) -> Float[Array, "B *L"]:
  """Latents before a step, brought to the end by the ODE.

  Args:
    policy: the policy.
    params: its parameters.
    words: as in `rollout`.
    latents: before step `first`.
    layout: of the rows.
    table: constants of the sampler's T steps, of which the times are read.
    first: the step, int32; with T nothing is done. It may be traced.
    guidance_scale: as in the rollout.
  """
  cond, uncond = guidance.conditioning(policy, params, words, guidance_scale)
  table = jax.tree.map(jnp.asarray, table)

  def one(chunk):
    x, index = chunk
    own, empty = gather_cond(cond, index), gather_uncond(uncond, index)

    def body(i, x):
      step = jax.tree.map(lambda y: y[i], table)
      t, told = steppers.network_time(step, x.shape[0], own)
      v = guidance.guided_velocity(
        policy, params, x, t, told, empty, guidance_scale
      )
      return x - (step.t - step.t_next) * v

    return jax.lax.fori_loop(first, len(table.t), body, x)

  chunked = (
    to_chunks(jnp.asarray(latents), layout.chunks),
    to_chunks(jnp.asarray(layout.prompt_index), layout.chunks),
  )
  return jnp.asarray(from_chunks(jax.lax.map(one, chunked)))


def rollout(
  policy: Policy,
  params: Params,
  key: Key[Array, ""],
  words: Integer[ArrayLike, "P W"] | Embedded,
  prompt_ids: Integer[ArrayLike, "P"],
  layout: Layout,
  table: steppers.StepTable,
  *,
  guidance_scale: float | Array = 1.0,
  record: bool = True,
  tail: int = 0,
  take_step: TakeStep | None = None,
) -> Trajectory:
  """Samples G pictures for each of P prompts.

  Args:
    policy: the policy.
    params: its parameters.
    key: scalar key of this iteration's rollout stream.
    words: int32 [P, L], or what text encoders made of them.
    prompt_ids: uint32 [P].
    layout: from `make_layout`.
    table: constants of T steps.
    guidance_scale: classifier-free guidance, static.
    record: False leaves only the samples, as latents [1, B, ...].
    tail: above 0, and without `record`, latents [2, B, ...]: before the last
      `tail` steps, and the samples.
    take_step: what takes the place of mean, noise and log-probability of
      a step, such as a kernel.

  Returns:
    A Trajectory; log-probabilities are of the (guided) step that was taken.
  """
  cond, uncond = guidance.conditioning(policy, params, words, guidance_scale)
  index = jnp.asarray(layout.prompt_index)
  member = jnp.asarray(layout.member)
  keys = rng.sample_keys(key, jnp.asarray(prompt_ids)[index], member)

  run = functools.partial(
    sample_chunk,
    policy,
    params,
    table=table,
    guidance_scale=guidance_scale,
    record=record,
    tail=tail,
    take_step=take_step,
  )
  chunked = (
    to_chunks(keys, layout.chunks),
    to_chunks(index, layout.chunks),
  )
  x0, recorded = jax.lax.map(
    lambda c: run(c[0], gather_cond(cond, c[1]), gather_uncond(uncond, c[1])),
    chunked,
  )
  x0 = from_chunks(x0)
  if record:
    latents, log_probs = (
      from_chunks(r.swapaxes(1, 2)).swapaxes(0, 1) for r in recorded
    )
  else:
    latents = x0[None]
    if tail:
      latents = from_chunks(recorded.swapaxes(1, 2)).swapaxes(0, 1)
    log_probs = jnp.zeros((table.t.shape[0], x0.shape[0]))
  return Trajectory(
    latents=latents,
    log_probs=log_probs,
    velocities=None,
    prompt_index=index,
    member=member,
    mask=jnp.asarray(layout.mask),
  )
