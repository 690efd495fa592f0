"""The loop in a bucket: killed at any moment by SIGKILL, and continued."""

import pytest

from tests import bucket_runs, gcs

pytest.importorskip("gcsfs")
pytest.importorskip("google.cloud.storage")

LAST = 12
# A job whose step moves a few whole numbers, spread over all devices.
PROGRAM = f"""
import sys
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxreward import jobs, main, processes
from jaxreward.training import loop, state, weights
from jaxreward.training.checkpoint import Checkpoints
from jaxreward.training.writers import MetricsWriter

def told(config, workdir):
  mesh = jax.make_mesh((jax.device_count(),), ("data",))
  def fresh():
    return state.create({{"p": jnp.arange(4.0)}}, optax.sgd(0.1, momentum=0.9))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  places = jax.tree.map(
    lambda x: rows if x.ndim else whole, jax.eval_shape(fresh)
  )
  def move(current, n):
    moved = jax.tree.map(lambda p: 2 * p + n, current.params)
    current = current.replace(params=moved, step=current.step + 1)
    return current, jnp.sum(moved["p"])
  move = jax.jit(move, out_shardings=(places, whole))
  def one(current, n):
    current, loss = move(current, n)
    return current, {{"loss": loss}}
  with (
    MetricsWriter(workdir, "align") as writer,
    Checkpoints(workdir / "checkpoints" / "align") as checkpoints,
  ):
    job = loop.Loop("align", {LAST}, one, writer, checkpoints, save_every=2)
    first = jax.jit(fresh, out_shardings=places)()
    current, start, _ = loop.restore(job, first)
    print("from step", start, file=sys.stderr, flush=True)
    current = loop.run(job, current, start)
  params = processes.fetch(current.params)
  weights.save_params(workdir / "policy.safetensors", params)

main.configure_logging()
jobs.find = lambda config: told
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_and_continued_as_in_a_folder(count, tmp_path):
  """One process or two, which share nothing but the bucket."""
  expected = tmp_path / "run"
  code, err = bucket_runs.Run(PROGRAM, {}, expected).finish()
  assert code == 0, err
  with gcs.serve("bucket") as (bucket, env):
    there = bucket_runs.Folder(bucket, "runs/a")

    def half_written():
      found = there.files("checkpoints/align/4/")
      return found and "commit_success.txt" not in found

    start = lambda: bucket_runs.Run(PROGRAM, env, there.path, count=count)
    last = []
    for moment in (half_written, lambda: 8 in there.steps()):
      run = start()
      run.wait_for(moment)
      run.kill()
      last.append(max(there.steps()))
      rows = there.files()["metrics.jsonl"].count(b"\n")
      assert rows >= last[-1]  # a step that is whole has its rows
    assert last[0] == 2 and last[1] >= 8
    code, err = start().finish()
    assert code == 0, err
    assert f"from step {last[1]}" in err and "was in use by process" in err
    found = there.files()
    for name in ("metrics.jsonl", "policy.safetensors"):
      assert found[name] == (expected / name).read_bytes(), name
    assert there.steps()[-1] == LAST and ".lock" not in found
    assert bucket.unknown == []
