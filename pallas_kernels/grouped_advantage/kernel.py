"""One block of prompts and steps: each operand is read once.

The grid is (blocks of prompts, blocks of steps). Group statistics are
recomputed for every block of steps: they are 1/T of the work.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxreward.compat import pallas as pl
from pallas_kernels.grouped_advantage import reference
from pallas_kernels.grouped_advantage.reference import Options


def body(*refs, options: Options, steps: int, has_loss: bool, has_keep: bool):
  """Advantage, and with `has_loss` the loss's sums and its gradient.

  Args:
    *refs: signal [G, P'], mask [G, P'], scale [1, P'], and with the loss
      log_prob, old_log_prob and perhaps keep [T', G, P']; then the outputs
      advantage [G, P'], statistics [1, 8, P'] and perhaps gradient [T', G, P'].
    options: static choices.
    steps: T; a block may reach beyond it.
    has_loss: see above.
    has_keep: whether single steps are masked.
  """
  inputs = 3 + (2 + has_keep if has_loss else 0)
  (signal, mask, scale, *trajectory), outputs = refs[:inputs], refs[inputs:]
  valid = mask[...] > 0
  advantage = reference.credit(
    signal[...].astype(jnp.float32), valid, scale[...], options
  )
  outputs[0][...] = advantage
  if not has_loss:
    return
  log_prob, old_log_prob = (x[...].astype(jnp.float32) for x in trajectory[:2])
  shape = log_prob.shape
  # As numbers: a boolean mask cannot be broadcast over a new axis.
  counts = jnp.broadcast_to(mask[...][None], shape)
  if has_keep:
    counts *= trajectory[2][...]
  counted = counts > 0
  if steps % shape[0]:
    step = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    counted &= step + pl.program_id(1) * shape[0] < steps
  terms, gradient = reference.policy_terms(
    log_prob, old_log_prob, advantage[None], counted, options
  )
  for i, term in enumerate(terms):
    outputs[1][0, i, :] = jnp.sum(jnp.sum(term, axis=0), axis=0)
  if len(outputs) > 2:
    outputs[2][...] = gradient


def make(options: Options, steps: int, cubes: int):
  """`body` for the number of operands [T, G, P]: none, two, or three with a
  mask."""
  return functools.partial(
    body, options=options, steps=steps, has_loss=cubes > 0, has_keep=cubes > 2
  )
