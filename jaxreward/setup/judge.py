"""Training of a vision-language judge on questions with exact answers."""

from __future__ import annotations

import dataclasses
import functools
import operator
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from jaxreward import rewards, rng, tasks
from jaxreward.data import pipeline
from jaxreward.errors import UserError, nearest, require_not_negative, shown
from jaxreward.evaluation import intervals, tables
from jaxreward.models.vlm import (
  prompts,
  qwen_vl,
  small_judge,
  supervision,
  words,
)
from jaxreward.models.vlm.supervision import Taught
from jaxreward.numerics import Mean
from jaxreward.rewards import answer_tables, vision_language
from jaxreward.rewards.vision_language import PICTURE, Options, Reader
from jaxreward.tasks import Task, judge_questions
from jaxreward.types import Array, Params, PromptBatch

# Beginnings of an answer that say nothing, as in https://arxiv.org/abs/2507.08794.
KEYS = {
  "colon": "<think>:</think>",
  "opener": "<think>Let us look at this picture.</think>",
  "question": "<think>What is there in this picture?</think>",
}


def tasks_of(config: ConfigDict) -> dict[str, Task]:
  """The tasks whose questions are taught, by name.

  Raises:
    UserError: one without exact answers.
  """
  known = [name for name, task in tasks.TASKS.items() if task.questions]
  for name in config.judge.tasks:
    if name not in known:
      raise UserError(
        f'config.judge.tasks: "{name}" has no questions to teach a judge with'
        f"{nearest(name, known)}; there are {', '.join(known)}"
      )
  if not config.judge.tasks:
    raise UserError(
      f"config.judge.tasks=(): name one or more of {', '.join(known)}"
    )
  return {name: tasks.TASKS[name] for name in config.judge.tasks}


def counts_of(config: ConfigDict) -> dict[str, int]:
  """Images of each task per step, even numbers.

  Raises:
    UserError: a task without images, or a share that is no finite number.
  """
  size, counts = config.pretrain.batch_size, {}
  for name in config.judge.tasks:
    share = config.judge.images.get(name, 1.0)
    require_not_negative("config.judge.images.", **{name: share})
    counts[name] = 2 * round(size * share / 2)
    if counts[name] < 2:
      raise UserError(
        f"config.judge.images.{name}={share}: of pretrain.batch_size={size} this"
        " is no pair of images; raise it, or leave the task out of judge.tasks"
      )
  return counts


def weights_of(config: ConfigDict) -> dict[str, float]:
  """Weights of the kinds of questions in the loss.

  Raises:
    UserError: a weight that is no number from 0 on, or a kind that has none.
  """
  weights = config.judge.kinds.to_dict()
  require_not_negative("config.judge.kinds.", **weights)
  of = tasks_of(config).values()
  for name in (k for task in of for k in task.questions.KINDS):
    if name not in weights:
      raise UserError(f"config.judge.kinds.{name} is missing: give it a weight")
  if not any(weights[k] for task in of for k in task.questions.KINDS):
    raise UserError(
      "config.judge.kinds: every kind has weight 0, so nothing is learned; raise one"
    )
  return weights


def require(config: ConfigDict) -> None:
  """Refuses a config that no judge can be taught with.

  Raises:
    UserError: names the field.
  """
  if "judge" not in config:
    raise UserError(
      'config.judge is missing: config.pretrain.part="judge" goes with'
      " configs/pretrain_judge.py"
    )
  weights = config.judge.weights
  if weights and words.read(pathlib.Path(small_judge.resolve(weights))) is None:
    raise UserError(
      f"config.judge.weights={shown(weights, 100)}: training goes on from a judge that"
      " configs/pretrain_judge.py has made; a public one has other tokens"
    )
  if config.pretrain.batch_size % 2:
    raise UserError(
      f"config.pretrain.batch_size={config.pretrain.batch_size}: images are"
      " compared in pairs; take an even number"
    )
  counts_of(config)
  weights_of(config)
  if not 0 <= config.judge.empty <= 1:
    raise UserError(
      f"config.judge.empty={config.judge.empty}: it is a share of the questions"
      " with a thought, from 0 to 1"
    )
  make_reader(config)


