"""Judges that are vision-language models of the program.

They score by probabilities that one reading of the question gives: nothing is
written out, unless the judge thinks first. All are differentiable in the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, shown
from jaxreward.models.vision import encoders
from jaxreward.models.vlm import decode
from jaxreward.models.vlm import prompts as marks
from jaxreward.rewards import answer_tables, asking
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.asking import Judge
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.reasoning import Options
from jaxreward.rewards.remote import answers, matches, templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.rewards.remote.rewards import WINNER, YES
from jaxreward.rewards.vision_language import Reader
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Scores = dict[str, Float[Array, "P G"]]
DESCRIBE = f"{vl.PICTURE}Describe this image in detail."
FOLLOW_UP = (
  f"{vl.PICTURE}\nThis image was made for somebody who had asked for: {{prompt}}\n"
  "What does this person say on seeing it?"
)


@with_options
def load_pointwise(
  options: Options,
  *,
  template: str = "",
  answer: str = "yes_no",
  low: float = 1.0,
  high: float = 10.0,
  step: float = 1.0,
  around: Sequence[str] = answer_tables.AROUND,
) -> Loaded:
  """A judge that looks at one image at a time.

  Args:
    options: see `reasoning.Options`.
    template: file with the question (`remote.templates`), or "". With {source}
      the judge sees the image that an edit starts from.
    answer: "yes_no", or "score" for a number.
    low: the worst score.
    high: the best.
    step: from one score to the next.
    around: what a score begins with and what it ends with.
  """
  require_choice("answer", answer, ("score", "yes_no"))
  if not low < high:
    raise UserError(f"low={low}, high={high}: low must be less than high")
  if answer == "yes_no":
    return asking.loaded(
      options, template, templates.YES_NO, ("image",),
      lambda tokens: answer_tables.of_choice(tokens, YES),
      answer=YES.request(True), given=dict(low="", high=""),
    )  # fmt: skip
  form = answers.Score(low, high)
  return asking.loaded(
    options, template, templates.POINTWISE, ("image",),
    lambda tokens: answer_tables.of_score(tokens, form, step, around[1]),
    begun=around[0], answer=form.request(True),
    given=dict(low=f"{low:g}", high=f"{high:g}"),
  )  # fmt: skip


@declare(loads=load_pointwise)
def vlm_pointwise(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> Scores:
  """The expected answer about each image, in [0, 1].

  P(yes) / (P(yes) + P(no)) over both spellings, or the mean of the numbers of a
  scale under their probabilities, as `judge_pointwise` asks a server. VQAScore,
  Lin et al. 2024, https://arxiv.org/abs/2404.01291, uses P(yes) alone.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as
      do those of a prompt without the source that the question shows.
    prompts: P prompts.
    judge: the judge.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.
  """
  g = jnp.asarray(images).shape[1]
  rows, usable, size = asking.questions(
    judge, params, images, prompts, np.arange(g)[:, None],
    {"text": text, "mask": mask},
  )  # fmt: skip
  scores = judge.answers(params, rows, size).reshape(-1, g)
  return {"judge": jnp.where(usable, scores, jnp.nan)}


@with_options
def load_pairwise(
  options: Options,
  *,
  template: str = "",
  pairs: str = "all",
  opponents: int = 4,
  swap: bool = True,
  consistent: bool = False,
  original: str = "source",
  words: Sequence[str] = tuple(WINNER.values),
) -> Loaded:
  """A judge that compares two images of a prompt.

  Args:
    options: see `reasoning.Options`.
    template: file with the question (`remote.templates`), or "".
    pairs: which members of a group are compared: "all" pairs; "random", each
      member with `opponents` neighbours; "member", each with the first one;
      "first", the same, but the first one gets no score.
    opponents: number per member, for "random".
    swap: ask in both orders and average, which cancels position bias.
    consistent: a match is won, whole, by the image that both orders find better, and
      a tie where they disagree.
    original: the picture of a prompt that {source} shows in the question: the
      "source" of an edit, or its exact answer, the "target".
    words: how it says that the first is better, that the second is, and, if
      there are three, that neither is.
  """
  require_choice("pairs", pairs, ("all", "random", "member", "first"))
  require_choice("original", original, ("source", "target"))
  encoders.require_counts("", least=1, opponents=opponents)
  if consistent and not swap:
    raise UserError(
      "consistent=True: two orders are compared, and swap=False asks one; set swap"
    )
  if len(words) not in (2, 3):
    raise UserError(f"words={words}: give two, or three with that of a tie")
  form = answers.Choice(
    "winner", dict(zip(words, (1.0, 0.0, 0.5), strict=False))
  )
  return asking.loaded(
    options, template, templates.PAIRWISE, ("first", "second"),
    lambda tokens: answer_tables.of_choice(tokens, form),
    answer=form.request(True), pairs=pairs, opponents=opponents, swap=swap,
    consistent=consistent, original=original,
  )  # fmt: skip


def of_both_orders(
  first: Float[ArrayLike, "*B"],
  second: Float[ArrayLike, "*B"],
  consistent: bool = False,
) -> Float[Array, "*B"]:
  """P(an image is better), from the answers to both orders of a pair.

  Their mean, (p_12 + 1 - p_21) / 2, or with `consistent` 1 or 0 where both orders
  agree on the better one and 1/2 where they do not. VLIC,
  https://arxiv.org/abs/2512.15701, keeps such verdicts alone.

  Args:
    first: P(the image is better), shown first.
    second: P(the other image is better), with that one shown first.
    consistent: see above.
  """
  first, back = jnp.asarray(first), 1 - jnp.asarray(second)
  mean = (first + back) / 2
  if not consistent:
    return mean
  agree = jnp.sign(first - 0.5) * jnp.sign(back - 0.5) > 0
  return jnp.where(agree, jnp.where(mean > 0.5, 1.0, 0.0), 0.5 + 0 * mean)


@declare(loads=load_pairwise)
def vlm_pairwise(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  pairs: str,
  opponents: int,
  swap: bool,
  consistent: bool,
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
    judge: the judge.
    pairs: see `load_pairwise`, as are the next two.
    opponents: of each member.
    swap: ask for both orders.
    consistent: see `load_pairwise`.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.
  """
  p, g = jnp.asarray(images).shape[:2]
  meets = "member" if pairs == "first" else pairs
  games = np.array(matches.schedule(range(g), meets, opponents), np.int32)
  if not games.size:  # no opponents
    return {"judge": jnp.full((p, g), jnp.nan)}
  shows = np.concatenate([games, games[:, ::-1]]) if swap else games
  rows, usable, size = asking.questions(
    judge, params, images, prompts, shows, {"text": text, "mask": mask}
  )
  wins = judge.answers(params, rows, size).reshape(p, -1)
  if swap:
    forth, back = jnp.split(wins, 2, 1)
    wins = of_both_orders(forth, back, consistent)
  sides = [np.eye(g)[games[:, side]] for side in (0, 1)]
  played = usable[:, games].all(-1) & jnp.isfinite(wins)
  wins, played = jnp.where(played, wins, 0.0), played.astype(jnp.float32)
  total = wins @ sides[0] + (played - wins) @ sides[1]
  count = played @ (sides[0] + sides[1])
  rate = total / jnp.maximum(count, 1)
  is_scored = count > 0
  if pairs == "first":
    is_scored &= np.arange(g) > 0
  return {"judge": jnp.where(is_scored, rate, jnp.nan)}


