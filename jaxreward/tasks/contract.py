"""The interface of a task: its prompts, and how their images are judged."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxreward.data import pictures, pipeline, sources
from jaxreward.data import prompts as prompts_lib
from jaxreward.data.preferences import Preferences
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError, nearest
from jaxreward.types import Array, ArrayLike, PromptBatch

Reward = Callable[..., Any]
NOTHING: Mapping[Any, Any] = types.MappingProxyType({})


def out_of_range(
  images: ArrayLike, pixels: ArrayLike, prompts: PromptBatch
) -> dict[str, Array]:
  """Fraction of clipped pixels [P, G]; measured in every task."""
  del images, prompts
  pixels = jnp.asarray(pixels)
  axes = tuple(range(2, pixels.ndim))
  return {"out_of_range": ((pixels < 0) | (pixels > 1)).mean(axes)}


@dataclasses.dataclass(frozen=True)
class Task:
  """The complete interface of a task.

  Attributes:
    name: value of `config.data.grammar`.
    categories: number -> name of its prompt categories. Numbers are part of
      random streams, so those of a task never change.
    parse: text -> a prompt of a user's file; UserError for unknown words.
    measure: (images [P, G, ...], the same unclipped, batch) ->
      {name: [P, G]}, in jit. "strict", if present, is 1 for a correct image and
      0 for a wrong one.
    rows: (prompts, number of rows) -> their batch without images.
    attach: (batch, its prompts, side) -> the batch with their images.
    controls: names that `attach` and `pretraining` take as `control`: kinds of
      control images, the first by default.
    own: split, or None for all -> the task's own prompts; None if it has none.
    has_pictures: whether its prompts have a source image; None if a user's file
      decides.
    reads_files: whether a user's file may hold its prompts.
    is_weighted: whether categories are weighted by
      `config.data.kind_weights`.
    verdict: names of the measures that rewards may read.
    side: of the images that it can measure, in pixels; None for any.
    frames: of the videos that it measures, as strips; 0 for images.
    describe: images [B, H, W, 3] in [0, 1] -> a readable line each.
    tokenize: text -> word ids, int32 [L], for reward models that read them.
    language: name of its vocabulary; a policy that reads word ids has one.
    split_of: text -> its split; None if it is not a prompt of the task.
    fact_of: text -> the requested objects, see `rewards.objects`.
    reword: a prompt -> another wording of it, None if there is none.
    render: (keys [B], batch) -> images of the prompts [B, H, W, 3], or videos
      [B, F, H, W, 3].
    draw: (key, batch, with_worse=) -> uint8 [P, G, H, W, 3], images of the
      prompts and optionally worse ones, best first.
    drawn_side: of those images, in pixels.
    rewards: rewards of the task by name.
    judge: name of the reward to monitor if none is held out; "" for none.
    pretraining: (prompts, seed=, batch_size=, kind_weights=, steps=,
      corruption=) -> a dataset whose element n is {"caption": int32 [B, L],
      "seed": uint32 [B]} with "scene", a batch for `render`, or "picture" and
      "source", images [B, H, W, 3].
    preferences: (key, prompts, samples uint8 [Q, S, H, W, 3], options) ->
      unlabeled `Preferences`.
    questions: a module like `scenes.questions`, to train a judge with; None if
      the task has no exact answers.
    strips: number of rows -> rows of held-out prompts for the report, equally
      long, each with one source image; None if there are none.
    strip_measure: name in `measure`, 1 if an image shows the person or object
      of the source, else 0.
    credits: attributions for the model card, in Markdown; "" for none.
  """

  name: str
  categories: Mapping[int, str]
  parse: Callable[[str], Prompt]
  measure: Callable[..., dict[str, Array]] = out_of_range
  rows: Callable[..., PromptBatch] = prompts_lib.batch
  attach: Callable[..., PromptBatch] = pictures.attach
  controls: tuple[str, ...] = ()
  own: Callable[[str | None], tuple[Prompt, ...]] | None = None
  has_pictures: bool | None = None
  reads_files: bool = True
  is_weighted: bool = True
  verdict: tuple[str, ...] = ()
  side: int | None = None
  frames: int = 0
  describe: Callable[[ArrayLike], list[str]] | None = None
  tokenize: Callable[[str], np.ndarray] | None = None
  language: str = ""
  split_of: Callable[[str], str | None] | None = None
  fact_of: Callable[[str], Any] | None = None
  reword: Callable[[Any], Prompt | None] | None = None
  render: Callable[..., Array] | None = None
  draw: Callable[..., ArrayLike] | None = None
  drawn_side: int | None = None
  rewards: Mapping[str, Reward] = dataclasses.field(
    default_factory=lambda: NOTHING
  )
  judge: str = ""
  pretraining: Callable[..., Any] | None = None
  preferences: Callable[..., Preferences] | None = None
  questions: Any = None
  strips: Callable[[int], Sequence[Sequence[Prompt]]] | None = None
  strip_measure: str = ""
  credits: str = ""

  def number(self, category: str) -> int:
    """The number of a category.

    Raises:
      UserError: an unknown name.
    """
    for number, name in self.categories.items():
      if name == category:
        return number
    known = list(self.categories.values())
    raise UserError(
      f'prompt kind "{category}" is not known{nearest(category, known)}'
    )

  def prompts(
    self,
    split: str | None,
    source: str = "",
    categories: Sequence[str] = (),
    *,
    with_pictures: bool = False,
    known: Sequence[str] = (),
  ) -> tuple[Prompt, ...]:
    """Prompts of a split; of all splits if None.

    Args:
      split: "train", "validation" or "heldout".
      source: a user's file or folder, for a task without its own prompts.
      categories: names of those to keep; empty for all.
      with_pictures: rows of a file may name images.
      known: names of other sources, suggested if there is no such file.

    Raises:
      UserError: an unknown split or category, or an invalid file.
    """
    numbers = {self.number(name) for name in categories}
    if split is not None:
      prompts_lib.check_split(split)
    if self.own is not None:
      prompts_of = self.own(split)
    elif split is None:
      prompts_of = sources.all_prompts(
        source, self.parse, with_pictures=with_pictures, known=known
      )
    else:
      prompts_of = sources.load_prompts(
        source, split, self.parse, with_pictures=with_pictures, known=known
      )
    return tuple(p for p in prompts_of if not numbers or p.category in numbers)

  def batch(
    self,
    prompts: Sequence[Prompt],
    size: int | None = None,
    side: int | tuple[int, int] = 0,
  ) -> PromptBatch:
    """Prompts with their images, as NumPy arrays; see `pictures.attach`."""
    rows = self.rows(prompts, size)
    if size is not None and size > len(prompts):
      prompts = [*prompts, *[prompts[0]] * (size - len(prompts))]
    return self.attach(rows, prompts, side)

  def batches(
    self,
    prompts: Sequence[Prompt],
    *,
    kind_weights: Sequence[float] | None = None,
    **options: Any,
  ) -> pipeline.PromptBatches:
    """Endless batches; see `pipeline.prompt_batches`.

    Args:
      prompts: of one split.
      kind_weights: in the order of the categories; equal if None.
      **options: of the pipeline.
    """
    if kind_weights is None:
      kind_weights = (1,) * len(self.categories)
    return pipeline.prompt_batches(
      prompts,
      kind_weights=kind_weights if self.is_weighted else None,
      categories=self.categories,
      rows=self.rows,
      attach=self.attach,
      **options,
    )
