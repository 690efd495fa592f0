"""The three judge rewards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxreward import errors
from jaxreward.data.images import read_image
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError
from jaxreward.rewards import references as reference_lines
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.remote import (
  answers,
  matches,
  pictures,
  templates,
)
from jaxreward.rewards.remote import questions as checklists
from jaxreward.rewards.remote.judge import Fields, Judge
from jaxreward.rewards.remote.options import (
  Options,
  require_choice,
  with_options,
)
from jaxreward.rewards.remote.pictures import Picture
from jaxreward.rewards.remote.question_files import Question
from jaxreward.rewards.remote.questions import Questions
from jaxreward.rewards.remote.store import digest
from jaxreward.types import PromptBatch

Images = Float[np.ndarray, "P G H W 3"]
Scores = dict[str, Float[np.ndarray, "P G"]]

YES = answers.Choice("answer", {"yes": 1.0, "no": 0.0})
WINNER = answers.Choice("winner", {"first": 1.0, "second": 0.0, "tie": 0.5})
_REFERENCE = -1  # in place of a member


def _wordings(
  judge: Judge, default: str, known: Sequence[str], needed: Sequence[str]
) -> tuple[str, ...]:
  """Templates of a question that says what to judge by, if that is given."""
  needs_principle = judge.principles.needed
  default = templates.default(default, told=bool(needs_principle))
  return templates.read(
    judge.options.templates,
    default,
    (*known, *needs_principle),
    (*needed, *needs_principle),
  )


def _texts(texts: Sequence[str]) -> Mapping[str, Any]:
  return {"texts": list(texts)}


def _members(
  images: Images,
  prompts: PromptBatch,
  texts: Sequence[str],
  judge: Judge,
) -> Iterator[tuple[int, Fields, dict[int, Picture]]]:
  """(row, what belongs to the prompt, its finite images by member) of each.

  Padding is left out. Prompts with images to start from have a "source".
  """
  mask, source = np.asarray(prompts.mask), getattr(prompts, "source", None)
  size = judge.options.size
  for p in range(len(images)):
    if not mask[p]:
      continue
    row: dict[str, str | Picture] = {
      "prompt": texts[p], **judge.principles.of(texts[p]),
    }  # fmt: skip
    if source is not None:
      row["source"] = pictures.make(np.asarray(source[p]), size)
    members = {
      g: pictures.make(pixels, size)
      for g, pixels in enumerate(images[p])
      if np.isfinite(pixels).all()
    }
    yield p, row, members


@with_options
def load_pointwise(
  options: Options,
  *,
  folder: os.PathLike[str],
  answer: str = "score",
  low: float = 1.0,
  high: float = 10.0,
) -> Loaded:
  """A judge that looks at one image at a time.

  Args:
    options: see `Options`.
    folder: for the judge's files.
    answer: "score" for a number, or "yes_no".
    low: the worst score.
    high: the best.
  """
  require_choice("answer", answer, ("score", "yes_no"))
  if not -np.inf < low < high < np.inf:
    raise UserError(f"low={low}, high={high}: low must be less than high")
  form, default = answers.Score(low, high), templates.POINTWISE
  if answer == "yes_no":
    form, default = YES, templates.YES_NO
  names = ("image", "source", "prompt", "low", "high")
  limits = {"low": f"{low:g}", "high": f"{high:g}"}
  judge = Judge(options, folder)
  wordings = _wordings(judge, default, names, ("image", "prompt"))
  return Loaded(
    dict(judge=judge, form=form, wordings=wordings, limits=limits),
    prepare=_texts,
  )


@declare(is_host=True, loads=load_pointwise)
def judge_pointwise(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  form: answers.Form,
  wordings: Sequence[str],
  limits: Mapping[str, str],
  texts: Sequence[str],
) -> Scores:
  """A judge's score of each image, in [0, 1].

  Scores are mapped from [low, high]; of yes and no, the probability of yes.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as
      do images of padding and those that the judge has no answer for.
    prompts: P prompts.
    judge: the judge.
    form: of the answers.
    wordings: templates of the question.
    limits: the lowest and the highest score as words.
    texts: of the prompts.
  """
  places, fields = [], []
  for p, row, members in _members(images, prompts, texts, judge):
    for g, picture in members.items():
      places.append((p, g))
      fields.append({**row, **limits, "image": picture})
  return {
    "judge": _placed(images, places, judge.scores(form, wordings, fields))
  }


def _placed(images, places, values) -> Float[np.ndarray, "P G"]:
  scores = np.full(images.shape[:2], np.nan, np.float32)
  for place, value in zip(places, values, strict=True):
    scores[place] = value
  return scores


@with_options
def load_pairwise(
  options: Options,
  *,
  folder: os.PathLike[str],
  pairs: str = "all",
  opponents: int = 4,
  references: str = "",
  swap: bool = True,
) -> Loaded:
  """A judge that compares two images of a prompt.

  Args:
    options: see `Options`.
    folder: for the judge's files.
    pairs: who meets whom in a group: "all"; "random", each member so many
      others; "member", all of them a drawn one of their own; "reference", all
      of them the prompt's own image.
    opponents: of each member, for "random".
    references: folder of the prompts' images (`rewards.references`).
    swap: ask for both orders and average, which cancels what a judge gives to
      a place. Without, the order is drawn.
  """
  require_choice("pairs", pairs, matches.SCHEDULES)
  if opponents < 1:
    raise UserError(f"opponents={opponents}: it must be at least 1")
  if (pairs == "reference") != bool(references):
    raise UserError(
      f'references="{references}", pairs="{pairs}": a folder of references and'
      ' pairs="reference" go together'
    )
  names = ("first", "second", "prompt")
  judge = Judge(options, folder)
  wordings = _wordings(judge, templates.PAIRWISE, (*names, "source"), names)
  by_prompt = _references(references, options.size) if references else None

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    references_of = [
      by_prompt.get(t, None) if by_prompt else None for t in texts
    ]
    return {"texts": list(texts), "reference": references_of}

  static = dict(
    judge=judge, wordings=wordings, pairs=pairs,
    opponents=opponents, swap=swap,
  )  # fmt: skip
  return Loaded(static, prepare=prepare)


def _references(folder: str, size: int) -> ByPrompt[Picture | None]:
  """The reference image of each prompt that has one."""
  references: dict[str, Picture | None] = {}
  where = errors.shown(folder, 100)
  for prompt, row in reference_lines.rows(folder).items():
    files = reference_lines.files_of(folder, prompt, row, "image")
    if len(files) != 1:
      raise UserError(
        f'references={where}: "{errors.shown(prompt)}" has {len(files)}'
        ' "image"; expected one'
      )
    references[prompt] = pictures.make(read_image(files[0]), size)
  return ByPrompt(references, f"references={where}")


@declare(is_host=True, loads=load_pairwise)
def judge_pairwise(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  wordings: Sequence[str],
  pairs: str,
  opponents: int,
  swap: bool,
  texts: Sequence[str],
  reference: Sequence[Picture | None],
) -> Scores:
  """Win rate of each image against others of its prompt.

  A win counts 1, a tie 1/2, or their expectation under the words'
  probabilities. Opponents and order are derived from hashes of the images, so
  that the same group is always judged alike. Win rates of a whole
  group: UnifiedReward-Flex, Wang et al. 2026, https://arxiv.org/abs/2602.02380;
  against a drawn member: BRPO, Jia et al. 2025,
  https://arxiv.org/abs/2506.00103, which leaves that member without a score.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as
      do those of padding and those left without a match.
    prompts: P prompts.
    judge: the judge.
    wordings: templates of the question.
    pairs: see `load_pairwise`, as are the next two.
    opponents: of each member.
    swap: ask for both orders.
    texts: of the prompts.
    reference: what each prompt's images are compared with, if they are.
  """
  games: list[tuple[int, int, int]] = []
  questions: list[tuple[Fields, Picture, Picture]] = []
  for p, row, members in _members(images, prompts, texts, judge):
    other = reference[p]
    group = members if other is None else {**members, _REFERENCE: other}
    for i, j in _matches(texts[p], group, pairs, opponents):
      games.append((p, i, j))
      questions.append((row, group[i], group[j]))
  wins = _wins(judge, wordings, questions, swap)
  scores = np.full(images.shape[:2], np.nan, np.float32)
  table = np.array(games, int).reshape(-1, 3)
  for p in set(table[:, 0]):
    of_prompt = table[:, 0] == p
    scores[p] = matches.win_rates(
      scores.shape[1], table[of_prompt, 1:], wins[of_prompt]
    )
  return {"judge": scores}


def _matches(
  text: str, group: Mapping[int, Picture], pairs: str, opponents: int
) -> list[tuple[int, int]]:
  """The matches of one prompt."""
  if pairs == "reference":
    members = [g for g in group if g != _REFERENCE]
    return [(g, _REFERENCE) for g in members if _REFERENCE in group]
  order = sorted(group, key=lambda g: digest([text, group[g].digest]))
  return matches.schedule(order, pairs, opponents)


def _wins(judge, wordings, questions, swap) -> Float[np.ndarray, "M"]:
  """P(the first of each pair is better)."""
  fields = lambda row, a, b: {**row, "first": a, "second": b}
  if swap:
    games = [fields(row, a, b) for row, a, b in questions]
    games += [fields(row, b, a) for row, a, b in questions]
    first, second = judge.scores(WINNER, wordings, games).reshape(2, -1)
    return (first + 1 - second) / 2
  flips = np.array(
    [_is_flipped(row["prompt"], a, b) for row, a, b in questions], bool
  )
  games = [
    fields(row, b, a) if flip else fields(row, a, b)
    for (row, a, b), flip in zip(questions, flips, strict=True)
  ]
  wins = judge.scores(WINNER, wordings, games)
  return np.where(flips, 1 - wins, wins)


def _is_flipped(text: str, a: Picture, b: Picture) -> bool:
  """Whether b is shown first: the same coin for (a, b) and (b, a)."""
  forward, backward = [text, a.digest, b.digest], [text, b.digest, a.digest]
  return digest(forward) > digest(backward)


@with_options
def load_checklist(
  options: Options,
  *,
  folder: os.PathLike[str],
  questions: str = "",
  most_questions: int = 8,
  questions_template: str = "",
  aggregate: str = "mean",
  gate: str = "hard",
) -> Loaded:
  """A judge that answers yes or no to questions about an image.

  Args:
    options: see `Options`.
    folder: for the judge's files.
    questions: file or folder of them (`questions.read_questions`). If empty, the
      judge writes them, once per prompt.
    most_questions: that it may write.
    questions_template: file of how it is asked to.
    aggregate: see `questions.graded`, as is the next.
    gate: of questions that rest on others.
  """
  require_choice("aggregate", aggregate, checklists.AGGREGATES)
  require_choice("gate", gate, checklists.GATES)
  if most_questions < 1:
    raise UserError(f"most_questions={most_questions}: it must be at least 1")
  names = ("image", "source", "prompt", "question")
  judge = Judge(options, folder)
  needed = ("image", "question")
  wordings = _wordings(judge, templates.CHECKLIST, names, needed)
  [wording] = templates.read(
    [questions_template] if questions_template else [], templates.QUESTIONS,
    ("prompt", "most"), ("prompt",),
  )  # fmt: skip
  by_prompt = None
  if questions:
    where = f"questions={errors.shown(questions, 100)}"
    by_prompt = ByPrompt(checklists.read_questions(questions), where)

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    listed = (
      None if by_prompt is None else [by_prompt.get(t, ()) for t in texts]
    )
    return {"texts": list(texts), "questions": listed}

  static = dict(
    judge=judge, wordings=wordings, wording=wording,
    most=most_questions, aggregate=aggregate, gate=gate,
  )  # fmt: skip
  return Loaded(static, prepare=prepare)


@declare(is_host=True, loads=load_checklist)
def judge_checklist(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  wordings: Sequence[str],
  wording: str,
  most: int,
  aggregate: str,
  gate: str,
  texts: Sequence[str],
  questions: Sequence[Questions] | None,
) -> Scores:
  """The weighted share of a prompt's questions that are answered by yes.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as
      do those of padding, of a prompt without questions, and those with a
      question that stays without an answer.
    prompts: P prompts.
    judge: the judge.
    wordings: templates of a question about an image.
    wording: template of the request for questions.
    most: how many there may be.
    aggregate: see `questions.graded`, as is the next.
    gate: of questions that rest on others.
    texts: of the prompts.
    questions: of the prompts; if None the judge writes them.
  """
  if questions is None:
    questions = _write_questions(judge, wording, most, texts, prompts)
  places, fields, forms = [], [], []
  for p, row, members in _members(images, prompts, texts, judge):
    for g, picture in members.items() if questions[p] else ():
      places.append((p, g))
      fields += [
        {**row, "image": picture, "question": q.text} for q in questions[p]
      ]
      forms += [q.answers for q in questions[p]]
  values = np.full(len(fields), np.nan)
  for form in sorted(set(forms)):
    at = [i for i, other in enumerate(forms) if other == form]
    choice = answers.Choice("answer", dict(form))
    values[at] = judge.scores(choice, wordings, [fields[i] for i in at])
  ends = np.cumsum([len(questions[p]) for p, _ in places], dtype=int)
  scores = [
    checklists.graded(
      part, np.array([q.weight for q in questions[p]]),
      checklists.ancestors(questions[p]), aggregate=aggregate, gate=gate,
    )
    for (p, _), part in zip(places, np.split(values, ends[:-1]), strict=False)
  ]  # fmt: skip
  return {"judge": _placed(images, places, scores)}


def _write_questions(judge, wording, most, texts, prompts) -> list[Questions]:
  """Questions that the judge writes for the valid prompts."""
  rows = [p for p, used in enumerate(np.asarray(prompts.mask)) if used]
  listed: list[Questions] = [()] * len(texts)
  fields: list[Fields] = [{"prompt": texts[p], "most": str(most)} for p in rows]
  lists = judge.texts(answers.Texts("questions", most), wording, fields)
  for p, row in zip(rows, lists, strict=True):
    listed[p] = tuple(map(Question, row))
  return listed
