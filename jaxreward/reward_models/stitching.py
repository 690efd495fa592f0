"""A reward model of clean images behind the first blocks of a policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError, require_positive
from jaxreward.models.policies import scene_dit, trunk
from jaxreward.models.vision import scene_reward
from jaxreward.reward_models.contract import Backbone, Features, below
from jaxreward.reward_models.inputs import CLEAN, Noise
from jaxreward.reward_models.towers import noisy
from jaxreward.types import Array, ArrayLike, Params


def ridge(
  x: Float[ArrayLike, "M D"], y: Float[ArrayLike, "M E"], weight: float
) -> tuple[Float[Array, "D E"], Float[Array, "E"]]:
  """(S, b) of least mean |x S + b - y|^2 + weight |S|^2, by normal equations."""
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  x_mean, y_mean = x.mean(0), y.mean(0)
  centred = x - x_mean
  gram = centred.T @ centred / len(x) + weight * jnp.eye(x.shape[1])
  kernel = jnp.linalg.solve(gram, centred.T @ (y - y_mean) / len(x))
  return kernel, y_mean - x_mean @ kernel


def stitched(
  *,
  least: float = 0.0,
  most: float = 1.0,
  at: float = 0.02,
  weight: float = 1e-3,
  width: int = 128,
  depth: int = 2,
  first: int = 2,
  heads: int = 2,
  mlp_ratio: int = 3,
  text_layers: int = 2,
  stem: int = 256,
  unroll: int = 1,
  dtype: str = "float32",
) -> Backbone:
  """The policy's first blocks on (x_t, t), a linear layer, a reward model's blocks.

  StitchVM (Go et al. 2026, https://arxiv.org/abs/2605.19804): the policy's blocks
  stay as they are, and the layer between starts as the ridge fit of their tokens
  to the patches that the reward model makes of the clean image. The tail is the
  scenes' reward model behind its patches (`train_reward.init_from`), the policy's
  blocks without one. Unverified: the authors' search for the places, and their
  penalty.

  Args:
    least: of the times that are drawn in training.
    most: of them.
    at: time of images that are scored.
    weight: of |S|^2 in the fit.
    width: features per token, as the other sizes see `scenes` and `policy`.
    depth: blocks of the tail.
    first: blocks of the policy before it.
    heads: attention heads.
    mlp_ratio: hidden features of a block's MLP per feature.
    text_layers: blocks over the words.
    stem: of the reward model's patches.
    unroll: blocks unrolled in the scan.
    dtype: of the products.
  """
  require_positive("config.reward_model.backbone.", weight=weight)
  if not 0 <= least < most <= 1 or not 0 <= at <= 1:
    raise UserError(
      f"reward_model.backbone.most={most}: times lie in [0, 1] and above"
      f" least={least}; so does at={at}"
    )
  sizes = dict(
    width=width, heads=heads, mlp_ratio=mlp_ratio, text_layers=text_layers,
    unroll=unroll,
  )  # fmt: skip
  scene_dit.require_sizes(
    "config.reward_model.backbone.", **sizes, first=first, depth=depth
  )
  policy = scene_dit.make_policy(**sizes, depth=first, dtype=dtype)
  tail = scene_reward.make_trunk(**sizes, depth=depth, stem=stem, dtype=dtype)

  def init(key: Array) -> Params:
    keys = jax.random.split(key)
    return {
      "policy": policy.init(keys[0]),
      "stitch": {"kernel": jnp.eye(width), "bias": jnp.zeros(width)},
      "tail": tail.init(keys[1]),
    }

  def states(
    params: Params, images: ArrayLike, tokens: ArrayLike, noise: Noise
  ) -> Array:
    """The policy's tokens [P G, N, width], without a gradient."""
    x = jnp.asarray(images)
    if not noise.is_added:
      x = 2 * x - 1
    p, g = x.shape[:2]
    x_t, t = noisy(x, noise, (least, most), at)
    frozen = jax.lax.stop_gradient(params["policy"])
    cond = policy.encode(frozen, tokens)
    cond = jax.tree.map(lambda c: jnp.repeat(c, g, 0), cond)
    flat = x_t.reshape(p * g, *x.shape[2:])
    return trunk.last_states(policy, frozen, flat, t.reshape(-1), cond)

  def features(
    params: Params, images: ArrayLike, tokens: ArrayLike, noise: Noise = CLEAN
  ) -> Features:
    stitch = params["stitch"]
    x = states(params, images, tokens, noise) @ stitch["kernel"]
    joint = tail.features(params["tail"], images, tokens, x + stitch["bias"])
    return {"joint": joint, "prompt": joint[:, 0, -width:]}

  def fit(
    params: Params, images: ArrayLike, tokens: ArrayLike, noise: Noise
  ) -> Params:
    images = jnp.asarray(images)
    x = states(params, images, tokens, noise).reshape(-1, width)
    flat = images.reshape(-1, *images.shape[2:])
    y = tail.patches(params["tail"], flat).reshape(-1, width)
    kernel, bias = ridge(x, y, weight)
    return {**params, "stitch": {"kernel": kernel, "bias": bias}}

  def from_policy(params: Params, base: Params) -> Params:
    take = scene_reward.init_from_policy
    starts = {name: take(params[name], base) for name in ("policy", "tail")}
    return {**params, **starts}

  rules = tuple(
    (below(pattern, part), axes)
    for part, of in (("policy", policy), ("tail", tail))
    for pattern, axes in of.sharding_rules
  )
  return Backbone(
    init, features, policy.latent_shape, scene_dit.MAX_WORDS,
    sharding_rules=(*rules, (r"^stitch/", ())),
    takes_time=True, from_policy=from_policy,
    from_reward=lambda params, other: {**params, "tail": other}, fit=fit,
    frozen="^policy/",
  )  # fmt: skip
