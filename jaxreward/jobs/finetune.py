"""Fine-tunes a policy on a user's images or videos with captions.

    dataset -> shapes of batches -> frozen encoders, once -> flow matching

The loop is that of the job pretrain; what learns (adapters, some parameters or all
of them), times and objective are those of `align` on `data.dataset`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import processes, setup
from jaxreward.data import aspect_buckets, dataset_images, pipeline
from jaxreward.data.encoding_cache import EncodingCache
from jaxreward.data.image_checks import PictureRow
from jaxreward.data.pictures import Files
from jaxreward.data.preference_stream import Batches
from jaxreward.data.prompts import Prompt
from jaxreward.data.rows import Record
from jaxreward.errors import UserError, shown
from jaxreward.jobs import evaluate, export, pretrain
from jaxreward.setup import (
  adapters,
  data_checks,
  evaluators,
  fine_tuning,
  offline,
  prompt_encoding,
  task_dataset,
  videos,
)
from jaxreward.setup.encodings import Encoders, Encodings
from jaxreward.training import optimizer
from jaxreward.types import Params, Policy


def check(config: ConfigDict) -> None:
  """Validates the config without allocating arrays."""
  if not config.data.dataset:
    raise UserError(
      "config.data.dataset is empty: name a folder or a file of images with"
      " captions (docs/finetune.md)"
    )
  policy = setup.make_policy(config)
  fine_tuning.bind_loss(config)
  fine_tuning.parts(config.finetune.batch_size, config.finetune.microbatch)
  offline.bind_density(config)
  prompt_encoding.bind(config, policy)
  adapters.check(config, policy)
  setup.make_trainable(config, policy)
  setup.step_table(config, "eval")
  evaluators.bind(config)
  fine_tuning.shapes(config, policy)
  optimizer.make_optimizer(
    **config.optimizer.to_dict(), total_steps=config.finetune.steps
  )


def data(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Image rows that the run reads from files; see `jobs.check_data`."""
  del workdir
  data_checks.require_weights(config)
  records = offline.records(config)
  if processes.is_first():
    data_checks.warn_of_long(config, [r.prompt.text for r in records])
  if config.data.source:
    return data_checks.of_prompts(config, "validation", "heldout")
  return []  # `dataset_images.inspect` reads those of the dataset


@dataclasses.dataclass(frozen=True)
class Sides:
  """Rows to learn from and rows to validate on."""

  encodings: Encodings
  learned: np.ndarray
  validation: np.ndarray


def _sides(config, policy, records, encoders, workdir) -> Sides:
  section = config.finetune
  name = shown(config.data.dataset, 60)
  inspection = dataset_images.inspect(records, name, config.data.reading.skip)
  sizes = fine_tuning.shapes(config, policy)
  shape_of = aspect_buckets.nearest(np.maximum(inspection.sizes, 1), sizes)
  shape_of = np.where(inspection.readable, shape_of, -1)
  readable = np.flatnonzero(inspection.readable)
  is_validation = dataset_images.held_out(
    [inspection.digest(i) for i in readable.tolist()], section.validation
  )
  if is_validation.all():
    raise UserError(
      f"config.data.dataset={name}: {len(readable)} images leave none to learn"
      " from; give more, or set config.finetune.validation=0"
    )
  counts = np.bincount(shape_of[readable], minlength=len(sizes))
  logging.info(
    "%d rows, %d of them held out for validation; %s", len(readable),
    is_validation.sum(), ", ".join(f"{n} of {h} x {w}" for n, (h, w) in zip(counts, sizes, strict=True)),
  )  # fmt: skip
  cache = None
  if section.cache != "none":
    cache = EncodingCache(section.cache or workdir / offline.ENCODINGS)
  encodings = Encodings(
    config, policy, records, inspection, sizes, shape_of, encoders, cache
  )
  return Sides(encodings, readable[~is_validation], readable[is_validation])


def prompts_of(records: Sequence[Record], policy: Policy) -> tuple[Prompt, ...]:
  """Captions of rows, with the images that they start from, each once."""

  def prompt_of(record: Record) -> Prompt:
    prompt = dataclasses.replace(record.prompt, split="validation")
    if not policy.takes_source:
      return prompt
    source = [*record.files.values()][-1]
    files = Files(str(source), prompt.text, source, where=record.place)
    return dataclasses.replace(prompt, pictures=files)

  return tuple({p.key: p for p in map(prompt_of, records)}.values())


def _batches(
  sides: Sides, config: ConfigDict, mesh: Any, shifts: Sequence[float]
) -> Callable[[int], Any]:
  """Step -> its batch on the mesh; the rows of a process are read by it."""
  encodings, size = sides.encodings, config.finetune.batch_size
  shape_of = np.full(len(encodings.records), -1)
  shape_of[sides.learned] = encodings.shape_of[sides.learned]
  order: Any = aspect_buckets.batches(
    shape_of, seed=config.seed, batch_size=size
  )
  process = processes.index(), processes.count()
  local = pipeline.process_rows(size, *process)

  def assemble(element):
    number, rows = element
    if encodings.cache is not None:
      batch = encodings.batch(rows[local])
    else:
      batch = jax.tree.map(lambda x: x[local], encodings.batch(rows))
    count = len(batch["weight"])
    shift = np.full(count, shifts[number], np.float32)
    return batch | {"row": np.arange(size)[local], "shift": shift}

  put = pipeline.place_batch(mesh, local=True)
  if encodings.cache is None:
    return lambda n: put(assemble(order[n]))
  ahead = Batches(order.map(assemble))
  return lambda n: put(ahead(n))


