"""Detectors of what the policy draws, by cross entropy; several may be asked."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import UserError, nearest, require_counts
from jaxreward.models.vision import discriminator as network
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes, require_layers
from jaxreward.players.critics import REPLICATED, logits_of
from jaxreward.types import Array, ArrayLike

POOLS = ("mean", "least", "log")


def reality(
  *,
  width: int = 16,
  depth: int = 2,
  hidden: int = 128,
  heads: int = 1,
  smoothing: float = 0.05,
  pool: str = "mean",
) -> Player:
  """The probability that an image is a reference and not the policy's is a reward.

  loss = mean over K detectors of [H(1 - s, l(real)) + H(s, l(image))] / 2, with H(y, l)
  = softplus(l) - y l and s the smoothing: y is what a detector is to say. Its optimum
  at s = 0 is sigmoid(l) = p_real / (p_real + p_policy), everywhere 1/2 once the two
  are one.

  RealGen, https://arxiv.org/abs/2512.00473, in its second version: one detector, of
  soft targets .95 and .05, read as an average of its parameters of decay .99 (the
  player's `average`), so that the policy does not outrun a detector that stands still.
  The authors train experts on features of published detectors, and replay earlier
  images, which is not done here. LFVoid, https://arxiv.org/abs/2307.07837: goals are
  images, and an ensemble of discriminators of goals says how near one is (read in the
  abstract; how the ensemble is pooled is unverified).

  Args:
    width: see `models.vision.discriminator`.
    depth: the same.
    hidden: the same.
    heads: K detectors of their own parameters.
    smoothing: s, in [0, 0.5).
    pool: of the K probabilities: "mean"; "least", of which none can be fooled alone;
      or "log", the mean of their logarithms.

  Raises:
    UserError: a smoothing or a pool that there is not.
  """
  require_layers(width, depth)
  require_counts("", hidden=hidden, heads=heads)
  if not 0 <= smoothing < 0.5:
    raise UserError(f"smoothing={smoothing}: from 0 to less than 0.5")
  if pool not in POOLS:
    raise UserError(
      f'pool="{pool}" is none of {", ".join(POOLS)}{nearest(pool, POOLS)}'
    )
  net = network.Discriminator(width, depth, hidden)

  def init(key: Array, sizes: Sizes):
    one = lambda k: net.init(k, jnp.zeros((1, *sizes.image)))["params"]
    return jax.vmap(one)(jax.random.split(key, heads))

  def logits(arrays: Arrays, name: str) -> Array:
    """[B, K]."""
    images = arrays(name)
    one = lambda p: jnp.asarray(net.apply({"params": p}, images)[0])
    return jax.vmap(one, out_axes=1)(arrays.params)

  def loss(image_logits, real_logits, mask, real_mask):
    return soft_cross_entropy(
      image_logits, real_logits, mask, real_mask, smoothing=smoothing
    )

  return Player(
    init, loss,
    offers={
      "image_logits": lambda arrays: logits(arrays, "image"),
      "real_logits": lambda arrays: logits(arrays, "real_image"),
      "image_score": lambda arrays: pooled(arrays("image_logits"), pool),
    },
    reads=("image", "real_image", "mask", "real_mask"), score="image_score",
    rules=(("(kernel|bias|scale)$", ()),),
  )  # fmt: skip


def soft_cross_entropy(
  image_logits: Float[ArrayLike, "B K"],
  real_logits: Float[ArrayLike, "B K"],
  mask: Bool[ArrayLike, "B"],
  real_mask: Bool[ArrayLike, "B"],
  *,
  smoothing: float,
) -> tuple[Mean, dict[str, Any]]:
  """The loss of `reality`, and the share that its detectors tell right."""
  both = jnp.asarray(mask) & real_mask
  safe = lambda x: jnp.where(both[:, None], x, 0.0)
  fake, real = safe(image_logits), safe(real_logits)
  entropy = lambda l, y: jax.nn.softplus(l) - y * l
  value = (entropy(real, 1 - smoothing) + entropy(fake, smoothing)) / 2
  right = ((real > 0) + 1.0 * (fake < 0)) / 2
  return Mean.of(value.mean(1), both), {
    "accuracy": jax.lax.stop_gradient(Mean.of(right.mean(1), both))
  }


def pooled(logits: Float[ArrayLike, "B K"], pool: str) -> Float[Array, "B"]:
  """What K detectors say together; see `reality`."""
  logits = jnp.asarray(logits)
  if pool == "log":
    return jax.nn.log_sigmoid(logits).mean(-1)
  probability = jax.nn.sigmoid(logits)
  return probability.min(-1) if pool == "least" else probability.mean(-1)


def expert_above(
  *, width: int = 16, depth: int = 3, hidden: int = 128
) -> Player:
  """Its score of an image and its prompt puts the exact answer above the policy's.

  -log sigmoid(l(real) - l(image)) of pairs of an expert's answer and what the policy
  draws now, so that it stays right where the policy is. RetouchIQ's policy-guided
  reward training, https://arxiv.org/abs/2602.17558, of a language model that scores
  criteria it has written for each edit, and is trained by whether it ranks an expert's
  edit first; as a loss of a scalar network it is this library's.

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.

  Raises:
    UserError: sizes of which there is no network.
  """
  init, logit = logits_of(width, depth, hidden)

  return Player(
    init, above,
    offers={"image_logit": logit("image"), "real_logit": logit("real_image")},
    reads=("image", "real_image", "mask", "real_mask", "prompt_index"),
    score="image_logit",
    rules=REPLICATED,
  )  # fmt: skip


def above(
  image_logit: Float[ArrayLike, "B"],
  real_logit: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
  real_mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Any]]:
  """-log sigmoid of the answer's logit less the policy's, and how often it is more."""
  both = jnp.asarray(mask) & real_mask
  gap = jnp.where(both, jnp.asarray(real_logit) - image_logit, 0.0)
  accuracy = Mean.of(jnp.where(gap == 0, 0.5, gap > 0), both)
  return Mean.of(jax.nn.softplus(-gap), both), {
    "accuracy": jax.lax.stop_gradient(accuracy)
  }
