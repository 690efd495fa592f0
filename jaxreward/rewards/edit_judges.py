"""EditScore: an edit's success and its look, each by the worse of two numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, require_counts
from jaxreward.models.vlm import decode
from jaxreward.models.vlm.qwen_vl import Model
from jaxreward.rewards import answer_tables, asking, reasoning
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.answer_tables import Table
from jaxreward.rewards.asking import Images, Judge
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.reasoning import Options
from jaxreward.rewards.remote import templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

AVERAGES = ("last", "first")
_BEGUN = '"score" : ['
_THOUGHT = reasoning.Marks('{"reasoning" : "', '"score"', "")


@dataclasses.dataclass(frozen=True, eq=False)
class Two:
  """Two numbers from 0 to N that a judge writes one after the other.

  Attributes:
    first: the numbers with what follows them.
    second: those after a first one.
  """

  first: Table
  second: Table

  def worse(
    self, model: Model, params: Params, prefix: decode.Prefix, power: float
  ) -> Float[Array, "B"]:
    """Expected `power` of the smaller one as a share of N.

    The second number's probabilities are those after the most probable first one.
    """
    p = self.first.log_probs(model, params, prefix)
    best = p.argmax(-1)
    ids, mask = (
      jnp.asarray(x)[best][:, None] for x in (self.first.ids, self.first.mask)
    )
    further = decode.extended(model, params, prefix, ids, mask)
    q = self.second.log_probs(model, params, further)
    p, q = jax.nn.softmax(p, -1), jax.nn.softmax(q, -1)
    least = np.minimum.outer(self.first.values, self.second.values) ** power
    return jnp.einsum("ba,bc,ac->b", p, q, jnp.asarray(least, jnp.float32))


def two_of(tokens: Any, most: int) -> Two:
  """Numbers from 0 to `most`."""
  scale = {n: n / most for n in range(most + 1)}
  return Two(
    answer_tables.table_of(tokens, {f"{n},": x for n, x in scale.items()}),
    answer_tables.table_of(tokens, {f" {n}]": x for n, x in scale.items()}),
  )


@with_options
def load_edit_score(
  options: Options,
  *,
  high: int = 25,
  average: str = "last",
) -> Loaded:
  """The judge of edits.

  Args:
    options: see `reasoning.Options`; the adapter is added to the weights.
    high: the best number.
    average: "last" averages the root of the product of both parts over all
      thoughts; "first" averages each part over its thoughts first.
  """
  require_counts("", high=high)
  require_choice("average", average, AVERAGES)
  if options.looks:
    raise UserError(
      f"looks={options.looks}: edit_score asks two questions that show different"
      " images, and looks closer at none; set looks=0"
    )
  reader, params = vl.load(options)
  begun, how = reasoning.thinking(
    reader, options, _BEGUN, "", _THOUGHT if options.think else None
  )
  begun = begun if options.think else "{" + begun
  names = {"semantic": "edit_score", "quality": "edit_score_quality"}
  judges, wordings = {}, {}
  for part, name in names.items():
    text = templates.NAMED[name]
    needed = ("prompt",) if part == "semantic" else ()
    wordings[part], source = vl.wording("", text, ("high",), ("image",), needed)
    two = two_of(reader.tokens, high)
    judges[part] = Judge(reader, two.first, source, how), two

  def prepare(texts: Sequence[str]) -> Mapping[str, Any]:
    arrays = {}
    for part, wording in wordings.items():
      questions = [vl.filled(wording, prompt=t, high=str(high), image=vl.PICTURE) for t in texts]  # fmt: skip
      for name, x in reader.asked(questions, begun).items():
        arrays[f"{part}_{name}"] = x
    return arrays

  return vl.loaded(
    params, prepare, semantic=judges["semantic"], quality=judges["quality"],
    power=0.5 if average == "last" else 1.0,
  )  # fmt: skip


@declare(loads=load_edit_score)
def edit_score(
  images: Images,
  prompts: PromptBatch,
  *,
  semantic: tuple[Judge, Two],
  quality: tuple[Judge, Two],
  power: float,
  params: Params,
  semantic_text: Int[ArrayLike, "P L"],
  semantic_mask: Bool[ArrayLike, "P L"],
  quality_text: Int[ArrayLike, "P L"],
  quality_mask: Bool[ArrayLike, "P L"],
) -> dict[str, Float[Array, "P G"]]:
  """EditScore of each edit, in [0, 1]: sqrt(min(s) min(q)).

  Luo et al. 2025, https://arxiv.org/abs/2509.23909, read in the authors' code: the
  judge sees the source and the edit and writes two numbers s, of success and of
  what is kept, then sees the edit alone and writes two numbers q, of how natural
  it looks and of artefacts. Theirs are drawn, from 0 to 25 and divided by 2.5, and
  the root is averaged over passes; here it is the expected root under the
  numbers' probabilities, over all pairs of passes, divided by 10. Theirs
  scores an answer without numbers as mid-scale; here every answer has numbers.
  The questions are in this library's words and the second number is read after the
  most probable first one.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, as do
      those of a prompt without a source.
    prompts: P prompts with a source.
    semantic: the judge of success.
    quality: the judge of quality.
    power: of the minima before they are averaged.
    params: of the model.
    semantic_text: token ids of the questions.
    semantic_mask: False for padding.
    quality_text: token ids of the questions.
    quality_mask: False for padding.
  """
  shape = jnp.asarray(images).shape[:2]
  value, usable = jnp.ones(shape), jnp.ones(shape, bool)
  for (judge, two), text, mask in (
    (semantic, semantic_text, semantic_mask),
    (quality, quality_text, quality_mask),
  ):
    rows, fits, size = asking.questions(
      judge, params, images, prompts, np.arange(shape[1])[:, None],
      {"text": text, "mask": mask},
    )  # fmt: skip
    worse = lambda x, two=two: two.worse(judge.reader.model, params, x, power)  # noqa: B023
    value *= judge.answers(params, rows, size, worse).reshape(shape)
    usable &= fits
  value = value if power < 1 else jnp.sqrt(value)
  return {"edit_score": jnp.where(usable, value, jnp.nan)}
