"""The job finetune from its config: shapes of batches, times, the loss."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import objectives, rng, setup
from jaxreward.errors import UserError, one_line, shown
from jaxreward.flow import path, schedule
from jaxreward.numerics import Mean
from jaxreward.setup import encodings, offline
from jaxreward.types import Array, ArrayLike, Params, Policy

LEAST = 1e-3  # of the times, as in grids of 1000 steps
_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
OBJECTIVES = {"flow_matching": objectives.flow_matching}


def bind_loss(config: ConfigDict) -> Callable[..., Any]:
  """The objective with its options.

  Raises:
    UserError: another objective than flow matching, or an unknown option.
  """
  return config_lib.bind(
    config.objective, OBJECTIVES, field="objective", positional=5
  )


def parts(batch_size: int, microbatch: int) -> int:
  """Micro-batches of a batch.

  Raises:
    UserError: they do not divide it.
  """
  if not microbatch:
    return 1
  if batch_size % microbatch:
    raise UserError(
      f"config.finetune.microbatch={microbatch} does not divide"
      f" config.finetune.batch_size={batch_size}"
    )
  return batch_size // microbatch


def shapes(config: ConfigDict, policy: Policy) -> list[tuple[int, int]]:
  """(height, width) of the batches; the policy's own if none is named.

  Raises:
    UserError: text that is no size, or a size that the policy does not take.
  """
  text = config.finetune.buckets
  if not text:
    return [setup.picture_side(policy)]
  sizes = []
  for part in text.split(","):
    field = f'config.finetune.buckets: "{shown(part, 20)}"'
    match = _SHAPE.fullmatch(part.strip())
    if match is None:
      raise UserError(f"{field} is no HEIGHTxWIDTH in pixels, as in 1024x768")
    shape = int(match[1]), int(match[2])
    _try(config, policy, shape, field)
    sizes.append(shape)
  if len(set(sizes)) < len(sizes):
    raise UserError(f"config.finetune.buckets={text}: a size appears twice")
  return sizes


def latent_shape(
  config: ConfigDict, policy: Policy, shape: tuple[int, int]
) -> tuple[int, ...]:
  """Of one image or video of that many pixels; nothing is computed."""
  frames = offline.frames_of(policy, config)
  pixels = (frames, *shape, 3) if frames else (*shape, 3)
  images = jax.ShapeDtypeStruct((1, *pixels), jnp.float32)
  decoder = None
  if policy.decoder is not None:
    decoder = jax.eval_shape(policy.decoder, jax.random.key(0))
  encoders = encodings.Encoders(config, policy)
  return jax.eval_shape(encoders.run, images, decoder).shape[1:]


def _try(config: ConfigDict, policy: Policy, shape, field: str) -> None:
  """Traces the policy on latents of the shape."""

  def forward(key, x):
    inputs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), policy.prompts)
    if policy.prompts is None:
      inputs = jnp.zeros((1, 4), jnp.int32)
    if policy.takes_source and policy.pictures:
      for name, like in policy.pictures.items():
        size = like.shape
        if name == "picture":
          size = (*size[:-3], *x.shape[-3:-1], size[-1])
        inputs = dict(inputs, **{name: jnp.zeros(size, like.dtype)})
    elif policy.takes_source:
      inputs = {"tokens": inputs, "source": jnp.zeros((1, *shape, 3))}
    params = policy.init(key)
    t = jnp.full((1,), 0.5)
    return policy.velocity(params, x, t, policy.encode(params, inputs))

  try:
    size = latent_shape(config, policy, shape)
    x = jax.ShapeDtypeStruct((1, *size), jnp.float32)
    is_taken = jax.eval_shape(forward, jax.random.key(0), x).shape == x.shape
    reason = "its velocity has another size"
  except Exception as error:  # whatever an architecture raises
    is_taken, reason = False, one_line(error)
  if not is_taken:
    raise UserError(
      f'{field}: "{config.model.name}" takes no such size'
      f" ({shown(reason, 120)}); sides have to be multiples of its patches"
    )


def shifts(
  config: ConfigDict, policy: Policy, sizes: Sequence[tuple[int, int]]
) -> list[float]:
  """The shift of the times of each size.

  `finetune.shift`, or where it is 0 that of the sampler's schedule, which may grow
  with the image.
  """
  if config.finetune.shift:
    return [config.finetune.shift] * len(sizes)
  make = config_lib.bind(
    config.rollout.schedule, schedule.REGISTRY, field="rollout.schedule",
    positional=2,
  )  # fmt: skip
  schedules = [
    make(config.rollout.shift, latent_shape(config, policy, size))
    for size in sizes
  ]
  return [s.shift_of(config.rollout.num_steps) for s in schedules]


@dataclasses.dataclass(frozen=True)
class Loss:
  """Flow matching on rows of a dataset; see `__call__`.

  Attributes:
    trainable: what learns.
    objective: (v, u, t, weight, mask) -> Mean, metrics.
    density: uniform draws -> times before the shift.
    seed: of the run.
    caption_drop: share of captions left out.
  """

  trainable: setup.Trainable
  objective: Callable[..., Any]
  density: Callable[[Array], Array]
  seed: int
  caption_drop: float = 0.0

  @classmethod
  def of(cls, config: ConfigDict, trainable: setup.Trainable) -> Loss:
    return cls(
      trainable, bind_loss(config), offline.bind_density(config), config.seed,
      config.data.caption_drop,
    )  # fmt: skip

  def times(self, u: Array, shift: Array) -> Array:
    """s t / (1 + (s - 1) t) of the density's quantiles t, at least `LEAST`."""
    t = self.density(u)
    return jnp.clip(shift * t / (1 + (shift - 1) * t), LEAST, 1.0)

  def at(self, trained: Params, micro, context, keys: Array, t: Array, words):
    """Loss and metrics at given times; noise [B, ...] by the keys [B]."""
    x0 = jnp.asarray(micro["x0"])
    noise = rng.normal_each(keys, x0.shape[1:])
    params = self.trainable.merge(trained, context["base"])
    policy = self.trainable.policy
    cond = policy.encode(params, words)
    v = policy.velocity(params, path.interpolate(x0, noise, t), t, cond)
    mask = micro.get("mask", jnp.ones(len(x0), bool))
    return self.objective(v, noise - x0, t, micro["weight"], mask)

  def __call__(self, trained: Params, micro: dict[str, Any], frozen: tuple):
    """(Mean, metrics) of a micro-batch.

    Args:
      trained: parameters that learn.
      micro: leaves [B, ...]: "x0", "words", "weight", "shift", "row", the place in
        the batch, and "empty" where captions left out have images.
      frozen: (step, {"base", "empty"}).
    """
    n, context = frozen
    key = rng.stream_key(self.seed, "finetune", n)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(micro["row"])
    draw = jax.vmap(lambda k: jax.random.uniform(k, minval=1e-6))
    t = self.times(draw(rng.fold_each(keys, 1)), micro["shift"])
    is_dropped = draw(rng.fold_each(keys, 2)) < self.caption_drop
    empty = micro.get("empty", context["empty"])
    words = without_captions(micro["words"], empty, is_dropped)
    return self.at(trained, micro, context, rng.fold_each(keys, 0), t, words)

  def validation(self, count: int):
    """(parameters, batch, context) -> Mean of (v - u)^2 at fixed noise.

    Each row is noised at `count` times, the middles of equal parts of the density;
    its noise belongs to the row and the time.
    """

    def run(trained: Params, batch: dict[str, Any], context: Any) -> Mean:
      key = rng.stream_key(self.seed, "validation")
      keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["row"])

      def one(i):
        u = jnp.full(batch["row"].shape, (i + 0.5) / count)
        t = self.times(u, batch["shift"])
        _, metrics = self.at(
          trained, batch, context, rng.fold_each(keys, i), t, batch["words"]
        )
        return metrics["matching_loss"]

      each = jax.lax.map(one, jnp.arange(count))
      return jax.tree.map(lambda x: x.sum(0), each)

    return run


def without_captions(words: Any, empty: Any, is_dropped: Array) -> Any:
  """What is encoded of rows, with the captions of some left out.

  Args:
    words: word ids [B, L], or a dict of leaves [B, ...] that may also hold images.
    empty: the same of no caption, without images, leaves [1, ...] or [B, ...].
    is_dropped: bool [B].
  """

  def choose(x: ArrayLike, y: ArrayLike) -> Array:
    return jnp.where(path.expand(is_dropped, x), y, x)

  if not isinstance(words, dict):
    return choose(words, empty)
  if not isinstance(empty, dict):
    empty = {"tokens": empty}
  return words | {name: choose(words[name], empty[name]) for name in empty}
