"""Runs of several processes: discovery, synchronization, shutdown.

Every process runs the same program on its own devices. Arrays span all of
them; decisions outside arrays are made by process 0 and broadcast, so that no
process waits for one that took another branch. All processes read files, each
reads its share of the images, and process 0 writes.

A lost process ends the others: at their next exchange, or when its heartbeats
time out. In that case the runtime aborts them without a message, and a watchdog,
a small child process, prints the line.

JAX is imported lazily: command lines are checked without it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from jaxreward import compat
from jaxreward.errors import Lost, UserError, one_line, text_of

T = TypeVar("T")
ADDRESS, COUNT, INDEX = (
  f"JAX_{name}"
  for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
)
_PARTING = 10.0  # seconds that a failing process waits for the others
_PATIENT = 2**31 - 1  # ms; a lost process ends the wait earlier
_WATCHDOG = """
import sys
if not sys.stdin.read():
  sys.stderr.write(sys.argv[1])
"""
_SIGNS = ("gloo", "coordinationservice", "coordination service", "heartbeat",
          "unavailable:", "deadline_exceeded:")  # fmt: skip
_watchdog: subprocess.Popen | None = None
_count, _index = 1, 0
_rounds = 0


def start(
  *, detect: bool = False, patience: int = 300, heartbeat: int = 100
) -> None:
  """Joins the other processes, if any; call before creating any array.

  They are found by JAX_COORDINATOR_ADDRESS (host:port of process 0),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment, or by the
  cluster's environment.

  Args:
    detect: ask the cluster: Cloud TPU, GKE, SLURM or Open MPI.
    patience: seconds to wait for all of them.
    heartbeat: seconds without a sign after which a process counts as lost.

  Raises:
    UserError: the environment names a part of them, or no cluster is there.
    Lost: not all of them came.
  """
  arguments = _given()
  if not arguments and not detect:
    return
  import jax

  try:
    jax.distributed.initialize(
      **arguments,
      cluster_detection_method="deactivate" if arguments else None,
      initialization_timeout=patience,
      heartbeat_timeout_seconds=heartbeat,
    )
  except ValueError as error:
    raise UserError(
      f"config.processes.detect=True: no cluster was found ({one_line(error)});"
      f" set {ADDRESS}, {COUNT} and {INDEX} for every process"
    ) from error
  except jax.errors.JaxRuntimeError as error:
    raise Lost(
      f"not all processes came within {patience} s"
      f" (config.processes.patience): {one_line(error)}"
    ) from error
  global _count, _index
  _count, _index = jax.process_count(), jax.process_index()
  if _count > 1:
    _start_watchdog()


def _given() -> dict[str, Any]:
  """The arguments of `jax.distributed` set in the environment."""
  names = {
    "coordinator_address": ADDRESS, "num_processes": COUNT, "process_id": INDEX
  }  # fmt: skip
  arguments = {k: os.environ[v] for k, v in names.items() if os.environ.get(v)}
  if not {"num_processes", "process_id"} & set(arguments):
    return {}
  text = ", ".join(f"{v}={os.environ.get(v, '')}" for v in names.values())
  if len(arguments) < len(names):
    raise UserError(f"{text}: all three are needed, or none")
  try:
    number, index = (
      int(arguments["num_processes"]),
      int(arguments["process_id"]),
    )
  except ValueError:
    number, index = 0, 0
  if not 0 <= index < number:
    raise UserError(f"{text}: expected whole numbers, the id below the count")
  return arguments | {"num_processes": number, "process_id": index}


def _start_watchdog() -> None:
  global _watchdog
  line = (
    f"error: process {index()} of {count()} was ended, by a signal or because"
    " another process was lost; start all of them again with the same command"
    " and they go on from the last checkpoint\n"
  )
  _watchdog = subprocess.Popen(
    [sys.executable, "-S", "-c", _WATCHDOG, line],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )


def _stop_watchdog() -> None:
  global _watchdog
  if _watchdog is not None:
    _watchdog.communicate(b"done")
    _watchdog = None


def finish() -> None:
  """Ends all processes together, once the last has arrived here."""
  if count() > 1:
    import jax

    wait_for_all("finish")
    _stop_watchdog()
    jax.distributed.shutdown()


def leave(code: int) -> None:
  """Ends a failed process, whether or not the others have failed."""
  import jax

  _stop_watchdog()
  if code != os.EX_TEMPFAIL:  # the others are likely to report the same
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(_PARTING)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)  # a normal interpreter exit would wait for the others


def count() -> int:
  """How many processes the run has; touches no device."""
  return _count


def index() -> int:
  """The number of this process."""
  return _index


def is_first() -> bool:
  """Whether this is the process that writes."""
  return _index == 0


def as_loss(error: BaseException) -> Lost | None:
  """The error as `Lost`, if it means that another process is gone."""
  if count() == 1:
    return None
  cause: BaseException | None = error
  while cause is not None:
    # A failed exchange raises either a ValueError or a JaxRuntimeError.
    is_exchange = isinstance(cause, ValueError | RuntimeError)
    if is_exchange and any(sign in text_of(cause).lower() for sign in _SIGNS):
      return Lost(
        f"process {index()} of {count()} lost another one"
        f" ({one_line(cause)[:120]}); start all of them again with the same"
        " command and they go on from the last checkpoint"
      )
    cause = cause.__cause__ or cause.__context__
  return None


def wait_for_all(name: str) -> None:
  """Returns once every process has come to the point of this name."""
  if count() > 1:
    compat.multihost_utils.sync_global_devices(name)


def on_first(action: Callable[[], T]) -> T:
  """Runs an action on process 0 and broadcasts its value.

  The action may compute on the local devices of process 0 alone; its value is
  pickled.

  Raises:
    UserError: in every process, what the action raised in process 0.
  """
  if count() == 1:
    return action()
  outcome: Any = (None, None)
  if is_first():
    try:
      with _alone():
        outcome = (action(), None)
    except UserError as error:
      outcome = (None, UserError(str(error)))
  data = np.frombuffer(pickle.dumps(outcome), np.uint8)
  broadcast = compat.multihost_utils.broadcast_one_to_all
  size = int(broadcast(np.int32(len(data))))
  data = data if is_first() else np.zeros(size, np.uint8)
  value, error = pickle.loads(np.asarray(broadcast(data)).tobytes())
  if error is not None:
    raise error
  return value


def on_all(action: Callable[[], T]) -> T:
  """Runs an action on every process; each gets its own value.

  Raises:
    Exception: in every process, if the action raised in one.
  """
  value, error = None, None
  try:
    value = action()
  except Exception as caught:
    error = caught
  if "failed" in tell("failed" if error else "done"):
    raise error or UserError("another process has failed and says why")
  return value  # pyrefly: ignore


def _alone():
  """A mesh of one device of this process instead of the one in use."""
  import jax

  return jax.set_mesh(
    jax.make_mesh((1,), ("alone",), devices=jax.local_devices()[:1])
  )


def tell(word: str) -> list[str]:
  """The words of all processes, in order; involves no device.

  Every process has to call it, and none of them from another thread.
  """
  if count() == 1:
    return [word]
  global _rounds
  _rounds += 1
  store = compat.key_value_store()
  name = "jaxreward/{}/{}".format
  store.key_value_set(name(_rounds, index()), word)
  answers = [
    store.blocking_key_value_get(name(_rounds, i), _PATIENT)
    for i in range(count())
  ]
  if _rounds > 1:  # this round implies that all have read the last one
    store.key_value_delete(name(_rounds - 1, index()))
  return answers


def gather(value: np.ndarray) -> np.ndarray:
  """The arrays of all processes, [count, ...]; all of one shape and type."""
  if count() == 1:
    return np.asarray(value)[None]
  return np.asarray(compat.multihost_utils.process_allgather(value))


def fetch(tree: Any) -> Any:
  """Full arrays as NumPy in every process, however they are sharded.

  Every process has to call it, with the same tree.
  """
  import jax

  def whole(x):
    if isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    ):
      return compat.multihost_utils.process_allgather(x, tiled=True)
    return x

  return jax.device_get(jax.tree.map(whole, tree))


def platform() -> str:
  """The target platform of what is being traced: "cpu", "gpu" or "tpu".

  That of the current mesh, so that a program compiled for absent devices gets
  their kernels; else JAX's default backend.
  """
  import jax

  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return jax.default_backend() if device is None else device.platform
