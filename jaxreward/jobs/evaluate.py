"""Evaluates a policy: fixed held-out prompts, fixed seeds, `eval.sampler`.

With `eval.preferences` the rewards are judged instead; see `setup.judging`. With
`eval.benchmark` images of a benchmark are; see `setup.benchmarks`.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files, processes, rng, setup, tasks, workdirs
from jaxreward.data import repeats
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.prompts import Prompt
from jaxreward.errors import UserError
from jaxreward.evaluation import tables
from jaxreward.evaluation.evaluators import Evaluators
from jaxreward.flow import guidance, log_prob, rollout, steppers
from jaxreward.flow.sampler import Sampler, State
from jaxreward.numerics import masked_mean
from jaxreward.report import grids
from jaxreward.rewards import Reward, applies_to, score
from jaxreward.setup import (
  adapters,
  benchmarks,
  data_checks,
  evaluators,
  judging,
  prompt_encoding,
)
from jaxreward.setup import rewards as reward_setup
from jaxreward.steering import Trace
from jaxreward.tasks import Task
from jaxreward.types import Array, Params, Policy, PromptBatch

EVALUATION_FILE = "evaluation.json"
STEERING = "eval.steering"  # the name of its results
WATCHED = 4  # images per category while a job runs
STRIPS = 4  # sources on the page whose every edit is shown
KL_SAMPLES, KL_MEMBERS = 24, 4  # prompts whose path KL is measured


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """Prompts of an evaluation, as rows of a group each.

  Attributes:
    prompts: of the rows; a prompt may be in several rows.
    batch: the same as arrays; ids differ between repetitions, so that every
      image has its own noise.
    group: images per row.
    task: of the prompts.
  """

  prompts: tuple[Prompt, ...]
  batch: PromptBatch
  group: int
  task: Task

  @functools.cached_property
  def meanings(self) -> np.ndarray:
    """The meaning of each image's prompt, [P * G].

    Images of one meaning are not independent: they succeed together.
    """
    return np.repeat([p.meaning for p in self.prompts], self.group)

  @functools.cached_property
  def kinds(self) -> np.ndarray:
    """The category of each image's prompt, [P * G]."""
    return np.repeat(np.asarray(self.batch.category), self.group)


