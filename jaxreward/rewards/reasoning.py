"""Judges that think before their verdict.

A thought is drawn, what ended it is replaced by the words that lead to the
verdict, and the verdict is read by the probabilities of the answers there are,
as without a thought. A gradient flows through the verdict alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Integer

from jaxreward import rng
from jaxreward.errors import UserError, require_counts
from jaxreward.models.vlm import decode, prompts
from jaxreward.numerics import masked_mean
from jaxreward.rewards import looks, vision_language
from jaxreward.rewards.looks import Looks
from jaxreward.rewards.remote.options import require_choice
from jaxreward.rewards.vision_language import Reader
from jaxreward.types import Array, Params


class Marks(NamedTuple):
  """What a thought begins and ends with, and what follows its end."""

  begun: str
  ended: str
  after: str


THINK = Marks("<think>\n", "</think>", "</think>\n")


@dataclasses.dataclass(frozen=True)
class Options(vision_language.Options):
  """What every judge that may think takes.

  Attributes:
    principle: what it judges by (`remote.principles`), for all prompts.
    principles: a file of them by prompt.
    think: most tokens of a thought; 0 for none.
    thoughts: drawn for each question; their scores are averaged.
    temperature: of the draws, 0 for the most probable tokens.
    top_p: only the most probable tokens that together reach it are drawn.
    seed: of the draws, which are the same for the same prompt, question and
      sample.
    rethink: a second question, asked after the first thought and answered by
      another one; its only placeholder is {answer}.
    looks: times that it asks, after a thought, to see a part of an image closer
      (`rewards.looks`), and thinks again with that before it.
    window: the latest parts that it still sees; 0 for all.
    verdict: words between the last thought and the answer, such as "<answer>".
    cut: of a thought that `think` cuts: "read", its verdict counts, or
      "missing", it has none.
  """

  principle: str = ""
  principles: str = ""
  think: int = 0
  thoughts: int = 1
  temperature: float = 0.7
  top_p: float = 1.0
  seed: int = 0
  rethink: str = ""
  looks: int = 0
  window: int = 0
  verdict: str = ""
  cut: str = "read"

  def __post_init__(self):
    super().__post_init__()
    require_counts("", thoughts=self.thoughts)
    require_counts(
      "", least=0, think=self.think, looks=self.looks, window=self.window
    )
    require_choice("cut", self.cut, ("read", "missing"))
    if self.think == 0 and (self.rethink or self.looks or self.thoughts > 1):
      raise UserError(
        "think=0: there is no thought to repeat or to continue; set think"
      )
    if self.thoughts > 1 and self.temperature == 0:
      raise UserError(
        f"thoughts={self.thoughts}: at temperature=0.0 they are all alike; raise"
        " temperature"
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Thinking:
  """How a judge thinks.

  Attributes:
    options: see `Options`.
    stops: tokens that end a thought.
    until: tokens that end it where they follow each other.
    tails: tokens after each thought; the last lead to the verdict.
    looks: what it may ask to see after the first thoughts; None for nothing.
  """

  options: Options
  stops: tuple[int, ...]
  until: tuple[int, ...]
  tails: tuple[tuple[int, ...], ...]
  looks: Looks | None = None


def thinking(
  reader: Reader,
  options: Options,
  begun: str,
  answer: str,
  marks: Marks | None = None,
  images: int = 1,
) -> tuple[str, Thinking | None]:
  """(what an answer begins with, how the judge thinks before its verdict).

  Args:
    reader: the model.
    options: of the judge.
    begun: the beginning of the verdict.
    answer: the sentence that asks for its form.
    marks: of its thoughts; `THINK` if None.
    images: of a question.
  """
  begun, marks = options.verdict + begun, marks or THINK
  if not options.think:
    return begun, None
  ids = lambda text: tuple(prompts.ids_of(reader.tokens, [text])[0])
  tails = [ids(marks.after + looks.BEGUN)] * options.looks
  if options.rethink:
    text = options.rethink.replace("{answer}", answer)
    again = prompts.turn("user", text) + prompts.begin(marks.begun)
    tails.append(ids(f"{marks.ended}{prompts.END}\n{again}"))
  tails.append(ids(marks.after + begun))
  how = Thinking(
    options, ids(prompts.END), ids(marks.ended), tuple(tails),
    looks.of_reader(reader, images, marks.begun) if options.looks else None,
  )  # fmt: skip
  return marks.begun, how


def think(
  reader: Reader,
  params: Params,
  prefix: decode.Prefix,
  ids: Integer[Array, "B"],
  how: Thinking,
  images: Float[Array, "B I H W C"] | None = None,
) -> tuple[decode.Prefix, Bool[Array, "N"]]:
  """(questions with S thoughts each, whether all thoughts ended of themselves).

  Args:
    reader: the model.
    params: of it.
    prefix: the questions.
    ids: a number per question that is its own.
    how: the judge thinks.
    images: that the questions show, for a judge that looks closer.
  """
  o, key = how.options, rng.stream_key(how.options.seed, "judge")
  is_whole, shown = jnp.ones(len(ids), bool), []
  for turn, tail in enumerate(how.tails):
    samples = 1 if turn else o.thoughts
    fixed = jax.lax.stop_gradient((params, prefix))
    answers = decode.generate(
      reader.model, *fixed, jax.random.fold_in(key, turn), ids,
      length=o.think, stops=how.stops, until=how.until, samples=samples,
      temperature=o.temperature, top_p=o.top_p,
    )  # fmt: skip
    texts, mask, ended = decode.followed(answers, how.stops, how.until, tail)
    prefix = decode.extended(reader.model, params, prefix, texts, mask)
    is_whole = jnp.repeat(is_whole, samples) & ended.reshape(-1)
    ids = jnp.repeat(ids, samples) * samples + jnp.tile(
      jnp.arange(samples, dtype=ids.dtype), len(ids)
    )
    if how.looks is not None and turn < o.looks:
      images = jnp.repeat(jnp.asarray(images), samples, 0)
      if o.window and len(shown) == o.window:
        prefix = looks.forget(prefix, shown.pop(0))
      keys = rng.sample_keys(
        jax.random.fold_in(key, len(how.tails) + turn), ids, jnp.zeros_like(ids)
      )
      prefix, place = looks.closer(
        reader, params, prefix, keys, images, how.looks, o.temperature
      )
      shown.append(place)
  return prefix, is_whole


def averaged(
  scores: Float[Array, "N *A"],
  is_whole: Bool[Array, "N"],
  how: Thinking,
) -> Float[Array, "B *A"]:
  """Mean scores over the thoughts that count; NaN without any."""
  o = how.options
  counts = is_whole if o.cut == "missing" else jnp.ones_like(is_whole)
  counts = counts.reshape(-1, o.thoughts, *[1] * (scores.ndim - 1))
  scores = scores.reshape(counts.shape[0], o.thoughts, *scores.shape[1:])
  mean = masked_mean(scores, counts, axis=1)
  return jnp.where(counts.any(1), mean, jnp.nan)


def verdicts(
  reader: Reader,
  params: Params,
  prefix: decode.Prefix,
  ids: Integer[Array, "B"],
  how: Thinking | None,
  score: Any,
  images: Float[Array, "B I H W C"] | None = None,
) -> Float[Array, "B *A"]:
  """Scores of questions, after thoughts where the judge thinks.

  Args:
    reader: the model.
    params: of it.
    prefix: the questions.
    ids: a number per question that is its own.
    how: the judge thinks; None for a judge that does not.
    score: questions that have been read -> their scores.
    images: that the questions show, for a judge that looks closer.
  """
  if how is None:
    return score(prefix)
  prefix, is_whole = think(reader, params, prefix, ids, how, images)
  return averaged(score(prefix), is_whole, how)
