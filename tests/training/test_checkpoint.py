"""Checkpoints survive kills, damage, full disks and other meshes."""

import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxreward.errors import UserError
from jaxreward.training import checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXTRAS = {"grain": {"position": 7, "rng": [1, 2]}, "none": None, "text": "a"}


def mesh_of(devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh(
    (devices,),
    ("fsdp",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:devices],
  )


def make_state(seed: int = 0, devices: int = 1, size: int = 16):
  rng = np.random.default_rng(seed)
  mesh = mesh_of(devices)
  put = lambda x, *spec: jax.device_put(
    x, NamedSharding(mesh, PartitionSpec(*spec))
  )
  normal = rng.normal(size=(size, 8)).astype(np.float32)
  return {
    "params": {
      "w": put(normal, "fsdp"),
      "b": put(jnp.asarray(rng.normal(size=5), jnp.bfloat16)),
    },
    "step": put(jnp.int32(seed)),
    "done": put(jnp.asarray(True)),
  }


def abstract(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


def assert_equal(a, b):
  jax.tree.map(
    lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)),
    a,
    b,
  )
  same = jax.tree.map(lambda x, y: x.dtype == y.dtype, a, b)
  assert jax.tree.all(same)


def biggest_file(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def flip_byte(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)


# digests


def plain_digest(array: np.ndarray) -> int:
  """The formula, one element at a time, in Python integers."""
  total = 0
  for i, x in enumerate(array.ravel()):
    raw = np.asarray(x).tobytes()
    total += (2 * i + 1) * int.from_bytes(raw, "little")
  return total % 2**64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_digest_is_its_formula_on_any_mesh(dtype):
  x = np.random.default_rng(0).normal(size=(8, 3, 2)) * 50
  x = x.astype(jnp.dtype(dtype)) if dtype != "uint8" else abs(x).astype(dtype)
  expected = {"x": f"{dtype}:{plain_digest(x):016x}"}
  assert checkpoint.digests({"x": x}) == expected
  for devices in (1, 2, 4, 8):
    for spec in (("fsdp",), ()):
      sharding = NamedSharding(mesh_of(devices), PartitionSpec(*spec))
      array = jax.device_put(x, sharding)
      assert checkpoint.digests({"x": array}) == expected


def test_digest_sees_every_flipped_bit_and_every_swap():
  x = np.arange(1, 7, dtype=np.float32)
  digest = checkpoint.digests({"x": x})
  for element in range(6):
    for bit in range(32):
      y = x.copy()
      y.view(np.uint32)[element] ^= np.uint32(1 << bit)
      assert checkpoint.digests({"x": y}) != digest
    for other in range(element):
      y = x.copy()
      y[[element, other]] = y[[other, element]]
      assert checkpoint.digests({"x": y}) != digest


# save and restore


def test_nothing_saved_is_none(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "a" / "b") as checkpoints:
    assert checkpoints.restore_latest(abstract(make_state())) is None
    assert checkpoints.steps() == []


def test_the_newest_step_comes_back_and_old_ones_go(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 5, 10):
      checkpoints.save(step, make_state(step), EXTRAS | {"n": step})
  with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.steps() == [5, 10]
    step, state, extras = checkpoints.restore_latest(abstract(make_state()))
    assert (step, extras) == (10, EXTRAS | {"n": 10})
    assert_equal(state, make_state(10))


def test_a_saved_state_may_be_donated_at_once(tmp_path):
  double = jax.jit(lambda s: jax.tree.map(lambda x: x + x, s), donate_argnums=0)
  w = lambda: {"w": jax.device_put(np.ones((512, 512), np.float32))}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    for step in range(3):
      state = w()
      checkpoints.save(step, state, {})
      jax.block_until_ready(double(state))
      _, restored, _ = checkpoints.restore_latest(abstract(w()))
      assert_equal(restored, w())


def test_small_replicas_are_saved_without_compiling(tmp_path, compile_counter):
  state = make_state(devices=8)
  with checkpoint.Checkpoints(tmp_path) as files:
    compile_counter.reset()
    files.save(1, state, EXTRAS, wait=True)
  assert "jit(slice)" not in compile_counter.names


def test_extras_that_json_cannot_hold_are_refused_at_once(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(TypeError):
      checkpoints.save(1, make_state(), {"array": np.zeros(2)})
    checkpoints.save(1, make_state(), {"pair": (1, 2)}, wait=True)
    assert checkpoints.restore_latest(abstract(make_state()))[2] == {
      "pair": [1, 2]
    }


def test_saving_a_step_twice_keeps_the_first(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, make_state(1), {}, wait=True)
    checkpoints.save(3, make_state(2), {}, wait=True)
    _, state, _ = checkpoints.restore_latest(abstract(make_state()))
  assert_equal(state, make_state(1))


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 2), (1, 8), (4, 4)])
def test_a_state_moves_between_meshes(tmp_path, saved_on, restored_on):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(3, saved_on), {})
    target = abstract(make_state(0, restored_on))
    _, state, _ = checkpoints.restore_latest(target)
  assert_equal(state, make_state(3))
  jax.tree.map(
    lambda x, y: np.testing.assert_equal(x.sharding == y.sharding, True),
    state,
    target,
  )