@with_options
def load_echo(
  options: vl.Options,
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
    question = reader.asked([DESCRIBE] * len(texts))
    return {**question, "caption": caption, "caption_mask": caption_mask}

  return vl.loaded(params, prepare, reader=reader, summed=summed)


def _of_each_image(
  reader: Reader,
  params: Params,
  images: Images,
  arrays: Mapping[str, Any],
  score: Callable[[decode.Prefix, Mapping[str, Any]], Array],
) -> tuple[Float[Array, "P G"], Bool[Array, "P G"]]:
  """(scores of what is read about each image, whether its values are finite)."""
  images, usable = asking.usable_of(jnp.asarray(images))
  p, g = images.shape[:2]
  features = asking.seen_of(reader, params, images)
  rows = asking.rows_of(features, np.arange(g)[:, None], arrays)
  scores = reader.ask(params, rows, reader.size(images), score)
  return scores.reshape(p, g), usable


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

  def echo(prefix: decode.Prefix, rows: Mapping[str, Any]) -> Array:
    scores = decode.log_probs(
      reader.model, params, prefix, rows["caption"][:, None]
    )
    total = jnp.where(rows["said"], scores[:, 0], 0.0).sum(1)
    return total if summed else total / jnp.maximum(rows["said"].sum(1), 1)

  scores, usable = _of_each_image(
    reader, params, images,
    {"text": text, "mask": mask, "caption": caption, "said": caption_mask}, echo,
  )  # fmt: skip
  has_words = jnp.asarray(caption_mask).any(1)[:, None]
  return {"prompt_echo": jnp.where(usable & has_words, scores, jnp.nan)}


@with_options
def load_follow_up(
  options: vl.Options,
  *,
  pleased: Sequence[str] = (
    "Thank you, that is just what I asked for.",
    "Great! Now make another one for me.",
  ),
  displeased: Sequence[str] = (
    "No, that is not what I asked for.",
    "Something is wrong with it. Please try again.",
  ),
) -> Loaded:
  """A model of the user who wrote the prompt.

  Args:
    options: see `vision_language.Options`.
    pleased: remarks of a user who got what they asked for.
    displeased: remarks of a user who did not.

  Raises:
    UserError: no remark of one kind, an empty one, or a text in place of several.
  """
  for name, remarks in (("pleased", pleased), ("displeased", displeased)):
    if isinstance(remarks, str):
      raise UserError(
        f'{name}="{shown(remarks, 60)}": give a tuple of remarks, as in ("Thanks",)'
      )
    if not remarks or not all(text.strip() for text in remarks):
      raise UserError(
        f"{name}={tuple(remarks)}: give a remark or more, none of them empty"
      )
  reader, params = vl.load(options)
  ids = marks.ids_of(reader.tokens, [*pleased, *displeased])
  remarks, is_word = answer_tables.padded(ids, max(map(len, ids)))

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    clean = [marks.without_marks(text) for text in texts]
    return reader.asked([FOLLOW_UP.format(prompt=text) for text in clean])

  return vl.loaded(
    params, prepare, reader=reader, remarks=remarks, said=is_word,
    count=len(pleased),
  )  # fmt: skip


@declare(loads=load_follow_up)
def follow_up(
  images: Images,
  prompts: PromptBatch,
  *,
  reader: Reader,
  remarks: np.ndarray,
  said: np.ndarray,
  count: int,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> Scores:
  """How much likelier pleased remarks are than displeased ones, per token.

  mean over pleased remarks f of log p(f | image, prompt) / |f|, less that over
  displeased ones. Zhang et al. 2024, https://arxiv.org/abs/2409.13948, of answers in
  words there; `unverified`: their remarks, and that all weigh the same.

  Args:
    images: in [0, 1]; one with a value that is not finite scores NaN.
    prompts: P prompts.
    reader: the model.
    remarks: tokens [F, T].
    said: False for padding.
    count: the first so many remarks are pleased.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.
  """

  def listen(prefix: decode.Prefix, rows: Mapping[str, Any]) -> Array:
    every = jnp.broadcast_to(remarks, (len(rows["text"]), *remarks.shape))
    scores = decode.log_probs(reader.model, params, prefix, every)
    each = jnp.where(said, scores, 0.0).sum(-1) / said.sum(-1)
    return each[:, :count].mean(1) - each[:, count:].mean(1)

  scores, usable = _of_each_image(
    reader, params, images, {"text": text, "mask": mask}, listen
  )
  return {"follow_up": jnp.where(usable, scores, jnp.nan)}
