"""Training state on disk: asynchronous, atomic, verified. Wraps Orbax v1.

One directory holds the steps of one job. A step is written to a temporary
folder and renamed when complete (in a bucket, marked as complete), so a killed
process leaves only complete steps. Later damage is detected by digests, and the
step before is used.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from jaxreward import buckets, files, paths, processes
from jaxreward.errors import UserError, one_line
from jaxreward.types import Params

Extras = dict[str, Any]
_SCORE = "score"
_SCORES = "metrics"  # a folder of a step, and its one file
_COMMITTED = "commit_success.txt"  # written last, in a bucket
_SLICE = 2**22  # bytes
_policies = ocp.training.preservation_policies


def _weighted_bits(
  block: np.ndarray, starts: tuple[int, ...], shape: tuple[int, ...]
) -> int:
  """Sum over a block of element bits times (2 * global position + 1)."""
  bits = np.asarray(block, order="C").view(f"u{block.dtype.itemsize}")
  position = np.zeros((1,) * block.ndim, np.uint64)
  stride = 1
  for axis in reversed(range(block.ndim)):
    index = np.arange(block.shape[axis], dtype=np.uint64) + starts[axis]
    index = index * np.uint64(stride)
    position = position + index.reshape(
      [-1 if a == axis else 1 for a in range(block.ndim)]
    )
    stride *= shape[axis]
  position *= np.uint64(2)
  position += np.uint64(1)
  return int(np.sum(position * bits, dtype=np.uint64))


def _leaf_digest(leaf: Any) -> int:
  if not isinstance(leaf, jax.Array):
    return _weighted_bits(leaf, (0,) * leaf.ndim, leaf.shape)
  total = 0
  for shard in leaf.addressable_shards:
    if shard.replica_id == 0:
      starts = tuple(s.start or 0 for s in shard.index)
      total += _weighted_bits(np.asarray(shard.data), starts, leaf.shape)
  return total % 2**64


def _over_processes(local: list[int]) -> list[int]:
  """Sums over all processes, modulo 2^64, of their shards' digests."""
  parts = processes.gather(np.array(local, np.uint64).view(np.uint32))
  total: Any = np.sum(parts.view(np.uint64), 0, dtype=np.uint64)
  return total.tolist()


