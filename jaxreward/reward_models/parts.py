"""The parts of a reward model: a backbone, a head, and their public layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreward.types import Array, ArrayLike, Params

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]
# By name: "joint" [P, G, D]; "prompt" [P, E]; of pairs of towers "image" [P, G, E],
# "text" [P, E], "logit" [P, G] and "cross" [P, G, P]; of towers "states"
# [P, G, N, D], "words" [P, L, E] or ids "tokens" [P, L], and their "word_mask" [P, L].
# Of towers whose layers can be read, "layers" [P, G, S, N, D], and where some tokens
# are padding their "state_mask" [P, G, N].
# With a context "context_states" [P, N, D]. Of the rows, where known: "user"
# int32 [P], "prob" [P, G, G], "mask" bool [P, G] and "keys" [P], see
# `data.preferences.Details`, or "taste" [P, U] of users that the head's `adapt` has met.
Features = Mapping[str, Any]  # arrays or shapes
# By name: "value" [P, G], and a head's other outputs per image, [P, G, ...].
Outputs = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Public:
  """How others name and describe the parameters of a part.

  Attributes:
    rules: table of public names (`models.convert`).
    config: of `config.json`; None for a file without one.
    stem: of the file.
    config_name: its file's name.
    head_at: what precedes a head's public names where it is in the same file;
      None if a head has no place there.
  """

  rules: tuple[Any, ...]
  config: Mapping[str, Any] | None = None
  stem: str = "model"
  config_name: str = "config.json"
  head_at: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
  """Features of images and texts, as pure functions.

  Attributes:
    init: key -> random params.
    features: (params, images [P, G, H, W, C] in [0, 1], token ids [P, L]) ->
      `Features`; with `takes_time` also the keywords of `inputs.Noise`.
    image_shape: (H, W, C) to which a user's images are resized.
    length: L.
    read: texts -> token ids int32 [P, L]; None for the words of the scenes,
      which are `PromptBatch.tokens`.
    pretrained: () -> params from public weights; None without weights.
    sharding_rules: ((parameter path regex, mesh axes per dimension), ...).
    gives: names of its features.
    takes_time: whether it reads images at a noise level, as policies do.
    takes_frames: whether it reads clips [P, G, F, H, W, C] whole, not frame by
      frame.
    from_policy: (params, a policy's parameters) -> params that start from them;
      None for a tower that is no policy's.
    from_reward: (params, the backbone's of a trained reward model) -> params that
      start from them; None if they take its place.
    fit: (params, images [P, G, H, W, C], token ids, `inputs.Noise`) -> params
      that are fitted to training rows before the first step.
    public: its published layout; None if there is none.
    first: regex of the parameters before the first layer.
    frozen: regex of the parameters that no training changes.
  """

  init: Callable[[Array], Params]
  features: Callable[[Params, ArrayLike, ArrayLike], Features]
  image_shape: tuple[int, ...]
  length: int
  read: Callable[[Sequence[str]], np.ndarray] | None = None
  pretrained: Callable[[], Params] | None = None
  sharding_rules: Rules = ()
  gives: tuple[str, ...] = ("joint", "prompt")
  takes_time: bool = False
  takes_frames: bool = False
  from_policy: Callable[[Params, Params], Params] | None = None
  from_reward: Callable[[Params, Params], Params] | None = None
  fit: Callable[..., Params] | None = None
  public: Public | None = None
  first: str = "$^"
  frozen: str = "$^"


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
  """Scores from features, as pure functions.

  Attributes:
    init: (key, features or their shapes) -> params.
    outputs: (params, features) -> `Outputs`, which losses may request.
    score: outputs -> (value [P, G], std [P, G] or None).
    names: of the outputs, "value" first.
    of_pairs: names of those per pair of images, [P, G, G, ...].
    of_rows: names of those per row, [P, ...].
    needs: names of the features it reads, "a|b" for one of two.
    users: size of its table of users; None if users share one score, 0 if it
      knows them by their comparisons alone.
    adapt: (params, features, ratings [P, G]) -> a user's taste [U] from P rows
      of that user's answers, with "prob" among the features.
    public: its published layout; None if there is none.
    statistics: (params, features) -> arrays that are added up over training rows
      once the model is trained; None for a head that keeps none.
    fitted: (params, their sums) -> params, with what is saved beside the trained.
  """

  init: Callable[[Array, Features], Params]
  outputs: Callable[[Params, Features], Outputs]
  score: Callable[[Outputs], tuple[Array, Array | None]]
  names: tuple[str, ...] = ("value",)
  of_pairs: tuple[str, ...] = ()
  of_rows: tuple[str, ...] = ()
  needs: tuple[str, ...] = ("joint",)
  users: int | None = None
  adapt: Callable[[Params, Features, ArrayLike], Array] | None = None
  public: Public | None = None
  statistics: Callable[[Params, Features], Any] | None = None
  fitted: Callable[[Params, Any], Params] | None = None
