"""The sampler: from keys to samples, the only place that draws.

Samples lie on one flat axis of B rows (`rollout.make_layout`), cut into C chunks
of a fixed micro-batch of M. The scan over denoising steps is the outer loop and
the chunks the inner one, so that whole groups are available at every step, as
steering needs. The update splits its batches the same way, so both run the
network at one shape. Step coefficients are computed before the scan; the body
is pure, and its noise depends only on a sample's key and the step's index.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer, Key

from jaxreward import rng
from jaxreward.flow import (
  guidance,
  log_prob,
  multistep,
  path,
  rollout,
  steppers,
)
from jaxreward.types import (
  Array,
  ArrayLike,
  Cond,
  Params,
  Policy,
  PromptEmbeddings,
  Trajectory,
)

INITIAL_NOISE = 0xFFFF  # folded in place of a step index
# (x, step, number of the step, rows of the prompts) -> what is added to the next
# latents, beyond the mean that log-probabilities are of
Push = Callable[..., Array]
# (x, v, noise, step) -> (next latents, their log-probability [B])
TakeStep = Callable[..., tuple[Array, Array]]


@flax.struct.dataclass
class Share:
  """Which samples of a group share noise, so that they branch later.

  One level makes one fork, several a tree.

  Attributes:
    members: per level, falling, each dividing the one before: so many samples,
      one after the other, share their noise. Those of the first level share the
      initial noise.
    steps: per level, rising: until this step, int32, which may be traced.
  """

  members: tuple[int, ...] = flax.struct.field(pytree_node=False)
  steps: tuple[ArrayLike | int, ...] = (0,)


@flax.struct.dataclass
class State:
  """Partially denoised samples, in chunks.

  Attributes:
    latents: [C, M, ...].
    memory: of a multistep solver, leaves [C, M, ...]; () for the others.
    keys: typed keys [C, M], one per sample.
    shared: per level of `Share`, keys of the sample that each one shares noise
      with.
    index: int32 [C, M], row of the prompts.
    cond: conditioning, leaves [P, ...].
    uncond: of the empty prompt, leaves [1, ...] or [P, ...], or None.
  """

  latents: Array
  memory: Any
  keys: Array
  shared: tuple[Array, ...]
  index: ArrayLike
  cond: Cond
  uncond: Cond | None


@flax.struct.dataclass
class Info:
  """Outputs of a step.

  Attributes:
    velocity: [C, M, ...], before the step, guided.
    x0_hat: [C, M, ...], the predicted clean sample.
    log_prob: float32 [C, M], of the step; 0 where it drew no noise.
    aside: [C, M, ...], where the step leads with its noise, if the chain goes on
      without it; else None.
  """

  velocity: Array
  x0_hat: Array
  log_prob: Array
  aside: Array | None = None


def initial_noise(
  keys: Key[Array, "B"], shape: tuple[int, ...]
) -> Float[Array, "B *L"]:
  """x_1 of every sample, float32 [B, *shape]."""
  return rng.normal_each(rng.fold_each(keys, INITIAL_NOISE), shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
  """A policy, its denoising steps and the layout of its samples.

  Attributes:
    policy: the policy.
    table: constants of T steps.
    layout: of the rows, from `rollout.make_layout`.
    guidance_scale: classifier-free guidance; the plain number 1 for none.
    is_recorded: whether all steps are kept.
    is_sealed: whether velocities of recorded steps are sealed, so that a replay
      gives them to the bit (`log_prob`).
    take_step: replaces mean, noise and log-probability of a step, for example
      by a kernel.
    share: which samples branch from one another.
    push: moves latents after a step; log-probabilities are under the step's own
      mean, which is not moved. Without kernels and multistep solvers alone.
    is_aside: whether each step's noise is drawn aside of a chain that follows the
      ODE; recorded steps lead from the chain to there. Without kernels and
      multistep solvers alone.
  """

  policy: Policy
  table: steppers.StepTable
  layout: rollout.Layout
  guidance_scale: float | Array = 1.0
  is_recorded: bool = False
  is_sealed: bool = True
  take_step: TakeStep | None = None
  share: Share | None = None
  push: Push | None = None
  is_aside: bool = False

  @property
  def steps(self) -> int:
    """T."""
    return len(self.table.t)

  def init(
    self,
    params: Params,
    key: Key[Array, ""],
    prompt_encoding: Integer[ArrayLike, "P W"] | PromptEmbeddings,
    prompt_ids: Integer[ArrayLike, "P"],
    start: Float[ArrayLike, "P *L"] | None = None,
  ) -> State:
    """Samples before the first step.

    Args:
      params: of the policy, which encodes the prompts.
      key: scalar key of the stream.
      prompt_encoding: int32 [P, L], or the output of the text encoders.
      prompt_ids: uint32 [P].
      start: clean latents per prompt, [P, ...]; noise is mixed in up to the
        first time of the table. None starts from noise alone.
    """
    cond, uncond = guidance.conditioning(
      self.policy, params, prompt_encoding, self.guidance_scale
    )
    index = jnp.asarray(self.layout.prompt_index)
    member = jnp.asarray(self.layout.member)
    of = lambda member: rng.sample_keys(
      key, jnp.asarray(prompt_ids)[index], member
    )
    sizes = self.share.members if self.share else ()
    keys, shared = of(member), tuple(of(member - member % n) for n in sizes)
    latents = None if start is None else jnp.asarray(start)[index]
    return self.begin(keys, index, cond, uncond, shared=shared, start=latents)

  def begin(
    self,
    keys: Key[Array, "B"],
    index: Integer[ArrayLike, "B"],
    cond: Cond,
    uncond: Cond | None = None,
    *,
    shared: tuple[Key[Array, "B"], ...] = (),
    start: Float[ArrayLike, "B *L"] | None = None,
  ) -> State:
    """`init` from keys and a conditioning; see `State`."""
    chunks = self.layout.chunks
    to_chunks = lambda x: jnp.asarray(rollout.to_chunks(x, chunks))
    keys, index = to_chunks(keys), to_chunks(jnp.asarray(index))
    shared = tuple(map(to_chunks, shared))
    latents = noise = self.noise((*shared, keys)[0])
    if start is not None:
      t = jnp.asarray(self.table.t)[0]
      latents = (1 - t) * to_chunks(start) + t * noise
    memory: Any = ()
    if self.table.solver is not None:
      memory = multistep.start(latents)
    return State(latents, memory, keys, shared, index, cond, uncond)

  def noise(self, keys: Key[Array, "C M"]) -> Float[Array, "C M *L"]:
    """The initial noise of keys in chunks."""
    shape = self.policy.latent_shape
    return jax.lax.map(lambda chunk: initial_noise(chunk, shape), keys)

  def _step_coeffs(self) -> tuple[steppers.StepTable, Array]:
    table = jax.tree.map(jnp.asarray, self.table)
    return table, jnp.arange(self.steps, dtype=jnp.uint32)

  def step(
    self, params: Params, state: State, i: ArrayLike | int
  ) -> tuple[State, Info]:
    """One denoising step of all samples; i may be traced."""
    step_coeffs = jax.tree.map(lambda x: x[i], self._step_coeffs())
    return self._advance(params, state, step_coeffs)

  def _advance(self, params, state: State, step_coeffs) -> tuple[State, Info]:
    table, i = step_coeffs

    def one(chunk):
      x, memory, keys, index = chunk
      cond = rollout.gather_cond(state.cond, index)
      uncond = rollout.gather_uncond(state.uncond, index)
      shift = None
      if self.push is not None:
        shift = self.push(x, table, i, index)
      return self._rows(params, cond, uncond, keys, x, memory, table, i, shift)

    keys = state.keys
    ends = self.share.steps if self.share else ()
    for shared, end in list(zip(state.shared, ends, strict=False))[::-1]:
      keys = jnp.where(i < jnp.asarray(end, jnp.uint32), shared, keys)
    rows = (state.latents, state.memory, keys, state.index)
    latents, memory, info = jax.lax.map(one, rows)
    return dataclasses.replace(state, latents=latents, memory=memory), info

  def _rows(
    self, params, cond, uncond, keys, x, memory, step, index, shift=None
  ):
    """A step of one chunk: next latents, the solver's memory, `Info`."""
    v = log_prob.step_velocity(
      self.policy, params, cond, uncond, x, step, self.guidance_scale,
      is_sealed=self.is_recorded and self.is_sealed,
    )  # fmt: skip
    x0_hat = x - step.t * v
    if step.solver is not None:
      x_next, memory = multistep.advance(x, v, memory, step.solver)
      log_p = jnp.zeros(x.shape[:1], jnp.float32)
      return x_next, memory, Info(v, x0_hat, log_p)
    if step.end_t is not None:
      slope = jax.lax.cond(
        step.t_next > 0,
        lambda: (v + self._end_velocity(params, cond, uncond, x, v, step)) / 2,
        lambda: v,
      )
      log_p = jnp.zeros(x.shape[:1], jnp.float32)
      return steppers.mean(x, slope, step), memory, Info(v, x0_hat, log_p)
    draw = lambda: rng.normal_each(rng.fold_each(keys, index), x.shape[1:])
    if self.take_step is not None:
      nothing = lambda: jnp.zeros(x.shape, jnp.float32)
      noise = jax.lax.cond(step.std > 0, draw, nothing)
      x_next, log_p = self.take_step(x, v, noise, step)
      return x_next, memory, Info(v, x0_hat, log_p)
    mean = steppers.mean(x, v, step)
    x_next = jax.lax.cond(
      step.std > 0, lambda: mean + step.std * draw(), lambda: mean
    )
    if shift is not None:
      x_next = x_next + shift
    log_p = log_prob.transition(x, v, x_next, step)
    if self.is_aside:
      chain = x - (step.t - step.t_next) * v
      return chain, memory, Info(v, x0_hat, log_p, x_next)
    return x_next, memory, Info(v, x0_hat, log_p)

  def _end_velocity(self, params, cond, uncond, x, v, step):
    """The velocity where Euler's step ends."""
    return log_prob.step_velocity(
      self.policy, params, cond, uncond, steppers.mean(x, v, step),
      steppers.at_end(step), self.guidance_scale,
    )  # fmt: skip

  def advance(
    self,
    params: Params,
    state: State,
    first: ArrayLike | int,
    last: ArrayLike | int,
  ) -> tuple[State, Array]:
    """Steps `first` to `last` - 1; (state, x0_hat [C, M, ...] of the last one).

    Both may be traced: one program serves every span. For an empty span x0_hat
    is the latents.
    """

    def body(i, carry):
      state, info = self.step(params, carry[0], i)
      return state, info.x0_hat

    return jax.lax.fori_loop(first, last, body, (state, state.latents))

  def lookahead(
    self,
    params: Params,
    state: State,
    taken: ArrayLike | int,
    jumps: ArrayLike | int,
  ) -> Array:
    """Clean estimates [C, M, ...] by a short ODE rollout; the state stays.

    Args:
      params: of the policy.
      state: after `taken` steps.
      taken: less than T.
      jumps: Euler steps over equal parts of the time that is left; 1 gives
        x0_hat of the next step. Both may be traced.
    """
    table, _ = self._step_coeffs()
    start = table.t[taken]

    def jump(i, x):
      t = start * (1 - i / jumps)
      step = jax.tree.map(lambda y: y[taken], table).replace(t=t)
      if table.network_t is not None:
        times = jnp.append(table.t, 0.0)[::-1]
        network_t = jnp.append(table.network_t, 0.0)[::-1]
        step = step.replace(network_t=jnp.interp(t, times, network_t))

      def one(chunk):
        rows, index = chunk
        cond = rollout.gather_cond(state.cond, index)
        uncond = rollout.gather_uncond(state.uncond, index)
        v = log_prob.step_velocity(
          self.policy, params, cond, uncond, rows, step, self.guidance_scale
        )
        return rows - start / jumps * v

      return jax.lax.map(one, (x, state.index))

    return jax.lax.fori_loop(0, jumps, jump, state.latents)

  def scan(
    self,
    params: Params,
    state: State,
    keep: Callable[[State, State, Info, steppers.StepTable], Any],
    span: slice = slice(None),
    at: Sequence[int] | None = None,
  ) -> tuple[State, Any]:
    """(state after the steps of a span, stacked results of `keep`).

    Args:
      params: of the policy.
      state: before the span.
      keep: (state before the step, state after it, `Info`, the step's
        constants) -> a pytree.
      span: of the T steps.
      at: steps of the span, from 0, whose results are computed and stacked, in
        this order; all if None.
    """
    step_coeffs = jax.tree.map(lambda x: x[span], self._step_coeffs())

    def advance(carry, step_coeffs):
      latents, memory = carry
      before = dataclasses.replace(state, latents=latents, memory=memory)
      after, info = self._advance(params, before, step_coeffs)
      record = functools.partial(keep, before, after, info, step_coeffs[0])
      return (after.latents, after.memory), record

    def keep_all(carry, step_coeffs):
      carry, record = advance(carry, step_coeffs)
      return carry, record()

    def keep_some(carry, item):
      (carry, records), (step_coeffs, places) = carry, item
      carry, record = advance(carry, step_coeffs)
      put = lambda x, rows: jnp.where(path.expand(places, rows), x, rows)
      records = jax.lax.cond(
        places.any(),
        lambda rows: jax.tree.map(put, record(), rows),
        lambda rows: rows,
        records,
      )
      return (carry, records), None

    carry = state.latents, state.memory
    if at is None:
      carry, records = jax.lax.scan(keep_all, carry, step_coeffs)
    else:
      first = jax.tree.map(lambda x: x[0], step_coeffs)
      shapes = jax.eval_shape(lambda: keep_all(carry, first)[1])
      records = jax.tree.map(
        lambda x: jnp.zeros((len(at), *x.shape), x.dtype), shapes
      )
      steps = jnp.arange(len(jax.tree.leaves(step_coeffs)[0]))
      places = steps[:, None] == jnp.asarray(at, jnp.int32)
      (carry, records), _ = jax.lax.scan(
        keep_some, (carry, records), (step_coeffs, places)
      )
    latents, memory = carry
    return dataclasses.replace(state, latents=latents, memory=memory), records

  def run(self, params: Params, state: State, *, tail: int = 0) -> Trajectory:
    """Runs all steps and returns the trajectory.

    Args:
      params: of the policy.
      state: from `init`.
      tail: above 0, and without a record, keep the latents before the last
        `tail` steps, and the samples.

    Returns:
      Latents [T + 1, B, ...] where steps are recorded, else [1, B, ...] (with
      `tail` [2, B, ...]); log-probabilities are of the (guided) step that was
      taken.
    """
    from_chunks = jax.vmap(rollout.from_chunks)
    nothing = lambda *_: None
    log_probs = jnp.zeros((self.steps, state.index.size))
    aside = None
    if self.is_recorded:
      keep = lambda before, after, info, step: (
        after.latents, info.log_prob, info.aside,
      )  # fmt: skip
      _, (latents, *records) = self.scan(params, state, keep)
      latents = from_chunks(jnp.concatenate([state.latents[None], latents]))
      log_probs, aside = jax.tree.map(from_chunks, tuple(records))
    elif tail:
      middle, _ = self.scan(params, state, nothing, slice(None, -tail))
      end, _ = self.scan(params, middle, nothing, slice(-tail, None))
      latents = from_chunks(jnp.stack([middle.latents, end.latents]))
    else:
      end, _ = self.scan(params, state, nothing)
      latents = rollout.from_chunks(end.latents)[None]
    return Trajectory(
      latents=latents,
      log_probs=log_probs,
      velocities=None,
      prompt_index=jnp.asarray(self.layout.prompt_index),
      member=jnp.asarray(self.layout.member),
      mask=jnp.asarray(self.layout.mask),
      aside=aside,
    )

  def sample(
    self,
    params: Params,
    key: Key[Array, ""],
    prompt_encoding: Integer[ArrayLike, "P W"] | PromptEmbeddings,
    prompt_ids: Integer[ArrayLike, "P"],
    *,
    start: Float[ArrayLike, "P *L"] | None = None,
    tail: int = 0,
  ) -> Trajectory:
    """`init` and `run`."""
    state = self.init(params, key, prompt_encoding, prompt_ids, start)
    return self.run(params, state, tail=tail)

  def select(self, state: State, parents: Integer[ArrayLike, "B"]) -> State:
    """Every row continues from the latents of another row, with its own noise.

    Args:
      state: partially denoised samples.
      parents: row of the flat axis that each row copies; its prompt's.
    """

    def take(x):
      rows = rollout.from_chunks(x)[jnp.asarray(parents)]
      return jnp.asarray(rollout.to_chunks(rows, self.layout.chunks))

    return dataclasses.replace(
      state,
      latents=take(state.latents),
      memory=jax.tree.map(take, state.memory),
    )

  def pixels(
    self, latents: Float[ArrayLike, "B *L"], decoder: Params | None = None
  ) -> Array:
    """Pixels [P, G, H, W, C] of latents, one micro-batch after the other.

    They may leave [0, 1] by the policy's range errors.
    """
    latents, layout = jnp.asarray(latents), self.layout
    if decoder is None:
      pixels = self.policy.to_pixels(latents)
    else:
      chunks = rollout.to_chunks(latents, layout.chunks)
      decode = lambda z: self.policy.to_pixels(z, decoder)
      pixels = rollout.from_chunks(jax.lax.map(decode, chunks))
    return jnp.asarray(rollout.to_groups(pixels, layout.prompts, layout.group))

  def finish(
    self,
    params: Params,
    prompt_encoding: Integer[ArrayLike, "P W"] | PromptEmbeddings,
    latents: Float[ArrayLike, "B *L"],
    first: Integer[ArrayLike, ""],
    *,
    jumps: bool = False,
  ) -> Float[Array, "B *L"]:
    """Latents before a step, integrated to the end by the ODE.

    Args:
      params: of the policy.
      prompt_encoding: as in `init`.
      latents: before step `first`.
      first: the step, int32; T returns the latents. It may be traced.
      jumps: whether one Euler step leads to the end, in the place of the sampler's
        own; `first` is then less than T.
    """
    cond, uncond = guidance.conditioning(
      self.policy, params, prompt_encoding, self.guidance_scale
    )
    table, _ = self._step_coeffs()

    def one(chunk):
      x, index = chunk
      rows = rollout.gather_cond(cond, index)
      empty = rollout.gather_uncond(uncond, index)

      def body(i, x):
        step = jax.tree.map(lambda y: y[i], table)
        v = log_prob.step_velocity(
          self.policy, params, rows, empty, x, step, self.guidance_scale
        )
        return x - (step.t if jumps else step.t - step.t_next) * v

      last = first + 1 if jumps else self.steps
      return jax.lax.fori_loop(first, last, body, x)

    to_chunks = functools.partial(rollout.to_chunks, chunks=self.layout.chunks)
    chunks = (
      to_chunks(jnp.asarray(latents)), to_chunks(jnp.asarray(self.layout.prompt_index)),
    )  # fmt: skip
    return jnp.asarray(rollout.from_chunks(jax.lax.map(one, chunks)))
