"""Heads that know who is asked.

A user is a number of a table, -1 for the average user, or a taste from `adapt`,
a vector that a few of the user's own comparisons give.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.reward_models.contract import Features, Head, Outputs
from jaxreward.reward_models.heads import (
  pairs_of,
  perceptron,
  require,
  value_alone,
)
from jaxreward.types import Array, ArrayLike, Params


def _tastes(table: Array, features: Features) -> Array:
  """[P, U]: given, or rows of the table; 0 for the average user."""
  if "taste" in features:
    return jnp.asarray(features["taste"])
  prompts = features["joint"].shape[0]
  user = features.get("user")
  if user is None:
    return jnp.zeros((prompts, table.shape[-1]))
  user = jnp.asarray(user)
  return jnp.where((user >= 0)[:, None], table[jnp.maximum(user, 0)], 0.0)


def distance(
  point: Float[ArrayLike, "*#B D"], ideal: Float[ArrayLike, "*#B D"]
) -> Float[Array, "..."]:
  """Euclidean distance with a gradient where it is 0."""
  return jnp.sqrt(jnp.square(jnp.asarray(point) - ideal).sum(-1) + 1e-8)


def ideal_point(
  *,
  users: int = 8,
  prototypes: int = 2,
  width: int = 16,
  hidden: int = 128,
  steps: int = 200,
  rate: float = 1.0,
  dtype: str = "float32",
) -> Head:
  """Nearness to a user's ideal point, a mixture of shared prototypes.

  r = -|f(x) - sum_k w_uk p_k| with w a softmax; the average user mixes all
  equally (PAL, https://arxiv.org/abs/2406.08469, model A with prototypes in the
  projected space).

  Args:
    users: of the table.
    prototypes: K.
    width: of the space.
    hidden: features between the layers of f; 0 for one layer.
    steps: gradient steps with which `adapt` fits the K weights.
    rate: of those steps.
    dtype: of the products.
  """
  require(1, users=users, prototypes=prototypes, width=width, steps=steps)
  net_init, net = perceptron(width, hidden, dtype)

  def init(key: Array, features: Features) -> Params:
    first, second, third = jax.random.split(key, 3)
    return {
      "project": net_init(first, features),
      "prototypes": jax.random.normal(second, (prototypes, width)),
      "users": 0.1 * jax.random.normal(third, (users, prototypes)),
    }

  def scores(params: Params, points: Array, logits: Array) -> Array:
    ideal = jax.nn.softmax(logits, -1) @ params["prototypes"]
    return -distance(points, ideal[:, None])

  def outputs(params: Params, features: Features) -> Outputs:
    points = net(params["project"], features)
    return {"value": scores(params, points, _tastes(params["users"], features))}

  def adapt(params: Params, features: Features, ratings: ArrayLike) -> Array:
    del ratings
    points = net(params["project"], features)
    prob = jnp.asarray(features["prob"])
    is_label = jnp.isfinite(prob)
    prob = jnp.where(is_label, prob, 0.5)

    def loss(logits: Array) -> Array:
      r = scores(
        params, points, jnp.broadcast_to(logits, (len(points), prototypes))
      )
      d = r[:, :, None] - r[:, None]
      each = -prob * jax.nn.log_sigmoid(d)
      return jnp.where(is_label, each, 0).sum() / jnp.maximum(is_label.sum(), 1)

    step = lambda _, logits: logits - rate * jax.grad(loss)(logits)
    return jax.lax.fori_loop(0, steps, step, jnp.zeros(prototypes))

  return Head(init, outputs, value_alone, users=users, adapt=adapt)


def personal(
  *,
  users: int = 8,
  width: int = 8,
  hidden: int = 128,
  ridge: float = 1.0,
  dtype: str = "float32",
) -> Head:
  """f(x) + g(x) . e_u + b_u; the average user has e_u = 0 and b_u = 0.

  A new user's e_u and b_u are a ridge fit to that user's ratings with f and g
  fixed (PAMELA, https://arxiv.org/abs/2604.07427; the authors' fusion of the
  features is unverified).

  Args:
    users: of the table.
    width: of e.
    hidden: features between the layers; 0 for one layer.
    ridge: weight of |e|^2 in the fit.
    dtype: of the products.
  """
  require(1, users=users, width=width)
  if not ridge > 0:
    raise UserError(f"reward_model.head.ridge={ridge}: it must be above 0")
  net_init, net = perceptron(1 + width, hidden, dtype)

  def init(key: Array, features: Features) -> Params:
    first, second = jax.random.split(key)
    table = jnp.pad(jax.random.normal(second, (users, width)), ((0, 0), (0, 1)))
    return {"net": net_init(first, features), "users": table}

  def outputs(params: Params, features: Features) -> Outputs:
    raw = net(params["net"], features)
    taste = _tastes(params["users"], features)
    personal_part = jnp.einsum("pgw,pw->pg", raw[..., 1:], taste[:, :-1])
    return {"value": raw[..., 0] + personal_part + taste[:, -1:]}

  def adapt(params: Params, features: Features, ratings: ArrayLike) -> Array:
    raw = net(params["net"], features)
    ones = jnp.ones_like(raw[..., :1])
    x = jnp.concatenate([raw[..., 1:], ones], -1).reshape(-1, width + 1)
    y = (jnp.asarray(ratings) - raw[..., 0]).reshape(-1)
    weight = jnp.isfinite(y).astype(jnp.float32)
    x, y = x * weight[:, None], jnp.where(weight > 0, y, 0.0)
    gram = x.T @ x + ridge * jnp.eye(width + 1)
    return jnp.linalg.solve(gram, x.T @ y)

  return Head(init, outputs, value_alone, users=users, adapt=adapt)


def latent(
  *,
  width: int = 16,
  hidden: int = 128,
  pair_width: int = 32,
  dtype: str = "float32",
) -> Head:
  """A value that depends on a latent z, inferred from the user's comparisons.

  Every labeled pair of a user's other rows of the batch is embedded, their mean
  gives q(z) = N(mu, sigma^2) with mu and log sigma^2 in [-1, 1], and z is
  scaled to the norm sqrt(width). z = mu from `adapt`, and 0 for the average
  user (VPL, https://arxiv.org/abs/2408.10075, whose pairs also attend to each
  other).

  Args:
    width: of z.
    hidden: features between the layers; 0 for one layer.
    pair_width: features of an image in a pair.
    dtype: of the products.
  """
  require(1, width=width, pair_width=pair_width)
  down_init, down = perceptron(pair_width, 0, dtype)
  pair_init, pair_net = perceptron(2 * width, hidden, dtype)
  net_init, net = perceptron(1, hidden, dtype)

  def init(key: Array, features: Features) -> Params:
    keys = jax.random.split(key, 4)
    wide = features["joint"].shape[-1]
    down = down_init(keys[0], features)
    kernel = jax.random.normal(keys[3], (wide, pair_width)) / wide**0.5
    down = {"head_out": down["head_out"] | {"kernel": kernel}}
    return {
      "down": down,
      "pairs": pair_init(keys[1], {"joint": jnp.zeros((1, 2 * pair_width))}),
      "value": net_init(keys[2], {"joint": jnp.zeros((1, wide + width))}),
    }

  def of_rows(params: Params, features: Features) -> tuple[Array, Array]:
    """(sums [P, 2 width], counts [P]) of embeddings of preferred pairs."""
    images = down(params["down"], features)
    pairs = pair_net(params["pairs"], {"joint": pairs_of(images)})
    is_won = (jnp.asarray(features["prob"]) > 0.5).astype(jnp.float32)
    return jnp.einsum("pij,pijw->pw", is_won, pairs), is_won.sum((1, 2))

  def posterior(total: Array, count: Array) -> tuple[Array, Array]:
    """(mu, log variance) of sums and counts of pairs."""
    both = jnp.clip(total / jnp.maximum(count, 1)[..., None], -1, 1)
    return both[..., :width], both[..., width:]

  def scaled(z: Array) -> Array:
    square = jnp.square(z).sum(-1, keepdims=True)
    return z * width**0.5 * jax.lax.rsqrt(square + 1e-6)

  def draw(params: Params, features: Features) -> tuple[Array, Array]:
    """(z [P, width], KL [P]) from the other rows of each row's user."""
    user = jnp.asarray(features["user"])
    total, count = of_rows(params, features)
    same = (
      (user[:, None] == user) & (user >= 0) & ~jnp.eye(len(user), dtype=bool)
    )
    total, count = same @ total, same @ count
    mean, log_var = posterior(total, count)
    noise = 0.0
    if "keys" in features:
      of_row = lambda key: jax.random.normal(key, (width,))
      noise = jax.vmap(of_row)(features["keys"])
    is_known = (count > 0)[:, None]
    z = jnp.where(is_known, scaled(mean + jnp.exp(log_var / 2) * noise), 0.0)
    kl = gaussian_kl(mean, log_var)
    return z, jnp.where(count > 0, kl, 0.0)

  def outputs(params: Params, features: Features) -> Outputs:
    joint = features["joint"]
    if "taste" in features:
      z, kl = jnp.asarray(features["taste"]), jnp.zeros(len(joint))
    elif "user" in features and "prob" in features:
      z, kl = draw(params, features)
    else:
      z, kl = jnp.zeros((len(joint), width)), jnp.zeros(len(joint))
    wide = jnp.broadcast_to(z[:, None], (*joint.shape[:2], width))
    value = net(params["value"], {"joint": jnp.concatenate([joint, wide], -1)})
    return {"value": value[..., 0], "kl": kl}

  def adapt(params: Params, features: Features, ratings: ArrayLike) -> Array:
    del ratings
    total, count = of_rows(params, features)
    return scaled(posterior(total.sum(0), count.sum())[0])

  return Head(
    init, outputs, value_alone, ("value", "kl"), of_rows=("kl",), users=0, adapt=adapt
  )  # fmt: skip


def gaussian_kl(
  mean: Float[ArrayLike, "*B D"], log_var: Float[ArrayLike, "*B D"]
) -> Float[Array, "*B"]:
  """KL of N(mean, exp(log_var)) to N(0, 1), in nats."""
  return -0.5 * (1 + log_var - jnp.square(mean) - jnp.exp(log_var)).sum(-1)
