"""The interface of rewards and what they declare."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import flax.struct
from jaxtyping import Float

from jaxreward.types import ArrayLike

F = TypeVar("F", bound=Callable[..., Any])
Prepare = Callable[[Sequence[str]], Mapping[str, Any]]
Applies = Callable[..., Any]  # (prompts, **options) -> bool [P]


@flax.struct.dataclass
class Scores:
  """What a reward may return instead of an array.

  Attributes:
    value: [P, G]; a value that is not finite failed.
    std: [P, G], standard deviation of each value, in its units; 0 or above.
    per_step: [P, G, T + 1], the value of the sampler's state before each of
      its T steps, and of the sample last.
    places: [P, G, h, w], scores in [-1, 1] of places of the image, of any
      resolution; NaN where nothing was judged.
    errors: [P, G, N], signed, by how much each pixel and channel of what is
      extracted from the image is off; for objectives that read `errors`.
  """

  value: Float[ArrayLike, "P G"]
  std: Float[ArrayLike, "P G"] | None = None
  per_step: Float[ArrayLike, "P G S"] | None = None
  places: Float[ArrayLike, "P G h w"] | None = None
  errors: Float[ArrayLike, "P G N"] | None = None


@dataclasses.dataclass(frozen=True)
class Loaded:
  """What a reward has loaded, such as its weights.

  Attributes:
    static: keyword arguments that are not arrays, such as an architecture.
    arrays: keyword arguments that are arrays; they enter jit as arguments.
    rules: sharding rules by array name; other arrays are replicated.
    prepare: texts of the prompts -> further keyword arguments, computed on the
      host once per batch, such as token ids.
  """

  static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  arrays: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rules: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  prepare: Prepare | None = None


def declare(
  *,
  is_host: bool = False,
  takes_verdict: bool = False,
  takes_frames: bool = False,
  loads: Callable[..., Loaded] | None = None,
  applies: Applies | None = None,
  gives_errors: bool = False,
) -> Callable[[F], F]:
  """Marks a reward; one without a mark runs inside jit.

  Whether it is differentiable in the images is found by a probe.

  Args:
    is_host: it gets NumPy arrays, outside jit.
    takes_verdict: it takes, as `verdict`, what the task has already measured in
      these images, {name: [P, G]}, or None.
    takes_frames: of videos it takes all frames at once, [P, G, F, H, W, C], and
      pools them itself; otherwise its scores of the frames are averaged. Where
      a config scores one frame, and for images, there is no axis F.
    loads: (**options) -> `Loaded`. A config gives these options beside the
      reward's own; the reward's keyword arguments without a default come from
      this and its `prepare`. An argument `folder` is filled in with a folder of
      the working directory for what the reward stores.
    applies: (prompts, **options) -> bool [P], rows that have what it compares
      with; the options are those of the reward that it takes by keyword. In
      other rows it is not applicable, which is not a failure. Ignored where
      the config names a folder of references.
    gives_errors: it returns `Scores.errors`.
  """

  def mark(reward: F) -> F:
    vars(reward).update(
      is_host=is_host,
      takes_verdict=takes_verdict,
      takes_frames=takes_frames,
      loads=loads,
      applies=applies,
      gives_errors=gives_errors,
    )
    return reward

  return mark


def supplied(reward: Callable[..., Any] | None) -> tuple[str, ...]:
  """Keyword arguments that a reward's `loads` supplies."""
  if reward is None or getattr(reward, "loads", None) is None:
    return ()
  P = inspect.Parameter
  return tuple(
    p.name
    for p in inspect.signature(reward).parameters.values()
    if p.kind is P.KEYWORD_ONLY and p.default is P.empty
  )
