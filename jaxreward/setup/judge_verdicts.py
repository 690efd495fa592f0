"""Training of a judge by what its verdicts earn, after thoughts of its own.

Each question is answered several times, by the parameters of the step, and a
rule (`models.vlm.verdicts`) compares the verdicts with the exact answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int
from ml_collections import ConfigDict

from jaxreward import advantages, rng
from jaxreward import config as config_lib
from jaxreward.data import pipeline
from jaxreward.errors import UserError, require_not_negative
from jaxreward.evaluation import intervals
from jaxreward.models.vlm import (
  decode,
  prompts,
  supervision,
  verdicts,
  words,
)
from jaxreward.models.vlm.decode import Answers, Prefix
from jaxreward.numerics import Mean
from jaxreward.rewards import answer_tables
from jaxreward.rewards.vision_language import Reader
from jaxreward.setup import judge
from jaxreward.tasks import Task, judge_questions
from jaxreward.types import Array, ArrayLike, Params

FIELD, CLOSE = "verdicts.rule", "</think>"
CREDITS = ("group", "reward")
_TRIES = 50  # batches of questions that are drawn for those with a thought


@flax.struct.dataclass
class Questions:
  """Questions about R images whose answers have begun.

  Attributes:
    stem: ids of what they begin with, one placeholder per image, [R, L].
    stem_mask: False for padding.
    texts: ids of the rest of each question, [R, 1, T].
    texts_mask: False for padding.
    truth: the right verdict, a token, [R].
    exact: ids of the exact thought, [R, T].
    exact_mask: False for padding.
  """

  stem: Int[ArrayLike, "R L"]
  stem_mask: Bool[ArrayLike, "R L"]
  texts: Int[ArrayLike, "R 1 T"]
  texts_mask: Bool[ArrayLike, "R 1 T"]
  truth: Int[ArrayLike, "R"]
  exact: Int[ArrayLike, "R T"]
  exact_mask: Bool[ArrayLike, "R T"]


def rule_of(config: ConfigDict) -> Callable[..., Array] | None:
  """The rule of `config.verdicts`; None if answers are taught instead.

  Raises:
    UserError: an unknown rule, or an option out of range.
  """
  section = config.verdicts
  if section.rule.name == "none":
    return None
  rule = config_lib.bind(
    section.rule, verdicts.RULES, field=FIELD, positional=1
  )
  ones = jnp.ones((1, 2))
  try:
    rule(verdicts.Verdicts(ones > 0, ones > 0, ones, ones))
  except UserError as error:
    raise UserError(f"config.{FIELD}.{error}") from error
  if section.credit not in CREDITS:
    raise UserError(
      f'config.verdicts.credit="{section.credit}": it is one of {", ".join(CREDITS)}'
    )
  for name, least, why in (
    ("samples", 2, "answers of a question are compared"),
    ("length", 4, "a thought and a verdict need 4 tokens or more"),
  ):
    if section[name] < least:
      raise UserError(f"config.verdicts.{name}={section[name]}: {why}")
  require_not_negative("config.verdicts.", kl=section.kl)
  return rule


def _token(tokens: words.Words, text: str) -> int:
  (token,) = tokens(text)["input_ids"]
  return token


def marks(tokens: words.Words) -> dict[str, Any]:
  """The tokens that `verdicts.read` looks for."""
  return dict(
    close=_token(tokens, CLOSE),
    verdicts=tuple(
      _token(tokens, judge_questions.yes(x)) for x in (True, False)
    ),
    stop=_token(tokens, words.STOP),
  )


def questions_of(
  reader: Reader, rows: Sequence[judge_questions.Asked], stem: int, length: int
) -> Questions:
  """Questions with a thought as tokens; see `judge.taught` for the sizes."""
  cut = [row.answer.rpartition(CLOSE) for row in rows]
  begun = [[row._replace(answer="")] for row in rows]
  given = judge.taught(reader, begun, stem, length)
  # Without an answer what is said is the end alone, which is not given here.
  mask = np.arange(length) < np.asarray(given.said).argmax(-1)[..., None]
  truth = [_token(reader.tokens, verdict) for _, _, verdict in cut]
  thoughts = prompts.ids_of(reader.tokens, [text for text, _, _ in cut])
  return Questions(
    given.stem, given.stem_mask, np.where(mask, given.texts, 0), mask,
    np.array(truth, np.int32), *answer_tables.padded(thoughts, length),
  )  # fmt: skip


def draw(
  task: str, source: Any, generator: np.random.Generator, count: int
) -> tuple[Any, list[judge_questions.Asked]]:
  """(what `count` images show, the question about each that wants a thought)."""
  looks, rows = [], []
  for _ in range(_TRIES):
    batch = source(generator, max(count, 2), 2)
    for group in batch.groups.values():
      for i, row in enumerate(group):
        for one in row:
          if one.kind == "thought" and len(rows) < count:
            rows.append(one)
            looks.append(jax.tree.map(lambda x, i=i: x[i], batch.look))
    if len(rows) == count:
      return jax.tree.map(lambda *x: np.stack(x), *looks), rows
  raise UserError(f"config.judge.tasks: {task} asks for no thoughts")


def batches(config: ConfigDict, reader: Reader, split: str):
  """Step -> its questions, the same in every process and after a resume."""
  of, counts = judge.tasks_of(config), judge.counts_of(config)
  sources = {name: task.questions.Questions(split) for name, task in of.items()}

  def batch(n: int) -> dict[str, Any]:
    rows = {}
    for name, task in of.items():
      generator = judge.generator_of(config.seed, f"verdicts/{name}", n)
      count = counts[name]
      look, asked_for = draw(name, sources[name], generator, count)
      rows[name] = {
        "look": look,
        "rows": questions_of(reader, asked_for, *task.questions.ROOM["long"]),
        "seed": pipeline.seeds_of(n, count),
      }
    return rows

  return batch


def read(
  reader: Reader, params: Params, images: Array, rows: Questions
) -> Prefix:
  """Questions about images, once for all their answers."""
  size = reader.size(images)
  seen = reader.see(params, images, size)
  prefix = supervision.read(
    reader.model, params, seen.features, rows, reader.model.vision.grid(*size),
    deep=seen.deep, dtype=reader.dtype,
  )  # fmt: skip
  return decode.extended(
    reader.model, params, prefix, rows.texts, rows.texts_mask
  )


def _written(
  answers: Answers, rows: Questions, heard: Array, special: Mapping[str, Any]
) -> verdicts.Verdicts:
  return verdicts.read(
    answers, rows.truth, heard=heard, exact=rows.exact,
    exact_mask=rows.exact_mask, **special,
  )  # fmt: skip


def loss(
  config: ConfigDict,
  reader: Reader,
  of: Mapping[str, Task],
  rule: Callable[..., Array],
):
  """Policy gradient of verdicts; reads (step, parameters of the reference)."""
  section, special = config.verdicts, marks(reader.tokens)

  def loss_fn(params: Params, micro: dict[str, Any], frozen: tuple):
    n, reference = frozen
    means: dict[str, Mean] = {}
    total = []
    for task, rows in micro.items():
      images = judge.images_of(of[task], config.seed, f"verdicts/{task}", rows)
      prefix = read(reader, params, images, rows["rows"])
      constant = jax.lax.stop_gradient((params, prefix))
      answers = decode.generate(
        reader.model, *constant,
        rng.stream_key(config.seed, f"verdicts/{task}/answers", n),
        rows["seed"], length=section.length, stops=(special["stop"],),
        samples=section.samples, temperature=1.0,
      )  # fmt: skip
      base = read(reader, reference, images, rows["rows"])
      heard = decode.logits(reader.model, reference, base, answers.tokens)
      written = _written(answers, rows["rows"], heard, special)
      rewards = rule(written)
      credit = rewards
      if section.credit == "group":
        credit = advantages.group(rewards, jnp.ones(rewards.shape, bool))
      now = decode.log_probs(reader.model, params, prefix, answers.tokens)
      each = verdicts.loss_of(
        now, decode.of_tokens(heard, answers.tokens), credit, kl=section.kl
      )
      total.append(Mean.of(each, answers.mask))
      means |= {
        f"alike/{task}": Mean.of(written.alike),
        f"reward/{task}": Mean.of(rewards),
        f"right/{task}": Mean.of(written.is_right),
        f"formed/{task}": Mean.of(written.is_formed),
        f"length/{task}": Mean.of(answers.mask.sum(-1)),
      }
    return judge.pooled(total), means

  return loss_fn


def make_evaluator(
  config: ConfigDict,
  reader: Reader,
  of: Mapping[str, Task],
  split: str,
  count: int,
) -> Callable[[Params], dict[str, Any]]:
  """Parameters -> shares of right and of formed verdicts, thought greedily."""
  special, seed = marks(reader.tokens), config.eval.seed
  batch = {}
  for name, task in of.items():
    generator = judge.generator_of(seed, f"verdicts/evaluation/{name}")
    look, rows = draw(name, task.questions.Questions(split), generator, count)
    batch[name] = {
      "look": look, "seed": np.arange(count, dtype=np.uint32),
      "rows": questions_of(reader, rows, *task.questions.ROOM["long"]),
    }  # fmt: skip

  @functools.partial(jax.jit, static_argnames="name")
  def judged(params: Params, rows: Any, name: str):
    images = judge.images_of(of[name], seed, "verdicts/evaluation", rows)
    prefix = read(reader, params, images, rows["rows"])
    answers: Answers = decode.generate(
      reader.model, params, prefix, rng.stream_key(seed, "greedy"),
      rows["seed"], length=config.verdicts.length, stops=(special["stop"],),
    )  # fmt: skip
    heard = decode.logits(reader.model, params, prefix, answers.tokens)
    written = _written(answers, rows["rows"], heard, special)
    return written.is_right.sum(), written.is_formed.sum()

  def evaluate(params: Params) -> dict[str, Any]:
    results = {}
    for task, rows in batch.items():
      right, formed = map(int, judged(params, rows, name=task))
      low, high = intervals.wilson(right, count)
      results[task] = dict(
        accuracy=right / count, low=low, high=high, n=count,
        formed=formed / count,
      )  # fmt: skip
    return results

  return evaluate


def metrics(results: Mapping[str, Any]) -> dict[str, float]:
  """What is logged of an evaluation."""
  return {
    f"verdicts/{task}/{key}": x[key]
    for task, x in results.items()
    for key in ("accuracy", "formed")
  }
