"""Eight virtual CPU devices, cached compilation, checked shapes."""

import gc
import importlib.util
import os

from jaxreward import compat, startup
from tests import cache, hurry

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.folder()
os.environ.setdefault("XLA_FLAGS", startup.for_virtual_devices(""))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import jax
import jax.monitoring
import jaxtyping
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

from tests import lazily, turns

gc.disable()  # until all is imported and collected, which makes no garbage
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_threefry_partitionable", True)
compat.cache_no_cpu_collectives()
jax.config.update("jax_traceback_in_locations_limit", 0)  # nobody reads them
lazily.install("jaxreward", "pallas_kernels")

# Files that one process takes minutes for come first, so that none waits for them.
LONG = ("test_notebook", "test_battery", "test_killed_runs", "test_pages")

_compilations = []


def _on_duration(event: str, duration: float, **kwargs) -> None:
  if event == "/jax/core/compile/backend_compile_duration":
    _compilations.append(kwargs.get("fun_name", "?"))


jax.monitoring.register_event_duration_secs_listener(_on_duration)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Some tests take turns; comparisons with PyTorch are skipped without the extra."""
  turns.take(items)
  items.sort(key=lambda item: item.path.stem not in LONG)
  peers = ("torch", "diffusers", "peft", "transformers")
  missing = [name for name in peers if importlib.util.find_spec(name) is None]
  if not missing:
    return
  skip = pytest.mark.skip(reason=f"{', '.join(missing)}: extra `parity`")
  for item in items:
    if item.get_closest_marker("parity"):
      item.add_marker(skip)


_compile_options = compiler.get_compile_options
_compiling = {"hurried": True}


def _hurried_options(*args, **kwargs):
  options = _compile_options(*args, **kwargs)
  if _compiling["hurried"]:
    options.env_option_overrides += list(hurry.FLAGS.items())
  return options


compiler.get_compile_options = _hurried_options


_start_module = mlir.ModuleContext.__init__
_kept = {"context": None, "uses": 0}
_USES = 200  # of one context, which keeps all types and attributes it has seen


def _start_in_kept_context(self, *args, context=None, **kwargs):
  """Programs of tests share contexts: one takes as long to make as to lower."""
  if context is None:
    if _kept["uses"] % _USES == 0:
      _kept["context"] = mlir.make_ir_context()
    _kept["uses"] += 1
    context = _kept["context"]
  _start_module(self, *args, context=context, **kwargs)


mlir.ModuleContext.__init__ = _start_in_kept_context


def pytest_collection_finish(session):
  """Modules stay until the end: no collection has to look at them."""
  del session
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)
  gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """How a test's programs are compiled, and the weights of its peers.

  PyTorch draws the latter; the same ones every time.
  """
  has = lambda name: item.get_closest_marker(name) is not None
  is_hurried = not any(map(has, ("optimized", "tpu_compile", "gpu")))
  if is_hurried != _compiling["hurried"]:
    _compiling["hurried"] = is_hurried
    jax.clear_caches()  # which do not tell the two apart
  is_parity = item.get_closest_marker("parity") is not None
  if is_parity and importlib.util.find_spec("torch"):
    importlib.import_module("torch").manual_seed(0)


@pytest.fixture
def as_users_call():
  """Types and shapes are not checked: for tests of what a config is refused for.

  They trace whole networks, which the tests of these networks check.
  """
  before = jaxtyping.config.jaxtyping_disable
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", before)


class CompileCounter:
  """Programs that JAX has compiled, or fetched compiled, since `reset`."""

  def __init__(self):
    self.reset()

  def reset(self) -> None:
    self._start = len(_compilations)

  @property
  def names(self) -> list[str]:
    return _compilations[self._start :]

  @property
  def count(self) -> int:
    return len(self.names)


@pytest.fixture
def compile_counter() -> CompileCounter:
  """Counts XLA compilations: `compile_counter.reset()`, run, `.count`."""
  return CompileCounter()
