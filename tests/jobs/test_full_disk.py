"""A disk that fills up while a checkpoint is written: one line, nothing lost."""

import errno

import pytest
from orbax.checkpoint import v1 as ocp

from tests import tiny

pytestmark = pytest.mark.job

NFT = "align_scenes.py:smoke"


class Pending:
  """A save that fails in the background."""

  def result(self, timeout=None):
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def fill(step, *, late):
  """Saves from this step on fail, at once or when they are waited for."""
  save = ocp.training.Checkpointer.save_checkpointables_async

  def full(self, at, *args, **kwargs):
    if at < step:
      return save(self, at, *args, **kwargs)
    if late:
      return Pending()
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")

  patched = pytest.MonkeyPatch()
  patched.setattr(ocp.training.Checkpointer, "save_checkpointables_async", full)
  return patched


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.turns(2)
def test_one_line_and_the_run_goes_on_once_there_is_room(
  late, command, tmp_path, small_model
):
  given = {"checkpoint.every": 1}
  args = NFT, tmp_path / "run", tiny.MODEL, tiny.REWARD, tiny.FAST, given
  disk = fill(3, late=late)
  try:
    assert command(*args) == 2
  finally:
    disk.undo()
  assert "the disk is full" in command.error
  assert "whole steps there: [1, 2]" in command.error
  kept = sorted(
    p.name for p in (tmp_path / "run" / "checkpoints" / "align").iterdir()
  )
  assert kept == ["1", "2"]
  assert command(*args) == 0
  found = (tmp_path / "run" / "metrics.jsonl").read_bytes()
  assert command(NFT, tmp_path / "other", *args[2:]) == 0
  assert found == (tmp_path / "other" / "metrics.jsonl").read_bytes()


@pytest.mark.turns(2)
def test_a_full_disk_under_the_metrics(command, tmp_path, small_model):
  """The row that did not fit is written whole by the next run."""
  from jaxreward.training import writers

  given = {"checkpoint.every": 1}
  args = NFT, tmp_path / "run", tiny.MODEL, tiny.REWARD, tiny.FAST, given
  write = writers._Lines.append

  def full(self, row):
    if self.path.name == "metrics.jsonl" and row["step"] == 2:
      raise self._refused(OSError(errno.ENOSPC, "No space left on device"))
    write(self, row)

  with pytest.MonkeyPatch.context() as disk:
    disk.setattr(writers._Lines, "append", full)
    assert command(*args) == 2
  assert "No space left on device" in command.error
  assert "metrics.jsonl" in command.error
  assert [row["step"] for row in tiny.rows(tmp_path / "run")] == [0, 1]
  assert command(*args) == 0
  steps = [row["step"] for row in tiny.rows(tmp_path / "run")]
  assert steps == [0, 1, 2, 3, 4]
