"""The kernels as programs with gradients, for lowering and compiling."""

import jax
import jax.numpy as jnp

from jaxreward.flow import steppers
from pallas_kernels import (
  grouped_advantage,
  pairwise_loss,
  sde_step,
  stream_attention,
)


def _array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def policy(form):
  def loss(log_prob, signal, mask, old, keep):
    mean, metrics, advantage = grouped_advantage.grouped_policy_loss(
      signal, mask, log_prob, old, keep, std="batch", implementation=form
    )
    return mean.value(), (metrics, advantage)

  return jax.value_and_grad(loss, has_aux=True)


def policy_of(prompts, group, steps, dtype=jnp.float32):
  cube = _array(prompts, group, steps, dtype=dtype)
  plane = _array(prompts, group)
  mask = _array(prompts, group, dtype=jnp.bool_)
  keep = _array(prompts, group, steps, dtype=jnp.bool_)
  return cube, plane, mask, cube, keep


def advantage(form):
  return lambda *a: grouped_advantage.advantage(*a, implementation=form)


def rows(form):
  return lambda *a: grouped_advantage.clipped_loss(*a, implementation=form)


def pairs(form, **options):
  def loss(scores, ratings):
    return pairwise_loss.pairwise_loss(
      scores, ratings, implementation=form, **options
    ).value()

  return jax.value_and_grad(loss)


def wins(form):
  def loss(scores, weights):
    rate = pairwise_loss.win_rate(scores, implementation=form)
    return (rate * weights).sum()

  return jax.value_and_grad(loss)


def _facts():
  one = jnp.float32(0.5)
  return steppers.StepTable(one, one, one, one, one, one, one)


def draw(form):
  return lambda *a: sde_step.sde_step(*a, _facts(), implementation=form)


def replay(form):
  def loss(x_t, v, x_next):
    return sde_step.transition(
      x_t, v, x_next, _facts(), implementation=form
    ).sum()

  return jax.value_and_grad(loss, 1)


def latents(*shape, dtype=jnp.float32):
  return (_array(*shape, dtype=dtype),) * 3


def attention(form, heads=2, width=64):
  """Of two streams with norms and rotation."""

  def loss(text, image):
    tokens = text.shape[1] + image.shape[1]
    angle = jnp.arange(tokens * width // 2, dtype="float32")
    angle = angle.reshape(tokens, -1)
    outputs = stream_attention.stream_attention(
      [(text,) * 3, (image,) * 3], heads, scales=jnp.ones((4, width)),
      rotary=(jnp.cos(angle), jnp.sin(angle)), implementation=form,
    )  # fmt: skip
    return sum(y.astype("float32").sum() for y in outputs)

  return jax.value_and_grad(loss, (0, 1))


BF16 = jnp.bfloat16
# name: (program, operands); the first axis is what a mesh shares out.
CASES = {
  "policy": (policy, policy_of(48, 24, 10)),
  "policy_odd": (policy, policy_of(131, 7, 3)),
  "policy_bf16": (policy, policy_of(12, 9, 50, BF16)),
  "policy_large": (policy, policy_of(256, 64, 100)),
  "policy_1024": (policy, policy_of(130, 1024, 3)),
  "advantage": (
    advantage,
    (_array(48, 24), _array(48, 24, dtype=jnp.bool_)),
  ),
  "rows": (rows, (_array(300),) * 3 + (_array(300, dtype=jnp.bool_),)),
  "pairs_small": (pairs, (_array(48, 24),) * 2),
  "pairs_odd": (
    lambda form: pairs(form, margin=0.5, label_noise=0.1),
    (_array(3, 1000, dtype=BF16), _array(3, 1000)),
  ),
  "pairs_4096": (
    lambda form: pairs(form, ties="rao_kupper"),
    (_array(4, 4096),) * 2,
  ),
  "wins": (wins, (_array(5, 300),) * 2),
  "draw": (draw, latents(16, 64, 64, 16)),
  "draw_bf16": (draw, latents(4, 128, 128, 16, dtype=BF16)),
  "draw_flat": (draw, latents(16, 64 * 64 * 16)),
  "draw_odd": (draw, latents(3, 33, 7, 4)),
  "replay": (replay, latents(16, 64, 64, 16)),
  "replay_bf16": (replay, latents(5, 33, 7, 4, dtype=BF16)),
}
# With those that have no form for GPUs.
TPU_CASES = CASES | {
  "attention": (
    attention,
    (_array(4, 77, 128, dtype=BF16), _array(4, 256, 128, dtype=BF16)),
  ),
}
