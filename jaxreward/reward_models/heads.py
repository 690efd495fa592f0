"""Heads: features into a value, and into how unsure it is.

A head is a function of its options that returns a `Head`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.models import heads
from jaxreward.reward_models.contract import Features, Head, Outputs
from jaxreward.types import Array, Params


def _perceptron(outputs: int, hidden: int, dtype: str = "float32"):
  """(init, apply) of a network on joint features."""
  if hidden < 0:
    raise UserError(f"reward_model.head.hidden={hidden}: it must be 0 or more")
  net = heads.Perceptron(outputs, hidden, jnp.dtype(dtype))

  def init(key: Array, features: Features) -> Params:
    width = features["joint"].shape[-1]
    return net.init(key, jnp.zeros((1, width)))["params"]

  def apply(params: Params, features: Features) -> Array:
    found = net.apply({"params": params}, features["joint"])
    return jnp.asarray(found)

  return init, apply


def scalar(*, hidden: int = 256, dtype: str = "float32") -> Head:
  """One number: a linear layer, or two with a GELU between them.

  Args:
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  init, apply = _perceptron(1, hidden, dtype)
  outputs = lambda params, features: {"value": apply(params, features)[..., 0]}
  return Head(init, outputs, lambda out: (out["value"], None))


def gaussian(
  *,
  hidden: int = 256,
  dtype: str = "float32",
  least: float = 0.05,
  most: float = 20.0,
) -> Head:
  """A mean and a deviation, N(mu, s^2), of what people would say.

  EditReward's head predicts a mean and a logarithm of the deviation
  (https://arxiv.org/abs/2509.26346); here the deviation is held between two
  bounds by a sigmoid of that logarithm, so that it never overflows. At the
  start every value is 0 and every deviation 1.

  Args:
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
    least: smallest deviation.
    most: largest deviation.
  """
  if not 0 < least < 1 < most:
    raise UserError(
      f"reward_model.head: least={least} and most={most}; they lie on either side"
      " of 1, and least above 0"
    )
  init, apply = _perceptron(2, hidden, dtype)
  low, high = math.log(least), math.log(most)
  start = math.log(-low / high)  # where the logarithm of the deviation is 0

  def outputs(params: Params, features: Features) -> Outputs:
    found = apply(params, features)
    share = jax.nn.sigmoid(found[..., 1] + start)
    std = jnp.exp(low + (high - low) * share)
    return {"value": found[..., 0], "std": std}

  return Head(
    init, outputs, lambda out: (out["value"], out["std"]), ("value", "std")
  )


def similarity(*, divisor: float = 1.0) -> Head:
  """The logit of a pair of towers, exp(s) cos, and nothing of its own.

  What PickScore (https://arxiv.org/abs/2305.01569) and HPSv2 tune: train it
  with `reward_model.train="full"` or "lora".

  Args:
    divisor: of the logit.
  """
  if not divisor > 0:
    raise UserError(f"reward_model.head.divisor={divisor}: it must be above 0")
  outputs = lambda params, features: {"value": features["logit"] / divisor}
  return Head(
    lambda key, features: {}, outputs, lambda out: (out["value"], None),
    needs_logit=True,
  )  # fmt: skip
