"""How judges of the program are asked.

A question is a template that shows some images of a group, and perhaps the one
that an edit starts from; its rows are read, thought about where the judge
thinks, and answered by the probabilities of the answers there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError
from jaxreward.models.vision import preprocess
from jaxreward.models.vlm import decode
from jaxreward.rewards import reasoning
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.answer_tables import Table
from jaxreward.rewards.contract import Loaded
from jaxreward.rewards.reasoning import Options, Thinking
from jaxreward.rewards.remote import principles, templates
from jaxreward.rewards.vision_language import Reader, Seen
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
  """How a judge of the program is asked and answers.

  Attributes:
    reader: the model.
    table: the answers there are.
    source: position of the source image of an edit among the images; -1
      without one.
    how: how it thinks; None for a judge that does not think.
    original: the field of the prompts that {source} shows.
  """

  reader: Reader
  table: Table
  source: int = -1
  how: Thinking | None = None
  original: str = "source"

  def answers(
    self,
    params: Params,
    rows: Mapping[str, Any],
    size: tuple[int, int],
    score: Callable[[decode.Prefix], Array] | None = None,
  ) -> Float[Array, "B *A"]:
    """Expected answers, or other scores of questions that have been read."""
    mean = lambda x: self.table.mean(self.reader.model, params, x)
    return self.reader.ask(
      params, rows, size,
      lambda prefix, rows: reasoning.verdicts(
        self.reader, params, prefix, rows["ids"], self.how, score or mean,
        rows.get("pixels"),
      ),
    )  # fmt: skip


def loaded(
  options: Options,
  file: str,
  default: str,
  images: Sequence[str],
  table: Callable[[Any], Table],
  *,
  begun: str = "",
  answer: str,
  given: Mapping[str, str] | None = None,
  shown: Mapping[str, str] | None = None,
  original: str = "source",
  **static: Any,
) -> Loaded:
  """What a judge with one question has loaded.

  Args:
    options: see `reasoning.Options`.
    file: template of the question, or "".
    default: the question without a file.
    images: placeholders of the images, in order.
    table: tokenizer -> the answers.
    begun: beginning of the verdict.
    answer: the sentence that asks for its form.
    given: texts for further placeholders.
    shown: texts for those of images, `PICTURE` if None.
    original: see `Judge`.
    **static: further options of the reward.
  """
  shown = shown or dict.fromkeys(images, vl.PICTURE)
  given = {**(given or {}), **shown}
  known = principles.Principles(options.principle, options.principles)
  default = templates.default(
    default, told=bool(known.needed), thinks=bool(options.think)
  )
  wording, source = vl.wording(
    file, default, tuple(given), images, ("prompt", *known.needed)
  )  # fmt: skip
  reader, params = vl.load(options)
  count = sum(x.count(vl.PICTURE) for x in shown.values()) + (source >= 0)
  start, how = reasoning.thinking(reader, options, begun, answer, images=count)

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    questions = [
      vl.filled(wording, prompt=text, answer=answer, **given, **known.of(text))
      for text in texts
    ]
    return reader.asked(questions, start)

  judge = Judge(reader, table(reader.tokens), source, how, original)
  return vl.loaded(params, prepare, judge=judge, **static)


def usable_of(images: Array) -> tuple[Array, Bool[Array, "P G"]]:
  """(images with non-finite values replaced, which images had none)."""
  usable = jnp.isfinite(images).all((2, 3, 4))
  return jnp.where(usable[..., None, None, None], images, 0.0), usable


def seen_of(reader: Reader, params: Params, images: Array) -> Seen:
  """Tokens of the images [P, G, ...]."""
  p, g = images.shape[:2]
  features = reader.see(params, images.reshape(p * g, *images.shape[2:]))
  return jax.tree.map(lambda x: x.reshape(p, g, *x.shape[1:]), features)


def rows_of(
  seen: Any,
  shows: Int[np.ndarray, "Q I"],
  arrays: Mapping[str, ArrayLike],
  sources: Any = None,
  place: int = -1,
  name: str = "seen",
) -> dict[str, Any]:
  """Rows of `Reader.ask`, Q for each prompt.

  Args:
    seen: what is known of all images, [P, G, ...].
    shows: the members of the group that each question shows.
    arrays: by prompt, [P, ...]; "ids" are made unique per question.
    sources: of the prompts, [P, ...], shown too.
    place: of the source among a question's images.
    name: of what is known of them.
  """
  count = len(shows)
  each = lambda x: jnp.repeat(jnp.asarray(x), count, 0)
  show = lambda x: x[:, shows].reshape(-1, shows.shape[1], *x.shape[2:])
  rows: dict[str, Any] = {name: each(x) for name, x in arrays.items()}
  if "ids" in rows:
    number = jnp.tile(jnp.arange(count), len(rows["ids"]) // count)
    rows["ids"] = rows["ids"] * count + number.astype(rows["ids"].dtype)
  images = jax.tree.map(show, seen)
  if sources is not None:
    insert = lambda x, y: jnp.concatenate(
      [x[:, :place], each(y)[:, None], x[:, place:]], 1
    )
    images = jax.tree.map(insert, images, sources)
  return {**rows, name: images}


def questions(
  judge: Judge,
  params: Params,
  images: Images,
  prompts: PromptBatch,
  shows: Int[np.ndarray, "Q I"],
  arrays: Mapping[str, ArrayLike],
) -> tuple[dict[str, Any], Bool[Array, "P G"], tuple[int, int]]:
  """(rows of `Judge.answers`, images that have a score, their size in pixels).

  Raises:
    UserError: a question about a source that no prompt has.
  """
  reader, (clean, usable) = judge.reader, usable_of(jnp.asarray(images))
  size, start, sources = reader.size(clean), None, None
  if judge.source >= 0:
    picture = getattr(prompts, judge.original)
    if picture is None:
      raise UserError(
        f'original="{judge.original}": {{source}} in the template is a prompt\'s'
        f" {judge.original}, and these prompts have none; take prompts with one, or"
        " another template"
      )
    given, known = usable_of(jnp.asarray(picture)[:, None])
    start, usable = given[:, 0], usable & known
    sources = reader.see(params, start, size)
  arrays = {**arrays, "ids": jnp.asarray(prompts.ids, jnp.uint32)}
  features = seen_of(reader, params, clean)
  rows = rows_of(features, shows, arrays, sources, judge.source)
  if judge.how and judge.how.looks:
    if start is not None:
      start = preprocess.resize(start, (clean.shape[2], clean.shape[3]))
    rows |= rows_of(clean, shows, {}, start, judge.source, "pixels")
  return rows, usable, size
