"""One row per report: the config's mesh, its programs added up."""

import json

from jaxreward.compilation import summary


def program(seconds=None, total=2**31):
  found = {"memory": {"total": total}, "counted_flops_all_devices": 1e12}
  return found | ({"seconds": seconds} if seconds else {})


def report(*programs, fits=True, rank=0):
  meshes = [
    {
      "mesh": {"data": 2, "fsdp": 4, "tensor": 1},
      "fits": fits,
      "programs": {f"p{i}": one for i, one in enumerate(programs)},
    }
  ]
  return {
    "topology": "v5e:2x4", "memory_per_device": 2**34, "lora_rank": rank,
    "model": {"name": "sd3", "size": "sd35_medium"}, "meshes": meshes,
    "compiler_effort": -1.0, "objective": "flow_grpo",
  }  # fmt: skip


def seconds(compute, memory, network, step):
  return {
    "compute": compute, "memory": memory, "network": network, "step": step
  }  # fmt: skip


def test_programs_are_added_and_the_largest_need_is_shown(tmp_path, capsys):
  one = report(
    program(seconds(1.0, 2.0, 0.25, 4.0)),
    program(seconds(3.0, 1.0, 0.5, 5.0), total=3 * 2**30),
    rank=32,
  )
  assert summary.row(one) == [
    "sd35_medium", "flow_grpo", "LoRA 32", "v5e:2x4", "2 x 4 x 1", "yes", "3", "16.0", "2T",
    "4", "3", "0.75", "compute", "9", "-1",
  ]  # fmt: skip
  path = tmp_path / "a.json"
  path.write_text(json.dumps(one))
  summary.main([str(path), str(path)])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and lines[2] == lines[3]
  assert lines[0].startswith("| model") and "LoRA 32" in lines[2]


def test_a_program_that_was_refused_leaves_no_seconds():
  one = report(program(seconds(1.0, 2.0, 0.25, 4.0)), program(), fits=False)
  row = summary.row(one)
  assert row[2] == "all" and row[5] == "no"
  assert row[9:-1] == ["?"] * 5
