"""Checklists that a vision-language model of the program answers.

All questions of an image are read after it, and it is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, require_counts, shown
from jaxreward.models.vlm import decode
from jaxreward.rewards import answer_tables, asking
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.asking import Judge
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.remote import questions as lists
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.rewards.remote.questions import Questions
from jaxreward.rewards.vision_language import Options
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]


@with_options
def load_checklist(
  options: Options,
  *,
  questions: str = "",
  template: str = "",
  question_length: int = 96,
  aggregate: str = "mean",
  gate: str = "hard",
) -> Loaded:
  """A judge that answers questions about an image.

  Args:
    options: see `vision_language.Options`.
    questions: file or folder of them (`questions.read_questions`).
    template: file with the question (`remote.templates`), or "".
    question_length: most tokens of a question, from where those of a prompt
      differ.
    aggregate: see `questions.graded`, as is the next.
    gate: of questions that rest on others.
  """
  require_choice("aggregate", aggregate, lists.AGGREGATES)
  require_choice("gate", gate, lists.GATES)
  require_counts("", question_length=question_length)
  if not questions:
    raise UserError('questions="": name a file of questions')
  by_prompt = ByPrompt(
    lists.read_questions(questions), f"questions={shown(questions, 100)}"
  )
  rows = by_prompt.entries.values()
  return loaded(
    options, lambda text: by_prompt.get(text, ()),
    {q.answers for row in rows for q in row}, max(map(len, rows)),
    template=template, question_length=question_length, aggregate=aggregate,
    gate=gate,
  )  # fmt: skip


def loaded(
  options: Options,
  questions_of: Callable[[str], Questions],
  forms: Collection[tuple[tuple[str, float], ...]],
  most: int,
  *,
  template: str = "",
  question_length: int = 96,
  aggregate: str = "mean",
  gate: str = "hard",
) -> Loaded:
  """What a judge has loaded that answers questions about an image.

  Args:
    options: see `vision_language.Options`.
    questions_of: prompt -> its questions.
    forms: all answers that questions have.
    most: questions of a prompt.
    template: see `load_checklist`, as are the others.
    question_length: see there.
    aggregate: see there.
    gate: see there.
  """
  reader, params = vl.load(options)
  wording, source = vl.wording(
    template, templates.CHECKLIST, ("image", "prompt", "question"), ("image",),
    ("question",),
  )  # fmt: skip
  values = [dict(form) for form in sorted(forms)]
  words = dict.fromkeys(
    text
    for form in values
    for word in form
    for text in answer_tables.spellings(word)
  )
  table = answer_tables.table_of(reader.tokens, dict.fromkeys(words, 0.0))
  column = {text: i for i, text in enumerate(words)}

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    rows = [questions_of(text) for text in texts]
    asked = [
      [
        vl.filled(
          wording, prompt=text, image=vl.PICTURE, question=q.text,
          answer=lists.form_of(q).request(True),
        )
        for q in row
      ]
      for text, row in zip(texts, rows, strict=True)
    ]  # fmt: skip
    branches = reader.branched(asked, most, question_length)
    return {**branches, **_arrays(rows, most, column)}

  judge = Judge(reader, table, source)
  return vl.loaded(params, prepare, judge=judge, aggregate=aggregate, gate=gate)


def _arrays(
  rows: Sequence[Questions], most: int, column: Mapping[str, int]
) -> dict[str, np.ndarray]:
  """ "weights" [P, Q], "above" [P, Q, Q] and "values" [P, Q, A] of questions.

  A value is NaN for an answer that there is not.
  """
  weights = np.zeros((len(rows), most), np.float32)
  above = np.zeros((len(rows), most, most), bool)
  values = np.full((len(rows), most, len(column)), np.nan, np.float32)
  values[..., 0] = 0  # of padding
  for p, row in enumerate(rows):
    n = len(row)
    weights[p, :n] = [q.weight for q in row]
    above[p, :n, :n] = lists.ancestors(row)
    for i, question in enumerate(row):
      values[p, i] = np.nan
      for word, value in question.answers:
        for text in answer_tables.spellings(word):
          values[p, i, column[text]] = value
  return {"weights": weights, "above": above, "values": values}


@declare(loads=load_checklist)
def vlm_checklist(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  aggregate: str,
  gate: str,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
  ends: Int[ArrayLike, "P Q T"],
  ends_mask: Bool[ArrayLike, "P Q T"],
  weights: Float[ArrayLike, "P Q"],
  above: Bool[ArrayLike, "P Q Q"],
  values: Float[ArrayLike, "P Q A"],
) -> dict[str, Float[Array, "P G"]]:
  """The answers to a prompt's questions as one number, as `judge_checklist`.

  An answer is the expected value under the probabilities of the question's
  words.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, and
      so do those of a prompt without questions.
    prompts: P prompts.
    judge: the judge.
    aggregate: see `questions.graded`, as is the next.
    gate: of questions that rest on others.
    params: of the model.
    text: token ids of what the questions of a prompt begin with.
    mask: False for padding.
    ends: token ids of how each question ends.
    ends_mask: False for padding.
    weights: of the questions, 0 for padding.
    above: `questions.ancestors`.
    values: of the answers; NaN for those of other questions.
  """
  p, g = jnp.asarray(images).shape[:2]
  rows, usable, size = asking.questions(
    judge, params, images, prompts, np.arange(g)[:, None],
    {
      "text": text, "mask": mask, "ends": ends, "ends_mask": ends_mask,
      "values": values,
    },
  )  # fmt: skip
  model = judge.reader.model

  def answered(prefix: decode.Prefix, rows: Mapping[str, Any]) -> Array:
    longer = decode.extended(
      model, params, prefix, rows["ends"], rows["ends_mask"]
    )
    scores = judge.table.log_probs(model, params, longer)
    worth = rows["values"]
    scores = jnp.where(jnp.isnan(worth), -jnp.inf, scores.reshape(worth.shape))
    return (jax.nn.softmax(scores, -1) * jnp.nan_to_num(worth)).sum(-1)

  answers = judge.reader.ask(params, rows, size, answered).reshape(p, g, -1)
  weights, above = jnp.asarray(weights), jnp.asarray(above)
  has_some = (weights > 0).any(1)[:, None]
  shares = jnp.where(has_some, weights, 1.0)[:, None]
  scores = lists.graded(
    answers, shares, above[:, None], aggregate=aggregate, gate=gate, xp=jnp
  )
  return {"judge": jnp.where(usable & has_some, scores, jnp.nan)}
