"""Parses and validates a judge's answers."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxreward import reading

Tokens = Sequence[tuple[str, Sequence[tuple[str, float]]]]

_NAMES = "think|thinking|thought|reasoning|reflection|analysis"
_THOUGHT = re.compile(rf"^.*(</({_NAMES})>|\[/THINK\]|◁/think▷)", re.DOTALL)
_BEGUN = re.compile(rf"<({_NAMES})>|\[THINK\]|◁think▷")
_FEW = 3  # words, of which the first may be the answer
_NOT_WORD = " \t\r\n\"'`*_.,:;!?()[]{}▁ĠĊ"


class Malformed(Exception):
  """An answer that cannot be parsed or is not allowed."""


@dataclasses.dataclass(frozen=True)
class Answer:
  """A model's answer.

  Attributes:
    text: the full text.
    tokens: (token, ((alternative, log-probability), ...)) at each position;
      empty if the server gives none.
    is_cut: it reached `max_tokens`; the text may be an unfinished thought, and
      a number may be truncated.
  """

  text: str
  tokens: Tokens = ()
  is_cut: bool = False

  @property
  def spoken(self) -> Answer:
    """Without the reasoning before it, if the model writes it out.

    Raises:
      Malformed: it ends within the reasoning.
    """
    thought = _THOUGHT.match(self.text)
    end = 0 if thought is None else thought.end()
    if _BEGUN.search(self.text, end):
      raise Malformed("a thought without end; raise max_tokens")
    if not end:
      return self
    ends = itertools.accumulate(len(token) for token, _ in self.tokens)
    start = sum(e <= end for e in ends)
    return dataclasses.replace(
      self, text=self.text[end:], tokens=self.tokens[start:]
    )

  @property
  def whole(self) -> Answer:
    """`spoken`, for an answer that was not cut.

    Raises:
      Malformed: it was cut.
    """
    if self.is_cut:
      raise Malformed("an answer cut at max_tokens; raise it")
    return self.spoken


def of_reply(reply: Any) -> Answer:
  """The answer in a reply of `/chat/completions`.

  Raises:
    Malformed: an invalid reply, or one without text.
  """
  try:
    choice = reply["choices"][0]
    text = choice["message"]["content"]
    finish = choice.get("finish_reason")
    places = (choice.get("logprobs") or {}).get("content") or ()
    tokens = tuple(
      (
        str(place["token"]),
        tuple(
          (str(t["token"]), float(t["logprob"]))
          for t in place.get("top_logprobs") or [place]
        ),
      )
      for place in places
    )
  except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
    raise Malformed("a reply without choices[0].message.content") from error
  if not isinstance(text, str) or not text.strip():
    cut = finish == "length"
    raise Malformed(
      "no answer within max_tokens; raise it"
      if cut
      else "an answer without text"
    )
  if finish == "content_filter":
    raise Malformed("an answer that a filter has cut")
  return Answer(text, tokens, finish == "length")


def of_stored(value: Any) -> Answer:
  """An answer from its JSON fields."""
  try:
    tokens = tuple(
      (str(token), tuple((str(t), float(p)) for t, p in alternatives))
      for token, alternatives in value["tokens"]
    )
    return Answer(str(value["text"]), tokens, value.get("is_cut") is True)
  except (KeyError, TypeError, ValueError) as error:
    raise Malformed("no answer") from error


def tokens_used(reply: Any) -> int:
  """Tokens of question and answer by the server's count; 0 without one."""
  usage = reply.get("usage") if isinstance(reply, Mapping) else None
  total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
  return total if isinstance(total, int) and total > 0 else 0


def objects(text: str) -> Iterator[dict[str, Any]]:
  """JSON objects in a text, last one first."""
  decoder, values, at = json.JSONDecoder(), [], text.find("{")
  while at >= 0:
    try:
      value, end = decoder.raw_decode(text, at)
      values.append(value)
    except (ValueError, RecursionError):
      end = at + 1
    at = text.find("{", end)
  yield from reversed(values)


def _schema(name: str, kind: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "type": "object",
    "properties": {name: dict(kind)},
    "required": [name],
    "additionalProperties": False,
  }


