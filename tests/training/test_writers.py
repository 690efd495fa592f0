"""metrics.jsonl is exact over kills and resumes, and legal JSON always."""

import json
import pathlib
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.training import writers

ORDER = ("pretrain", "train_reward", "align")


def open_writer(workdir, job="align", **kwargs):
  kwargs = {"order": ORDER} | kwargs
  return writers.MetricsWriter(workdir, job, **kwargs)


def steps_of(path: pathlib.Path) -> list[tuple[str, int]]:
  return [(row["job"], row["step"]) for row in writers.read_rows(path)]


def test_rows_come_back_as_they_were_written(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"loss": np.float32(0.1), "count": jnp.int32(3)})
    writer.write(2, {"loss": 0.1 + 0.2, "text": "a", "flag": np.True_})
  rows = writers.read_rows(tmp_path / "metrics.jsonl")
  assert rows == [
    {"job": "align", "step": 1, "loss": float(np.float32(0.1)), "count": 3},
    {"job": "align", "step": 2, "loss": 0.1 + 0.2, "text": "a", "flag": True},
  ]
  assert type(rows[0]["count"]) is int


def test_timings_stay_out_of_the_metrics(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"loss": 1.0})
    writer.write_timings(1, {"sample": 0.5})
  assert "sample" not in (tmp_path / "metrics.jsonl").read_text()
  assert writers.read_rows(tmp_path / "timings.jsonl") == [
    {"job": "align", "step": 1, "sample": 0.5}
  ]


def test_what_is_not_finite_is_null_and_counted(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"a": float("nan"), "b": jnp.inf, "c": 1.0})
  text = (tmp_path / "metrics.jsonl").read_text()

  def refuse(constant):
    raise AssertionError(constant)

  row = json.loads(text, parse_constant=refuse)
  expected = {"a": None, "b": None, "c": 1.0, "nonfinite": 2}
  assert row == {"job": "align", "step": 1} | expected


@pytest.mark.parametrize("value", [np.zeros(2), None, [1.0], {"a": 1}])
def test_what_is_no_scalar_is_refused_by_name(tmp_path, value):
  with open_writer(tmp_path) as writer:
    with pytest.raises(TypeError, match="metric loss is no scalar"):
      writer.write(1, {"loss": value})
    with pytest.raises(ValueError, match="step"):
      writer.write(1, {"step": 1})
  assert writers.read_rows(tmp_path / "metrics.jsonl") == []


def test_every_row_is_on_disk_before_the_next_step(tmp_path):
  writer = open_writer(tmp_path)
  for step in range(3):
    writer.write(step, {"loss": 1.0})
    assert len(steps_of(tmp_path / "metrics.jsonl")) == step + 1
  writer.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out_and_mended(tmp_path, cut):
  path = tmp_path / "metrics.jsonl"
  with open_writer(tmp_path) as writer:
    for step in (1, 2):
      writer.write(step, {"loss": 1.0})
  path.write_bytes(path.read_bytes()[:-cut])
  assert steps_of(path) == [("align", 1)]
  with open_writer(tmp_path) as writer:
    writer.write(2, {"loss": 3.0})
  assert [r["loss"] for r in writers.read_rows(path)] == [1.0, 3.0]


def test_a_damaged_line_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for line in ("{", "[1]", "3"):
    path.write_text('{"job": "a", "step": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: "):
      writers.read_rows(path)


def test_resuming_drops_later_steps_and_later_jobs(tmp_path):
  for job in ORDER:
    with open_writer(tmp_path, job) as writer:
      for step in (1, 2, 3):
        writer.write(step, {"x": 1.0})
        writer.write_timings(step, {"y": 1.0})
  with open_writer(tmp_path, "other", order=()) as writer:
    writer.write(9, {"x": 1.0})
  with open_writer(tmp_path, "train_reward") as writer:
    writer.truncate(2)
    writer.write(3, {"x": 5.0})
  kept = [
    ("pretrain", 1),
    ("pretrain", 2),
    ("pretrain", 3),
    ("train_reward", 1),
    ("train_reward", 2),
  ]
  assert steps_of(tmp_path / "metrics.jsonl") == [
    *kept,
    ("other", 9),
    ("train_reward", 3),
  ]
  assert steps_of(tmp_path / "timings.jsonl") == kept
  assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_a_resumed_record_equals_an_unbroken_one_to_the_byte(tmp_path):
  loss = lambda step: {"loss": float(np.sin(step)) / 3}
  (tmp_path / "a").mkdir()
  with open_writer(tmp_path / "a") as writer:
    for step in range(1, 11):
      writer.write(step, loss(step))
  whole = (tmp_path / "a" / "metrics.jsonl").read_bytes()
  for cut in range(0, len(whole), 37):
    folder = tmp_path / f"cut{cut}"
    folder.mkdir()
    (folder / "metrics.jsonl").write_bytes(whole[:cut])
    present = writers.read_rows(folder / "metrics.jsonl")
    saved = len(present) // 3 * 3  # a checkpoint every three steps
    with open_writer(folder) as writer:
      writer.truncate(saved)
      for step in range(saved + 1, 11):
        writer.write(step, loss(step))
    assert (folder / "metrics.jsonl").read_bytes() == whole


def test_an_unwritable_place_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  for workdir in (tmp_path / "file", pathlib.Path("/proc/nonsuch")):
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl"):
      open_writer(workdir).write(1, {"loss": 1.0})


def test_a_full_disk_is_named_and_rows_before_it_stay_whole(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  writer = open_writer(tmp_path)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
  try:
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl"):
      for step in range(100):
        writer.write(step, {"loss": 1.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  path = tmp_path / "metrics.jsonl"
  rows = writers.read_rows(path)
  assert 5 < len(rows) < 100
  assert path.read_bytes().endswith(b"\n")
  writer.write(len(rows), {"loss": 1.0})
  assert [r["step"] for r in writers.read_rows(path)] == list(
    range(len(rows) + 1)
  )
  writer.close()
