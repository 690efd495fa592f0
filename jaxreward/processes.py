"""Several processes of one run: found, kept in step, ended together.

Every process runs the same program on its own devices. Arrays span all of
them; what lies outside arrays is decided by process 0 and told to the others,
so that none of them waits for one that went another way. Files are read by
all, pictures by one of them each, and written by process 0.

A process that is lost ends the others: at their next exchange, or when its
heartbeats have stayed away, in which case the runtime ends them without a word
and a witness, a small child process, says the line.

JAX is imported where it is needed: command lines are checked without it.
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

from jaxreward.errors import Lost, UserError, one_line, text_of

T = TypeVar("T")
ADDRESS, COUNT, INDEX = (
  f"JAX_{name}"
  for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
)
_PARTING = 10.0  # seconds that a process that fails waits for the others
_PATIENT = 2**31 - 1  # ms; a process that is lost ends the wait before
_WITNESS = """
import sys
if not sys.stdin.read():
  sys.stderr.write(sys.argv[1])
"""
_SIGNS = ("gloo", "coordinationservice", "coordination service", "heartbeat",
          "unavailable:", "deadline_exceeded:")  # fmt: skip
_witness: subprocess.Popen | None = None
_count, _index = 1, 0
_rounds = 0


def start(
  *, detect: bool = False, patience: int = 300, heartbeat: int = 100
) -> None:
  """Joins the other processes, if there are any; before any array.

  They are found by JAX_COORDINATOR_ADDRESS (host:port of process 0),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment, or by what the
  cluster says.

  Args:
    detect: ask the cluster: Cloud TPU, GKE, SLURM or Open MPI.
    patience: seconds to wait for all of them.
    heartbeat: seconds without a sign after which a process counts as lost.

  Raises:
    UserError: the environment names a part of them, or no cluster is there.
    Lost: not all of them came.
  """
  given = _given()
  if not given and not detect:
    return
  import jax

  try:
    jax.distributed.initialize(
      **given,
      cluster_detection_method="deactivate" if given else None,
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
    _post_witness()


def _given() -> dict[str, Any]:
  """What the environment says, as arguments of `jax.distributed`."""
  names = {
    "coordinator_address": ADDRESS, "num_processes": COUNT, "process_id": INDEX
  }  # fmt: skip
  found = {k: os.environ[v] for k, v in names.items() if os.environ.get(v)}
  if not {"num_processes", "process_id"} & set(found):
    return {}
  shown = ", ".join(f"{v}={os.environ.get(v, '')}" for v in names.values())
  if len(found) < len(names):
    raise UserError(f"{shown}: all three are needed, or none")
  try:
    number, index = int(found["num_processes"]), int(found["process_id"])
  except ValueError:
    number, index = 0, 0
  if not 0 <= index < number:
    raise UserError(f"{shown}: expected whole numbers, the id below the count")
  return found | {"num_processes": number, "process_id": index}


def _post_witness() -> None:
  global _witness
  line = (
    f"error: process {index()} of {count()} was ended, by a signal or because"
    " another process was lost; start all of them again with the same command"
    " and they go on from the last checkpoint\n"
  )
  _witness = subprocess.Popen(
    [sys.executable, "-S", "-c", _WITNESS, line],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )


def _dismiss_witness() -> None:
  global _witness
  if _witness is not None:
    _witness.communicate(b"told")
    _witness = None


def finish() -> None:
  """Ends all processes together, each once the last of them has come here."""
  if count() > 1:
    import jax

    wait_for_all("finish")
    _dismiss_witness()
    jax.distributed.shutdown()


def leave(code: int) -> None:
  """Ends a process that has failed, whether the others have or not."""
  import jax

  _dismiss_witness()
  if code != os.EX_TEMPFAIL:  # the others may be about to say the same
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(_PARTING)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)  # the interpreter's own end would wait for those left


def count() -> int:
  """How many processes the run has; asks no device."""
  return _count


def index() -> int:
  """The number of this process."""
  return _index


def is_first() -> bool:
  """Whether this is the process that writes."""
  return _index == 0


def as_loss(error: BaseException) -> Lost | None:
  """The error told in words, if it says that another process is gone."""
  if count() == 1:
    return None
  seen: BaseException | None = error
  while seen is not None:
    # A failed exchange is a ValueError or a JaxRuntimeError, as it happens.
    told = isinstance(seen, ValueError | RuntimeError)
    if told and any(sign in text_of(seen).lower() for sign in _SIGNS):
      return Lost(
        f"process {index()} of {count()} lost another one"
        f" ({one_line(seen)[:120]}); start all of them again with the same"
        " command and they go on from the last checkpoint"
      )
    seen = seen.__cause__ or seen.__context__
  return None


def _exchange():
  from jax.experimental import multihost_utils

  return multihost_utils


def wait_for_all(name: str) -> None:
  """Returns once every process has come to the point of this name."""
  if count() > 1:
    _exchange().sync_global_devices(name)


def on_first(action: Callable[[], T]) -> T:
  """What process 0 gets from an action, in every process.

  The action may compute, on this process's devices alone; its value is
  pickled on the way to the others.

  Raises:
    UserError: in every process, what the action raised in process 0.
  """
  if count() == 1:
    return action()
  told: Any = (None, None)
  if is_first():
    try:
      with _alone():
        told = (action(), None)
    except UserError as error:
      told = (None, UserError(str(error)))
  data = np.frombuffer(pickle.dumps(told), np.uint8)
  broadcast = _exchange().broadcast_one_to_all
  size = int(broadcast(np.int32(len(data))))
  data = data if is_first() else np.zeros(size, np.uint8)
  value, error = pickle.loads(np.asarray(broadcast(data)).tobytes())
  if error is not None:
    raise error
  return value


def on_all(action: Callable[[], T]) -> T:
  """What every process gets from an action of its own.

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
  """The words of all processes, in order; no device is asked or waited for.

  Every process has to call it, and none of them from another thread.
  """
  if count() == 1:
    return [word]
  from jax._src import distributed  # JAX has no public way to its store

  global _rounds
  _rounds += 1
  store: Any = distributed.global_state.client
  name = "jaxreward/{}/{}".format
  store.key_value_set(name(_rounds, index()), word)
  words = [
    store.blocking_key_value_get(name(_rounds, i), _PATIENT)
    for i in range(count())
  ]
  if _rounds > 1:  # who speaks in this round has heard all of the last
    store.key_value_delete(name(_rounds - 1, index()))
  return words


def gather(value: np.ndarray) -> np.ndarray:
  """The arrays of all processes, [count, ...]; all of one shape and type."""
  if count() == 1:
    return np.asarray(value)[None]
  return np.asarray(_exchange().process_allgather(value))


def fetch(tree: Any) -> Any:
  """The whole arrays as NumPy, in every process, wherever their parts lie.

  Every process has to call it, with the same tree.
  """
  import jax

  def whole(x):
    if isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    ):
      return _exchange().process_allgather(x, tiled=True)
    return x

  return jax.device_get(jax.tree.map(whole, tree))


def platform() -> str:
  """What is traced now is for: "cpu", "gpu" or "tpu".

  Of the devices of the mesh that is set, so that a program compiled for absent
  devices gets their kernels, else of JAX's default backend.
  """
  import jax

  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  return jax.default_backend() if device is None else device.platform
