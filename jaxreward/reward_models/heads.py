"""Heads: values from features, optionally with a standard deviation.

A head is a function of its options that returns a `Head`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError, require_counts
from jaxreward.models import heads
from jaxreward.models.vision import encoders
from jaxreward.reward_models.contract import Features, Head, Outputs
from jaxreward.types import Array, Params


def require(least: int, **options: int) -> None:
  """Rejects head options below a bound.

  Raises:
    UserError: names the option, its value and the bound.
  """
  require_counts("config.reward_model.head.", least=least, **options)


def require_heads(width: int, heads_of: int) -> None:
  """Rejects attention whose number of heads does not divide its width.

  Raises:
    UserError: names both options.
  """
  require(1, width=width, heads_of=heads_of)
  if width % heads_of:
    raise UserError(
      f"reward_model.head.width={width} is not divisible by"
      f" reward_model.head.heads_of={heads_of}"
    )


def value_alone(outputs: Outputs) -> tuple[Array, None]:
  """The value, without a standard deviation."""
  return outputs["value"], None


def pairs_of(joint: Array) -> Array:
  """[P, G, G, 2 D] of [P, G, D]: features of the first image, then the second."""
  shape = (*joint.shape[:2], joint.shape[1], joint.shape[2])
  first = jnp.broadcast_to(joint[:, :, None], shape)
  second = jnp.broadcast_to(joint[:, None], shape)
  return jnp.concatenate([first, second], -1)


def perceptron(
  outputs: int,
  hidden: int,
  dtype: str = "float32",
  activation: str = "gelu",
  reads: str = "joint",
):
  """(init, apply) of a network on the features with a given name."""
  if activation not in heads.ACTIVATIONS:
    raise UserError(
      f'reward_model.head.activation="{activation}": it is one of'
      f" {', '.join(heads.ACTIVATIONS)}"
    )
  require(0, hidden=hidden)
  net = heads.Perceptron(outputs, hidden, activation, jnp.dtype(dtype))

  def init(key: Array, features: Features) -> Params:
    width = features[reads].shape[-1]
    return net.init(key, jnp.zeros((1, width)))["params"]

  def apply(params: Params, features: Features) -> Array:
    outputs = net.apply({"params": params}, jnp.asarray(features[reads]))
    return jnp.asarray(outputs)

  return init, apply


def scalar(
  *, hidden: int = 256, activation: str = "gelu", dtype: str = "float32"
) -> Head:
  """One number: a linear layer, or two with a nonlinearity between them.

  Args:
    hidden: features between the layers; 0 for one layer.
    activation: "gelu" or "silu".
    dtype: of the products.
  """
  init, apply = perceptron(1, hidden, dtype, activation)
  outputs = lambda params, features: {"value": apply(params, features)[..., 0]}
  return Head(init, outputs, value_alone)


def gaussian(
  *,
  hidden: int = 256,
  dtype: str = "float32",
  least: float = 0.05,
  most: float = 20.0,
) -> Head:
  """Mean and standard deviation, N(mu, s^2), of human ratings.

  EditReward's head predicts a mean and a log deviation
  (https://arxiv.org/abs/2509.26346); here a sigmoid bounds the log deviation,
  so that it never overflows. At initialization every value is 0 and every
  deviation 1.

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
  init, apply = perceptron(2, hidden, dtype)
  low, high = math.log(least), math.log(most)
  start = math.log(-low / high)  # where the logarithm of the deviation is 0

  def outputs(params: Params, features: Features) -> Outputs:
    raw = apply(params, features)
    share = jax.nn.sigmoid(raw[..., 1] + start)
    std = jnp.exp(low + (high - low) * share)
    return {"value": raw[..., 0], "std": std}

  return Head(
    init, outputs, lambda out: (out["value"], out["std"]), ("value", "std")
  )


def ellipsoid(
  *, hidden: int = 256, ridge: float = 1.0, dtype: str = "float32"
) -> Head:
  """A value, and the distance of the image from the training images.

  value = w . z, std = sqrt(z' V^-1 z), V = ridge I + sum z z' over training rows,
  with z the features of one hidden layer: the deviation of ridge regression, times
  that of its noise. Losses read the value; V is summed once training is over.
  PrefPaint, https://arxiv.org/abs/2410.21966, 256 features (the ridge is
  unverified). Its released code multiplies z by V^-1 instead of V^-1/2.

  Args:
    hidden: features of z.
    ridge: above 0.
    dtype: of the products that make z.

  Raises:
    UserError: no features, or a ridge that is not above 0.
  """
  require(1, hidden=hidden)
  if not ridge > 0:
    raise UserError(f"reward_model.head.ridge={ridge}: it must be above 0")
  net = heads.Layer(hidden, dtype=jnp.dtype(dtype))

  def init(key: Array, features: Features) -> Params:
    width = features["joint"].shape[-1]
    layer = net.init(key, jnp.zeros((1, width)))["params"]
    return {"layer": layer, "out": jnp.zeros((hidden,))}

  def read(params: Params, features: Features) -> Array:
    x = jnp.asarray(features["joint"])
    return jnp.asarray(net.apply({"params": params["layer"]}, x))

  def outputs(params: Params, features: Features) -> Outputs:
    z = read(params, features)
    factor = params.get("factor", ridge**0.5 * jnp.eye(hidden))
    return {"value": z @ params["out"], "std": deviation(z, factor)}

  def statistics(params: Params, features: Features) -> Array:
    z = read(params, features)
    if "mask" in features:
      z = jnp.where(features["mask"][..., None], z, 0.0)
    return jnp.einsum("...i,...j->ij", z, z, precision="highest")

  def fitted(params: Params, total: Array) -> Params:
    design = ridge * jnp.eye(hidden) + total
    return {**params, "factor": jnp.linalg.cholesky(design)}

  return Head(
    init, outputs, lambda out: (out["value"], out["std"]), ("value", "std"),
    statistics=statistics, fitted=fitted,
  )  # fmt: skip


def deviation(z: Array, factor: Array) -> Array:
  """sqrt(z' V^-1 z) of z [..., D], V = L L' of the lower triangular factor L."""
  flat = z.reshape(-1, z.shape[-1]).T
  scaled = jax.scipy.linalg.solve_triangular(factor, flat, lower=True)
  # The square root has no gradient at 0.
  return jnp.sqrt(jnp.square(scaled).sum(0) + 1e-12).reshape(z.shape[:-1])


def similarity(*, divisor: float = 1.0) -> Head:
  """The logit of a pair of towers, exp(s) cos, without parameters of its own.

  The score that PickScore (https://arxiv.org/abs/2305.01569) and HPSv2 tune;
  train it with `reward_model.train="full"` or "lora".

  Args:
    divisor: of the logit.
  """
  if not divisor > 0:
    raise UserError(f"reward_model.head.divisor={divisor}: it must be above 0")
  outputs = lambda params, features: {
    "value": features["logit"] / divisor,
    "cross": features["cross"] / divisor,
  }
  return Head(
    lambda key, features: {}, outputs, value_alone,
    ("value", "cross"), needs=("logit", "cross"),
  )  # fmt: skip


def goal(*, strength: float = 0.5) -> Head:
  """`similarity` in training; scored by the goal and what all prompts share.

  score = 1 - |a P (x - g) + (1 - a) (x - g)|^2 / 2, with P onto the line from b to g
  (`models.vision.encoders.goal_score`): x and g are the image's and the prompt's
  features, and b, the baseline, is the mean of the training prompts', of length 1. What
  is off that line counts less. Rocamonde et al. 2023, https://arxiv.org/abs/2310.12921,
  section 3.2, where a text describes the baseline.

  Args:
    strength: a, in [0, 1]; 0 for the cosine.
  """
  if not 0 <= strength <= 1:
    raise UserError(
      f"reward_model.head.strength={strength}: it must lie in [0, 1]"
    )

  def outputs(params: Params, features: Features) -> Outputs:
    both = {"value": features["logit"], "cross": features["cross"]}
    if "baseline" not in params:
      return both
    image, text = (jnp.asarray(features[k]) for k in ("image", "text"))
    base = jnp.broadcast_to(params["baseline"], text.shape)
    return both | {"value": encoders.goal_score(image, text, base, strength)}

  statistics = lambda params, features: jnp.asarray(features["text"]).sum(0)
  fitted = lambda params, total: {"baseline": encoders.unit(total)}
  return Head(
    lambda key, features: {}, outputs, value_alone, ("value", "cross"),
    needs=("logit", "cross", "image", "text"),
    statistics=statistics, fitted=fitted,
  )  # fmt: skip


def ordinal(
  *, grades: int = 9, hidden: int = 256, dtype: str = "float32"
) -> Head:
  """A distribution over grades 1 ... n; the value is its mean.

  The head of OPRM (https://arxiv.org/abs/2602.12660), for the loss
  "ordinal_pairs". At initialization all grades are equally likely.

  Args:
    grades: n.
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  require(2, grades=grades)
  init, apply = perceptron(grades, hidden, dtype)

  def outputs(params: Params, features: Features) -> Outputs:
    log_probs = jax.nn.log_softmax(apply(params, features), -1)
    return moments(jnp.exp(log_probs)) | {"log_probs": log_probs}

  return Head(
    init, outputs, lambda out: (out["value"], out["std"]),
    ("value", "std", "log_probs"),
  )  # fmt: skip


def thresholds(
  *, grades: int = 4, hidden: int = 0, dtype: str = "float32"
) -> Head:
  """A logit for each step between grades 1 ... n; the value is the mean grade.

  P(Y > k) = prod_{j <= k} sigmoid(l_j) decreases in k for any logits. The
  head of VEFX-Bench (https://arxiv.org/abs/2604.16272), for the loss "corn".

  Args:
    grades: n.
    hidden: features between the layers; 0 for one layer.
    dtype: of the products.
  """
  require(2, grades=grades)
  init, apply = perceptron(grades - 1, hidden, dtype)

  def outputs(params: Params, features: Features) -> Outputs:
    logits = apply(params, features)
    return moments(grade_probabilities(logits)) | {"logits": logits}

  return Head(
    init, outputs, lambda out: (out["value"], out["std"]),
    ("value", "std", "logits"),
  )  # fmt: skip


def grade_probabilities(logits: Array) -> Array:
  """P(Y = 1 ... n) [..., n] of logits [..., n - 1] of being above each grade."""
  above = jnp.exp(jnp.cumsum(jax.nn.log_sigmoid(logits), -1))
  one = jnp.ones_like(above[..., :1])
  above = jnp.concatenate([one, above, 0 * one], -1)
  return above[..., :-1] - above[..., 1:]


def moments(probs: Array) -> dict[str, Array]:
  """Mean and deviation of the grade, 1 ... n, of probabilities [..., n]."""
  grade = jnp.arange(1, probs.shape[-1] + 1, dtype=jnp.float32)
  mean = (probs * grade).sum(-1)
  variance = (probs * jnp.square(grade - mean[..., None])).sum(-1)
  # The square root has no gradient at 0.
  return {"value": mean, "std": jnp.sqrt(jnp.maximum(variance, 1e-6))}


def among(
  *, width: int = 64, heads_of: int = 2, dtype: str = "float32"
) -> Head:
  """One number per image, in the context of the others of its group.

  Equivariant to the order of the images (You Only Judge Once,
  https://arxiv.org/abs/2604.10966, whose candidates share one sequence of a
  language model). For the loss "best_of_row".

  Args:
    width: features per image.
    heads_of: heads of the attention over the group; divides `width`.
    dtype: of the products.
  """
  require_heads(width, heads_of)
  net = heads.Among(width, heads_of, jnp.dtype(dtype))

  def init(key: Array, features: Features) -> Params:
    wide = features["joint"].shape[-1]
    return net.init(key, jnp.zeros((1, 1, wide)))["params"]

  def outputs(params: Params, features: Features) -> Outputs:
    joint, mask = features["joint"], features.get("mask")
    return {"value": jnp.asarray(net.apply({"params": params}, joint, mask))}

  return Head(init, outputs, value_alone)