def evaluation_set(
  task: Task,
  prompts: Sequence[Prompt],
  samples: int,
  group: int,
  seed: int,
  side: int | tuple[int, int] = 0,
) -> EvaluationSet:
  """At least `samples` images, spread evenly over the categories.

  Prompts of a category are in random order by the seed, so that the first few are
  a fair sample. `side` is the size of images read from files.
  """
  if not prompts:
    raise UserError("there are no prompts to evaluate on")
  if samples < 1 or group < 1:
    raise UserError(
      f"an evaluation of {samples} pictures in groups of {group} is empty;"
      " config.eval.samples and config.eval.group must be at least 1"
    )
  categories = sorted({p.category for p in prompts})
  rows_per_category = -(-samples // (len(categories) * group))
  row_prompts = []
  for category in categories:
    candidates = [p for p in prompts if p.category == category]
    order = np.random.default_rng([seed, category]).permutation(len(candidates))
    row_prompts += [
      candidates[order[row % len(order)]] for row in range(rows_per_category)
    ]
  batch = repeats.distinct_ids(task.batch(row_prompts, side=side))
  return EvaluationSet(tuple(row_prompts), batch, group, task)


def path_kl(
  policy, params, reference_policy, reference, key, prompts, table, group,
  microbatch,
):  # fmt: skip
  """KL of the sampling paths per image, in nats, by the chain rule.

  The path of a stochastic sampler is a chain of Gaussians with equal noise, so
  its KL to the reference's is the sum over steps of the steps' KL, averaged
  over paths of the policy: exact up to the number of paths.
  """
  rows = prompts.ids.shape[0]
  layout = setup.spread_rows(
    rollout.make_layout(rows, group, microbatch, setup.batch_devices())
  )
  cond, _ = guidance.conditioning(
    reference_policy, reference, prompts.words, 1.0
  )

  def kl_of(before: State, after, info, step) -> Array:
    del after

    def chunk(rows):
      x, v, index = rows
      rows_cond = rollout.gather_cond(cond, index)
      v_reference = log_prob.step_velocity(
        reference_policy, reference, rows_cond, None, x, step
      )
      shift = jnp.square(step.c_v * (v - v_reference))
      return shift.sum(tuple(range(1, v.ndim))) / (2 * jnp.square(step.std))

    return jax.lax.map(chunk, (before.latents, info.velocity, before.index))

  sampler = Sampler(policy, table, layout)
  state = sampler.init(params, key, prompts.words, prompts.ids)
  _, kl = sampler.scan(params, state, kl_of)
  return masked_mean(rollout.from_chunks(kl.sum(0)), layout.mask)


def _applicable(
  reward: Reward | None, prompts: PromptBatch, shape: tuple[int, int]
) -> np.ndarray:
  """bool [P, G]: where the reward is applicable."""
  weight = 1.0 if reward is None else reward.weight
  return np.broadcast_to(np.asarray(applies_to(weight, prompts.plain)), shape)


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Samples and measures the images of one evaluation set.

  Attributes:
    policy: takes the parameters of `__call__`.
    data: prompts.
    rewards: reported as well.
    evaluators: the reported numbers.
    sampler: (policy, P, G, guidance scale) -> the sampler, called in jit.
    seed: of the noise; the same for every call.
    encode: batch -> the batch as the policy takes it.
    decoder: parameters of the policy's autoencoder.
    start: (policy, prompts, decoder) -> clean latents to start from, or None.
    steer: policy -> what samples in place of the plain sampler: (parameters,
      prompts, decoder, guidance scale) -> pixels and a trace.
  """

  policy: Policy
  data: EvaluationSet
  rewards: dict[str, Reward]
  evaluators: Evaluators
  sampler: Callable[..., Sampler]
  seed: int
  encode: Callable[[PromptBatch], PromptBatch] = lambda batch: batch
  decoder: Params | None = None
  start: Callable[..., Array | None] = lambda *_: None
  steer: Callable[[Policy], Callable[..., tuple[Array, Trace]]] | None = None

  @functools.cached_property
  def _draw(self) -> Callable[..., Any]:
    steer = None if self.steer is None else self.steer(self.policy)
    rows = len(self.data.prompts)

    def draw(params, prompts, decoder, scale):
      sampler = self.sampler(self.policy, rows, self.data.group, scale)
      key = rng.stream_key(self.seed, "evaluate")
      trajectory = sampler.sample(
        params, key, prompts.words, prompts.ids,
        start=self.start(self.policy, prompts, decoder),
      )  # fmt: skip
      return measure(sampler.pixels(trajectory.latents[-1], decoder), prompts)

    def measure(pixels, prompts):
      images = jnp.clip(pixels, 0, 1)
      measures = self.data.task.measure(images, pixels, prompts)
      results = self.evaluators.drawn(
        images=images, pixels=pixels, measures=measures, batch=prompts,
        mask=jnp.ones(images.shape[:2], bool),
      )  # fmt: skip
      return images, measures, results

    # One program without guidance, one for every other scale.
    plain_jit = jax.jit(functools.partial(draw, scale=1.0))
    guided_jit, measure_jit = jax.jit(draw), jax.jit(measure)

    def choose(params, prompts, scale):
      is_off = guidance.is_off(scale)
      if steer is not None:
        pixels, trace = steer(
          params, prompts, self.decoder, None if is_off else jnp.float32(scale)
        )
        images, measures, results = measure_jit(pixels, prompts)
        return images, measures, results | {STEERING: trace.metrics()}
      if is_off:
        return plain_jit(params, prompts, self.decoder)
      return guided_jit(params, prompts, self.decoder, jnp.float32(scale))

    return choose

  def evaluate(
    self, params: Params, guidance_scale: float = 1.0
  ) -> tuple[dict[str, dict[str, Any]], np.ndarray, np.ndarray]:
    """(results by evaluator, images [P, G, ...], strict [P, G]).

    Without a judge of the task, strict is NaN.
    """
    batch, data = self.encode(self.data.batch), self.data
    images, measures, results = self._draw(params, batch, float(guidance_scale))
    scores, _ = score(self.rewards, images, data.batch, measures)
    measures, results = processes.fetch((measures, results))
    shape = images.shape[:2]
    host_images = np.asarray(processes.fetch(images))
    by_evaluator = self.evaluators.finish(
      results, images=host_images, measures=measures, scores=scores,
      mask=np.ones(shape, bool), batch=data.batch,
      applicable={
        k: _applicable(self.rewards.get(k), data.batch, shape) for k in scores
      },
      category=data.kinds.reshape(shape), categories=data.task.categories,
      meaning=data.meanings.reshape(shape),
    )  # fmt: skip
    strict = measures.get("strict", np.full(shape, np.nan))
    return by_evaluator, host_images, np.asarray(strict)

  def __call__(
    self, params: Params, guidance_scale: float = 1.0
  ) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """(results for evaluation.json, images [P, G, ...], strict [P, G])."""
    by_evaluator, images, strict = self.evaluate(params, guidance_scale)
    result = self.evaluators.merged(by_evaluator)
    if "n" not in result:
      result = {"n": strict.size} | result
    return result, images, strict

  def first_of(
    self, params: Params, batch: PromptBatch, count: int, guidance_scale: float
  ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(images [N, ...], measures {name: [N]}) of the first N prompts, one each.

    Drawn by the program of the evaluation, whose batch has as many rows.
    """
    images, measures, _ = self._draw(
      params, self.encode(batch), float(guidance_scale)
    )
    images, measures = processes.fetch((images[:count, 0], measures))
    values = {k: np.asarray(x)[:count, 0] for k, x in measures.items()}
    return np.asarray(images), values

  def row(
    self, params: Params, watch: Callable[..., None] | None = None
  ) -> dict[str, float]:
    """Metrics during training: {"eval/NAME": number}.

    Args:
      params: of the policy.
      watch: called with images [P, G, ...] and strict [P, G].
    """
    by_evaluator, images, strict = self.evaluate(params)
    if watch is not None:
      watch(images, strict)
    return {
      f"eval/{k}": v for k, v in self.evaluators.row(by_evaluator).items()
    }


def make_evaluator(
  config: ConfigDict,
  policy: Policy,
  rewards: dict[str, Reward],
  *,
  samples: int | None = None,
  split: str = "heldout",
  encode: prompt_encoding.Encode | None = None,
  decoder: Params | None = None,
  prompts: Sequence[Prompt] | None = None,
) -> Evaluator:
  """The evaluator that `config.eval` describes, on the held-out prompts.

  Args:
    config: of the run.
    policy: takes the parameters that are evaluated.
    rewards: reported as well.
    samples: number of images; `config.eval.samples` if None.
    split: of the prompts.
    encode: from `prompt_encoding.make_encode`; a new one if None.
    decoder: parameters of the policy's autoencoder.
    prompts: in place of those of the split.
  """
  if prompts is None:
    prompts = setup.load_prompts(config, split)
  data = evaluation_set(
    setup.make_task(config),
    prompts,
    samples or config.eval.samples,
    config.eval.group,
    config.eval.seed,
    setup.picture_side(policy),
  )
  method = setup.make_steering(config, "eval")
  steer = None
  if method is not None:

    def steer(policy: Policy):
      particles = setup.make_particles(
        config, "eval", method, policy, len(data.prompts), data.group, rewards,
        seed=config.eval.seed, stream="evaluate",
      )  # fmt: skip
      return functools.partial(method.run, particles)

  return Evaluator(
    policy, data, rewards, evaluators.bind(config),
    functools.partial(setup.make_sampler, config, "eval"), config.eval.seed,
    encode or prompt_encoding.make_encode(config, policy, decoder=decoder), decoder,
    functools.partial(setup.start_latents, config, "eval"), steer,
  )  # fmt: skip


def at_scales(
  evaluator: Evaluator,
  params: Params,
  scales: Sequence[float],
  name: str = "policy",
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
  """Results per guidance scale; images and verdicts of the first scale."""
  data = evaluator.data
  logging.info(
    "evaluating the %s on %d images at guidance %s ...",
    name, len(data.prompts) * data.group, ", ".join(f"{s:g}" for s in scales),
  )  # fmt: skip
  results: dict[str, Any] = {}
  first: list[tuple[np.ndarray, np.ndarray]] = []
  for scale in scales:
    result, images, right = evaluator(params, float(scale))
    results[f"guidance_scale={float(scale)}"] = result
    first = first or [(images, right)]
  return results, *first[0]


def save_images(
  path: epath.Path, images: np.ndarray, strict: np.ndarray
) -> None:
  """Writes an evaluation's images (uint8) and verdicts atomically."""
  p, g = images.shape[:2]
  flat = grids.to_uint8(images.reshape(p * g, *images.shape[2:]))
  files.save_arrays(path, images=flat.reshape(images.shape), strict=strict)


def load_images(path: epath.Path) -> tuple[np.ndarray, np.ndarray]:
  """Inverse of `save_images`."""
  with np.load(io.BytesIO(path.read_bytes())) as data:
    return data["images"], data["strict"]


def cards(
  data: EvaluationSet,
  before: np.ndarray,
  strict_before: np.ndarray,
  after: np.ndarray,
  strict_after: np.ndarray,
  per_kind: int = 8,
) -> tuple[list[dict[str, Any]], np.ndarray]:
  """(texts, rows) of the report's images: the first rows of every category.

  The choice does not depend on the images, so the grid is a fair sample.
  """
  rows = card_rows(data, per_kind)
  prompts = [data.prompts[row] for row in rows]
  side = lambda name, images, strict: _sides(
    data.task, prompts, name, images[rows, 0], strict[rows, 0]
  )
  first = side("before", before, strict_before)
  second = side("after", after, strict_after)
  return [a | b for a, b in zip(first, second, strict=True)], rows


def card_rows(data: EvaluationSet, per_kind: int) -> np.ndarray:
  """The first rows of every category."""
  categories = np.array([p.category for p in data.prompts])
  return np.concatenate(
    [np.flatnonzero(categories == k)[:per_kind] for k in np.unique(categories)]
  )


def _sides(
  task: Task,
  prompts: Sequence[Prompt],
  side: str,
  images: np.ndarray,
  strict: np.ndarray,
) -> list[dict[str, Any]]:
  """The texts of one side's images [N, ...], see `grids.make_cards`."""
  describe = task.describe
  lines = describe(to_float(images)) if describe else [""] * len(prompts)
  verdict = lambda x: bool(x) if np.isfinite(x) else None
  return [
    {
      "prompt": prompt.text,
      "kind": task.categories[int(prompt.category)],
      f"seen_{side}": line,
      f"ok_{side}": verdict(value),
    }
    for prompt, line, value in zip(prompts, lines, strict, strict=True)
  ]


def save_strips(
  workdir: epath.Path,
  before: tuple[Evaluator, Params],
  after: tuple[Evaluator, Params],
  guidance_scale: float,
) -> list[dict[str, Any]]:
  """Draws each of a few sources under several prompts, for the report.

  Both sides have the same noise. The images are written to grids/strips.npz.

  Args:
    workdir: of the run.
    before: an evaluator and its parameters.
    after: the same after training.
    guidance_scale: of both.

  Returns:
    {row, prompt, before, after} of every image: whether the task's `strip_measure`
    holds, None where it is not known. Empty if the task has no strips, or an
    evaluation has fewer rows than one of them.
  """
  data = before[0].data
  rows = data.task.strips(STRIPS) if data.task.strips else ()
  rows = rows[: len(data.prompts) // len(rows[0])] if rows else ()
  if not rows:
    return []
  prompts = [prompt for row in rows for prompt in row]
  count, source = len(prompts), data.batch.source
  side = 0 if source is None else np.shape(source)[1:3]
  batch = data.task.batch(prompts, len(data.prompts), side)
  images, texts = [], []
  for name, (evaluator, params) in (("before", before), ("after", after)):
    samples_drawn, measures = evaluator.first_of(
      params, batch, count, guidance_scale
    )
    images.append(samples_drawn)
    strict = measures[data.task.strip_measure]
    texts.append(_sides(data.task, prompts, name, samples_drawn, strict))
  cards = [
    a | b | {"kind": i // len(rows[0])}
    for i, (a, b) in enumerate(zip(*texts, strict=True))
  ]
  path = workdir / "grids" / grids.STRIPS
  source = None if batch.source is None else batch.source[:count]
  first, second = images
  grids.save_cards(path, first, second, cards, {"source": source})
  return [
    {
      "row": card["kind"],
      "prompt": card["prompt"],
      "before": card["ok_before"],
      "after": card["ok_after"],
    }
    for card in cards
  ]


@dataclasses.dataclass(frozen=True)
class Watch:
  """Keeps validation images of the first and of the newest evaluation.

  They are in grids/validation.npz, which the report shows while a job runs.

  Attributes:
    workdir: of the run.
    data: of the evaluator.
    frames: of a video, whose images are strips of them.
  """

  workdir: epath.Path
  data: EvaluationSet
  frames: int = 1

  def __call__(self, n: int, images: np.ndarray, strict: np.ndarray) -> None:
    """Writes the images of step n [P, G, ...] and their verdicts [P, G]."""
    if not processes.is_first():
      return
    path = self.workdir / "grids" / grids.VALIDATION
    rows = card_rows(self.data, WATCHED)
    prompts = [self.data.prompts[row] for row in rows]
    side = lambda name: _sides(
      self.data.task, prompts, name, images[rows, 0], strict[rows, 0]
    )
    texts = side("after")
    after = grids.to_uint8(images[rows, 0])
    before = after
    if n and path.exists():
      cards = grids.load_cards(path)
      before, first = cards.before, cards.texts
    else:
      first = side("before")
    beside = {name: getattr(self.data.batch, name) for name in grids.BESIDE}
    grids.save_cards(
      path, before, after, [a | b for a, b in zip(first, texts, strict=True)],
      {k: None if x is None else x[rows] for k, x in beside.items()},
      self.frames,
    )  # fmt: skip


def to_float(images: np.ndarray) -> np.ndarray:
  """uint8 images as float32 in [0, 1]; floats unchanged."""
  images = np.asarray(images)
  return images / np.float32(255) if images.dtype == np.uint8 else images


def merge(workdir: epath.Path, entries: dict[str, Any]) -> dict[str, Any]:
  """Adds entries to evaluation.json and returns all of it."""
  path = workdir / EVALUATION_FILE
  evaluation = workdirs.read_record(path) | entries
  tables.write_json(path, evaluation)
  return evaluation


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  if config.eval.preferences:
    judging.check(config)
    return
  if benchmarks.is_asked(config):
    benchmarks.check(config)
    if benchmarks.POLICY not in benchmarks.sides(config):
      return
  policy = setup.make_policy(config)
  prompt_encoding.bind(config, policy)
  adapters.check(config, policy)
  setup.step_table(config, "eval")
  setup.make_steering(config, "eval")
  evaluators.bind(config)
  reward_setup.bind(config)
  if config.job != "pipeline":
    return
  before = config.jobs[: config.jobs.index("evaluate")]
  writers = ("align", "finetune", "pretrain")
  if config.eval.checkpoint == setup.OWN_POLICY and not (
    set(writers) & set(before)
  ):
    raise UserError(
      f"config.eval.checkpoint={setup.OWN_POLICY}: no job before evaluate in"
      f" config.jobs={','.join(config.jobs)} writes a policy"
      f" ({' or '.join(writers)}); add one, or name a file"
    )


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  if config.eval.preferences:
    return [*judging.data(config), *data_checks.of_rewards(config, workdir)]
  if benchmarks.is_asked(config):
    if benchmarks.POLICY in benchmarks.sides(config):
      spec = config.eval.checkpoint
      data_checks.require_weights(config, spec, "eval.checkpoint")
    rows = data_checks.of_rewards(config, workdir)
    return [*benchmarks.data(config), *rows]
  spec = config.eval.checkpoint
  data_checks.require_weights(config, spec, "eval.checkpoint")
  return [
    *data_checks.of_prompts(config, "heldout"),
    *data_checks.of_rewards(config, workdir),
  ]


def base_kl(
  config: ConfigDict,
  policy: Policy,
  plain: Policy,
  data: EvaluationSet,
  encode: prompt_encoding.Encode,
):
  """Jitted (parameters, base) -> path KL in nats, without guidance.

  Under Flow-SDE with the schedule of the evaluation, on some of its prompts;
  see `path_kl`.
  """
  schedule, count = setup.make_schedule(config), config.eval.num_steps
  table = steppers.flow_sde(schedule.times(count))
  table = dataclasses.replace(table, network_t=schedule.network_times(count))
  rows = np.linspace(0, len(data.prompts) - 1, KL_SAMPLES).astype(int)
  batch = encode(jax.tree.map(lambda x: np.asarray(x)[rows], data.batch))
  key = rng.stream_key(config.eval.seed, "path_kl")
  run = jax.jit(
    lambda p, r, prompts: path_kl(
      policy,
      p,
      plain,
      r,
      key,
      prompts,
      table,
      KL_MEMBERS,
      config.eval.microbatch,
    )
  )
  return lambda params, base: run(params, base, batch)


def add_kl(results: dict[str, dict[str, Any]], kl: float) -> None:
  """Adds the KL to the unguided results, or to the first ones."""
  plain = "guidance_scale=1.0"
  results[plain if plain in results else next(iter(results))]["kl"] = kl


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Evaluates `config.eval.checkpoint` and writes evaluation.json.

  If it is not `config.init.checkpoint`, its KL to that checkpoint is reported too.
  """
  if config.eval.preferences:
    results = judging.run(config, workdir)
    evaluation = merge(workdir, {"judged": results})
    logging.info("\n%s", tables.aligned(tables.judged_rows(evaluation)))
    judging.require_gate(config, results)
    return
  if benchmarks.is_asked(config):
    _on_benchmark(config, workdir)
    return
  policy = setup.make_policy(config)
  params = setup.load_params(
    config, policy, workdir=workdir,
    spec=config.eval.checkpoint, field="eval.checkpoint",
  )  # fmt: skip
  mesh = setup.make_mesh(config)
  rewards = reward_setup.load(config, workdir, mesh=mesh)
  place = lambda tree: setup.put(
    tree, setup.shapes(tree, policy.sharding_rules, mesh)
  )
  decoder = setup.put_decoder(config, policy, mesh)
  encode = prompt_encoding.make_encode(config, policy, mesh, decoder)
  evaluator = make_evaluator(
    config, policy, rewards, encode=encode, decoder=decoder
  )
  with jax.set_mesh(mesh):
    params = place(params)
    results, _, _ = at_scales(evaluator, params, config.eval.guidance_scales)
    if config.eval.checkpoint not in ("", config.init.checkpoint):
      base = place(setup.load_params(config, policy))
      kl = base_kl(config, policy, policy, evaluator.data, encode)
      add_kl(results, float(kl(params, base)))
  evaluation = merge(workdir, {"policy": results})
  logging.info("\n%s", tables.evaluation_table(evaluation))


def _on_benchmark(config: ConfigDict, workdir: epath.Path) -> None:
  """Judges images of a benchmark, those of the policy drawn first."""
  mesh = setup.make_mesh(config)
  with jax.set_mesh(mesh):
    draw = None
    if benchmarks.POLICY in benchmarks.sides(config):
      draw = _drawer(config, workdir, mesh)
    results = benchmarks.run(config, workdir, draw)
  evaluation = merge(workdir, {"benchmark": results})
  rows = tables.benchmark_rows(evaluation)
  logging.info("\n%s", tables.aligned(rows))


def _drawer(config: ConfigDict, workdir: epath.Path, mesh) -> benchmarks.Draw:
  """`rows_at_once` prompts and their ids -> images [P, G, H, W, 3] in [0, 1]."""
  policy, section = setup.make_policy(config), config.eval.benchmark
  params = setup.load_params(
    config, policy, workdir=workdir,
    spec=config.eval.checkpoint, field="eval.checkpoint",
  )  # fmt: skip
  params = setup.put(params, setup.shapes(params, policy.sharding_rules, mesh))
  decoder = setup.put_decoder(config, policy, mesh)
  encode = prompt_encoding.make_encode(config, policy, mesh, decoder)
  task = tasks.get(config.data.grammar, section.prompts)
  scale = float(config.eval.guidance_scales[0])

  @jax.jit
  def run(params, batch, decoder):
    sampler = setup.make_sampler(
      config, "eval", policy, section.rows_at_once, section.group, scale
    )
    key = rng.stream_key(config.eval.seed, "benchmark")
    trajectory = sampler.sample(params, key, batch.words, batch.ids)
    return jnp.clip(sampler.pixels(trajectory.latents[-1], decoder), 0, 1)

  def draw(prompts: Sequence[Prompt], ids: np.ndarray) -> np.ndarray:
    batch = dataclasses.replace(task.batch(prompts), ids=ids)
    images = processes.fetch(run(params, encode(batch), decoder))
    return np.asarray(images)[: len(prompts)]

  return draw
