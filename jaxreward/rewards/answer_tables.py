"""Answers that a model may give, as tokens with values.

They are compared by their probabilities; nothing is written out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxreward.errors import UserError, shown
from jaxreward.models.vlm import decode, prompts
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.rewards.remote import answers
from jaxreward.types import Array, Params

AROUND = ('{"score": ', "}")  # a number, in the form that is asked for


def padded(
  rows: Sequence[Sequence[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """(ids, mask) [N, length] of rows, padded with zeros on the right."""
  ids = np.zeros((len(rows), length), np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
  return ids, mask


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """The answers that are compared.

  Attributes:
    ids: [A, T], padded with zeros on the right.
    mask: False for padding.
    values: of the answers, [A].
  """

  ids: np.ndarray
  mask: np.ndarray
  values: np.ndarray

  def log_probs(
    self, model: Model, params: Params, prefix: decode.Prefix
  ) -> Float[Array, "B A"]:
    """Log-probability of each complete answer."""
    if self.ids.shape[1] == 1:
      scores = prefix.logits[:, self.ids[:, 0]]
      return scores - jax.nn.logsumexp(prefix.logits, -1)[:, None]
    rows = len(prefix.mask)
    ids = jnp.broadcast_to(self.ids, (rows, *self.ids.shape))
    scores = decode.log_probs(model, params, prefix, ids)
    return jnp.where(self.mask, scores, 0.0).sum(-1)

  def mean(
    self, model: Model, params: Params, prefix: decode.Prefix
  ) -> Float[Array, "B"]:
    """Expected value under the answers' probabilities, which sum to one."""
    scores = self.log_probs(model, params, prefix)
    return jax.nn.softmax(scores, -1) @ jnp.asarray(self.values, jnp.float32)


def table_of(tokens: Any, values: Mapping[str, float]) -> Table:
  """The table of answers, in every spelling.

  Args:
    tokens: the tokenizer.
    values: answer -> value.

  Raises:
    UserError: an answer that the vocabulary does not have.
  """
  unknown = getattr(tokens, "unk_token_id", None)
  rows = []
  for answer in values:
    ids = prompts.ids_of(tokens, [answer])[0]
    if not ids or unknown in ids:
      raise UserError(
        f'the judge\'s vocabulary has no "{shown(answer)}", which it is asked'
        " for: take another judge or other answers"
      )
    rows.append(ids)
  if any(a != b and b[: len(a)] == a for a in rows for b in rows):
    # 1 begins 10: each has to end, or the first has the second's share too.
    end = prompts.ids_of(tokens, [prompts.END])[0]
    rows = [[*row, *end] for row in rows]
  ids, mask = padded(rows, max(map(len, rows)))
  return Table(ids, mask, np.array(list(values.values())))


def spellings(word: str) -> tuple[str, str]:
  """A word as it is, and with a capital."""
  return word, word[:1].upper() + word[1:]


def of_choice(tokens: Any, form: answers.Choice) -> Table:
  """Words of a choice, as they are and with a capital."""
  return table_of(
    tokens,
    {
      word: value
      for plain, value in form.values.items()
      for word in spellings(plain)
    },
  )


def of_score(
  tokens: Any, form: answers.Score, step: float = 1.0, end: str = AROUND[1]
) -> Table:
  """Numbers of a scale, each followed by the end of the answer.

  Args:
    tokens: the tokenizer.
    form: the scale.
    step: difference between consecutive numbers.
    end: the text that follows the number in the answer.

  Raises:
    UserError: a scale that the step does not divide, or with more than 101
      numbers.
  """
  count = (form.high - form.low) / step if step > 0 else -1.0
  if not 0 < count <= 100 or abs(count - round(count)) > 1e-6:
    raise UserError(
      f"low={form.low:g}, high={form.high:g}, step={step:g}: a judge in the"
      " program compares numbers a step apart, 101 at most"
    )
  scale = np.linspace(form.low, form.high, round(count) + 1)
  digits = 0 if step == round(step) and form.low == round(form.low) else 1
  while digits and np.abs(scale - scale.round(digits)).max() > 1e-9:
    digits += 1
  return table_of(
    tokens,
    {f"{x:.{digits}f}{end}": i / (len(scale) - 1) for i, x in enumerate(scale)},
  )
