"""A network that trains beside the policy, with a loss of its own.

A player is told apart from the policy by one thing: nobody draws samples with
it. Its loss is a method like any other: the names of its arguments say what it
reads, from the rows of an iteration's samples, from its own network and from
what other players give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxreward.errors import LARGEST, UserError, require_counts
from jaxreward.numerics import Mean
from jaxreward.types import Array, ArrayLike, Params

# What a row of an iteration's samples may hold. The rival is the next sample of its
# group; paths are the sampler's latents, [T + 1, ...], with log-probabilities [T]; keys
# are the data of random keys of this step, prompt and sample.
ROWS = (
  "image", "real_image", "real_mask", "keys", "x0", "x_t", "t", "noise",
  "signal", "rival", "rival_signal", "shaped", "mask", "prompt_index", "path",
  "path_log_probs", "rival_path", "rival_log_probs", "rival_image",
)  # fmt: skip
# Those of them that a judge's labels bring.
JUDGED_ROWS = (
  "image", "rival_image", "signal", "rival_signal", "mask", "prompt_index",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What parameters are made for.

  Attributes:
    image: (H, W, C).
    latent: shape of a sample of the policy.
    words: what the policy encodes, of one prompt, leaves [1, ...].
  """

  image: tuple[int, ...]
  latent: tuple[int, ...]
  words: Any


@dataclasses.dataclass(frozen=True)
class Player:
  """A network with a loss.

  Attributes:
    init: (key, sizes) -> parameters.
    loss: asks for arrays by argument name: `reads`, `offers`, what others give,
      or a column of its `prepare` -> (Mean, metrics).
    offers: name -> what computes it from `Arrays` under its own parameters.
    reads: of ROWS, what its rows hold. Times, noise and keys are drawn anew for
      each of its optimizer steps, as are reference pictures that are rendered.
    gives: of `offers`, what objectives and other players may ask for by name;
      these are computed of "x_t", "t", "prompt_index" and "words" alone.
    predicts: of `offers`, what an objective may ask for of its predicted samples:
      computed of "x0", "prompt_index" and "words" alone, and differentiated in
      "x0".
    score: of `offers`, the reward of a picture, of "image", "prompt_index" and
      "words" alone; or empty.
    step_rewards: of `offers`, rewards of each step [M, T], of its rows' paths
      alone, which an advantage may ask for; or empty.
    copies: whether its network is the policy, and its parameters start as those
      that are trained. `init` is then not called; objectives read its velocities
      as those of a reference, such as v_NAME.
    tunes: name of a differentiated reward whose parameters it changes; its loss may
      read the scores of images by that reward, as it is then (`Arrays.score`).
    tune: (the reward's parameters, its own) -> the reward's parameters.
    leads: whether it learns from an iteration's samples before the policy does, whose
      loss then reads it as it is after that.
    judged: whether it learns from a judge's labels as they arrive: its rows are then
      those of `JUDGED_ROWS`, of an earlier iteration, with the labels as "signal" and
      masked where one failed. It has a `score`.
    rules: sharding rules of the parameters; empty to replicate them.
  """

  init: Callable[[Array, Sizes], Params]
  loss: Callable[..., tuple[Mean, dict[str, Any]]]
  offers: Mapping[str, Callable[[Arrays], Any]]
  reads: tuple[str, ...]
  gives: tuple[str, ...] = ()
  predicts: tuple[str, ...] = ()
  score: str = ""
  step_rewards: str = ""
  copies: bool = False
  tunes: str = ""
  tune: Callable[[Params, Params], Params] | None = None
  leads: bool = False
  judged: bool = False
  rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()


def require_layers(width: int, depth: int) -> None:
  """Refuses sizes of layers each of which has twice the channels before it.

  Raises:
    UserError: names the option, its value and the range.
  """
  require_counts("", width=width, depth=depth)
  if width << min(depth - 1, 64) > LARGEST:
    raise UserError(
      f"depth={depth}: each layer has twice the channels of the one before, and"
      f" the last would have more than {LARGEST:,}; lower it, or width={width}"
    )


class Arrays:
  """Rows of a micro-batch and what networks make of them, by name.

  Args:
    player: whose offers these are.
    params: its parameters.
    rows: leaves [M, ...], or one number for all rows.
    words: what the policy encodes, leaves [P, ...].
    others: name -> what other players give of such rows.
    network: parameters -> the policy with them (`feeds.Network`); that where
      training began for None.
    score: (parameters, images [M, ...], prompts' indices) -> scores by the reward that
      the player tunes.
  """

  def __init__(
    self,
    player: Player,
    params: Params,
    rows: Mapping[str, Any],
    words: Any = None,
    others: Mapping[str, Callable[[Mapping[str, Any]], Array]] | None = None,
    network: Callable[[Params | None], Any] | None = None,
    score: Callable[..., Array] | None = None,
  ):
    self.params, self._network, self._score = params, network, score
    self._player, self._rows, self._words = player, rows, words
    self._others = others or {}
    self._known: dict[str, Any] = {}

  def __call__(self, name: str) -> Any:
    """The array of this name; each is computed at most once."""
    if name not in self._known:
      self._known[name] = self._compute(name)
    return self._known[name]

  def network(self) -> Any:
    """The policy with this player's parameters (`feeds.Network`)."""
    assert self._network is not None
    return self._network(self.params)

  def reference(self) -> Any:
    """The policy where training began."""
    assert self._network is not None
    return self._network(None)

  def score(self, images: Array, index: ArrayLike) -> Array:
    """Scores [M] of images by the reward that this player tunes."""
    assert self._score is not None
    return self._score(self.params, images, index)

  def _compute(self, name: str) -> Any:
    if name in self._player.offers:
      return self._player.offers[name](self)
    if name == "words":
      index = self._rows["prompt_index"]
      return jax.tree.map(lambda x: jnp.asarray(x)[index], self._words)
    if name in self._others:
      return jax.lax.stop_gradient(self._others[name](self._rows))
    return self._rows[name]
