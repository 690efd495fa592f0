"""Many SIGKILLs at random moments; runs end as if none had come.

JAXREWARD_KILLS=100 sets how many there are.
"""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest

from tests import tiny

KILLS = int(os.environ.get("JAXREWARD_KILLS", "10"))
GIVEN = (
  tiny.FAST
  | tiny.REWARD
  | {
    "align.iterations": 12,
    "rollout.prompts": 4,
    "rollout.group": 4,
    "rollout.num_steps": 3,
    "eval.samples": 6,
    "eval.quick_samples": 6,
    "eval.every": 5,
    "checkpoint.every": 1,
  }
)
PARTS = ("metrics.jsonl", "policy.safetensors", "evaluation.json")


def work(flags, output):
  """A run in a process of its own, of a policy that compiles in a moment."""
  with open(output, "w") as file:
    os.dup2(file.fileno(), 2)
  from jaxreward import main, setup

  setup.make_policy = lambda config: tiny.small_policy()
  sys.exit(main.main(flags))


class Runs:
  """Starts runs from a process that has imported everything already."""

  def __init__(self, tmp_path):
    self.output = tmp_path / "stderr"
    self.context = multiprocessing.get_context("forkserver")
    self.context.set_forkserver_preload(
      ["jaxreward.jobs.align", "jaxreward.report.collect", "tests.tiny"]
    )

  def start(self, workdir):
    flags = tiny.flags("align_scenes.py:flow_grpo,smoke", workdir, GIVEN)
    run = self.context.Process(target=work, args=(flags, self.output))
    run.start()
    return run

  def finish(self, run):
    run.join()
    assert run.exitcode == 0, self.output.read_text()


@pytest.mark.slow
def test_killed_again_and_again(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
  runs, draw = Runs(tmp_path), random.Random(0)
  runs.finish(runs.start(tmp_path / "warm"))  # fills the compilation cache
  begin = time.monotonic()
  runs.finish(runs.start(tmp_path / "unbroken"))
  length = time.monotonic() - begin
  expected = {p: (tmp_path / "unbroken" / p).read_bytes() for p in PARTS}
  killed = finished = 0
  while True:
    workdir = tmp_path / f"run{finished}"
    run = runs.start(workdir)
    # The last run is left alone: it has to come to its end.
    run.join(draw.uniform(0, length) if killed < KILLS else None)
    if run.is_alive():
      run.kill()
      run.join()
      killed += run.exitcode == -signal.SIGKILL
      continue
    runs.finish(run)
    for part, data in expected.items():
      assert (workdir / part).read_bytes() == data, (finished, part)
    finished += 1
    if killed >= KILLS:
      break
  print(
    f"{killed} kills over {finished} runs of {length:.0f} s each, all equal to"
    f" the unbroken one, in {time.monotonic() - begin:.0f} s"
  )
