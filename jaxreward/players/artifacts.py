"""A detector of artefacts: clean reference images against spoilt copies of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxreward.errors import require_counts
from jaxreward.models.vision import discriminator as network
from jaxreward.numerics import Mean
from jaxreward.players.contract import Arrays, Player, Sizes, require_layers
from jaxreward.types import Array, ArrayLike


def artifact_detector(
  *, width: int = 16, depth: int = 2, hidden: int = 128, least: float = 0.15
) -> Player:
  """Its probability that an image is clean is a reward, beside any other.

  loss = mean [softplus(-l(clean)) + softplus(l(spoilt))] / 2, score = sigmoid(l), with
  reference images and `spoilt` copies of them. Train it before the policy
  (`align.hold_policy`), and leave it (`until`): preference and alignment rewards
  alike drift to artefacts, which it sees and they do not. Hong et al. 2026,
  https://arxiv.org/abs/2601.03468, read in the authors' code: unit weight, and
  1 - sigmoid(l_yes - l_no) of a language model's answer whose prompt is tuned on a few
  labelled images. The small network and its artefacts are an adaptation.

  Args:
    width: see `models.vision.discriminator`.
    depth: the same.
    hidden: the same.
    least: of the severity of a spoilt copy, in [0, 1].
  """
  require_layers(width, depth)
  require_counts("", hidden=hidden)
  net = network.Discriminator(width, depth, hidden)

  def init(key: Array, sizes: Sizes):
    return net.init(key, jnp.zeros((1, *sizes.image)))["params"]

  def logit(arrays: Arrays, images: Array) -> Array:
    outputs: Any = net.apply({"params": arrays.params}, images)
    return jnp.asarray(outputs[0])

  def of_spoilt(arrays: Arrays) -> Array:
    keys = jax.random.wrap_key_data(arrays("keys"))
    return logit(arrays, spoilt(keys, arrays("real_image"), least))

  return Player(
    init, told_apart,
    offers={
      "clean_logit": lambda arrays: logit(arrays, arrays("real_image")),
      "spoilt_logit": of_spoilt,
      "clean_score": lambda arrays: jax.nn.sigmoid(
        logit(arrays, arrays("image"))
      ),
    },
    reads=("real_image", "real_mask", "keys"), score="clean_score",
    rules=(("(kernel|bias|scale)$", ()),),
  )  # fmt: skip


def told_apart(
  clean_logit: Float[ArrayLike, "B"],
  spoilt_logit: Float[ArrayLike, "B"],
  real_mask: Bool[ArrayLike, "B"],
) -> tuple[Mean, dict[str, Mean]]:
  """Cross entropy of clean and spoilt images, and the share told apart."""
  clean, bad = (
    jnp.where(real_mask, x, 0.0) for x in (clean_logit, spoilt_logit)
  )
  value = (jax.nn.softplus(-clean) + jax.nn.softplus(bad)) / 2
  right = ((clean > 0) + 1.0 * (bad < 0)) / 2
  return Mean.of(value, real_mask), {
    "accuracy": jax.lax.stop_gradient(Mean.of(right, real_mask))
  }


def spoilt(
  keys: Array, images: Float[ArrayLike, "B H W C"], least: float
) -> Float[Array, "B H W C"]:
  """Copies with grain, a grid, or colours that are driven to their ends.

  Args:
    keys: [B], from which kind, severity and grain are drawn.
    images: in [0, 1].
    least: of the severity.
  """

  def one(key: Array, image: Array) -> Array:
    kind, severity, grain = jax.random.split(key, 3)
    amount = jax.random.uniform(severity, (), minval=least, maxval=1.0)
    rows, columns = jnp.indices(image.shape[:2])
    grid = jnp.where((rows + columns) % 2 == 0, 1.0, -1.0)[..., None]
    forms = jnp.stack([
      image + 0.3 * amount * jax.random.normal(grain, image.shape),
      image + 0.2 * amount * grid,
      0.5 + (1 + 3 * amount) * (image - 0.5),
    ])  # fmt: skip
    form = forms[jax.random.randint(kind, (), 0, len(forms))]
    return jnp.clip(form, 0.0, 1.0)

  return jax.vmap(one)(keys, jnp.asarray(images))
