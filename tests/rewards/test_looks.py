"""A judge that looks closer, beside whole rows of the model."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vision import preprocess
from jaxreward.models.vlm import decode, prompts, qwen_vl, tiny
from jaxreward.rewards import (
  answer_tables,
  asking,
  looks,
  reasoning,
  vision_language,
)
from jaxreward.rewards.vision_language import PICTURE
from jaxreward.types import PromptBatch

QUESTION = f"{PICTURE}Is it red?"
SIZE, LENGTH = (32, 32), 160
PARTS = ("bottom centre", looks.NONE)


@dataclasses.dataclass(frozen=True, eq=False)
class Given(answer_tables.Table):
  """Scores of the parts that are given."""

  scores: Any = None

  def log_probs(self, model, params, prefix):
    return self.scores


@pytest.fixture(scope="module")
def parts():
  options = reasoning.Options(
    "tiny", length=96, think=2, looks=2, window=1, temperature=0.0
  )
  reader, params = vision_language.load(options)
  params = jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)
  return reader, params, reasoning.thinking(reader, options, "", "")[1]


@pytest.fixture(scope="module")
def images():
  x = np.random.default_rng(0).random((2, 1, 32, 32, 3))
  return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def outputs(parts, images):
  """Log-probabilities after each of `PARTS`, [2, 2, V]."""
  reader, params, how = parts
  empty = np.zeros((1, 1), int)
  with_scores = lambda scores: dataclasses.replace(
    how.looks, table=Given(empty, empty > 0, empty[0], scores)
  )
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def everything(params, images, scores):
    rows = dict(reader.asked([QUESTION] * 2, "<think>\n"))
    seen = reader.see(params, images[:, 0])
    rows["seen"] = jax.tree.map(lambda x: x[:, None], seen)

    def closer(prefix, rows):
      logits = []
      for x in scores:
        given = with_scores(jnp.stack([x, x]))
        longer, _ = looks.closer(
          reader, params, prefix, keys, images, given, 0.0
        )
        logits.append(jax.nn.log_softmax(longer.logits))
      return jnp.stack(logits, 1)

    return reader.ask(params, rows, SIZE, closer)

  names = looks.names(1)
  scores = np.eye(len(names))[[names.index(x) for x in PARTS]]
  return np.asarray(everything(params, images, scores))


def test_a_part_is_half_of_each_side(images):
  every = jax.vmap(looks.crop, (None, 0))(
    images[:, 0], jnp.arange(9)[:, None].repeat(2, 1)
  )
  for part in range(9):
    y, x = (8 * n for n in divmod(part, 3))
    expected = images[:, 0, y : y + 16, x : x + 16]
    np.testing.assert_array_equal(every[part], expected)


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_part_stands_among_the_words_as_any_picture(parts, images, outputs):
  """Against one reading of the whole row by the model as it is published."""
  reader, params, _ = parts
  prepare = preprocess.Preprocess(
    SIZE, mean=reader.processor.mean, std=reader.processor.std
  )
  crop = images[:, 0, 16:32, 8:24]
  ids, frames = [], []
  for name in PARTS:
    shown = "" if name == looks.NONE else PICTURE
    text = prompts.chat(QUESTION, 0, answer="<think>\n")
    text += f"{name}</look><|im_end|>\n<|im_start|>user\n{shown}<|im_end|>\n"
    text += "<|im_start|>assistant\n<think>\n"
    for i in range(2):
      ids.append(tiny.tokens(text)["input_ids"])
      pair = [images[:, 0], crop][: 2 if shown else 1]
      frames.append(
        [prompts.Shown(np.asarray(prepare(x[i : i + 1]))) for x in pair]
      )
  packed = prompts.pack(tiny.MODEL, ids, frames, length=LENGTH)
  last = packed.mask.sum(1) - 1
  net = jax.jit(lambda packed: qwen_vl.logits(
    params, qwen_vl.states(tiny.MODEL, params, packed)[np.arange(4), last]
  ))  # fmt: skip
  expected = jax.nn.log_softmax(net(packed)).reshape(2, 2, -1)
  logits = outputs.swapaxes(0, 1)
  np.testing.assert_allclose(logits, expected, atol=2e-4)
  assert np.abs(logits[:, 0] - logits[:, 1]).max() > 1e-2


@pytest.mark.turns(2)
def test_no_more_parts_are_seen_than_the_window_holds(
  parts, images, monkeypatch
):
  """The oldest is forgotten before the next one is read."""
  reader, params, how = parts
  events, forget, closer = [], looks.forget, looks.closer

  def forgotten(prefix, place):
    events.append(("forget", int(place.shape[1])))
    return forget(prefix, place)

  def looked(*given):
    prefix, place = closer(*given)
    events.append(("look", int(place.shape[1])))
    return prefix, place

  monkeypatch.setattr(looks, "forget", forgotten)
  monkeypatch.setattr(looks, "closer", looked)

  def think(params, images):
    rows = dict(reader.asked([QUESTION] * 2, "<think>\n"))
    seen = reader.see(params, images[:, 0])
    rows["seen"] = jax.tree.map(lambda x: x[:, None], seen)
    ids = jnp.arange(2, dtype=jnp.uint32)
    after = lambda prefix, rows: (
      reasoning.think(reader, params, prefix, ids, how, images)[0].logits
    )
    return reader.ask(params, rows, SIZE, after)

  jax.eval_shape(think, params, images)
  names, sizes = zip(*events, strict=True)
  assert names == ("look", "forget", "look") and sizes[1] == sizes[0]


def test_refused():
  with pytest.raises(UserError, match="think=0"):
    reasoning.Options("tiny", looks=1)
  reader, _ = vision_language.load(vision_language.Options("tiny"))
  with pytest.raises(UserError, match="looks: a question shows 5 images"):
    looks.of_reader(reader, 5, "")


def test_further_words_do_not_see_what_is_forgotten():
  empty = jnp.zeros((1, 1, 1, 1, 1))
  prefix = decode.Prefix(
    (empty, empty), jnp.ones((1, 5), bool), jnp.array([5]), jnp.zeros((1, 1))
  )
  place = jnp.array([[False, True, True]])
  mask = looks.forget(prefix, place).mask
  assert mask.tolist() == [[True, False, False, True, True]]


@pytest.mark.turns(2)
@pytest.mark.usefixtures("as_users_call")
def test_a_source_is_cropped_at_the_images_size():
  reader = SimpleNamespace(
    size=lambda images: (32, 32),
    see=lambda params, images, size=None: images.mean((1, 2)),
  )
  how = SimpleNamespace(looks=True)
  judge: Any = SimpleNamespace(
    reader=reader, source=0, how=how, original="source"
  )
  sources = np.full((2, 12, 40, 3), 0.5, np.float32)
  batch = PromptBatch(
    np.arange(2, dtype=np.uint32), np.zeros(2, np.int32), np.ones(2, bool),
    source=sources,
  )  # fmt: skip
  rows, usable, _ = asking.questions(
    judge, {}, np.zeros((2, 3, 16, 24, 3)), batch, np.arange(3)[:, None], {}
  )
  assert usable.all() and rows["seen"].shape == (6, 2, 3)
  assert rows["pixels"].shape == (6, 2, 16, 24, 3)
  np.testing.assert_allclose(rows["pixels"][:, 0], 0.5, atol=3e-3)
