"""Heads with several scores per image, and heads on pairs of images."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.errors import UserError
from jaxreward.reward_models.contract import Features, Head, Outputs
from jaxreward.reward_models.heads import (
  pairs_of,
  perceptron,
  require,
  value_alone,
)
from jaxreward.types import Array, ArrayLike, Params


def aspects(
  *,
  count: int = 3,
  hidden: int = 128,
  activation: str = "gelu",
  positive: bool = False,
  dtype: str = "float32",
) -> Head:
  """A score per aspect; the value is their mean.

  EditHF-1M predicts mean opinion scores as |MLP(h)| (read in its repository);
  `positive` takes a softplus instead, which has a gradient everywhere.

  Args:
    count: of the aspects.
    hidden: features between the layers; 0 for one layer.
    activation: "gelu" or "silu".
    positive: whether scores are above 0.
    dtype: of the products.
  """
  require(1, count=count)
  init, apply = perceptron(count, hidden, dtype, activation)

  def outputs(params: Params, features: Features) -> Outputs:
    scores = apply(params, features)
    scores = jax.nn.softplus(scores) if positive else scores
    return {"value": scores.mean(-1), "aspect_scores": scores}

  return Head(init, outputs, value_alone, ("value", "aspect_scores"))


def experts(
  *,
  sizes: Sequence[int] = (3, 1),
  hidden: int = 64,
  temperature: float = 1.0,
  dtype: str = "float32",
) -> Head:
  """Criteria, mixed into aspects and one value by gates of the prompt.

  c = W h, S_a = sum_{i in a} w_i c_i with w a softmax within each aspect, and
  the value is sum_a v_a S_a with v a softmax over aspects; both gates read the
  prompt alone (MJ-VIDEO, https://arxiv.org/abs/2502.01719, whose gates have
  three hidden layers and a learned scale).

  Args:
    sizes: criteria of each aspect, in their order.
    hidden: features of the gates.
    temperature: of the softmaxes.
    dtype: of the products.
  """
  if not sizes or min(sizes) < 1:
    raise UserError(
      f"reward_model.head.sizes={tuple(sizes)}: an aspect has at least one"
      " criterion"
    )
  if not temperature > 0:
    raise UserError(
      f"reward_model.head.temperature={temperature}: it must be above 0"
    )
  criteria, groups = sum(sizes), len(sizes)
  member = np.repeat(np.eye(groups, dtype=np.float32), sizes, 0)  # [C, A]
  criteria_init, criteria_of = perceptron(criteria, 0, dtype)
  gates_init, gates_of = perceptron(
    criteria + groups, hidden, dtype, reads="prompt"
  )

  def init(key: Array, features: Features) -> Params:
    first, second = jax.random.split(key)
    return {
      "criteria": criteria_init(first, features),
      "gates": gates_init(second, features),
    }

  def outputs(params: Params, features: Features) -> Outputs:
    scores = criteria_of(params["criteria"], features)
    gates = gates_of(params["gates"], features) / temperature
    within = jnp.where(member.T > 0, gates[:, None, :criteria], -1e30)
    shares = jax.nn.softmax(within, -1)  # [P, A, C]
    over = jax.nn.softmax(gates[:, criteria:], -1)
    by_aspect = jnp.einsum("pac,pgc->pga", shares, scores)
    return {
      "value": jnp.einsum("pa,pga->pg", over, by_aspect),
      "criteria": scores, "aspect_scores": by_aspect, "aspect_weights": over,
      "membership": jnp.broadcast_to(member, (len(over), *member.shape)),
    }  # fmt: skip

  rows = ("aspect_weights", "membership")
  names = ("value", "criteria", "aspect_scores", *rows)
  return Head(
    init, outputs, value_alone, names, of_rows=rows, needs=("joint", "prompt")
  )


def stages(
  *,
  shares: Sequence[float] = (0.25, 0.25, 0.25, 0.25),
  hidden: int = 128,
  dtype: str = "float32",
) -> Head:
  """A stage, and the progress within it; the value is the expected progress.

  y = P_{k-1} + a_k tau, with a_k the mean share of stage k and P its sums
  (SARM, https://arxiv.org/abs/2509.25358). Images stand for moments of a
  demonstration.

  Args:
    shares: a_k, which add up to 1.
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  if not shares or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
    raise UserError(
      f"reward_model.head.shares={tuple(shares)}: positive shares that add up"
      " to 1"
    )
  share = np.asarray(shares, np.float32)
  before = np.concatenate([[0], np.cumsum(share)[:-1]]).astype(np.float32)
  init, apply = perceptron(len(share) + 1, hidden, dtype)

  def outputs(params: Params, features: Features) -> Outputs:
    raw = apply(params, features)
    logits, progress = raw[..., :-1], jax.nn.sigmoid(raw[..., -1])
    at = before + share * progress[..., None]
    value = (jax.nn.softmax(logits, -1) * at).sum(-1)
    shape = (len(raw), len(share))
    return {
      "value": value, "stage_logits": logits, "progress": progress,
      "stage_shares": jnp.broadcast_to(share, shape),
    }  # fmt: skip

  names = ("value", "stage_logits", "progress", "stage_shares")
  return Head(init, outputs, value_alone, names, of_rows=("stage_shares",))


def _of_pairs(outputs: int, hidden: int, dtype: str):
  """(init, apply) of a network on pairs of images: [P, G, G, O]."""
  net_init, net = perceptron(outputs, hidden, dtype)

  def init(key: Array, features: Features) -> Params:
    wide = jnp.zeros((1, 2 * features["joint"].shape[-1]))
    return net_init(key, {"joint": wide})

  def apply(params: Params, features: Features) -> Array:
    return net(params, {"joint": pairs_of(jnp.asarray(features["joint"]))})

  return init, apply


def mean_of_others(x: Array, mask: ArrayLike | None = None) -> Array:
  """Mean [P, G] of x [P, G, G] over the other images; of itself if alone.

  Images without a mask, bool [P, G], do not count.
  """
  g = x.shape[1]
  others = 1 - jnp.eye(g) if g > 1 else jnp.ones((1, 1))
  if mask is None:
    return (x * others).sum(-1) / others.sum(-1)
  others = others * jnp.asarray(mask)[:, None]
  return (x * others).sum(-1) / jnp.maximum(others.sum(-1), 1)


def outcomes(*, hidden: int = 64, dtype: str = "float32") -> Head:
  """Four outcomes of a pair: first or second better, both good, both bad.

  Logits are symmetric under a swap of the images by construction; the value
  is the mean over the others of a group of p_first + p_good - p_second - p_bad
  (DesignSense, https://arxiv.org/abs/2602.23438; its scalar is unverified).

  Args:
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  init, apply = _of_pairs(3, hidden, dtype)

  def outputs(params: Params, features: Features) -> Outputs:
    raw = apply(params, features)
    swapped = raw.swapaxes(1, 2)
    both = (raw + swapped) / 2
    logits = jnp.stack(
      [raw[..., 0], swapped[..., 0], both[..., 1], both[..., 2]], -1
    )
    signs = jnp.array([1.0, -1.0, 1.0, -1.0])
    return {
      "value": mean_of_others(
        jax.nn.softmax(logits, -1) @ signs, features.get("mask")
      ),
      "pair_logits": logits,
    }

  names = ("value", "pair_logits")
  return Head(init, outputs, value_alone, names, of_pairs=("pair_logits",))


def beside_reference(*, hidden: int = 64, dtype: str = "float32") -> Head:
  """How much an image looks like a reference; the value is the group's mean.

  For the loss "same_policy" (POLAR, https://arxiv.org/abs/2507.05197).

  Args:
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  init, apply = _of_pairs(1, hidden, dtype)

  def outputs(params: Params, features: Features) -> Outputs:
    scores = apply(params, features)[..., 0]  # [P, reference, image]
    return {
      "value": mean_of_others(scores.swapaxes(1, 2), features.get("mask")),
      "pair_scores": scores,
    }

  names = ("value", "pair_scores")
  return Head(init, outputs, value_alone, names, of_pairs=("pair_scores",))