# damage


def damage_by_flip(step: pathlib.Path) -> None:
  flip_byte(biggest_file(step))


def damage_by_truncation(step: pathlib.Path) -> None:
  path = biggest_file(step)
  path.write_bytes(path.read_bytes()[:100])


def damage_by_removal(step: pathlib.Path) -> None:
  biggest_file(step).unlink()


def damage_metadata(step: pathlib.Path) -> None:
  (step / "_CHECKPOINT_METADATA").write_text("{")


def damage_digest(step: pathlib.Path) -> None:
  path = step / "_CHECKPOINT_METADATA"
  text = path.read_text()
  digest = checkpoint.digests(make_state(2, size=256))["params/w"]
  assert digest in text
  path.write_text(text.replace(digest, "float32:" + "0" * 16))


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  "damage",
  [
    damage_by_flip,
    damage_by_truncation,
    damage_by_removal,
    damage_metadata,
    damage_digest,
  ],
)
def test_a_damaged_step_is_named_and_the_one_before_is_used(
  tmp_path, caplog, damage
):
  make = lambda seed: make_state(seed, size=256)
  folder = tmp_path / "align"
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(1, make(1), {"n": 1}, score=0.5)
    checkpoints.save(2, make(2), {"n": 2}, score=0.6)
  damage(folder / "2")
  with checkpoint.Checkpoints(folder) as checkpoints:
    step, state, extras = checkpoints.restore_latest(abstract(make(0)))
    assert (step, extras) == (1, {"n": 1})
    assert_equal(state, make(1))
    assert f"checkpoint {folder}/2 cannot be restored" in caplog.text
    assert (tmp_path / "align.damaged" / "2").is_dir()
    checkpoints.save(2, make(9), {"n": 9})
    step, state, extras = checkpoints.restore_latest(abstract(make(0)))
    assert (step, extras) == (2, {"n": 9})
    assert_equal(state, make(9))


@pytest.mark.turns(3)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_a_step_whose_score_is_damaged_is_one_without(
  tmp_path, caplog, content
):
  """The step itself is whole; the best is that of the scores left."""
  folder = tmp_path / "align"
  with checkpoint.Checkpoints(folder) as checkpoints:
    for n in (1, 2):
      checkpoints.save(n, make_state(n), {"n": n}, score=0.5 + n)
  score = folder / "2" / "metrics" / "metrics"
  score.unlink() if content is None else score.write_bytes(content)
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert "the score of checkpoint 2 cannot be read" in caplog.text
    step, state, _ = checkpoints.restore_latest(abstract(make_state(0)))
    assert step == 2
    assert_equal(state, make_state(2))
    assert checkpoints.best() == (1.5, 1)
    checkpoints.save(3, make_state(3), {"n": 3}, score=1.0)
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert checkpoints.best() == (1.5, 1)
    assert checkpoints.steps() == [1, 2, 3]


def test_a_half_written_step_is_named(tmp_path, caplog):
  folder = tmp_path / "align"
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(1, make_state(1), {"n": 1})
  half = folder / "2.orbax-checkpoint-tmp"
  half.mkdir()
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert f"{half} was not finished" in caplog.text
    assert checkpoints.steps() == [1]


