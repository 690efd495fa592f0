"""Whether an image shows the objects its prompt asks for, in the right places.

GenEval (Ghosh et al. 2023, https://arxiv.org/abs/2310.11513) with an
open-vocabulary detector, OWL-ViT, in place of Mask2Former: each item is queried
by a phrase with its colour ("a photo of a red circle"), its boxes are counted,
and their positions compared. An item with a colour is queried in the other
colours too, and a box counts if the requested colour scores highest; GenEval
instead lets CLIP choose among the same colours on the object's crop, by the
mean of three phrases. Scores are therefore close to GenEval's, not equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreward import paths, reading
from jaxreward.data import wordings
from jaxreward.data.wordings import ByPrompt
from jaxreward.errors import UserError, nearest, shown
from jaxreward.models.vision import encoders, owlvit, preprocess
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

KEPT = 32  # boxes per text that are considered
ITEMS = 2
MOST = 10_000  # of one item
COLOURS = (
  "red", "orange", "yellow", "green", "blue",
  "purple", "pink", "brown", "black", "white",
)  # fmt: skip
POSITION_THRESHOLD = 0.1
RELATIONS = ("none", "left of", "right of", "above", "below")
_RECORD = '{"prompt": "a dog", "include": [{"class": "dog", "count": 1}]}'

Detect = Callable[[Params, Array, Array], tuple[Array, Array]]
Item = tuple[str, str, int]  # colour or "", what it is, how many
Fact = tuple[list[Item], int, bool]  # items, relation, exact


def facts_of_file(path: str) -> dict[str, Fact]:
  """What the prompts of GenEval's `evaluation_metadata.jsonl` ask for.

  Raises:
    UserError: no such file, a malformed line, or more than two items.
  """
  facts: dict[str, Fact] = {}
  for where, row in reading.rows(paths.find(path, "facts"), _RECORD):
    try:
      fact, prompt = _of_record(row), row["prompt"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
      raise UserError(
        f"{where}: expected GenEval's record with prompt and include, such as"
        f" {_RECORD}"
      ) from e
    wordings.check_prompt(prompt, where, '"prompt"')
    if len(fact[0]) > ITEMS:
      raise UserError(f"{where}: more than {ITEMS} items")
    wordings.put(facts, prompt, fact, where)
  if not facts:
    raise UserError(
      f"facts={shown(path, 100)}: it holds no record, such as {_RECORD}"
    )
  return facts


def _of_record(record: Mapping[str, Any]) -> Fact:
  items, relation = [], 0
  for item in record["include"]:
    items.append((item.get("color", ""), item["class"], int(item["count"])))
    if "position" in item:
      relation = RELATIONS.index(item["position"][0])
  for *words, count in items:
    if not all(isinstance(w, str) for w in words) or not 0 < count < MOST:
      raise ValueError("color and class are words, count a small number")
  return items, relation, bool(record.get("exclude"))


def phrases(items: Sequence[Item], length: int) -> list[list[str]]:
  """For each item: its phrase, those of competing colours, and "" as padding.

  A requested phrase never competes with another item, and an object that is
  also requested without a colour has no competing colours.
  """

  def phrase(colour: str, name: str) -> str:
    return f"a photo of a {f'{colour} {name}'.strip()}"

  targets = [phrase(colour, name) if n else "" for colour, name, n in items]
  rows = []
  for (colour, name, _), first in zip(items, targets, strict=True):
    competes = colour and phrase("", name) not in targets
    others = [phrase(c, name) for c in COLOURS] if competes else []
    row = [first, *(w for w in others if w not in targets)]
    rows.append(row + [""] * (length - len(row)))
  return rows


def prepare_with(
  ids: Callable[[Sequence[str]], np.ndarray],
  facts: Mapping[str, Fact] | Callable[[str], Fact],
) -> Callable[[Sequence[str]], Mapping[str, np.ndarray]]:
  """Texts -> the detector's queries and the expected counts and relations.

  Every item has room for all colours, or for one phrase if no fact has a
  colour.

  Args:
    ids: texts -> token ids.
    facts: by prompt, or a function of the prompt.
  """
  nothing: Fact = ([], 0, False)
  coloured = True
  fact = lambda text: facts(text) if text else nothing  # pyrefly: ignore
  if isinstance(facts, Mapping):
    by_prompt = ByPrompt(facts, "facts")
    coloured = any(c for items, *_ in facts.values() for c, *_ in items)
    fact = lambda text: by_prompt.get(text, nothing)
  length = 1 + len(COLOURS) * coloured

  def prepare(texts: Sequence[str]) -> Mapping[str, np.ndarray]:
    requests = [fact(text) for text in texts]
    none: Item = ("", "", 0)
    padded = [(items + [none] * ITEMS)[:ITEMS] for items, _, _ in requests]
    texts_asked = [w for r in padded for i in phrases(r, length) for w in i]
    shape = (len(texts), ITEMS, length)
    return {
      "queries": ids(texts_asked).reshape(*shape, -1),
      "named": np.array([w != "" for w in texts_asked]).reshape(shape),
      "count": np.array([[n for *_, n in row] for row in padded], np.int32),
      "relation": np.array([r for _, r, _ in requests], np.int32),
      "exact": np.array([e for _, _, e in requests], bool),
    }

  return prepare


def load_objects(
  weights: str,
  *,
  facts: str = "",
  dtype: str = "float32",
  tokenizer: str = "",
  microbatch: int = 16,
  padded: bool = True,
  fact_of: Callable[[str], Fact] | None = None,
) -> Loaded:
  """The detector and what prompts ask for.

  Args:
    weights: OWL-ViT, such as google/owlvit-base-patch32.
    facts: GenEval's `evaluation_metadata.jsonl`; empty for prompts of a
      task that knows what they ask for.
    dtype: of parameters and compute, "float32" or "bfloat16".
    tokenizer: its folder or hub id, if it is not beside the weights.
    microbatch: images that go through the tower at once; 0 for all.
    padded: pad images to a grey square at the bottom right, as by OWL-ViT's
      authors; False stretches them to a square, as transformers does.
    fact_of: prompt -> what it asks for; set by the task, not by a config.
  """
  if dtype not in ("float32", "bfloat16"):
    raise UserError(
      f"dtype={dtype} is not known{nearest(dtype, ('float32', 'bfloat16'))}"
    )
  lookup = facts_of_file(facts) if facts else fact_of
  config, params = owlvit.load(weights, dtype=dtype)
  if lookup is None:
    raise UserError(
      "facts is empty, and the task does not say what its prompts ask for; name"
      " GenEval's evaluation_metadata.jsonl"
    )
  net = owlvit.OwlVit(config, jnp.dtype(dtype))
  assert config.text and config.vision
  prepared = preprocess.Preprocess((config.vision.image,) * 2)

  def detect(params: Params, tokens: Array, images: Array):
    sides = images.shape[1:3]
    if padded:
      images, sides = on_grey(images), (max(sides),) * 2
    outputs: Any = net.apply({"params": params}, tokens, prepared(images))
    boxes = outputs[0] * jnp.array([sides[1], sides[0]] * 2, jnp.float32)
    return boxes, jax.nn.sigmoid(outputs[1].astype(jnp.float32))

  ids = encoders.tokenizer(weights, config.text.length, tokenizer, literal=True)
  return Loaded(
    {"detect": detect, "microbatch": microbatch},
    {"params": params},
    {"params": owlvit.SHARDING_RULES},
    prepare_with(ids, lookup),
  )


def on_grey(x: Float[ArrayLike, "B H W 3"]) -> Float[Array, "B S S 3"]:
  """Images padded to grey squares at the bottom right."""
  x = jnp.asarray(x)
  side = max(x.shape[1:3])
  padding = ((0, 0), *((0, side - n) for n in x.shape[1:3]), (0, 0))
  return jnp.pad(x, padding, constant_values=0.5)


def overlap(
  a: Float[Array, "N 4"], b: Float[Array, "M 4"]
) -> Float[Array, "N M"]:
  """Intersection over union of boxes (centre x, centre y, width, height)."""
  a, b = a[:, None], b[None]
  low = jnp.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
  high = jnp.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
  intersection = jnp.prod(jnp.maximum(high - low, 0), -1)
  union = jnp.prod(a[..., 2:], -1) + jnp.prod(b[..., 2:], -1) - intersection
  return intersection / jnp.maximum(union, 1e-9)


def distinct(
  boxes: Float[Array, "K 4"], valid: Bool[Array, "K"], most: float
) -> Bool[Array, "K"]:
  """Non-maximum suppression of boxes, best first, at IoU `most`."""
  near = overlap(boxes, boxes) > most

  def body(i, keep):
    beaten = (near[i] & keep & (jnp.arange(len(boxes)) < i)).any()
    return keep.at[i].set(keep[i] & ~beaten)

  return jax.lax.fori_loop(0, len(boxes), body, valid)


def stands(a: Float[Array, "4"], b: Float[Array, "4"]) -> Bool[Array, "5"]:
  """Whether a stands in each of `RELATIONS` to b, by GenEval's rule.

  Boxes are in pixels, so that the aspect ratio is right.
  """
  offset = a[:2] - b[:2]
  margin = POSITION_THRESHOLD * (a[2:] + b[2:])
  clear = jnp.maximum(jnp.abs(offset) - margin, 0) * jnp.sign(offset)
  apart = (jnp.abs(clear) >= 1e-3).any()
  x, y = clear / jnp.maximum(jnp.linalg.norm(offset), 1e-6)
  sides = jnp.stack([x < -0.5, x > 0.5, y < -0.5, y > 0.5])
  return jnp.concatenate([jnp.ones(1, bool), sides & apart])


def judge(
  boxes: Float[Array, "N 4"],
  scores: Float[Array, "N 2 Q"],
  named: Bool[Array, "2 Q"],
  count: Int[Array, "2"],
  relation: Int[Array, ""],
  exact: Bool[Array, ""],
  threshold: float,
  most: float,
) -> Float[Array, "3"]:
  """For one image: whether each count is right and the relation holds.

  A box belongs to the item whose phrases score highest on it. Boxes of all
  colours enter the suppression; those count whose best phrase is the requested
  one.
  """
  competitors = jnp.where(named, scores, -1.0)[..., 1:].max(-1, initial=-1.0)
  scores = jnp.where(count > 0, scores[..., 0], 0.0)
  fits = scores > competitors
  highest = jnp.maximum(scores, competitors)
  owner = jnp.argmax(highest, -1)
  best, checks = [], []
  for i in range(ITEMS):
    strength = jnp.where(owner == i, highest[:, i], 0.0)
    value, at = jax.lax.top_k(strength, min(KEPT, strength.shape[0]))
    hits = distinct(boxes[at], value > threshold, most) & fits[at, i]
    n = hits.sum()
    checks.append(jnp.where(exact, n == count[i], n >= count[i]))
    best.append(boxes[at[jnp.argmax(hits)]])
  present = (jnp.where(fits, scores, 0.0).max(0) > threshold).all()
  holds = stands(best[1], best[0])[relation] & (present | (relation == 0))
  return jnp.stack([*checks, holds]).astype(jnp.float32)


@declare(loads=load_objects)
def objects(
  images: Float[ArrayLike, "P G H W 3"],
  prompts: PromptBatch,
  *,
  detect: Detect,
  microbatch: int,
  params: Params,
  queries: Int[ArrayLike, "P 2 Q L"],
  named: Bool[ArrayLike, "P 2 Q"],
  count: Int[ArrayLike, "P 2"],
  relation: Int[ArrayLike, "P"],
  exact: Bool[ArrayLike, "P"],
  threshold: float = 0.1,
  most_overlap: float = 0.5,
  strict: bool = True,
) -> dict[str, Float[Array, "P G"]]:
  """1 if every object, count and position is right, else 0; or the share.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    detect: (params, tokens, images) -> boxes in pixels, and scores.
    microbatch: images at once; 0 for all.
    params: of the detector.
    queries: token ids per item: the requested phrase, then the competing ones,
      the same object in other colours.
    named: False for padding of the phrases.
    count: number of each item, 0 for no item; a prompt without items scores
      NaN.
    relation: of the second item to the first, as in `RELATIONS`.
    exact: more objects than the count are an error.
    threshold: lowest score of a box that counts.
    most_overlap: highest intersection over union of two distinct objects.
    strict: False gives the share of checks that are right.
  """
  images, count = jnp.asarray(images), jnp.asarray(count)
  p, g = images.shape[:2]
  usable = jnp.isfinite(images).all((2, 3, 4)) & count.any(-1)[:, None]
  safe = jnp.where(jnp.isfinite(images), images, 0.0)
  repeat = lambda x: jnp.repeat(jnp.asarray(x), g, 0)
  rows = {
    "images": safe.reshape(p * g, *images.shape[2:]),
    "queries": repeat(queries), "named": repeat(named), "count": repeat(count),
    "relation": repeat(relation), "exact": repeat(exact),
  }  # fmt: skip

  def check_rows(row):
    tokens = row["queries"]  # [B, 2, Q, L]
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    boxes, scores = detect(params, flat, row["images"])
    scores = scores.reshape(*scores.shape[:2], *tokens.shape[1:3])
    facts = [row[name] for name in ("named", "count", "relation", "exact")]
    checks = jax.vmap(
      lambda b, s, n, c, r, e: judge(b, s, n, c, r, e, threshold, most_overlap)
    )
    return checks(boxes, scores, *facts)

  results = encoders.in_chunks(check_rows, rows, microbatch).reshape(
    p, g, ITEMS + 1
  )
  required = jnp.concatenate(
    [count > 0, (jnp.asarray(relation) > 0)[:, None]], -1
  )[:, None]
  share = (results * required).sum(-1) / jnp.maximum(required.sum(-1), 1)
  score = (share > 1 - 1e-6).astype(jnp.float32) if strict else share
  return {"objects": jnp.where(usable, score, jnp.nan)}