def digests(tree: Params) -> dict[str, str]:
  r"""A digest per leaf that any single changed, moved or lost element changes.

  $\sum_i (2 i + 1) \, bits(x_i) \bmod 2^{64}$ over the global positions i: the
  multipliers are odd, hence invertible, and a sum over shards is the same on
  every mesh.

  Args:
    tree: pytree of arrays, global ones in runs of several processes, where
      every process has to call this.

  Returns:
    Leaf path -> type and 16 hexadecimal digits, as in "int32:0...03".
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  sums = _over_processes([_leaf_digest(leaf) for _, leaf in leaves])
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{np.dtype(leaf.dtype).name}:{number:016x}"
    )
    for (path, leaf), number in zip(leaves, sums, strict=True)
  }


def _in_large_slices() -> ocp.Context:
  """Replicas share the writing of large arrays alone.

  Every slice of theirs is a program to compile, some hundred for a small model.
  """
  context = ocp.Context()
  context.array.saving.min_slice_bytes_for_replica_parallel = _SLICE
  return context


class Checkpoints:
  """The steps of one job.

  Args:
    directory: made if absent.
    keep: how many of the newest steps are kept, besides the best one.
  """

  def __init__(self, directory: os.PathLike[str] | str, keep: int = 2):
    if not buckets.is_bucket(directory):
      directory = os.path.abspath(directory)
    paths.require_plain(directory, "checkpoints")
    self.directory = epath.Path(directory)
    best = _policies.BestN(
      get_metric_fn=lambda found: found[_SCORE],
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    self._policy: Any = _policies.AnyPreservationPolicy(
      [_policies.LatestN(n=max(keep, 1)), best]
    )
    self._pending: Any = None
    self._opened: ocp.training.Checkpointer | None = None
    self._translated(self._open)

  def _open(self) -> ocp.training.Checkpointer:
    """The Orbax object; discarded after its first failure."""
    if self._opened is None:
      self.directory.mkdir(parents=True, exist_ok=True)
      if processes.is_first():
        self._tidy()
      processes.wait_for_all("checkpoints")
      self._opened = ocp.training.Checkpointer(
        self.directory,
        preservation_policy=self._policy,
        cleanup_tmp_directories=True,
      )
    return self._opened

  def _tidy(self) -> None:
    """Reports half-written steps, and moves unreadable scores aside."""
    steps = self.steps()
    for path in self.directory.iterdir():
      if path.is_dir() and not (
        _is_step(path.name) and int(path.name) in steps
      ):
        logging.warning("checkpoint %s was not finished; it is left out", path)
    for step in steps:
      folder = self.directory / str(step) / _SCORES
      try:
        if folder.exists():
          json.loads((folder / _SCORES).read_bytes())
      except (OSError, ValueError, RecursionError) as error:
        logging.warning(
          "the score of checkpoint %d cannot be read: %s", step, one_line(error)
        )
        self._rename_aside(folder, f"{step}.{_SCORES}")

  def _discard(self) -> None:
    reader, self._opened = self._opened, None
    if reader is not None:
      with contextlib.suppress(Exception):  # it repeats the reported error
        reader.close()

  def _translated(self, action: Callable[[], Any]) -> Any:
    """Runs an action; disk errors become one line."""
    try:
      return action()
    except Exception as error:
      self._discard()
      reason = _disk_reason(error)
      if reason is None:
        raise
      raise UserError(
        f"cannot write checkpoints to {self.directory}: {reason}; "
        f"whole steps there: {self.steps() or 'none'}"
      ) from error

  def steps(self) -> list[int]:
    """Complete steps, oldest first."""
    if not self.directory.exists():
      return []
    folders = [p for p in self.directory.iterdir() if _is_step(p.name)]
    if buckets.is_bucket(self.directory):
      folders = [p for p in folders if (p / _COMMITTED).exists()]
    return sorted(int(p.name) for p in folders)

  def best(self) -> tuple[float, int] | None:
    """(score, step) of the best step; None if no step has a score."""
    self.wait()
    reader = self._open()  # a barrier: all processes call it

    def read() -> tuple[float, int] | None:
      checkpoints: Any = reader.checkpoints
      scores = [(s.metrics[_SCORE], s.step) for s in checkpoints if s.metrics]
      return max(scores, default=None)

    return processes.on_first(read)

  def save(
    self,
    step: int,
    state: Params,
    extras: Extras,
    *,
    score: float | None = None,
    wait: bool = False,
  ) -> None:
    """Starts saving a step, after the previous save has finished.

    Args:
      step: number of finished steps; an existing step is not overwritten.
      state: pytree of arrays; copied before this returns, so the caller may
        donate it.
      extras: JSON values, such as the state of the data iterator.
      score: finite, higher is better; the best step is kept.
      wait: return when the step is on disk.

    Raises:
      UserError: this save or the previous one failed for lack of space or
        permission; existing steps are kept.
    """
    self.wait()
    if step not in processes.on_first(self.steps):
      extras = json.loads(json.dumps(extras))
      record: Any = {"extras": extras, "digests": digests(state)}

      def start() -> Any:
        with _in_large_slices():
          return self._open().save_checkpointables_async(
            step,
            {"state": state},
            force=True,
            metrics=None if score is None else {_SCORE: float(score)},
            custom_metadata=record,
          )

      self._pending = self._translated(start)
    if wait:
      self.wait()

  def wait(self) -> None:
    """Blocks until the last save is on disk, or raises its error."""
    pending, self._pending = self._pending, None
    if pending is not None:
      self._translated(pending.result)

  def restore_latest(
    self, abstract_state: Params
  ) -> tuple[int, Params, Extras] | None:
    """The newest complete step, with the requested shardings.

    Unreadable steps and steps whose digests differ are reported and moved to
    `<directory>.damaged/` once an older one has been restored.

    Args:
      abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      (step, state, extras), or None if nothing was ever saved.

    Raises:
      UserError: there are steps, but none can be restored.
    """
    self.wait()
    damaged = []
    for step in reversed(processes.on_first(self.steps)):
      try:
        state, extras = self._restore(step, abstract_state)
      except Exception as error:  # whatever a damaged file makes Orbax raise
        if processes.as_loss(error):
          raise
        logging.warning(
          "checkpoint %s cannot be restored: %s",
          self.directory / str(step),
          one_line(error),
        )
        damaged.append((step, error))
        continue
      self._move_aside([step for step, _ in damaged])
      return step, state, extras
    if damaged:
      step, error = damaged[0]
      raise UserError(
        f"none of the checkpoints in {self.directory} can be restored "
        f"(step {step}: {one_line(error)}); move them away to start afresh"
      ) from error
    return None

  def restore(self, step: int, abstract_state: Params) -> Params:
    """The state of one step, with the requested shardings.

    Raises:
      UserError: it cannot be read, or has changed since it was saved.
    """
    self.wait()
    try:
      return self._restore(step, abstract_state)[0]
    except Exception as error:  # whatever a damaged file makes Orbax raise
      if processes.as_loss(error):
        raise
      raise UserError(
        f"checkpoint {self.directory / str(step)} cannot be restored:"
        f" {one_line(error)}"
      ) from error

  def _restore(
    self, step: int, abstract_state: Params
  ) -> tuple[Params, Extras]:
    path = self.directory / str(step)

    def load() -> tuple[Params, dict[str, Any]]:
      # Each process on its own: a failure leaves no other one waiting.
      context = ocp.Context()
      context.multiprocessing.primary_host = processes.index()
      context.multiprocessing.active_processes = {processes.index()}
      with context:
        metadata: Any = ocp.checkpointables_metadata(path)
        tree = ocp.load_checkpointables(path, {"state": abstract_state})
      return tree["state"], metadata.custom_metadata

    state, record = processes.on_all(load)
    mismatches = [
      name
      for name, digest in digests(state).items()
      if record["digests"].get(name) != digest
    ]
    if mismatches:
      raise ValueError(
        f"the content of {mismatches[0]} has changed since the save"
      )
    return state, record["extras"]

  def _move_aside(self, steps: list[int]) -> None:
    if not steps:
      return
    self._discard()
    if processes.is_first():
      for step in steps:
        self._rename_aside(self.directory / str(step), str(step))
    processes.wait_for_all("damaged checkpoints")

  def _rename_aside(self, folder: epath.Path, name: str) -> None:
    aside = self.directory.parent / f"{self.directory.name}.damaged"
    aside.mkdir(parents=True, exist_ok=True)
    target = aside / name
    if target.exists():
      target.rmtree()
    files.move_folder(folder, target)
    logging.warning("moved %s to %s", folder, target)

  def close(self) -> None:
    """Waits for the last save and ends the background threads."""
    try:
      self.wait()
    finally:
      self._discard()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def _is_step(name: str) -> bool:
  return name.isascii() and name.isdigit() and len(name) < 20


def _disk_reason(error: BaseException) -> str | None:
  """The reason for a disk error, or None if the error has another cause."""
  reasons = {
    "no space left": "the disk is full",
    "disk quota": "the disk quota is used up",
    "file too large": "the file is larger than this system allows",
    "permission denied": "permission denied",
    "read-only file system": "the file system is read-only",
  }
  errnos = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
  }
  cause: BaseException | None = error
  while cause is not None:
    for word, reason in reasons.items():
      if word in str(cause).lower():
        return reason
    if isinstance(cause, OSError) and cause.errno in errnos:
      return cause.strerror
    cause = cause.__cause__ or cause.__context__
  return None