def _validation(
  sides: Sides, loss, config: ConfigDict, mesh: Any, shifts: Sequence[float]
) -> Callable[[Params, Any], float]:
  """(parameters, context) -> loss of the held-out rows at fixed noise and times."""
  encodings, size = sides.encodings, config.finetune.batch_size
  put = pipeline.place_batch(mesh)
  parts: list[tuple[int, np.ndarray]] = []
  for number in range(len(encodings.shapes)):
    rows = sides.validation[encodings.shape_of[sides.validation] == number]
    parts += [(number, rows[i : i + size]) for i in range(0, len(rows), size)]

  def batch(number: int, rows: np.ndarray):
    padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
    return encodings.batch(padded) | {
      "row": padded,
      "shift": np.full(size, shifts[number], np.float32),
      "mask": np.arange(size) < len(rows),
    }

  run = jax.jit(loss)

  def validate(params: Params, context: Any) -> float:
    totals = [
      processes.fetch(run(params, put(batch(*part)), context)) for part in parts
    ]
    total, weight = (
      sum(float(getattr(x, name)) for x in totals)
      for name in ("total", "weight")
    )
    return total / weight

  return validate if parts else (lambda params, context: float("nan"))


def run(config: ConfigDict, workdir: epath.Path) -> None:
  """Fine-tunes `config.init.checkpoint`; writes policy.safetensors and export/."""
  check(config)
  section, mesh = config.finetune, setup.make_mesh(config)
  pretrain.require_batch("finetune.batch_size", section.batch_size, mesh)
  parts = fine_tuning.parts(section.batch_size, section.microbatch)
  pretrain.require_batch(
    "finetune.microbatch", section.batch_size // parts, mesh
  )
  policy = setup.make_policy(config)
  config = task_dataset.write(config, policy, workdir)
  records = offline.records(config)
  trainable = setup.make_trainable(config, policy)
  with jax.set_mesh(mesh):
    decoder = setup.put_decoder(config, policy, mesh)
    encoders = Encoders(config, policy, mesh, decoder)
    sides = _sides(config, policy, records, encoders, workdir)
    sides.encodings.fill()
    frames = config.video.frames if videos.is_video(policy) else 1
    prompts = prompts_of([records[i] for i in sides.validation], policy)
    prompts = prompts or prompts_of([records[i] for i in sides.learned], policy)
    encode = prompt_encoding.make_encode(
      config, policy, mesh, decoder, lambda: encoders.text
    )

    def evaluator(policy, split, samples):
      plain = evaluate.make_evaluator(
        config, policy, {}, samples=samples, split=split, encode=encode,
        decoder=decoder, prompts=None if config.data.source else prompts,
      )  # fmt: skip
      batch = encode(plain.data.batch)  # once; the encoders may go then
      return dataclasses.replace(plain, encode=lambda _: batch)

    quick = evaluator(trainable.policy, "validation", config.eval.quick_samples)
    last = evaluator(policy, "heldout", config.eval.samples)
    empty = sides.encodings.empty
    if sides.encodings.cache is not None:
      encoders.release()
    del encode

    base = setup.load_params(config, policy)
    placed = setup.shapes(base, policy.sharding_rules, mesh)
    loaded = [setup.put(base, placed)]
    base = None if trainable.is_whole else loaded[0]

    def load() -> Params:
      start = adapters.start(config, policy, trainable.init)
      return jax.jit(trainable.init)(loaded.pop()) if start is None else start

    put = pipeline.place_batch(mesh, replicated=True)
    context = {"base": base, "empty": None if empty is None else put(empty)}
    shifts = fine_tuning.shifts(config, policy, sides.encodings.shapes)
    loss = fine_tuning.Loss.of(config, trainable)
    validate = _validation(
      sides, loss.validation(section.times), config, mesh, shifts
    )
    sampled = pretrain.watched(quick, workdir, frames)

    def results_of(params: Params) -> dict[str, Any]:
      params = jax.tree.map(jnp.asarray, params)
      return evaluate.at_scales(last, params, config.eval.guidance_scales)[0]

    subject = pretrain.Subject(
      load=load,
      sharding_rules=trainable.policy.sharding_rules,
      loss=loss,
      quick=lambda p, n: (
        {"eval/loss": validate(p, context)}
        | sampled(trainable.merge(p, base), n)
      ),
      final=results_of,
      context=context,
      export=lambda p: trainable.export(p, base),
    )
    state = pretrain.fit(
      config, workdir, mesh, subject,
      _batches(sides, config, mesh, shifts),
      part="policy", job="finetune", parts=parts,
    )  # fmt: skip
    trained = processes.fetch(state.averaged)
  if processes.is_first():
    export.write_whole(
      config, policy, workdir / "export" / "final", trained, section.steps,
      workdir,
    )  # fmt: skip
