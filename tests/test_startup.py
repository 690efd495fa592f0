"""What a process inherits does not end it, and changes nothing in silence."""

import os
import subprocess
import sys

import jax
import pytest

from jaxreward import startup
from jaxreward.errors import UserError
from tests import tiny

CHILD = """
import os, sys
from jaxreward import startup, main
startup.open_streams()
startup.allow_warnings()
main.configure_logging()
assert sys.stderr is not None and all(os.fstat(i) for i in (0, 1, 2))
assert os.open(os.devnull, os.O_RDONLY) > 2
main.configure_jax()
import jax, jax.numpy as jnp
from jaxreward.report import curves
assert "<svg" in curves.draw_lines([curves.Line("a", *[jnp.arange(3.0)] * 2)])
assert jnp.ones(3, "float64").dtype == "float32"
assert not jax.config.jax_debug_nans and not jax.config.jax_disable_jit
print(open(sys.argv[1], "w").write("fine"))
"""
HOSTILE = {
  "MPLBACKEND": "no_such_backend", "DISPLAY": "", "PYTHONOPTIMIZE": "0",
  "LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii",
  "PYTHONWARNINGS": "error::UserWarning", "HOME": "/nonexistent",
  "XDG_CACHE_HOME": "/proc/nothing", "JAX_ENABLE_X64": "1",
  "JAX_DEBUG_NANS": "1", "JAX_DISABLE_JIT": "1",
  "JAX_NUMPY_RANK_PROMOTION": "raise",
}  # fmt: skip


@pytest.mark.job
def test_a_hostile_environment(tmp_path):
  """Closed streams, another back end, other settings, no home."""
  env = os.environ | {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
  env = {k: v for k, v in env.items() if k != "JAX_COMPILATION_CACHE_DIR"}
  log = tmp_path / "done"
  script = tmp_path / "child.py"
  script.write_text(CHILD)
  command = f'exec "{sys.executable}" "{script}" "{log}" <&- >&- 2>&-'
  done = subprocess.run(["sh", "-c", command], env=env | HOSTILE, timeout=120)
  assert done.returncode == 0
  assert log.read_text() == "fine"


REFUSED = """
import os, pathlib, sys
from jaxreward import startup, main
from jaxreward.errors import UserError
for name, value in (
  ("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_MATMUL_PRECISION", "garbage"),
  ("JAX_NUM_CPU_DEVICES", "abc"), ("JAX_LOGGING_LEVEL", "LOUD"),
  ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "soon"),
):
  os.environ[name] = value
  assert main.main(["--config=configs/align_scenes.py", "--workdir=x"]) == 2
  del os.environ[name]
  for module in [m for m in sys.modules if m.split(".")[0] == "jax"]:
    del sys.modules[module]
import jax
from jax.extend import backend
for name in ("cuda", "rocm", "gpuu"):
  os.environ["JAX_PLATFORMS"] = name
  jax.config.update("jax_platforms", name)
  try:
    startup.require_platform()
  except UserError as error:
    print(error)
  backend.clear_backends()
gone = pathlib.Path("gone")
gone.mkdir()
os.chdir(gone)
os.rmdir(os.getcwd())
assert main.main(["--help"]) == 2
"""


@pytest.mark.job
def test_what_the_real_jax_refuses_is_one_line(tmp_path):
  env = os.environ | {"PYTHONPATH": str(tiny.ROOT)}
  for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
    env.pop(name, None)
  done = subprocess.run(
    [sys.executable, "-c", REFUSED], env=env, cwd=tmp_path, timeout=120,
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr
  told = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
  assert [x.split(":")[1].split("=")[0].strip() for x in told[:-1]] == [
    "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_NUM_CPU_DEVICES",
    "JAX_LOGGING_LEVEL", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
  ]  # fmt: skip
  assert "is gone" in told[-1]
  for name, line in zip(
    ("cuda", "rocm", "gpuu"), done.stdout.splitlines(), strict=True
  ):
    assert line.startswith(f"JAX_PLATFORMS={name}: this machine has cpu")


def test_settings_are_pinned_and_said(monkeypatch, caplog):
  monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
  jax.config.update("jax_numpy_rank_promotion", "raise")
  startup.pin_jax()
  assert jax.config.jax_numpy_rank_promotion == "allow"
  assert "JAX_NUMPY_RANK_PROMOTION=raise is left out" in caplog.text
  known = [n for n in startup.PINNED if hasattr(jax.config, n)]
  assert len(known) >= len(startup.PINNED) - 1


def test_a_flag_that_is_there(monkeypatch):
  flag = "--xla_force_host_platform_device_count=8"
  monkeypatch.setenv("XLA_FLAGS", flag)
  startup.require_flags()
  monkeypatch.setenv("XLA_FLAGS", f"{flag} --xla_forse_host=1")
  with pytest.raises(UserError, match="no flag --xla_forse_host"):
    startup.require_flags()


@pytest.mark.parametrize(
  ("flags", "count", "added"),
  [
    ("--xla_force_host_platform_device_count=8", "", [*startup.VIRTUAL]),
    ("", "8", [*startup.VIRTUAL]),
    ("", "", []),
    *((f"--{name}=50", "8", {*startup.VIRTUAL} - {name})
      for name in startup.VIRTUAL),
    ("flags.txt", "8", []),
  ],
)  # fmt: skip
def test_virtual_devices_meet(monkeypatch, flags, count, added):
  monkeypatch.setenv("XLA_FLAGS", flags)
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", count)
  startup.let_devices_meet()
  more = os.environ["XLA_FLAGS"].removeprefix(flags).split()
  assert sorted(more) == sorted(f"--{k}={startup.VIRTUAL[k]}" for k in added)
  before = os.environ["XLA_FLAGS"]
  startup.let_devices_meet()  # again, as where one process runs several jobs
  assert os.environ["XLA_FLAGS"] == before


def test_streams_that_nobody_reads():
  class Gone:
    def write(self, text):
      raise BrokenPipeError(32, "Broken pipe")

  class Hung(Gone):
    def write(self, text):
      raise OSError(5, "Input/output error")

  for stream in (Gone(), Hung(), None):
    startup.say("text", stream)
