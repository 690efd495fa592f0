"""Heads on a tower's tokens, and the linear layers of published predictors."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxreward.errors import UserError
from jaxreward.models import heads
from jaxreward.models import transport as plans
from jaxreward.models.vision import aesthetic
from jaxreward.numerics import masked_mean
from jaxreward.reward_models.contract import Features, Head, Outputs, Public
from jaxreward.reward_models.heads import require, require_heads, value_alone
from jaxreward.types import Array, Params

QUERIES = ("words", "context")
_VOCABULARY = 258  # of bytes; larger ids are taken by remainder


def cross(
  *,
  width: int = 64,
  heads_of: int = 2,
  hidden: int = 64,
  query: str = "words",
  transport: float = 0.0,
  dtype: str = "float32",
) -> Head:
  """Attention from words, or a source image, to an image's tokens.

  With the query "context" the latent identity reward of DreamVideo-Omni: the
  reference's states ask, the video's answer, and r = MLP(Attn(Q, K, V) + Q)
  (its pooling is unverified: the mean here). Words are the text tower's states,
  or learned rows per token id where there is none.
  With `transport` the token-level reward of PISCES (https://arxiv.org/abs/2602.01624):
  attention is multiplied by a partial plan of optimal transport between words and
  tokens, so that a word is not everywhere at once (`models.transport`).

  Args:
    width: features of queries and keys.
    heads_of: heads of the attention; divides `width`.
    hidden: features before the score; 0 for a linear score.
    query: "words", or "context" for the states of a source image.
    transport: nominal mass of the plan, .9 in PISCES; 0 for none. It needs the extra
      `transport`.
    dtype: of the products.
  """
  require(0, hidden=hidden)
  if query not in QUERIES:
    raise UserError(
      f'reward_model.head.query="{query}": it is one of {", ".join(QUERIES)}'
    )
  require_heads(width, heads_of)
  if not 0 <= transport <= 1:
    raise UserError(
      f"reward_model.head.transport={transport}: it must lie in [0, 1]"
    )
  if transport:
    plans.solver()
  net = heads.CrossAttention(
    width, heads_of, hidden, _VOCABULARY, transport, jnp.dtype(dtype)
  )

  def inputs(features: Features) -> tuple[Array, Array, Array]:
    if query == "context":
      names = ("context_states", "context_mask")
    else:
      names = ("words" if "words" in features else "tokens", "word_mask")
    queries, mask = (jnp.asarray(features[name]) for name in names)
    return queries, mask, jnp.asarray(features["states"])

  def init(key: Array, features: Features) -> Params:
    zeros = lambda x: jnp.zeros(x.shape, x.dtype)
    shapes = {
      name: zeros(x) for name, x in features.items() if x.dtype != key.dtype
    }
    return net.init(key, *inputs(shapes))["params"]

  def outputs(params: Params, features: Features) -> Outputs:
    scores = net.apply({"params": params}, *inputs(features))
    return {"value": jnp.asarray(scores)}

  of_query = "context_states" if query == "context" else "words|tokens"
  return Head(init, outputs, value_alone, needs=("states", of_query))


def progressive(*, heads_of: int = 8, dtype: str = "float32") -> Head:
  """Attention through a tower's layers, the query of each from the one before.

  SoliReward's hierarchical progressive query attention
  (https://arxiv.org/abs/2512.22170), as in its released code: a learned query asks
  the first of the backbone's "layers", what it gets asks the next, and the answer of
  the last is added to that of a second query to the final states. Kernels start
  otherwise there.

  Args:
    heads_of: heads of the attention; divides the features of the states.
    dtype: of the products.
  """
  require(1, heads_of=heads_of)
  net = heads.Progressive(heads_of, jnp.dtype(dtype))

  def flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])

  def init(key: Array, features: Features) -> Params:
    shape = features["layers"].shape[2:]
    if shape[-1] % heads_of:
      raise UserError(
        f"reward_model.head.heads_of={heads_of} does not divide the"
        f" {shape[-1]} features of the backbone's states"
      )
    layers = jnp.zeros((1, *shape))
    return net.init(key, layers, layers[:, 0])["params"]

  def outputs(params: Params, features: Features) -> Outputs:
    layers, last = features["layers"], features["states"]
    mask = features.get("state_mask")
    mask = None if mask is None else flat(mask)
    scores = net.apply({"params": params}, flat(layers), flat(last), mask)
    return {"value": jnp.asarray(scores).reshape(layers.shape[:2])}

  return Head(init, outputs, value_alone, needs=("layers", "states"))


def pooled(*, dtype: str = "float32") -> Head:
  """w . mean of a tower's last states: one linear layer on what all tokens say.

  InternLM-XComposer2.5-Reward (https://arxiv.org/abs/2501.12368), whose pooling is
  unverified: its head is read with remote code. Padding does not count.

  Args:
    dtype: of the product.
  """
  net = heads.Perceptron(1, 0, "gelu", jnp.dtype(dtype))

  def init(key: Array, features: Features) -> Params:
    width = features["states"].shape[-1]
    return net.init(key, jnp.zeros((1, width)))["params"]

  def outputs(params: Params, features: Features) -> Outputs:
    states = jnp.asarray(features["states"], jnp.float32)
    mask = features.get("state_mask")
    if mask is None:
      mask = jnp.ones(states.shape[:-1], bool)
    mean = masked_mean(states, jnp.asarray(mask)[..., None], axis=-2)
    scores = net.apply({"params": params}, mean)
    return {"value": jnp.asarray(scores)[..., 0]}

  return Head(init, outputs, value_alone, needs=("states",))


def layered(*, reads: str = "joint") -> Head:
  """Five linear layers, of 1024, 128, 64, 16 and 1 features, and nothing between.

  The head of ImageReward (https://arxiv.org/abs/2304.05977) and of the aesthetic
  predictor (https://github.com/christophschuhmann/improved-aesthetic-predictor),
  without their dropout. Kernels start with the deviation 1 / (features + 1) of
  what the head reads, biases at zero, as ImageReward's.

  Args:
    reads: "joint", or "image" for unit features of the image alone.
  """
  if reads not in ("joint", "image"):
    raise UserError(
      f'reward_model.head.reads="{reads}": it is one of joint, image'
    )

  def init(key: Array, features: Features) -> Params:
    width = features[reads].shape[-1]
    shapes, params = aesthetic.shapes(width), {}
    for i, (name, layer) in enumerate(shapes.items()):
      kernel = layer["kernel"].shape
      draw = jax.random.normal(jax.random.fold_in(key, i), kernel)
      bias = jnp.zeros(layer["bias"].shape)
      params[name] = {"kernel": draw / (width + 1), "bias": bias}
    return params

  def outputs(params: Params, features: Features) -> Outputs:
    x = jnp.asarray(features[reads], jnp.float32)
    return {"value": aesthetic.apply(params, x)}

  return Head(
    init, outputs, value_alone, needs=(reads,), public=Public(aesthetic.RULES)
  )
