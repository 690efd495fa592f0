"""Answers of a vision-language model: sampled, or given and scored.

The prompt is run once. Its keys and values are stored once per row, however
many answers are sampled or compared (`attention.after_prefix`). Those of
answers go into arrays of the maximum answer length, so that one program serves
all prompts of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Key

from jaxreward import rng
from jaxreward.errors import UserError
from jaxreward.models import sequence
from jaxreward.models.text import qwen
from jaxreward.models.text.qwen import QwenText
from jaxreward.models.vlm import qwen_vl
from jaxreward.models.vlm.qwen_vl import Model, Prompts
from jaxreward.types import Array, ArrayLike, Params


@flax.struct.dataclass
class Prefix:
  """Prompts after `prefill`.

  Attributes:
    cache: keys and values, [layers, B, P, groups, head] each.
    mask: bool [B, P], False for padding.
    place: int32 [B], position of the next token.
    logits: float32 [B, V], of the next token.
  """

  cache: qwen.Cache
  mask: Array
  place: Array
  logits: Array


@flax.struct.dataclass
class Answers:
  """G answers per row, of at most T tokens.

  Attributes:
    tokens: int32 [B, G, T]; after the end, the stop token.
    log_probs: float32 [B, G, T], of the model itself, without temperature,
      top-p and choices; 0 after the end.
    mask: bool [B, G, T], False after the end; the stop token counts.
  """

  tokens: Array
  log_probs: Array
  mask: Array


def prefill(
  model: Model,
  params: Params,
  prompts: Prompts,
  *,
  images: qwen.Images | None = None,
  dtype: Any = jnp.float32,
) -> Prefix:
  """Runs prompts, once for all their answers.

  Args:
    model: geometry.
    params: its parameters.
    prompts: the rows.
    images: their image tokens; computed from their patches if None.
    dtype: of the products.
  """
  if images is None:
    images = qwen_vl.images_of(model, params, prompts, dtype)
  net = QwenText(model.language, dtype, keep=True)
  outputs: Any = net.apply(
    {"params": params["text"]},
    prompts.tokens, prompts.places, images, method="cached",
  )  # fmt: skip
  hidden, (k, v) = outputs
  cache = sequence.kept(k), sequence.kept(v)
  mask = jnp.asarray(prompts.mask)
  last = mask.sum(1) - 1
  hidden = jnp.take_along_axis(hidden, last[:, None, None], 1)[:, 0]
  place = jnp.where(mask[..., None], prompts.places, 0).max((1, 2)) + 1
  return Prefix(cache, mask, place, qwen_vl.logits(params, hidden))


def _empty(prefix: Prefix, count: int, length: int) -> qwen.Cache:
  """Zeros for keys and values of answers, sharded as those of the prompts."""
  depth, rows, _, groups, head = prefix.cache[0].shape
  shape = (depth, rows, count, length, groups, head)
  zeros = sequence.kept(jnp.zeros(shape, prefix.cache[0].dtype))
  return zeros, zeros


def _extend(
  model: Model,
  params: Params,
  prefix: Prefix,
  answers: qwen.Cache,
  tokens: Int[Array, "B G N"],
  start: Array | int,
  steps: Int[Array, "#B N 3"] | None = None,
  images: qwen.Images | None = None,
) -> tuple[Float[Array, "B G N D"], qwen.Cache]:
  """(hidden states of further tokens, keys and values extended by theirs)."""
  b, g, n = tokens.shape
  if steps is None:
    steps = (start + jnp.arange(n))[None, :, None].repeat(3, -1)
  places = prefix.place[:, None, None] + jnp.tile(steps, (1, g, 1))
  net = QwenText(model.language, prefix.cache[0].dtype)
  outputs: Any = net.apply(
    {"params": params["text"]}, tokens.reshape(b, g * n), places, images,
    past=qwen.Past(prefix.cache, answers), mask=prefix.mask, start=start,
    method="cached",
  )  # fmt: skip
  hidden, answers = outputs
  return hidden.reshape(b, g, n, -1), answers


def logits(
  model: Model,
  params: Params,
  prefix: Prefix,
  answers: Int[ArrayLike, "B G T"],
) -> Float[Array, "B G T V"]:
  """Logits of every token of given answers, each given those before it."""
  answers = jnp.asarray(answers)
  count, length = answers.shape[1:]
  first = jnp.repeat(prefix.logits[:, None, None], count, 1)
  if length == 1:
    return first
  room = _empty(prefix, count, length - 1)
  hidden, _ = _extend(model, params, prefix, room, answers[..., :-1], 0)
  return jnp.concatenate([first, qwen_vl.logits(params, hidden)], 2)


def log_probs(
  model: Model,
  params: Params,
  prefix: Prefix,
  answers: Int[ArrayLike, "B G T"],
) -> Float[Array, "B G T"]:
  """Log-probability of every token of given answers, padding included."""
  return of_tokens(logits(model, params, prefix, answers), answers)


def of_tokens(
  logits: Float[Array, "*N V"], tokens: Int[ArrayLike, "*N"]
) -> Float[Array, "*N"]:
  """Log-probability of each token under its logits."""
  at = jnp.take_along_axis(logits, jnp.asarray(tokens)[..., None], -1)[..., 0]
  return at - jax.nn.logsumexp(logits, -1)


def extended(
  model: Model,
  params: Params,
  prefix: Prefix,
  texts: Int[ArrayLike, "B G T"],
  mask: Bool[ArrayLike, "B G T"],
) -> Prefix:
  """Prompts extended by texts, B * G rows; the prompts are not recomputed.

  Args:
    model: geometry.
    params: its parameters.
    prefix: the prompts.
    texts: G for each prompt, padded on the right, none empty.
    mask: False for padding.
  """
  texts, mask = jnp.asarray(texts), jnp.asarray(mask)
  room = _empty(prefix, *texts.shape[1:])
  hidden, room = _extend(model, params, prefix, room, texts, 0)
  size = mask.sum(-1)
  return _joined(params, prefix, hidden, room, mask, size.reshape(-1))


def extended_by_images(
  model: Model,
  params: Params,
  prefix: Prefix,
  rows: Prompts,
  images: qwen.Images,
) -> Prefix:
  """Prompts extended by texts with images, one text per prompt.

  Args:
    model: geometry.
    params: its parameters.
    prefix: the prompts.
    rows: the texts, as from `prompts.spread`.
    images: their image tokens.
  """
  tokens, mask = jnp.asarray(rows.tokens)[:, None], jnp.asarray(rows.mask)
  room, places = _empty(prefix, 1, tokens.shape[2]), jnp.asarray(rows.places)
  hidden, room = _extend(model, params, prefix, room, tokens, 0, places, images)
  size = jnp.where(mask[..., None], places, 0).max((1, 2)) + 1
  return _joined(params, prefix, hidden, room, mask[:, None], size)


def _joined(
  params: Params,
  prefix: Prefix,
  hidden: Float[Array, "B G T D"],
  room: qwen.Cache,
  mask: Bool[Array, "B G T"],
  size: Int[Array, "N"],
) -> Prefix:
  """Prompts joined with texts already run, which take `size` positions."""
  b, g, t = mask.shape
  last = mask.sum(-1)[..., None, None] - 1
  hidden = jnp.take_along_axis(hidden, last, 2)
  each = lambda x, axis: jnp.repeat(x, g, axis)
  cache = tuple(
    jnp.concatenate(
      [each(old, 1), new.reshape(len(new), b * g, t, *new.shape[4:])], 2
    )
    for old, new in zip(prefix.cache, room, strict=True)
  )
  return Prefix(
    (cache[0], cache[1]),
    jnp.concatenate([each(prefix.mask, 0), mask.reshape(b * g, t)], 1),
    each(prefix.place, 0) + size,
    qwen_vl.logits(params, hidden.reshape(b * g, -1)),
  )


def followed(
  answers: Answers,
  stops: tuple[int, ...],
  until: Sequence[Any],
  tail: Sequence[int],
) -> tuple[Int[Array, "B G L"], Bool[Array, "B G L"], Bool[Array, "B G"]]:
  """(answers with any stop replaced by `tail`, mask, whether they had one).

  Args:
    answers: from `generate`.
    stops: as given there.
    until: as given there.
    tail: the further tokens.
  """
  tokens, size = answers.tokens, answers.mask.sum(-1)
  last = jnp.take_along_axis(tokens, jnp.maximum(size, 1)[..., None] - 1, 2)
  is_stop = jnp.isin(last[..., 0], jnp.asarray(stops))
  cut = jnp.where(is_stop, 1, 0)
  if until:
    at = jnp.maximum(size[..., None] - len(until) + jnp.arange(len(until)), 0)
    is_end = jnp.take_along_axis(tokens, at, 2) == jnp.asarray(until)
    cut = jnp.where(is_end.all(-1), len(until), cut)
  size = (size - cut)[..., None]
  place = jnp.arange(tokens.shape[2] + len(tail))
  words = jnp.pad(tokens, ((0, 0), (0, 0), (0, len(tail))))
  after = jnp.asarray(tail)[jnp.clip(place - size, 0, len(tail) - 1)]
  mask = place < size + len(tail)
  return jnp.where(place < size, words, after), mask, cut > 0


def generate(
  model: Model,
  params: Params,
  prefix: Prefix,
  key: Key[Array, ""],
  ids: Integer[ArrayLike, "B"],
  *,
  length: int,
  stops: tuple[int, ...],
  until: Sequence[Any] = (),
  samples: int = 1,
  temperature: float = 0.0,
  top_p: float = 1.0,
  choices: Int[np.ndarray, "C T"] | None = None,
) -> Answers:
  """Samples answers, token by token, until all have ended.

  Args:
    model: geometry.
    params: its parameters.
    prefix: from `prefill`.
    key: folded with the row's id, the sample and the step for each draw.
    ids: a unique number per row, such as that of its prompt.
    length: maximum tokens of an answer, with the stop token.
    stops: ids that end an answer; the first one pads the rest.
    until: a sequence of ids that also ends an answer.
    samples: answers per row.
    temperature: of the draws; 0 takes the most probable token.
    top_p: sample among the most probable tokens that together reach it.
    choices: the only possible answers, padded with the first stop token.

  Raises:
    UserError: an option out of range.
  """
  _require(length, stops, temperature, top_p, choices)
  rows = len(prefix.mask)
  shape = (rows, samples)
  keys = rng.sample_keys(
    key, jnp.repeat(jnp.asarray(ids), samples), jnp.tile(jnp.arange(samples), rows)
  ).reshape(shape)  # fmt: skip

  def choose(logits: Array, allowed: Array | None, step: Array) -> Array:
    if allowed is not None:
      logits = jnp.where(allowed, logits, -jnp.inf)
    if temperature == 0:
      return logits.argmax(-1)
    logits = _nucleus(logits / temperature, top_p)
    draw = lambda k, x: jax.random.categorical(jax.random.fold_in(k, step), x)
    return jax.vmap(jax.vmap(draw))(keys, logits)

  def take(step: Array, logits: Array, state: Any) -> Any:
    is_running, answers, fits = state
    column = allowed = None
    if choices is not None:
      column = jnp.asarray(choices)[:, jnp.minimum(step, choices.shape[1] - 1)]
      allowed = jnp.zeros((*shape, logits.shape[-1]), bool)
      allowed = allowed.at[..., column].max(fits)
    token = choose(logits, allowed, step)
    token = jnp.where(is_running, token, stops[0]).astype(jnp.int32)
    score = jnp.take_along_axis(logits, token[..., None], -1)[..., 0]
    score = jnp.where(is_running, score - jax.nn.logsumexp(logits, -1), 0.0)
    put = lambda old, new: old.at[..., step].set(new)
    answers = jax.tree.map(put, answers, Answers(token, score, is_running))
    fits = fits if column is None else fits & (token[..., None] == column)
    is_running &= ~jnp.isin(token, jnp.asarray(stops))
    if until:
      at = step - len(until) + 1 + jnp.arange(len(until))
      ends = answers.tokens[..., jnp.maximum(at, 0)] == jnp.asarray(until)
      is_running &= ~(ends & (at >= 0)).all(-1)
    return is_running, answers, fits

  def is_open(carry: Any) -> Array:
    step, _, (is_running, _, _) = carry
    return (step < length) & is_running.any()

  def advance(carry: Any) -> Any:
    step, room, state = carry
    last = state[1].tokens[..., step - 1, None]
    hidden, room = _extend(model, params, prefix, room, last, step - 1)
    logits = qwen_vl.logits(params, hidden[:, :, 0])
    return step + 1, room, take(step, logits, state)

  empty = Answers(
    jnp.full((*shape, length), stops[0], jnp.int32),
    jnp.zeros((*shape, length)),
    jnp.zeros((*shape, length), bool),
  )
  fits = jnp.ones((*shape, 0 if choices is None else len(choices)), bool)
  first = jnp.repeat(prefix.logits[:, None], samples, 1)
  state = take(
    jnp.zeros((), jnp.int32), first, (jnp.ones(shape, bool), empty, fits)
  )
  room = _empty(prefix, samples, max(1, length - 1))
  carry = jnp.ones((), jnp.int32), room, state
  return jax.lax.while_loop(is_open, advance, carry)[2][1]


def answer(
  model: Model,
  params: Params,
  prompts: Prompts,
  key: Key[Array, ""],
  ids: Integer[ArrayLike, "B"],
  *,
  dtype: Any = jnp.float32,
  **options: Any,
) -> Answers:
  """`prefill` and `generate` as one program, to be compiled once per shape."""
  prefix = prefill(model, params, prompts, dtype=dtype)
  return generate(model, params, prefix, key, ids, **options)


def _nucleus(
  logits: Float[Array, "*N V"], top_p: float
) -> Float[Array, "*N V"]:
  """Masks all but the most probable tokens that together reach `top_p`."""
  if top_p == 1:
    return logits
  ordered = jnp.sort(logits, -1, descending=True)
  probabilities = jax.nn.softmax(ordered, -1)
  before = jnp.cumsum(probabilities, -1) - probabilities
  least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
  return jnp.where(logits >= least, logits, -jnp.inf)


def _require(
  length: int,
  stops: tuple[int, ...],
  temperature: float,
  top_p: float,
  choices: np.ndarray | None,
) -> None:
  if not stops:
    raise UserError("stops=(): name a token that ends an answer")
  if length < 1:
    raise UserError(f"length={length}: an answer has 1 token or more")
  if temperature < 0:
    raise UserError(f"temperature={temperature}: it is 0 or more")
  if not 0 < top_p <= 1:
    raise UserError(f"top_p={top_p}: it lies above 0 and is at most 1")
  if choices is not None and choices.shape[1] > length:
    raise UserError(
      f"length={length}: the longest choice has {choices.shape[1]} tokens"
    )
