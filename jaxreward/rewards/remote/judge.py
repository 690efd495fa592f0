"""Sends questions to one server, each once, and caches answers on disk."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from jaxreward.errors import shown
from jaxreward.rewards.remote import answers, templates
from jaxreward.rewards.remote.client import Client, NoAnswer
from jaxreward.rewards.remote.options import Options
from jaxreward.rewards.remote.pictures import Picture
from jaxreward.rewards.remote.principles import Principles
from jaxreward.rewards.remote.store import Budget, Cache, digest

Fields = Mapping[str, str | Picture]

CACHE, USAGE = "answers", "usage.jsonl"
_TOP = 20  # alternatives per token, the most that servers give


@dataclasses.dataclass(frozen=True)
class Question:
  """The content of one request.

  Attributes:
    parts: texts and images.
    form: of the answer.
    sample: index of the answer to the same question.
  """

  parts: templates.Parts
  form: answers.Form
  sample: int = 0


class Judge:
  """A model behind a server.

  Args:
    options: see `Options`.
    folder: in the working directory; holds the usage, and the answers unless
      the options name another folder for them.
  """

  def __init__(self, options: Options, folder: os.PathLike[str]):
    self.options, root = options, pathlib.Path(folder)
    self.principles = Principles(options.principle, options.principles)
    self._budget = Budget(
      root / USAGE, options.request_budget, options.token_budget
    )
    self._client = Client(options, self._budget)
    self._cache = Cache(options.cache or root / CACHE)

  def scores(
    self,
    form: answers.Form,
    wordings: Sequence[str],
    fields: Sequence[Fields],
  ) -> Float[np.ndarray, "N"]:
    """A number for each of N questions: all wordings and samples combined.

    Args:
      form: of the answers; it reads numbers.
      wordings: templates.
      fields: values of the templates' placeholders.

    Returns:
      Combined over the available answers; NaN without any.
    """
    rows = self._answers(form, wordings, fields, self.options.samples)
    table = np.array(
      [[np.nan if x is None else x for x in row] for row in rows], np.float64
    ).reshape(len(fields), len(wordings) * self.options.samples)
    combined = np.full(len(fields), np.nan)
    combine = np.nanmean if self.options.combine == "mean" else np.nanmedian
    answered = np.isfinite(table).any(1)
    if answered.any():
      combined[answered] = combine(table[answered], 1)
    return combined

  def texts(
    self, form: answers.Texts, wording: str, fields: Sequence[Fields]
  ) -> list[tuple[str, ...]]:
    """Texts that the judge writes, one answer each; empty without an answer."""
    rows = self._answers(form, [wording], fields, 1)
    return [row[0] or () for row in rows]

  def _answers(self, form, wordings, fields, samples) -> list[list[Any]]:
    """Parsed answers, [N, wordings * samples]."""
    one_word = self._one_word(form)
    questions = []
    for row in fields:
      values_of = {**row, "answer": form.request(one_word)}
      for wording in wordings:
        parts = templates.fill(wording, values_of)
        questions += [Question(parts, form, s) for s in range(samples)]
    stride = len(wordings) * samples
    values = self.ask(questions)
    return [values[i * stride : (i + 1) * stride] for i in range(len(fields))]

  def _one_word(self, form: answers.Form) -> bool:
    return self.options.logprobs and bool(form.words)

  def ask(self, questions: Sequence[Question]) -> list[Any]:
    """The parsed answer to each question; None without one.

    Equal questions are asked once.

    Raises:
      UserError: the server rejects them, or a budget is used up.
    """
    keys = [self.key(question) for question in questions]
    unique = dict(zip(keys, questions, strict=True))
    lost: collections.Counter[str] = collections.Counter()

    def ask_one(key: str, question: Question) -> Any:
      try:
        return self._one(key, question)
      except NoAnswer as error:
        lost[str(error)] += 1
      except BaseException:
        self._client.stop.set()
        raise

    self._client.stop.clear()
    count = self.options.concurrency
    with concurrent.futures.ThreadPoolExecutor(count, "judge") as pool:
      futures = {k: pool.submit(ask_one, k, q) for k, q in unique.items()}
      try:
        values = {k: f.result() for k, f in futures.items()}
      except BaseException:
        self._client.stop.set()  # also on interrupts, so that threads end soon
        raise
    if lost:
      why = "; ".join(
        f"{n} times {reason}" for reason, n in lost.most_common(3)
      )
      logging.warning(
        "%s: %d of %d questions without an answer: %s",
        shown(self.options.model), sum(lost.values()), len(unique), shown(why, 150),
      )  # fmt: skip
    return [values[key] for key in keys]

  def _one(self, key: str, question: Question) -> Any:
    entry = self._cache.get(key)
    if entry is not None:
      try:
        return question.form.read(answers.of_stored(entry))
      except answers.Malformed:
        self._cache.drop(key)
    body = self.body(question)
    answer, value = self._client.ask(body, key, question.form.read)
    self._cache.put(key, dataclasses.asdict(answer))
    return value

  def key(self, question: Question) -> str:
    """Hash of the request, images by their digest; without the URL."""
    return digest(self._body(question, lambda p: {"picture": p.digest}))

  def body(self, question: Question) -> dict[str, Any]:
    """The request without its headers."""
    return self._body(
      question, lambda p: {"type": "image_url", "image_url": {"url": p.url}}
    )

  def _body(self, question: Question, show) -> dict[str, Any]:
    o, form = self.options, question.form
    content = [
      {"type": "text", "text": part} if isinstance(part, str) else show(part)
      for part in question.parts
    ]
    body = {
      **o.body,
      "model": o.model,
      "messages": [{"role": "user", "content": content}],
    }
    if o.temperature >= 0:
      body["temperature"] = o.temperature
    if o.max_tokens:
      body["max_tokens"] = o.max_tokens
    if o.seed >= 0:
      body["seed"] = o.seed + question.sample
    if self._one_word(form):
      body |= {"logprobs": True, "top_logprobs": _TOP}
    elif o.schema:
      body["response_format"] = {
        "type": "json_schema",
        "json_schema": {
          "name": "answer",
          "strict": True,
          "schema": form.schema,
        },
      }
    return body