@dataclasses.dataclass(frozen=True)
class Score:
  """A number from `low` to `high`, mapped to [0, 1]."""

  low: float
  high: float
  words = ()

  @property
  def schema(self) -> dict[str, Any]:
    return _schema("score", {"type": "number"})

  def request(self, one_word: bool) -> str:
    return 'Answer with JSON of the form {"score": number}.'

  def read(self, answer: Answer) -> float:
    """From the last object with a score, or an answer that is a number."""
    text = answer.whole.text
    for record in objects(text):
      if "score" in record:
        return self._placed(record["score"])
    return self._placed(text)

  def _placed(self, value: Any) -> float:
    score = reading.number(value)
    if not self.low <= score <= self.high:
      raise Malformed(f"no score from {self.low:g} to {self.high:g}")
    return (score - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of a few words, each of which has a value in [0, 1].

  Attributes:
    name: of the JSON object's entry.
    values: word -> value; one has 1, one 0, the others lie between.
  """

  name: str
  values: Mapping[str, float]

  @property
  def words(self) -> Sequence[str]:
    return tuple(self.values)

  @property
  def schema(self) -> dict[str, Any]:
    return _schema(self.name, {"type": "string", "enum": list(self.values)})

  def request(self, one_word: bool) -> str:
    *rest, last = self.values
    if one_word:
      several = any(" " in word for word in self.values)
      what = "one of these" if several else "one word"
      return f"Answer with {what}: {', '.join(rest)} or {last}."
    known = " or ".join(f'{{"{self.name}": "{word}"}}' for word in self.values)
    return f"Answer with JSON: {known}."

  def read(self, answer: Answer) -> float:
    """By the words' probabilities, else the last object, else the first word.

    A cut answer counts only if it is hardly more than one word.
    """
    if answer.is_cut and not self._is_short(answer.spoken.text):
      return self.read(answer.whole)
    answer = answer.spoken
    mean = expected(answer.tokens, self.values)
    if mean is not None:
      return mean
    for record in objects(answer.text):
      if self.name in record:
        return self._value(record[self.name])
    if "first" in self.values and not self._is_short(answer.text):
      raise Malformed("prose; it may begin with a word that it does not mean")
    return self._value(next(iter(answer.text.split()), ""))

  def _is_short(self, text: str) -> bool:
    """Whether a text is hardly more than one of the words."""
    words = text.split()
    return 0 < len(words) <= _FEW and plain(words[0]) in self.values

  def _value(self, value: Any) -> float:
    if isinstance(value, bool) and {"yes", "no"} <= set(self.values):
      value = "yes" if value else "no"
    word = plain(value) if isinstance(value, str) else ""
    if word not in self.values:
      raise Malformed(f"none of {', '.join(self.values)}")
    return self.values[word]


@dataclasses.dataclass(frozen=True)
class Texts:
  """One to `most` texts."""

  name: str
  most: int
  words = ()

  @property
  def schema(self) -> dict[str, Any]:
    return _schema(self.name, {"type": "array", "items": {"type": "string"}})

  def request(self, one_word: bool) -> str:
    return f'Answer with JSON, such as {{"{self.name}": ["...", "..."]}}.'

  def read(self, answer: Answer) -> tuple[str, ...]:
    """From the last object that has them."""
    for record in objects(answer.whole.text):
      texts = record.get(self.name)
      if isinstance(texts, list) and 0 < len(texts) <= self.most:
        if all(isinstance(t, str) and t.strip() for t in texts):
          return tuple(t.strip() for t in texts)
    raise Malformed(f"no list of 1 to {self.most} {self.name}")


# What answers to a question look like: the `schema` of a JSON object, the single
# `words` that may stand for it where their probabilities are asked for, the
# sentence that asks for it (`request`), and how it is read (`read`).
Form = Score | Choice | Texts


def plain(word: str) -> str:
  """A word in lower case, without surrounding spaces and punctuation."""
  return word.strip(_NOT_WORD).lower()


def expected(tokens: Tokens, values: Mapping[str, float]) -> float | None:
  """Expected value under the probabilities of the words, over all spellings.

  For {"yes": 1, "no": 0}, P(yes) / (P(yes) + P(no)), at the first position
  whose token is one of the words. VQAScore, Lin et al. 2024,
  https://arxiv.org/abs/2404.01291, uses P(yes) alone.

  Args:
    tokens: of an answer.
    values: word -> value.

  Returns:
    None without such a position, or without probabilities there.
  """
  for token, alternatives in tokens:
    if plain(token) in values:
      total = weighted = 0.0
      for other, log_probability in alternatives:
        if plain(other) in values and log_probability <= 0.01:
          probability = math.exp(log_probability)
          total += probability
          weighted += probability * values[plain(other)]
      return weighted / total if total > 0 else None
  return None
