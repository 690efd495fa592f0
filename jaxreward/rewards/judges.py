"""Judges that are vision-language models of the program.

They score by probabilities that one reading of the question gives: nothing is
written out. All are differentiable in the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.vision import encoders
from jaxreward.models.vlm import decode
from jaxreward.models.vlm import prompts as marks
from jaxreward.rewards import answer_tables
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.answer_tables import Table
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.remote import answers, matches, templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.rewards.remote.rewards import WINNER, YES
from jaxreward.rewards.vision_language import Options, Reader, Seen
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Scores = dict[str, Float[Array, "P G"]]
DESCRIBE = f"{vl.PICTURE}Describe this image in detail."


@with_options
def load_pointwise(
  options: Options,
  *,
  template: str = "",
  answer: str = "yes_no",
  low: float = 1.0,
  high: float = 10.0,
) -> Loaded:
  """A judge that looks at one image at a time.

  Args:
    options: see `vision_language.Options`.
    template: file with the question (`remote.templates`), or "".
    answer: "yes_no", or "score" for a whole number.
    low: the worst score.
    high: the best.
  """
  require_choice("answer", answer, ("score", "yes_no"))
  if not low < high:
    raise UserError(f"low={low}, high={high}: low must be less than high")
  reader, params = vl.load(options)
  if answer == "score":
    form, default, start = (
      answers.Score(low, high),
      templates.POINTWISE,
      answer_tables.SCORE_BEGUN,
    )
    table = answer_tables.of_score(reader.tokens, form)
  else:
    form, default, start = YES, templates.YES_NO, ""
    table = answer_tables.of_choice(reader.tokens, YES)
  names = ("image", "prompt", "low", "high")
  wording = vl.wording(template, default, names, ("image",), ("prompt",))
  values = dict(
    low=f"{low:g}",
    high=f"{high:g}",
    answer=form.request(True),
    image=vl.PICTURE,
  )

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    questions = [vl.filled(wording, prompt=text, **values) for text in texts]
    return reader.asked(questions, start)

  return vl.loaded(reader, params, prepare, table=table)


def usable_of(images: Array) -> tuple[Array, Bool[Array, "P G"]]:
  """(images without values that are not finite, which have none)."""
  usable = jnp.isfinite(images).all((2, 3, 4))
  return jnp.where(usable[..., None, None, None], images, 0.0), usable


def seen_of(reader: Reader, params: Params, images: Array) -> Seen:
  """Tokens of the images [P, G, ...]."""
  p, g = images.shape[:2]
  tokens = reader.see(params, images.reshape(p * g, *images.shape[2:]))
  return jax.tree.map(lambda x: x.reshape(p, g, *x.shape[1:]), tokens)


def rows_of(
  seen: Seen, shows: Int[np.ndarray, "Q I"], arrays: Mapping[str, ArrayLike]
) -> dict[str, Any]:
  """Rows of `Reader.ask`, Q for each prompt.

  Args:
    seen: all images, [P, G, ...].
    shows: the members of the group that each question shows.
    arrays: by prompt, [P, ...].
  """
  each = lambda x: jnp.repeat(jnp.asarray(x), len(shows), 0)
  show = lambda x: x[:, shows].reshape(-1, shows.shape[1], *x.shape[2:])
  rows: dict[str, Any] = {name: each(x) for name, x in arrays.items()}
  return {**rows, "seen": jax.tree.map(show, seen)}


@declare(loads=load_pointwise)
def vlm_pointwise(
  images: Images,
  prompts: PromptBatch,
  *,
  reader: Reader,
  table: Table,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> Scores:
  """The expected answer about each image, in [0, 1].

  P(yes) / (P(yes) + P(no)) over both spellings, or the mean of the whole
  numbers of a scale under their probabilities, as `judge_pointwise` asks a
  server. VQAScore, Lin et al. 2024, https://arxiv.org/abs/2404.01291, uses
  P(yes) alone.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    reader: the model.
    table: the answers.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.
  """
  images, usable = usable_of(jnp.asarray(images))
  p, g = images.shape[:2]
  rows = rows_of(
    seen_of(reader, params, images), np.arange(g)[:, None],
    {"text": text, "mask": mask},
  )  # fmt: skip
  scores = reader.ask(
    params, rows, reader.size(images),
    lambda prefix, _: table.mean(reader.model, params, prefix),
  ).reshape(p, g)  # fmt: skip
  return {"judge": jnp.where(usable, scores, jnp.nan)}


@with_options
def load_pairwise(
  options: Options,
  *,
  template: str = "",
  pairs: str = "all",
  opponents: int = 4,
  swap: bool = True,
) -> Loaded:
  """A judge that compares two images of a prompt.

  Args:
    options: see `vision_language.Options`.
    template: file with the question (`remote.templates`), or "".
    pairs: who meets whom in a group: "all"; "random", each member so many
      neighbours; "member", all of them the first one.
    opponents: of each member, for "random".
    swap: ask for both orders and average, which cancels what a judge gives to
      a place.
  """
  require_choice("pairs", pairs, ("all", "random", "member"))
  encoders.require_counts("", least=1, opponents=opponents)
  reader, params = vl.load(options)
  names = ("first", "second")
  wording = vl.wording(template, templates.PAIRWISE, (), names, ("prompt",))
  values = dict(
    first=vl.PICTURE, second=vl.PICTURE, answer=WINNER.request(True)
  )

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    questions = [vl.filled(wording, prompt=text, **values) for text in texts]
    return reader.asked(questions)

  return vl.loaded(
    reader, params, prepare, table=answer_tables.of_choice(reader.tokens, WINNER),
    pairs=pairs, opponents=opponents, swap=swap,
  )  # fmt: skip


@declare(loads=load_pairwise)
def vlm_pairwise(
  images: Images,
  prompts: PromptBatch,
  *,
  reader: Reader,
  table: Table,
  pairs: str,
  opponents: int,
  swap: bool,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> Scores:
  """Mean probability that an image is better than others of its prompt.

  A tie counts 1/2, as for `judge_pairwise`. Members are exchangeable, so that
  who meets whom does not depend on the images.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as
      do those left without a match.
    prompts: P prompts.
    reader: the model.
    table: the answers.
    pairs: see `load_pairwise`, as are the next two.
    opponents: of each member.
    swap: ask for both orders.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.
  """
  images, usable = usable_of(jnp.asarray(images))
  p, g = images.shape[:2]
  games = np.array(matches.schedule(range(g), pairs, opponents), np.int32)
  if not games.size:  # nobody to meet
    return {"judge": jnp.full((p, g), jnp.nan)}
  shows = np.concatenate([games, games[:, ::-1]]) if swap else games
  rows = rows_of(
    seen_of(reader, params, images), shows, {"text": text, "mask": mask}
  )
  wins = reader.ask(
    params, rows, reader.size(images),
    lambda prefix, _: table.mean(reader.model, params, prefix),
  ).reshape(p, -1)  # fmt: skip
  if swap:
    first, second = jnp.split(wins, 2, 1)
    wins = (first + 1 - second) / 2
  sides = [np.eye(g)[games[:, side]] for side in (0, 1)]
  there = usable[:, games].all(-1).astype(jnp.float32)
  total = (there * wins) @ sides[0] + (there * (1 - wins)) @ sides[1]
  count = there @ (sides[0] + sides[1])
  rate = total / jnp.maximum(count, 1)
  return {"judge": jnp.where(count > 0, rate, jnp.nan)}


@with_options
def load_echo(
  options: Options,
  *,
  summed: bool = False,
) -> Loaded:
  """A model that describes images.

  Args:
    options: see `vision_language.Options`.
    summed: the sum over the prompt's tokens, not their mean.
  """
  reader, params = vl.load(options)

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    caption, caption_mask = reader.padded(
      [marks.without_marks(text) for text in texts]
    )
    rows = reader.asked([DESCRIBE] * len(texts))
    return {**rows, "caption": caption, "caption_mask": caption_mask}

  return vl.loaded(reader, params, prepare, summed=summed)


@declare(loads=load_echo)
def prompt_echo(
  images: Images,
  prompts: PromptBatch,
  *,
  reader: Reader,
  summed: bool,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
  caption: Int[ArrayLike, "P L"],
  caption_mask: Bool[ArrayLike, "P L"],
) -> Scores:
  """Log-likelihood of the prompt as a description of the image, per token.

  PromptEcho, Liu et al. 2026, https://arxiv.org/abs/2604.12652; the request is
  that of the authors' README, the mean over tokens is unverified. Within a
  group, sum and mean give the same standardised advantages.

  Args:
    images: in [0, 1]; one with a value that is not finite scores NaN, and so does
      one whose prompt has no words.
    prompts: P prompts.
    reader: the model.
    summed: see `load_echo`.
    params: of the model.
    text: token ids of the request for a description.
    mask: False for padding.
    caption: token ids of the prompts.
    caption_mask: False for padding.
  """
  images, usable = usable_of(jnp.asarray(images))
  p, g = images.shape[:2]
  rows = rows_of(
    seen_of(reader, params, images), np.arange(g)[:, None],
    {"text": text, "mask": mask, "caption": caption, "said": caption_mask},
  )  # fmt: skip

  def echo(prefix: decode.Prefix, rows: Mapping[str, Any]) -> Array:
    scores = decode.log_probs(
      reader.model, params, prefix, rows["caption"][:, None]
    )
    total = jnp.where(rows["said"], scores[:, 0], 0.0).sum(1)
    return total if summed else total / jnp.maximum(rows["said"].sum(1), 1)

  scores = reader.ask(params, rows, reader.size(images), echo).reshape(p, g)
  has_words = jnp.asarray(caption_mask).any(1)[:, None]
  return {"prompt_echo": jnp.where(usable & has_words, scores, jnp.nan)}
