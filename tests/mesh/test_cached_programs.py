"""Which compiled programs JAX's cache keeps for another process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache
from jax.sharding import NamedSharding, PartitionSpec

from tests import tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A cache that is empty, for all programs."""
  before = jax.config.jax_compilation_cache_dir
  shortest = jax.config.jax_persistent_cache_min_compile_time_secs
  compilation_cache.reset_cache()
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  yield tmp_path
  compilation_cache.reset_cache()
  jax.config.update("jax_compilation_cache_dir", before)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


@pytest.mark.parametrize(("devices", "is_kept"), [(1, True), (8, False)])
def test_programs_with_exchanges_are_compiled_anew(folder, devices, is_kept):
  # Read back, their exchanges have no order, and devices wait for ever.
  mesh = tiny.mesh_of(devices, devices, 1)
  rows = NamedSharding(mesh, PartitionSpec("data"))
  events = []
  listen = lambda event, **kwargs: events.append(event.rpartition("/")[2])
  jax.monitoring.register_event_listener(listen)
  x = jax.device_put(np.arange(8.0, dtype=np.float32), rows)
  for _ in range(2):

    def total(x):
      return jnp.sum(jnp.sin(x))

    program = jax.jit(total, out_shardings=NamedSharding(mesh, PartitionSpec()))
    assert float(program(x)) == pytest.approx(np.sum(np.sin(np.arange(8))))
  jax.monitoring.unregister_event_listener(listen)
  entries = [path.name for path in folder.iterdir()]
  assert any("total" in name for name in entries) == is_kept
  assert ("cache_hits" in events) == is_kept