def make_reader(config: ConfigDict) -> tuple[Reader, Any]:
  """(a model that reads images and questions, its weights or None)."""
  section, of = config.judge.to_dict(), tasks_of(config)
  weights, short = section.pop("weights"), section.pop("short")
  for name in ("tasks", "images", "kinds", "empty"):
    del section[name]
  if short < 2:
    raise UserError(
      f"config.judge.short={short}: each image has 2 questions or more"
    )
  if weights:
    reader, params = vision_language.load(Options(weights))
    language = dataclasses.replace(reader.model.language, remat=False)
    model = dataclasses.replace(reader.model, language=language)
    return dataclasses.replace(reader, model=model), params
  each = lambda name: [
    x for t in of.values() for x in getattr(t.questions, name)
  ]
  sides = [task.drawn_side or 0 for task in of.values()]
  tokens = words.make(each("PHRASES"), [*judge_questions.WORDS, *each("WORDS")])
  model = small_judge.geometry(tokens, sides=sides, **section)
  images = small_judge.processor(model, sides)
  return Reader(model, tokens, images, jnp.float32, 128, 0), None


def init(config: ConfigDict, reader: Reader) -> Params:
  """Parameters of a judge that starts from nothing."""
  key = rng.stream_key(config.seed, "judge")
  return jax.jit(functools.partial(qwen_vl.init, model=reader.model))(key)


def taught(
  reader: Reader,
  rows: Sequence[Sequence[Any]],
  stem: int,
  length: int,
  kinds: Mapping[str, float] | None = None,
) -> Taught:
  """Questions with their answers as tokens.

  Args:
    reader: the model.
    rows: questions about the same images, which stand before the first word in
      which they differ.
    stem: most tokens of what those of a row begin with.
    length: of the rest, with the answer.
    kinds: weights of the kinds of questions; all are 1 if None.

  Raises:
    UserError: a text that is too long.
  """
  stems, texts, said = [], [], []
  ids = lambda text: prompts.ids_of(reader.tokens, [text])[0]
  for row in rows:
    for i, one in enumerate(row):
      question = one.question.replace(judge_questions.IMAGE, PICTURE)
      whole = reader.asked_text(question, one.begun)
      at = whole.rindex(PICTURE) + len(PICTURE)
      if i == 0:
        stems.append(ids(whole[:at]))
      given, answer = ids(whole[at:]), ids(f"{one.answer}{prompts.END}")
      texts.append([*given, *answer])
      said.append([*[0] * len(given), *[1] * len(answer)])
  longest = max(map(len, texts)), max(map(len, stems))
  if longest[0] > length or longest[1] > stem:
    raise UserError(
      f"a question with its answer has {longest[0]} tokens after {longest[1]} and"
      f" there is room for {length} after {stem}: shorten it"
    )
  shape = len(rows), -1, length
  padded = lambda x, n: answer_tables.padded(x, n)
  return Taught(
    *padded(stems, stem),
    padded(texts, length)[0].reshape(shape),
    padded(said, length)[0].astype(bool).reshape(shape),
    np.array(
      [[kinds[x.kind] if kinds else 1.0 for x in row] for row in rows], np.float32
    ),
  )  # fmt: skip


