"""A reward model: a backbone and a head, and which of them is trained."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxreward.errors import UserError
from jaxreward.models import lora
from jaxreward.reward_models import inputs
from jaxreward.reward_models.parts import (
  Backbone,
  Features,
  Head,
  Outputs,
  Public,
  Rules,
)
from jaxreward.types import Array, ArrayLike, Params

HOW = ("full", "frozen", "lora")
__all__ = [
  "HOW",
  "Backbone",
  "Features",
  "Head",
  "Outputs",
  "Public",
  "RewardModel",
  "reads",
]


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModel:
  """A backbone and a head, and which parameters are trained.

  Parameters are {"backbone", "head"}.

  Attributes:
    backbone: features of images and texts.
    head: scores from features.
    train: "full" trains both; "frozen" only the head; "lora" the head and
      adapters of the backbone.
    rank: of the adapters.
    alpha: their scale.
    targets: regex of the dense layers that get an adapter.
    context: whether rows have a source image, "context" [P, H, W, C], whose
      features stand beside those of each image: joint is then [image, source,
      their product]. A source that is not finite counts as zeros.
    frames: of clips [P, G, T, H, W, C]: "mean" of the features of frames, or
      "attention", weights that the head learns.
  """

  backbone: Backbone
  head: Head
  train: str = "full"
  rank: int = 16
  alpha: float = 32.0
  targets: str = "(qkv|query|kv|out|up|down)$"
  context: bool = False
  frames: str = "mean"

  def __post_init__(self):
    if self.train not in HOW:
      raise UserError(
        f'reward_model.train="{self.train}": it is one of {", ".join(HOW)}'
      )
    if self.train == "lora" and self.rank < 1:
      raise UserError(
        f"reward_model.rank={self.rank}: adapters need a rank of 1 or more"
      )
    if self.frames not in inputs.FRAMES:
      raise UserError(
        f'reward_model.frames="{self.frames}": it is one of {", ".join(inputs.FRAMES)}'
      )
    if self.backbone.takes_frames and (self.context or self.frames != "mean"):
      field = "context=true" if self.context else f'frames="{self.frames}"'
      raise UserError(
        f"reward_model.{field}: reward_model.backbone reads the frames of a clip"
        " together, and no source image beside them; leave it at its default"
      )
    gives = self.backbone.gives
    if self.context and "states" in gives:
      gives = (*gives, "context_states")
    missing = [n for n in self.head.needs if not {*gives} & {*n.split("|")}]
    if "logit" in missing:
      raise UserError(
        "reward_model.head reads the cosine of a pair of towers, which"
        ' reward_model.backbone does not have; take the head "scalar", or the'
        ' backbone "clip" or "siglip"'
      )
    if missing:
      raise UserError(
        f"reward_model.head reads {', '.join(missing).replace('|', ' or ')}, which"
        " reward_model.backbone does not have; it has"
        f" {', '.join(gives)}"
      )

  @property
  def sharding_rules(self) -> Rules:
    """For all and for trained parameters; heads and adapters are replicated."""
    rules = tuple(
      (below(pattern, "backbone"), axes)
      for pattern, axes in self.backbone.sharding_rules
    )
    return (*rules, (r"^head/", ()), *lora.SHARDING_RULES)

  def init(self, key: Array) -> Params:
    """All parameters, random."""
    return {"backbone": self.backbone.init(key), "head": self.init_head(key)}

  def init_head(self, key: Array) -> Params:
    """The head's parameters, random."""
    head = self.head.init(key, self._features())
    if self.frames == "attention":
      width = self._raw_features()["joint"].shape[-1]
      head = {**head, inputs.FRAME_WEIGHTS: jnp.zeros((width,))}
    return head

  def start(self, key: Array) -> Params:
    """All parameters, the backbone's from its public weights if it has any."""
    if self.backbone.pretrained is None:
      return jax.jit(self.init)(key)
    head = jax.jit(self.init_head)(key)
    return {"backbone": self.backbone.pretrained(), "head": head}

  @functools.cached_property
  def backbone_shapes(self) -> Params:
    """Shapes of the backbone's parameters."""
    return jax.eval_shape(self.backbone.init, jax.random.key(0))

  @functools.cached_property
  def param_shapes(self) -> Params:
    """Shapes of all parameters."""
    head = jax.eval_shape(self.init_head, jax.random.key(0))
    return {"backbone": self.backbone_shapes, "head": head}

  @functools.cached_property
  def saved_shapes(self) -> Params:
    """Shapes of all parameters after training, with the head's statistics."""
    if self.head.statistics is None or self.head.fitted is None:
      return self.param_shapes
    head = self.param_shapes["head"]
    own = inputs.without_weights(head)[0]
    total = jax.eval_shape(self.head.statistics, own, self._features())
    return {
      **self.param_shapes,
      "head": jax.eval_shape(self.head.fitted, head, total),
    }

  def _raw_features(self, prompts: int = 1, group: int = 1) -> Features:
    """Shapes of the backbone's features of images."""
    shape = jax.ShapeDtypeStruct
    return jax.eval_shape(
      self.backbone.features,
      self.backbone_shapes,
      shape((prompts, group, *self.backbone.image_shape), jnp.float32),
      shape((prompts, self.backbone.length), jnp.int32),
    )

  def _features(self, prompts: int = 1, group: int = 1) -> Features:
    """Shapes of the image features that the head reads."""
    raw = self._raw_features(prompts, group + self.context)
    known = jax.ShapeDtypeStruct((prompts,), bool) if self.context else None
    return jax.eval_shape(inputs.apart, raw, known)

  def output_shapes(self, prompts: int, group: int) -> Outputs:
    """Shapes of the head's outputs for `group` images per prompt."""

    def run(key: Array, features: Features) -> Outputs:
      return self.head.outputs(self.head.init(key, features), features)

    shape = jax.ShapeDtypeStruct
    rows = {
      "user": shape((prompts,), jnp.int32),
      "prob": shape((prompts, group, group), jnp.float32),
      "keys": jax.eval_shape(
        lambda: jax.random.split(jax.random.key(0), prompts)
      ),
    }
    features = {**self._features(prompts, group), **rows}
    return jax.eval_shape(run, jax.random.key(0), features)

  def split(self, key: Array, params: Params) -> tuple[Params, Params | None]:
    """(trained, frozen) parts of all parameters.

    Args:
      key: of new adapters.
      params: all parameters.
    """
    if self.train == "full":
      return params, None
    head, backbone = {"head": params["head"]}, {"backbone": params["backbone"]}
    if self.train == "frozen":
      return head, backbone
    adapter = jax.jit(self._adapter)(key)
    return head | {"backbone": adapter}, backbone

  def adapter_shapes(self) -> Params:
    """Shapes of the adapters.

    Raises:
      UserError: no layer gets one.
    """
    shapes = jax.eval_shape(self._adapter, jax.random.key(0))
    if not shapes:
      raise UserError(
        f'config.reward_model.targets="{self.targets}" matches no dense layer of'
        " the backbone"
      )
    return shapes

  def _adapter(self, key: Array) -> Params:
    return lora.split(self._adapted(self.backbone.init)(key))[1]

  def _adapted(self, fn: Callable[..., Any]) -> Callable[..., Any]:
    return lora.with_lora(
      fn, rank=self.rank, alpha=self.alpha, targets=self.targets
    )

  def outputs(
    self,
    trained: Params,
    frozen: Params | None,
    images: Float[ArrayLike, "P G *F H W C"],
    tokens: ArrayLike,
    rows: Mapping[str, Any] | None = None,
  ) -> Outputs:
    """Outputs of the head by name; no gradient flows into frozen parameters.

    Args:
      trained: part of the parameters.
      frozen: the other part.
      images: of the rows.
      tokens: token ids of their prompts.
      rows: other arrays that a head reads, see `Features`; "context"
        with `context`; and for a backbone on noisy images "time" [P], drawn
        from "keys" where it is absent.
    """
    backbone = {} if frozen is None else frozen["backbone"]
    backbone = lora.merge(backbone, trained.get("backbone", {}))
    params = {"backbone": backbone, "head": trained["head"]}
    rows = dict(rows or {})
    noise = inputs.Noise(rows.pop("time", None), rows.get("keys"))
    head, features = self._read(
      params, images, tokens, rows.pop("context", None), noise,
      adapted=self.train == "lora",
    )  # fmt: skip
    return self.head.outputs(head, {**features, **rows})

  def _read(
    self,
    params: Params,
    images: ArrayLike,
    tokens: ArrayLike,
    context: ArrayLike | None = None,
    noise: inputs.Noise = inputs.CLEAN,
    *,
    adapted: bool = False,
  ) -> tuple[Params, Features]:
    """(the head's own parameters, the features that it reads of images)."""
    head, weights = inputs.without_weights(params["head"])
    features = self.backbone.features
    if adapted:
      features = self._adapted(features)
    if self.backbone.takes_time:
      features = functools.partial(features, noise=noise)
    return head, inputs.read(
      functools.partial(features, params["backbone"]), images, tokens, context,
      weights, has_context=self.context, rank=len(self.backbone.image_shape),
      whole=self.backbone.takes_frames,
    )  # fmt: skip

  def statistics(
    self, params: Params, images: ArrayLike, tokens: ArrayLike,
    context: ArrayLike | None = None, mask: ArrayLike | None = None,
  ) -> Any:  # fmt: skip
    """Sums of the head over training rows; see `Head.statistics`."""
    assert self.head.statistics is not None
    head, features = self._read(params, images, tokens, context)
    masked = features if mask is None else {**features, "mask": mask}
    return self.head.statistics(head, masked)

  def export(self, trained: Params, frozen: Params | None) -> Params:
    """All parameters, with adapters merged into their kernels."""
    if frozen is None:
      return trained
    if self.train == "frozen":
      return {**frozen, **trained}
    merged = lora.merge(frozen["backbone"], trained["backbone"])
    backbone = lora.fuse(merged, alpha=self.alpha)
    return {"backbone": backbone, "head": trained["head"]}

  def score_groups(
    self,
    params: Params,
    images: Float[ArrayLike, "P G *F H W C"],
    tokens: ArrayLike,
    taste: Float[ArrayLike, "P U"] | None = None,
    *,
    context: Float[ArrayLike, "P H W C"] | None = None,
    time: ArrayLike | None = None,
    details: Mapping[str, Any] | None = None,
  ) -> tuple[Float[Array, "P G"], Float[Array, "P G"] | None]:
    """(values, their standard deviations if the head predicts them).

    Args:
      params: all parameters.
      images: in [0, 1], or frames of clips.
      tokens: token ids of the prompts.
      taste: of users; without, values are those of the average user.
      context: source images of edits, with `context`; none are known if None.
      time: [P], noise level at which a policy's trunk reads the images; its own
        if None.
      details: other arrays that a head reads, such as "user".

    Raises:
      UserError: a time for a backbone of clean images.
    """
    if time is not None:
      self._require_time()
    rows: dict[str, Any] = dict(details or {})
    rows |= {} if taste is None else {"taste": taste}
    noise = inputs.Noise(time)
    head, features = self._read(params, images, tokens, context, noise)
    return self.head.score(self.head.outputs(head, {**features, **rows}))

  def _require_time(self) -> None:
    if not self.backbone.takes_time:
      raise UserError(
        "the reward model reads clean images alone; noise levels need"
        ' reward_model.backbone.name="policy"'
      )

  def score_latents(
    self,
    params: Params,
    latents: Float[ArrayLike, "P G ..."],
    tokens: Any,
    time: Float[ArrayLike, "P"] | Float[ArrayLike, "P G"],
  ) -> tuple[Float[Array, "P G"], Float[Array, "P G"] | None]:
    """`score_groups` of a policy's noisy latents at their time, undecoded.

    Raises:
      UserError: a backbone of clean images.
    """
    self._require_time()
    noise = inputs.Noise(time, is_added=True)
    head, features = self._read(params, latents, tokens, noise=noise)
    return self.head.score(self.head.outputs(head, features))

  def adapt(
    self, params: Params, rows: Any, ratings: Float[ArrayLike, "P G"]
  ) -> Float[Array, "U"]:
    """A user's taste, from rows of answers of that user alone.

    Args:
      params: all parameters.
      rows: `PreferenceBatch` of P rows.
      ratings: of their images by that user; NaN where unknown.
    """
    assert self.head.adapt is not None
    head, features = self._read(
      params, rows.images, rows.tokens, rows.details.context
    )
    features = {**features, "prob": rows.prob}
    return self.head.adapt(head, features, jnp.asarray(ratings))


def below(pattern: str, part: str) -> str:
  """A pattern for paths in a part, as a pattern for paths in the whole."""
  if pattern.startswith("(^|/)"):
    return f"^{part}/(.*/)?" + pattern.removeprefix("(^|/)")
  return f"^{part}/" + pattern.removeprefix("^")


def reads(loss: Callable[..., Any]) -> tuple[str, ...]:
  """Names of the arrays that a loss reads: its positional arguments."""
  by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
  return tuple(
    parameter.name
    for parameter in inspect.signature(loss).parameters.values()
    if parameter.kind not in by_name
  )
