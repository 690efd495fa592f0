"""Players that learn from a judge: their rows, and how far they agree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxreward import feeds, setup
from jaxreward.feeds import Plan
from jaxreward.flow import path, rollout
from jaxreward.numerics import Mean, Running
from jaxreward.setup.players import Role
from jaxreward.training import state
from jaxreward.types import Array, ArrayLike, PromptBatch


@flax.struct.dataclass
class Labels:
  """What a judge said of the samples of an earlier iteration.

  Attributes:
    labels: float32 [P, G], NaN where one failed or none has come yet.
    words: what the policy encoded of the prompts then.
    mask: bool [P], False for padding.
  """

  labels: ArrayLike
  words: Any
  mask: ArrayLike


@flax.struct.dataclass
class Late:
  """What an update gets of the judges.

  Attributes:
    images: [P, G, H, W, C] of this iteration, as they were shown to the judges.
    labels: by the player's name, of the iteration its `lag` before this one.
  """

  images: ArrayLike
  labels: dict[str, Labels]


def no_labels(prompts: PromptBatch, plan: Plan) -> Labels:
  """As long as none has come."""
  values = jnp.full((plan.prompts, plan.group), jnp.nan)
  return Labels(values, prompts.words, prompts.mask)


@dataclasses.dataclass(frozen=True)
class LabelledSamples:
  """Samples of an earlier iteration with their labels.

  Attributes:
    player: its state, the newest images among those that it keeps.
    images: [B, H, W, C], 0 where not finite.
    labels: [P, G], 0 where not usable.
    usable: bool [P, G].
    words: leaves [P, ...].
    trusted: bool, whether it reaches the floor of its role.
    metrics: by the player's name.
  """

  player: state.Player
  images: Array
  labels: Array
  usable: Array
  words: Any
  trusted: Array
  metrics: dict[str, Mean]

  def marked(self, normalize: bool) -> Array:
    """The labels, NaN where not usable; normalized over the iteration."""
    labels = self.labels
    if normalize:
      labels = Running.empty().add(labels, self.usable).normalize(labels)
    return jnp.where(self.usable, labels, jnp.nan)


def hear(
  role: Role,
  player: state.Player,
  images: Array,
  late: Labels,
  step: Array,
  plan: Plan,
  score: Callable[[Array, Plan, Any], Array],
) -> LabelledSamples:
  """Labels of the iteration `lag` before this one, with their images.

  Args:
    role: of a player that is judged.
    player: its state.
    images: [B, H, W, C] of this iteration.
    late: the labels.
    step: number of this iteration.
    plan: of the run.
    score: (images [B, H, W, C], plan, words) -> the player's scores [P, G], as it
      is before it learns from these labels.
  """
  assert player.pending is not None
  ring = jnp.asarray(player.pending.images)
  if role.lag:
    slot = step % role.lag
    ring, images = ring.at[slot].set(images), ring[slot]
  images = setup.spread_rows(images)
  finite = jnp.isfinite(images).all((1, 2, 3))
  labels = jnp.asarray(late.labels)
  usable = jnp.isfinite(labels) & jnp.asarray(late.mask)[:, None]
  usable &= rollout.to_groups(finite, plan.prompts, plan.group)
  images = jnp.where(path.expand(finite, images), images, 0.0)
  labels = jnp.where(usable, labels, 0.0)
  words = jax.tree.map(jnp.asarray, late.words)
  newest = agreed(score(images, plan, words), labels, usable)
  recent = remembered(player.pending.agreed, newest)
  is_known = jnp.isfinite(recent)
  agreement = Mean.of(recent, is_known)
  metrics = {"agreement": agreement, "labels": Mean.of(usable)}
  trusted = is_known.any() & (agreement.value() >= role.floor)
  if role.floor:
    metrics["trusted"] = Mean.of(trusted)
  pending = state.Pending(ring, recent)
  return LabelledSamples(
    dataclasses.replace(player, pending=pending), images, labels, usable, words,
    trusted, {f"{role.name}/{k}": v for k, v in metrics.items()},
  )  # fmt: skip


def make_rows(
  role: Role, samples: LabelledSamples, plan: Plan
) -> dict[str, Any]:
  """The rows of a judged player, as `playing.make_rows`."""
  plan = dataclasses.replace(
    plan, rows=setup.spread_rows(plan.layout), updates=role.steps,
    split="times", trained=tuple(range(role.steps)),
  )  # fmt: skip
  flat = lambda x: rollout.from_groups(x, plan.layout)
  rival = lambda x: flat(jnp.roll(x, -1, axis=1))
  usable = flat(samples.usable) & jnp.asarray(plan.layout.mask)
  if any(name.startswith("rival") for name in role.player.reads):
    usable &= rival(samples.usable)
  groups = rollout.to_groups(samples.images, plan.prompts, plan.group)
  makers = {
    "image": lambda: samples.images,
    "rival_image": lambda: rival(groups),
    "signal": lambda: flat(samples.labels),
    "rival_signal": lambda: rival(samples.labels),
    "mask": lambda: usable,
    "prompt_index": lambda: jnp.asarray(plan.layout.prompt_index),
  }
  every = lambda x: jnp.broadcast_to(x, (role.steps, *x.shape))
  names = dict.fromkeys((*role.player.reads, "prompt_index"))
  return feeds.cut({name: every(makers[name]()) for name in names}, plan)


def agreed(score: Array, labels: Array, usable: Array) -> Array:
  """Whether a sample and the next of its group are ordered as labelled, [P * G].

  1/2 where the scores are equal; NaN for equal labels, and without a label.
  """
  following = lambda x: jnp.roll(x, -1, axis=1)
  gap, mine = labels - following(labels), score - following(score)
  counts = usable & following(usable) & (gap != 0) & jnp.isfinite(mine)
  value = jnp.where(mine == 0, 0.5, 1.0 * (jnp.sign(mine) == jnp.sign(gap)))
  return jnp.where(counts, value, jnp.nan).reshape(-1)


def remembered(recent: ArrayLike, newest: Array) -> Array:
  """The newest entries that are not NaN, before those of earlier iterations."""
  recent = jnp.asarray(recent)
  every = jnp.concatenate([newest, recent])
  order = jnp.argsort(jnp.isnan(every), stable=True)
  return every[order][: len(recent)]
