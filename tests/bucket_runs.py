"""Programs that run in a bucket, and what they leave there."""

import os
import re
import socket
import subprocess
import sys
import time

from tests import hurry, tiny

PATIENCE = 900.0  # seconds; machines that run tests may be busy
SPEC = "align_scenes.py:flow_grpo,smoke"


class Folder:
  """A folder of a bucket.

  Attributes:
    path: as processes are told.
  """

  def __init__(self, bucket, name):
    self._bucket, self._name = bucket, name
    self.path = f"gs://{bucket.name}/{name}"

  def files(self, below="") -> dict[str, bytes]:
    """Content by path."""
    prefix = f"{self._name}/{below}"
    with self._bucket.lock:
      return {
        name.removeprefix(prefix): data
        for name, (_, data) in self._bucket.objects.items()
        if name.startswith(prefix)
      }

  def put(self, name, data):
    self._bucket.put(f"{self._name}/{name}", data, {})

  def steps(self) -> list[int]:
    """Whole checkpoints of align."""
    there = self.files("checkpoints/align/")
    found = (re.fullmatch(r"(\d+)/commit_success.txt", n) for n in there)
    return sorted(int(m[1]) for m in found if m)


class Run:
  """The processes of one command, on one device each."""

  def __init__(self, program, env, workdir, *overrides, count=1):
    port = str(_free_port())
    self.processes = []
    for index in range(count):
      own = os.environ | env | {"PYTHONPATH": str(tiny.ROOT)}
      own["XLA_FLAGS"] = hurry.xla_flags()
      if count > 1:
        own |= {
          "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
          "JAX_NUM_PROCESSES": str(count),
          "JAX_PROCESS_ID": str(index),
        }
      self.processes.append(
        subprocess.Popen(
          [
            sys.executable,
            "-c",
            program,
            *tiny.flags(SPEC, workdir, *overrides),
          ],
          stdout=subprocess.DEVNULL,
          stderr=subprocess.PIPE,
          text=True,
          env=own,
        )
      )

  def finish(self) -> tuple[int, str]:
    """(exit code, stderr) of the first process."""
    try:
      ends = [p.communicate(timeout=PATIENCE)[1] for p in self.processes]
    finally:
      self.kill()
    return self.processes[0].returncode, ends[0]

  def wait_for(self, ready):
    end = time.monotonic() + PATIENCE
    while not ready():
      if any(p.poll() is not None for p in self.processes):
        raise AssertionError(self.finish())
      if time.monotonic() > end:
        self.kill()
        raise AssertionError("it never came")
      time.sleep(0.001)

  def kill(self):
    """SIGKILL, all at once."""
    for process in self.processes:
      process.kill()
    for process in self.processes:
      process.wait()


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]
