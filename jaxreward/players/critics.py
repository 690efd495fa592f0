"""Networks that see latents: what a sample will earn, and which is preferred."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import require_counts
from jaxreward.models.vision import critic as network
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes, require_layers
from jaxreward.types import Array, ArrayLike


def critic(*, width: int = 16, depth: int = 2, hidden: int = 128) -> Player:
  """V(x_t, t, words), fitted to the reward of the finished sample (AC-Flow).

  loss = E (V(x_t, t, c) - shaped)^2, with shaped = (r - mean r) / std r over the
  iteration and x_t the finished sample noised again at a random time. It gives
  "value" at the rows of an objective, and `step_values` to an advantage.
  Shaping and architecture are unverified: no code is public.

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.

  Raises:
    UserError: sizes of which there is no network.
  """
  init, values = values_of(width, depth, hidden)

  def value(arrays: Arrays) -> Array:
    x_t = arrays("x_t")
    return values(arrays, x_t, jnp.broadcast_to(arrays("t"), x_t.shape[:1]))

  return Player(
    init, squared_error, offers={"value": value},
    reads=("x_t", "t", "shaped", "mask", "prompt_index"), gives=("value",),
    rules=REPLICATED,
  )  # fmt: skip


# Parameters of small networks stand whole on every device.
REPLICATED = (("(kernel|bias|scale|embedding)$", ()),)


def values_of(width: int, depth: int, hidden: int, *, of: str = "latent"):
  """(init of a player, (arrays, samples, times) -> a number each).

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.
    of: "latent" or "image", what it sees.

  Raises:
    UserError: sizes of which there is no network.
  """
  require_layers(width, depth)
  require_counts("", hidden=hidden)
  net = network.Critic(width, depth, hidden)

  def init(key: Array, sizes: Sizes):
    x = jnp.zeros((1, *getattr(sizes, of)))
    words = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sizes.words)
    return net.init(key, x, jnp.ones(1), words)["params"]

  def values(arrays: Arrays, x: ArrayLike, t: ArrayLike) -> Array:
    numbers: Any = net.apply({"params": arrays.params}, x, t, arrays("words"))
    return numbers

  return init, values


def logits_of(width: int, depth: int, hidden: int):
  """(init of a player, name of images -> what offers their numbers at time 0).

  The sizes and errors are those of `values_of`.
  """
  init, values = values_of(width, depth, hidden, of="image")

  def logit(name: str):
    def compute(arrays: Arrays) -> Array:
      images = arrays(name)
      return values(arrays, images, jnp.zeros(images.shape[:1]))

    return compute

  return init, logit


def squared_error(
  value: Float[ArrayLike, "B"],
  shaped: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Mean (value - shaped)^2, and that of a value of 0 as `baseline_error`."""
  value, shaped = jnp.asarray(value), jnp.asarray(shaped)
  error = jnp.square(value - shaped)
  return Mean.of(error, mask), {
    "baseline_error": Mean.of(jnp.square(shaped), mask)
  }


def latent_proxy(
  *, width: int = 16, depth: int = 2, hidden: int = 128
) -> Player:
  """A reward of latents that imitates the preferences of the run's rewards.

  It gives `latent_score` of predicted samples, with a gradient through neither a
  decoder nor the rewards: high frequencies that please them alone are not learned.
  RG-LCD, Li et al. 2024, https://arxiv.org/abs/2403.11027. The authors compare
  student, target and data; here each sample with the next of its group.

  Args:
    width: see `models.vision.critic`.
    depth: the same.
    hidden: the same.
  """
  init, values = values_of(width, depth, hidden)

  def score(name: str):
    def compute(arrays: Arrays) -> Array:
      x = arrays(name)
      return values(arrays, x, jnp.zeros(x.shape[:1]))

    return compute

  return Player(
    init, imitated_preference,
    offers={"latent_score": score("x0"), "rival_score": score("rival")},
    reads=("x0", "rival", "signal", "rival_signal", "mask", "prompt_index"),
    predicts=("latent_score",),
    rules=REPLICATED,
  )  # fmt: skip


def imitated_preference(
  latent_score: Float[ArrayLike, "B"],
  rival_score: Float[ArrayLike, "B"],
  signal: Float[ArrayLike, "B"],
  rival_signal: Float[ArrayLike, "B"],
  mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """KL(softmax(e, e') || softmax(l, l')) of the rewards e and the scores l.

  Also `agreement`, the share of pairs that both order alike.
  """
  gap = jnp.asarray(latent_score) - rival_score
  target = jnp.asarray(signal) - rival_signal
  share, log = jax.nn.sigmoid(target), jax.nn.log_sigmoid
  value = share * (log(target) - log(gap))
  value += (1 - share) * (log(-target) - log(-gap))
  agreement = (gap > 0) == (target > 0)
  return Mean.of(value, mask), {
    "agreement": jax.lax.stop_gradient(Mean.of(agreement, mask))
  }
