"""A discriminator: reference pictures against those of the policy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxreward.errors import UserError, require_counts
from jaxreward.methods import prepares
from jaxreward.models.vision import discriminator as network
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes, require_layers
from jaxreward.types import Array, ArrayLike

Logits = Any  # ([B] of pictures, [B, N] of their places)


def discriminator(
  *,
  width: int = 32,
  depth: int = 2,
  hidden: int = 512,
  places: float = 0.3,
  gated: bool = False,
) -> Player:
  """Its logit is a reward: how much a picture looks like a reference (Adv-GRPO).

  loss = h(whole) + places h(of places), with
  h = (E relu(1 - D(real)) + E relu(1 + D(image))) / 2, and
  score = (1 - places) D_whole(image) + places mean D_places(image).
  Mao et al. 2025, https://arxiv.org/abs/2511.20256, read in the authors' code.
  They put the heads on frozen DINO features, normalised for the score and not
  for the loss; here the features are convolutions trained with the heads, and
  have length 1 in both.

  Args:
    width: see `models.vision.discriminator`.
    depth: the same.
    hidden: the same.
    places: weight of the places in the loss, and in the score.
    gated: learn only while the policy's pictures score higher on average than
      the references, as the authors train a preference model.

  Raises:
    UserError: a weight outside [0, 1], or sizes of which there is no network.
  """
  require_layers(width, depth)
  require_counts("", hidden=hidden)
  if not 0 <= places <= 1:
    raise UserError(f"places={places}: it must be from 0 to 1")
  net = network.Discriminator(width, depth, hidden)

  def init(key: Array, sizes: Sizes):
    return net.init(key, jnp.zeros((1, *sizes.image)))["params"]

  def logits(arrays: Arrays, name: str) -> Logits:
    return net.apply({"params": arrays.params}, arrays(name))

  def score(pair: Logits) -> Array:
    whole, local = pair
    return (1 - places) * jnp.asarray(whole) + places * jnp.mean(local, -1)

  def read(image_logits, real_logits, mask, real_mask):
    return dict(
      higher=score(image_logits), lower=score(real_logits),
      there=jnp.asarray(mask), real_there=jnp.asarray(real_mask),
    )  # fmt: skip

  def finish(columns):
    mean = lambda x, there: Mean.of(x, there).value()
    above = mean(columns["higher"], columns["there"]) > mean(
      columns["lower"], columns["real_there"]
    )
    return {"open": jnp.broadcast_to(above, columns["there"].shape)}

  def loss(image_logits, real_logits, mask, real_mask):
    return hinge(image_logits, real_logits, mask, real_mask, places=places)

  @prepares(read, finish, ("open",))
  def gated_loss(image_logits, real_logits, mask, real_mask, open):
    value, metrics = loss(image_logits, real_logits, mask, real_mask)
    is_open = jnp.asarray(open).any()
    keep = lambda x: jnp.where(is_open, x, 0.0)
    return jax.tree.map(keep, value), metrics | {"gate": Mean.of(open)}

  return Player(
    init, gated_loss if gated else loss,
    offers={
      "image_logits": lambda arrays: logits(arrays, "image"),
      "real_logits": lambda arrays: logits(arrays, "real_image"),
      "image_score": lambda arrays: score(arrays("image_logits")),
    },
    reads=("image", "real_image", "mask", "real_mask"),
    score="image_score",
    rules=(("(kernel|bias|scale)$", ()),),
  )  # fmt: skip


def hinge(
  image_logits: Logits,
  real_logits: Logits,
  mask: Bool[ArrayLike, "B"],
  real_mask: Bool[ArrayLike, "B"],
  *,
  places: float,
) -> tuple[Mean, dict[str, Mean]]:
  """The loss of `discriminator`: 1 + places at logits of 0, 0 beyond +-1."""
  whole, local = image_logits
  real_whole, real_local = real_logits
  both = jnp.asarray(mask) & real_mask

  def pair(real, fake):
    spread = lambda x: x.reshape(len(x), -1).mean(1)
    value = spread(jax.nn.relu(1 - real)) + spread(jax.nn.relu(1 + fake))
    return value / 2

  value = pair(jnp.asarray(real_whole), jnp.asarray(whole))
  value = value + places * pair(jnp.asarray(real_local), jnp.asarray(local))
  right = (jnp.asarray(real_whole) > 0).astype(jnp.float32)
  wrong = (jnp.asarray(whole) > 0).astype(jnp.float32)
  metrics = {
    "real_logit": Mean.of(real_whole, both),
    "image_logit": Mean.of(whole, both),
    "accuracy": Mean.of((right + 1 - wrong) / 2, both),
  }
  return Mean.of(value, both), jax.lax.stop_gradient(metrics)
