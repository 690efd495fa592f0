"""Judges of the program that see several images of a prompt at once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward.errors import UserError, require_counts
from jaxreward.models.vlm import decode, prompts
from jaxreward.rewards import answer_tables, asking
from jaxreward.rewards import vision_language as vl
from jaxreward.rewards.asking import Judge
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.rewards.reasoning import Options
from jaxreward.rewards.remote import answers, templates
from jaxreward.rewards.remote.options import require_choice, with_options
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

SCORES = (
  'Answer with JSON for each picture, of the form {"picture": number, "score":'
  " number}."
)
Images = Float[ArrayLike, "P G H W 3"]


@with_options
def load_listwise(
  options: Options,
  *,
  members: int,
  orders: int = 0,
  template: str = "",
  answer: str = "best",
  low: float = 1.0,
  high: float = 5.0,
) -> Loaded:
  """A judge that sees several images at once.

  Args:
    options: see `reasoning.Options`.
    members: images that it sees, at most those of the group.
    orders: lists of each group; 0 for as many as the group has images. Each
      starts one image later, so that with 0 every image takes every position.
    template: file with the question (`remote.templates`), or ""; {images} is
      where they stand.
    answer: "best" for the number of the best, "score" for a whole number for
      each.
    low: the worst score.
    high: the best.
  """
  require_choice("answer", answer, ("best", "score"))
  require_counts("", least=2, most=9, members=members)
  require_counts("", least=0, orders=orders)
  if not low < high:
    raise UserError(f"low={low}, high={high}: low must be less than high")
  numbers = [str(i) for i in range(1, members + 1)]
  listing = "".join(f"Picture {i}:\n{vl.PICTURE}\n" for i in numbers)
  if answer == "best":
    form = answers.Choice("best", dict.fromkeys(numbers, 0.0))
    default, request = templates.BEST, form.request(True)
    table = lambda tokens: answer_tables.table_of(tokens, form.values)
  else:
    form = answers.Score(low, high)
    default, request = templates.SCORES, SCORES
    table = lambda tokens: answer_tables.of_score(tokens, form)
  kept = asking.loaded(
    options, template, default, ("images",), table, answer=request,
    given=dict(low=f"{low:g}", high=f"{high:g}"), shown={"images": listing},
    orders=orders,
  )  # fmt: skip
  judge, leads = kept.static["judge"], None
  if answer == "score":
    begun = [f'{{"picture": {i}, "score": ' for i in numbers]
    rows = prompts.ids_of(judge.reader.tokens, begun)
    leads = answer_tables.padded(rows, max(map(len, rows)))
  judge = dataclasses.replace(judge, source=judge.source * members)
  static = {**kept.static, "judge": judge, "members": members, "leads": leads}
  return dataclasses.replace(kept, static=static)


@declare(loads=load_listwise)
def vlm_listwise(
  images: Images,
  prompts: PromptBatch,
  *,
  judge: Judge,
  members: int,
  orders: int,
  leads: tuple[np.ndarray, np.ndarray] | None,
  params: Params,
  text: Int[ArrayLike, "P L"],
  mask: Bool[ArrayLike, "P L"],
) -> dict[str, Float[Array, "P G"]]:
  """Scores of images that a judge sees together.

  The probability that an image is the best of its list, or the expected score
  of each, in [0, 1]; the mean over the lists that show it.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN, and
      so do images shown only in lists with such an image.
    prompts: P prompts.
    judge: the judge.
    members: see `load_listwise`, as is the next.
    orders: lists of each group.
    leads: token ids of what each score begins with, and their mask; None where
      the best is asked for.
    params: of the model.
    text: token ids of the questions.
    mask: False for padding.

  Raises:
    UserError: a list longer than the group.
  """
  p, g = jnp.asarray(images).shape[:2]
  if members > g:
    raise UserError(
      f"members={members}: a group has {g} images; show as many or fewer"
    )
  starts = np.arange(orders or g)[:, None]
  shows = (starts + np.arange(members)) % g
  rows, usable, size = asking.questions(
    judge, params, images, prompts, shows, {"text": text, "mask": mask}
  )
  model, table = judge.reader.model, judge.table

  def best(prefix: decode.Prefix) -> Array:
    return jax.nn.softmax(table.log_probs(model, params, prefix), -1)

  def scored(prefix: decode.Prefix) -> Array:
    ids, lead_mask = (
      jnp.broadcast_to(x, (len(prefix.mask), *x.shape)) for x in leads or ()
    )
    longer = decode.extended(model, params, prefix, ids, lead_mask)
    return table.mean(model, params, longer).reshape(-1, members)

  scores = judge.answers(params, rows, size, best if leads is None else scored)
  scores = scores.reshape(p, -1, members)
  is_valid = usable[:, shows].all(-1, keepdims=True) & jnp.isfinite(scores)
  place = np.eye(g)[shows]  # [lists, members, G]
  total = jnp.einsum("plm,lmg->pg", jnp.where(is_valid, scores, 0.0), place)
  count = jnp.einsum("plm,lmg->pg", is_valid.astype(jnp.float32), place)
  mean = total / jnp.maximum(count, 1)
  return {"judge": jnp.where(count > 0, mean, jnp.nan)}
