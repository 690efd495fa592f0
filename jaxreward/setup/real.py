"""Reference images as members of a group, beside what the policy draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward import rng, setup
from jaxreward.errors import UserError, shown
from jaxreward.flow import path, rollout
from jaxreward.types import Array, Params, Policy, PromptBatch, Trajectory

if TYPE_CHECKING:
  from jaxreward.feeds import Feed, Plan

Render = Callable[..., Array]  # (keys [B], prompts) -> images [B, H, W, C]


def check(config, feed: Feed, group: int) -> None:
  """Refuses reference images where they cannot be members of a group.

  Raises:
    UserError: too many, or an objective on steps.
  """
  count = config.rollout.real
  field = f"config.rollout.real={count}"
  if not 0 <= count < group:
    raise UserError(
      f"{field}: of a group of config.rollout.group={group} at least one sample"
      f" is drawn; take 0 to {group - 1}"
    )
  if not count:
    return
  if feed.keeps != "samples":
    raise UserError(
      f'{field}: config.objective.name="{config.objective.name}" reads steps that'
      " drew a sample, which a reference image has not; take an objective on"
      ' finished samples, such as "diffusion_nft"'
    )


def require(plan: Plan, config, batches: Callable[[int], PromptBatch]) -> None:
  """Refuses prompts without reference images where a group holds some.

  Raises:
    UserError: neither a file nor the task has any.
  """
  if plan.real and are_missing(plan.render, batches):
    raise UserError(
      f"config.rollout.real={plan.real}: the prompts of config.data.source="
      f"{shown(config.data.source)} have no reference images; name a file with a"
      ' "target" for each prompt, or take scenes'
    )


def are_missing(
  render: Render | None, batches: Callable[[int], PromptBatch]
) -> bool:
  """Whether neither the prompts nor their task have reference images."""
  return render is None and batches(0).target is None


def images_of(
  prompts: PromptBatch, render: Render | None, index: Array, keys: Array
) -> Float[Array, "B H W C"]:
  """Reference images of prompts: their exact answers, or new renders.

  Args:
    prompts: P prompts.
    render: of the task, where they have no targets.
    index: of the prompt of each image, int32 [B].
    keys: [B], of the renders.
  """
  if prompts.target is not None:
    return jnp.asarray(prompts.target)[index]
  assert render is not None
  return render(
    keys, jax.tree.map(lambda x: jnp.asarray(x)[index], prompts.plain)
  )


def mix(
  policy: Policy,
  plan: Plan,
  trajectory: Trajectory,
  pixels: Array,
  prompts: PromptBatch,
  key: Array,
  decoder: Params | None = None,
) -> tuple[Trajectory, Array]:
  """(trajectory, pixels) whose last `plan.real` members are reference images.

  Args:
    policy: encodes them.
    plan: of the run.
    trajectory: of finished samples.
    pixels: [P, G, H, W, C] of them.
    prompts: P prompts.
    key: scalar.
    decoder: parameters of the autoencoder.
  """
  count, group = plan.real, plan.group
  index = jnp.repeat(jnp.arange(plan.prompts), count)
  member = jnp.tile(jnp.arange(count), plan.prompts)
  keys = rng.sample_keys(key, jnp.asarray(prompts.ids)[index], member)
  images = images_of(prompts, plan.render, index, keys).astype(pixels.dtype)
  images = images.reshape(plan.prompts, count, *pixels.shape[2:])
  pixels = jnp.concatenate([pixels[:, : group - count], images], 1)
  encode = lambda one: setup.to_latents(policy, one, decoder)
  latents = jax.lax.map(encode, images)
  blank = jnp.zeros((plan.prompts, group - count, *latents.shape[2:]))
  latents = rollout.from_groups(
    jnp.concatenate([blank, latents], 1), plan.layout
  )
  is_real = path.expand(
    jnp.asarray(trajectory.member) >= group - count, latents
  )
  mixed = jnp.where(is_real, latents, jnp.asarray(trajectory.latents)[-1])
  return dataclasses.replace(trajectory, latents=mixed[None]), pixels