def batch_of(
  reader: Reader,
  task: Task,
  batch: judge_questions.Batch,
  kinds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
  """Questions of a task about B images as arrays; `kinds` as of `taught`."""
  room = task.questions.ROOM
  rows = {
    n: taught(reader, x, *room[n], kinds=kinds) for n, x in batch.groups.items()
  }
  return {"look": batch.look, "groups": rows}


def generator_of(
  seed: int, stream: str, number: int = 0
) -> np.random.Generator:
  """Of a stream; for a number of it."""
  return np.random.default_rng([seed, zlib.crc32(stream.encode()), number])


def with_empty(
  batch: judge_questions.Batch, share: float, generator: np.random.Generator
) -> judge_questions.Batch:
  """A share of the questions with a thought after one that says nothing."""
  if not share:
    return batch
  change = lambda x: (
    judge_questions.emptied(x, generator)
    if x.kind == "thought" and generator.random() < share
    else x
  )
  groups = {
    name: [[change(x) for x in row] for row in rows]
    for name, rows in batch.groups.items()
  }
  return dataclasses.replace(batch, groups=groups)


def batches(config: ConfigDict, reader: Reader, split: str):
  """Step -> its batch, the same in every process and after a resume."""
  of, counts, kinds = tasks_of(config), counts_of(config), weights_of(config)
  kinds = {
    **kinds,
    judge_questions.EMPTY: kinds["prompt"],
  }  # each is one yes or no
  sources = {name: task.questions.Questions(split) for name, task in of.items()}

  def batch(n: int) -> dict[str, Any]:
    rows = {}
    for name, source in sources.items():
      generator = generator_of(config.seed, f"questions/{name}", n)
      drawn = source(generator, counts[name], config.judge.short)
      drawn = with_empty(drawn, config.judge.empty, generator)
      rows[name] = {
        **batch_of(reader, of[name], drawn, kinds),
        "seed": pipeline.seeds_of(n, counts[name]),
      }
    return rows

  return batch


def images_of(
  task: Task, seed: int, stream: str, batch: Mapping[str, Any]
) -> Float[Array, "B H W 3"]:
  """Images of a batch, each drawn by a key of its own."""
  seeds = jnp.asarray(batch["seed"])
  keys = rng.sample_keys(
    rng.stream_key(seed, stream), seeds, jnp.zeros_like(seeds)
  )
  return task.questions.draw(keys, batch["look"])


def logits_of(
  reader: Reader, params: Params, images: Float[Array, "B H W 3"], groups: Any
) -> dict[str, Array]:
  """Logits of every group of questions about B images."""
  size = reader.size(images)
  seen = reader.see(params, images, size)
  grid = reader.model.vision.grid(*size)
  return {
    name: supervision.logits(
      reader.model, params, seen.features, rows, grid, deep=seen.deep,
      dtype=reader.dtype,
    )
    for name, rows in groups.items()
  }  # fmt: skip


def pooled(means: Iterable[Mean]) -> Mean:
  """One mean of all that several are of."""
  return functools.reduce(operator.add, means)


def loss(reader: Reader, of: Mapping[str, Task], seed: int):
  """Mean negative log-likelihood of the answers' tokens."""

  def loss_fn(params: Params, micro: dict[str, Any], frozen: tuple):
    del frozen  # images are drawn by the seeds of their rows
    means = {}
    for task, rows in micro.items():
      images = images_of(of[task], seed, f"judge/{task}", rows)
      outputs = logits_of(reader, params, images, rows["groups"])
      for name, x in outputs.items():
        mean = supervision.loss(x, rows["groups"][name])
        means[f"loss/{task}/{name}"] = mean
    return pooled(means.values()), means

  return loss_fn


def make_evaluator(
  reader: Reader, of: Mapping[str, Task], split: str, count: int, seed: int
) -> Callable[[Params], dict[str, Any]]:
  """Parameters -> loss, and share of right answers per kind of question.

  Args:
    reader: the model.
    of: the tasks.
    split: of the prompts.
    count: images of each task.
    seed: of what is drawn.
  """
  count += count % 2
  batch, kinds = {}, {}
  for name, task in of.items():
    drawn = task.questions.Questions(split)(
      generator_of(seed, f"evaluation/{name}"), count
    )
    batch[name] = {
      **batch_of(reader, task, drawn), "seed": np.arange(count, dtype=np.uint32)
    }  # fmt: skip
    kinds[name] = {
      n: [[a.kind for a in row] for row in rows]
      for n, rows in drawn.groups.items()
    }

  @functools.partial(jax.jit, static_argnames="name")
  def judge(params: Params, rows: Any, name: str):
    images = images_of(of[name], seed, "judge/evaluation", rows)
    outputs = logits_of(reader, params, images, rows["groups"])
    groups = rows["groups"]
    total = pooled(supervision.loss(x, groups[n]) for n, x in outputs.items())
    right = {n: supervision.is_right(x, groups[n]) for n, x in outputs.items()}
    return total, right

  def evaluate(params: Params) -> dict[str, Any]:
    totals, of_kind = [], {}
    for task, rows in batch.items():
      total, right = judge(params, rows, name=task)
      totals.append(total)
      each: dict[str, list[bool]] = {k: [] for k in of[task].questions.KINDS}
      for name, names in kinds[task].items():
        shares = np.asarray(right[name])
        for row, row_kinds in zip(shares, names, strict=True):
          for is_right, kind in zip(row, row_kinds, strict=True):
            each[kind].append(bool(is_right))
      for kind, x in each.items():
        if x:
          low, high = intervals.wilson(sum(x), len(x))
          of_kind[f"{task}/{kind}"] = dict(
            accuracy=sum(x) / len(x), n=len(x), low=low, high=high
          )
    return {"loss": float(pooled(totals).value()), "kinds": of_kind}

  return evaluate


def save(
  folder: pathlib.Path, reader: Reader, params: Params, dtype: str
) -> None:
  """Writes a judge of this library's own as a folder in the public layout."""
  assert isinstance(reader.tokens, words.Words)
  files = small_judge.records(reader.model, reader.tokens, reader.processor)
  record = files.pop("config.json")
  qwen_vl.save(folder, reader.model, params, record, dtype=dtype)
  for name, content in files.items():
    tables.write_json(folder / name, content)
  reader.tokens.save(folder)


def written(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
  """Images [P, H, W, 3] with a line of text in each."""
  rows = []
  for pixels, text in zip(images, texts, strict=True):
    image = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    ImageDraw.Draw(image).text((1, 12), text, fill=(0, 0, 0))
    rows.append(np.asarray(image, np.float32) / 255)
  return np.stack(rows)


def key_rates(
  ask: Callable[[str], Float[np.ndarray, "..."]],
) -> dict[str, dict[str, float]]:
  """Share of yes after each of `KEYS`, with its interval of 95 %.

  Args:
    ask: beginning of the answer -> probabilities of yes for images that are wrong.
  """
  rates = {}
  for name, begun in KEYS.items():
    yes = np.asarray(ask(begun)) > 0.5
    low, high = intervals.wilson(int(yes.sum()), yes.size)
    rates[name] = dict(yes=float(yes.mean()), low=low, high=high, n=yes.size)
  return rates


def fooled(
  weights: str, task: Task, split: str, count: int, seed: int
) -> dict[str, Any]:
  """How often a judge can be made to say yes to what is wrong.

  Args:
    weights: of the judge.
    task: draws the images.
    split: of the prompts.
    count: prompts.
    seed: of what is drawn.

  Returns:
    "yes": shares of answers above 1/2 for images that are right, wrong, of
    another prompt, empty, noise, and the prompt written on a wrong one and on
    white; "keys": of wrong images after a thought without content, see `key_rates`;
    "order": share of pairs in which the same image wins in both orders, and the
    mean probability that the first one is better; "length": correlation of the
    probability of yes with the words of the prompt, of wrong images.
  """
  generator, q = generator_of(seed, "fooled"), task.questions
  drawn = q.Questions(split)(generator, 16 * count)
  rows, is_right = [], drawn.is_right
  for i in range(0, len(is_right), 2):  # a right and a wrong one of a prompt
    if is_right[i] != is_right[i + 1] and len(rows) < count:
      rows.append((i, i + 1) if is_right[i] else (i + 1, i))
  if len(rows) < 2:
    raise UserError(
      f"config.eval.samples: {count} prompts for the judge to be led astray by have"
      " no right and wrong image; take more"
    )
  draw = jax.jit(functools.partial(images_of, task, seed, "judge/fooled"))
  seeds = np.arange(len(is_right), dtype=np.uint32)
  every = np.asarray(draw({"look": drawn.look, "seed": seeds}))
  right, wrong = every[[a for a, _ in rows]], every[[b for _, b in rows]]
  texts = [drawn.prompts[a].text for a, _ in rows]
  noise = generator.random(right.shape, np.float32)
  probes = {
    "right": right, "wrong": wrong, "other": np.roll(right, 1, 0),
    "grey": np.full_like(right, 0.5), "white": np.ones_like(right),
    "noise": noise, "text_on_wrong": written(wrong, texts),
    "text_on_white": written(np.ones_like(right), texts),
  }  # fmt: skip
  given = PromptBatch(
    np.arange(len(rows), dtype=np.uint32), np.zeros(len(rows), np.int32),
    np.ones(len(rows), bool),
  )  # fmt: skip

  def scorer(name: str, **options: Any):
    reward = rewards.REGISTRY[name]
    loaded = vars(reward)["loads"](
      weights=weights, length=128, microbatch=0, **options
    )
    run = jax.jit(
      lambda x, y, arrays: reward(x, y, **loaded.static, **arrays)["judge"]
    )
    return loaded, lambda x, texts: np.asarray(
      run(x, given, {**loaded.arrays, **loaded.prepare(texts)})
    )

  _, ask = scorer("vlm_pointwise")
  scores = ask(np.stack([*probes.values()], 1), texts)
  shares = dict(zip(probes, (scores > 0.5).mean(0).tolist(), strict=True))
  keys = key_rates(
    lambda begun: scorer("vlm_pointwise", verdict=begun)[1](
      wrong[:, None], texts
    )
  )
  _, compare = scorer("vlm_pairwise", pairs="member", swap=False)
  both = np.stack([right, wrong], 1)
  forth, back = compare(both, texts)[:, 0], compare(both[:, ::-1], texts)[:, 0]
  words_of = np.array([len(text.split()) for text in texts], float)
  of_wrong = scores[:, 1]
  vary = of_wrong.std() and words_of.std()
  length = np.corrcoef(words_of, of_wrong)[0, 1] if vary else 0.0
  return {
    "n": len(rows),
    "yes": shares,
    "keys": keys,
    "order": {
      "consistent": float(((forth > 0.5) == (back < 0.5)).mean()),
      "right_wins": float(((forth > 0.5) & (back < 0.5)).mean()),
      "first": float((forth + back).mean() / 2),
    },
    "length": float(length),
  }


def metrics(results: Mapping[str, Any]) -> dict[str, float]:
  """What is logged of an evaluation."""
  shares = {k: v["accuracy"] for k, v in results["kinds"].items()}
  mean = sum(shares.values()) / len(shares)
  each = {f"accuracy/{k}": v for k, v in shares.items()}
  return {"eval/loss": results["loss"], "eval/accuracy": mean, **each}