def test_if_every_step_is_damaged_the_run_does_not_start_over(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1, size=256), {})
  flip_byte(biggest_file(tmp_path / "1"))
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UserError, match="none of the checkpoints"):
      checkpoints.restore_latest(abstract(make_state(size=256)))
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize("change", ["shape", "missing", "more", "type"])
def test_another_models_state_is_refused_and_stays(tmp_path, change):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1), {})
    target = abstract(make_state(size=32 if change == "shape" else 16))
    if change == "missing":
      del target["params"]["b"]
    if change == "more":
      target["params"]["c"] = target["params"]["b"]
    if change == "type":
      target["step"] = target["done"]
    with pytest.raises(UserError, match="can be restored"):
      checkpoints.restore_latest(target)
    assert checkpoints.steps() == [1]


# kills and disks

SAVER = """
import sys
import numpy as np
from jaxreward.training import checkpoint
make = lambda step: {
    f"w{i}": np.full((256, 1024), step + i, np.float32) for i in range(4)}
with checkpoint.Checkpoints(sys.argv[1]) as checkpoints:
  for step in range(1, 1000):
    checkpoints.save(step, make(step), {"step": step})
    print(step, flush=True)
"""


@pytest.mark.job
@pytest.mark.turns(3)
def test_a_kill_at_any_moment_leaves_a_whole_step(tmp_path):
  draw = random.Random(0)
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  spec = jax.ShapeDtypeStruct((256, 1024), np.float32, sharding=sharding)
  for trial in range(3):
    run = subprocess.Popen(
      [sys.executable, "-c", SAVER, str(tmp_path / str(trial))],
      env=os.environ | {"PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE,
      text=True,
    )
    begun = [run.stdout.readline() for _ in range(2)]
    time.sleep(draw.uniform(0, 0.3))
    run.send_signal(signal.SIGKILL)
    begun += run.communicate()[0].split()
    with checkpoint.Checkpoints(tmp_path / str(trial)) as checkpoints:
      target = {f"w{i}": spec for i in range(4)}
      step, state, extras = checkpoints.restore_latest(target)
      assert extras == {"step": step} and int(begun[-1]) - step <= 1
      for i in range(4):
        assert (np.asarray(state[f"w{i}"]) == step + i).all()
      left = [p.name for p in (tmp_path / str(trial)).iterdir()]
      assert not [name for name in left if "tmp" in name]


@pytest.fixture
def small_files():
  """No file may grow beyond 64 kB, as on a disk that has run full."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise_state(seed: int):
  rng = np.random.default_rng(seed)
  return {"w": jax.device_put(rng.normal(size=(512, 512)).astype(np.float32))}


def test_a_save_that_fails_is_told_and_older_steps_stay(tmp_path, request):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, noise_state(1), {}, wait=True)
    request.getfixturevalue("small_files")
    with pytest.raises(UserError) as caught:
      checkpoints.save(2, noise_state(2), {}, wait=True)
    text = str(caught.value)
    assert str(tmp_path) in text and "\n" not in text
    assert "whole steps there: [1]" in text
    step, state, _ = checkpoints.restore_latest(abstract(noise_state(0)))
    assert step == 1
    assert_equal(state, noise_state(1))


def test_a_full_disk_is_told_and_a_save_after_clearing_works(tmp_path):
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("mounting a small disk is not permitted here")
  try:
    with checkpoint.Checkpoints(disk / "align") as checkpoints:
      checkpoints.save(1, noise_state(1), {}, wait=True)
      (disk / "filler").write_bytes(b"x" * 1_500_000)
      with pytest.raises(UserError, match="the disk is full"):
        checkpoints.save(2, noise_state(2), {}, wait=True)
      assert checkpoints.steps() == [1]
      (disk / "filler").unlink()
    with checkpoint.Checkpoints(disk / "align") as checkpoints:
      assert checkpoints.restore_latest(abstract(noise_state(0)))[0] == 1
      checkpoints.save(2, noise_state(2), {}, wait=True)
      assert checkpoints.restore_latest(abstract(noise_state(0)))[0] == 2
  finally:
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file" / "align", pathlib.Path("/proc/align")):
    with pytest.raises(UserError, match=f"checkpoints to {folder}: "):
      checkpoint.Checkpoints(folder)
