"""What JAX keeps in private or provisional places, behind one module.

Nothing else imports `jax._src`, `jax.experimental`, `jax.extend` or `jaxlib`
(`tests/test_imports.py` sees to it): when a version of JAX moves or changes one
of them, this file changes and no other. The versions that it was run with are
in `docs/proven.md`.

Modules are imported when first asked for, because this one is also read before
the environment of JAX is set up.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import mmap
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jax.experimental import multihost_utils, pallas, topologies
  from jax.experimental.pallas import tpu as pallas_tpu
  from jax.experimental.pallas import triton as pallas_triton
  from jax.experimental.pallas.ops.tpu import flash_attention
  from jax.sharding import PartitionSpec

__all__ = (
  "BACKEND_TRIAL",
  "absent_gpu",
  "cache_no_cpu_collectives",
  "closed_function",
  "device_grid",
  "flash_attention",
  "has_xla_flag",
  "key_value_store",
  "multihost_utils",
  "needed",
  "open_jaxpr",
  "over_shards",
  "pallas",
  "pallas_tpu",
  "pallas_triton",
  "topologies",
  "xla_words",
)

_MODULES = {
  "flash_attention": "jax.experimental.pallas.ops.tpu.flash_attention",
  "multihost_utils": "jax.experimental.multihost_utils",
  "pallas": "jax.experimental.pallas",
  "pallas_tpu": "jax.experimental.pallas.tpu",
  "pallas_triton": "jax.experimental.pallas.triton",
  "topologies": "jax.experimental.topologies",
}
# Source of a process that starts XLA's CPU client and ends; XLA may abort it.
BACKEND_TRIAL = """
from jaxlib import xla_client
try:
  xla_client.make_cpu_client()
except Exception:
  pass
"""


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return importlib.import_module(_MODULES[name])


def device_grid(shape: Sequence[int], devices: Sequence[Any]) -> Any:
  """Devices [*shape] in an order that suits the network of the slice.

  Physical axes are split where the shape asks for it.
  """
  from jax.experimental import mesh_utils

  return mesh_utils.create_device_mesh(
    shape, devices, allow_split_physical_axes=True
  )


def key_value_store() -> Any:
  """The store that all processes share; involves no device."""
  from jax._src import distributed  # there is no public way to it

  return distributed.global_state.client


def over_shards(
  body: Callable[..., Any],
  axes: set[str],
  in_specs: PartitionSpec | tuple[PartitionSpec, ...],
  out_specs: PartitionSpec,
) -> Callable[..., Any]:
  """`body` on each device's share over these axes of the mesh in use.

  Replication is not checked: kernels do not declare what they replicate.
  """
  import jax

  return jax.shard_map(
    body,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names=axes,
    check_vma=False,
  )


def open_jaxpr(jaxpr: Any) -> Any:
  """The equations and variables of a jaxpr, closed over constants or not."""
  from jax.extend import core

  return jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def cache_no_cpu_collectives() -> None:
  """Keeps programs of several CPU devices out of JAX's compilation cache.

  A program that XLA reads back loses the order of its collectives:
  `CreateResourceFromProto` gives each one its own communicator resource, where all
  shared one before. Devices then start them in different orders and deadlock. Call
  this before the first compilation, as the command line
  does; later calls do nothing.
  """
  import jax
  from jax._src import compilation_cache

  read = getattr(compilation_cache, "get_executable_and_time", None)
  write = getattr(compilation_cache, "put_executable_and_time", None)
  if read is None or write is None:
    # They have moved: no cache is better than a wrong one.
    jax.config.update("jax_enable_compilation_cache", False)
    return
  if read.__module__ == __name__:
    return

  def read_one_device(cache_key, compile_options, backend, *args, **kwargs):
    build = compile_options.executable_build_options
    if (
      backend.platform == "cpu"
      and build.num_partitions * build.num_replicas > 1
    ):
      return None, None
    return read(cache_key, compile_options, backend, *args, **kwargs)

  def write_one_device(
    cache_key, module_name, executable, backend, *args, **kwargs
  ):
    if backend.platform == "cpu" and (
      len(executable.local_devices()) > 1 or jax.process_count() > 1
    ):
      return
    write(cache_key, module_name, executable, backend, *args, **kwargs)

  compilation_cache.get_executable_and_time = read_one_device
  compilation_cache.put_executable_and_time = write_one_device


def absent_gpu(kind: str = "NVIDIA H100") -> Any:
  """A context to trace and lower kernels in, for a GPU that is not there.

  Since JAX 0.11 the Triton backend of Pallas asks which GPU it is for.
  """
  from jax import sharding

  device = getattr(sharding, "AbstractDevice", None)
  if device is None:
    return contextlib.nullcontext()
  mesh = sharding.AbstractMesh(
    (), (), abstract_device=device(kind, num_cores=None, platform="gpu")
  )
  return sharding.use_abstract_mesh(mesh)


def needed(jaxpr: Any) -> Any:
  """The equations of a closed jaxpr that its results depend on."""
  from jax.interpreters import partial_eval

  used = [True] * len(jaxpr.jaxpr.outvars)
  return partial_eval.dce_jaxpr(jaxpr.jaxpr, used)[0]


def closed_function(
  fn: Callable[..., Any], *args: Any
) -> Callable[..., list[Any]]:
  """`fn`, traced at these arguments, as a function of arrays to a list.

  What it does no longer depends on the contexts in which it is called.
  """
  import jax
  from jax.extend import core

  return core.jaxpr_as_fun(jax.make_jaxpr(fn)(*args))


def has_xla_flag(name: str) -> bool:
  """Whether XLA has this flag; True where that cannot be told.

  Flags of XLA come and go with its versions, and it ends a process that
  names one that it lacks.
  """
  with _xla_library() as text:
    return text is None or text.find(name.encode() + b"\0") >= 0


def xla_words() -> set[str]:
  """Names within XLA that begin as its flags do, "xla_"."""
  with _xla_library() as text:
    names = re.findall(rb"xla_[a-z0-9_]{3,80}(?=\0)", text or b"")
  return {name.decode() for name in names}


@contextlib.contextmanager
def _xla_library() -> Iterator[mmap.mmap | None]:
  """The bytes of the library that XLA is in; None if it is elsewhere."""
  spec = importlib.util.find_spec("jaxlib")
  folders = (spec and spec.submodule_search_locations) or ()
  for path in (pathlib.Path(x) / "libjax_common.so" for x in folders):
    if path.exists():
      with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
      ):
        yield text
        return
  yield None
