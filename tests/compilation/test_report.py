"""From costs to seconds, verdicts, advice and the best mesh."""

import json

import pytest

from jaxreward.compilation import executables, hlo, report, roofline, topology

CHIP = topology.Chip(
  memory=100.0, flops=10.0, bandwidth=5.0, network=2.0, clock=4.0
)
SLICE = topology.Topology("toy:2x2", 4, CHIP)


def costs(flops=0.0, read=0.0, cycles=0.0, sent=0.0):
  moved = {("all-gather", "fsdp"): hlo.Traffic(2, sent / 3, sent)}
  return hlo.Costs(
    flops=flops, bytes=read, cycles=cycles, collectives=moved if sent else {}
  )


def program(total=10.0, found=None, **kwargs):
  memory = executables.Memory(argument=total - 1, temporary=1.0)
  return executables.Report(
    memory, counted_flops=400.0, costs=found or costs(flops=100.0), **kwargs
  )


def mesh(sizes, *programs, **kwargs):
  named = {f"p{i}": one for i, one in enumerate(programs)}
  return report.MeshReport(sizes, named, **kwargs)


@pytest.mark.parametrize(
  ("found", "wall", "bound", "step"),
  [
    (costs(100, 10, 20, 4), "compute", 10.0, 10 + 2),
    (costs(10, 50, 20, 4), "memory", 10.0, 5 + 2),
    (costs(10, 10, 60, 40), "network", 20.0, 15 + 20),
  ],
)
def test_the_longest_bound_is_the_wall(found, wall, bound, step):
  seconds = roofline.seconds(found, CHIP)
  assert seconds.compute == found.flops / 10
  assert seconds.memory == found.bytes / 5
  assert seconds.network == found.sent / 2
  assert (seconds.wall, seconds.roofline) == (wall, bound)
  assert seconds.step == step


@pytest.mark.parametrize(
  ("message", "size"),
  [
    ("the total memory required for HLO temporaries (65.24G) exceeds available"
     " HBM (15.75G).", 65.24 * 2**30),
    ("Ran out of memory in memory space hbm. Used 40.67G of 15.75G hbm."
     " Exceeded hbm capacity by 24.92G.", 40.67 * 2**30),
    ("Used 512.00M of 1.0M vmem", 512 * 2**20),
    ("something else", 0.0),
  ],
)  # fmt: skip
def test_what_the_compiler_asked_for(message, size):
  assert executables.required_bytes(message) == pytest.approx(size)


def test_what_lies_beside_a_program_counts_against_the_limit():
  memory = executables.Memory(argument=50, temporary=20, beside=40)
  one = executables.Report(memory, 1.0, costs=costs(1.0))
  assert memory.total == 110
  assert one.fits(0.0) and one.fits(110.0) and not one.fits(100.0)
  refused = executables.Report(executables.Memory(required=50), 1.0)
  assert not refused.fits(0.0) and refused.memory.total == 50


def test_kernels_take_their_products_at_the_peak_or_their_traffic():
  found = costs(flops=100.0, cycles=20.0)
  found.kernel_flops = 50.0
  seconds = roofline.seconds(found, CHIP)
  assert seconds.compute == 10.0 + 5.0 and seconds.compiler == 20 / 4 + 5.0
  found.kernel_bytes = 7.0 * CHIP.bandwidth
  seconds = roofline.seconds(found, CHIP)
  assert seconds.compute == 10.0 + 5.0 and seconds.compiler == 20 / 4 + 7.0


def test_the_costliest_operations_come_first():
  one, two = costs(cycles=300.0), costs(cycles=100.0)
  one.by_operation = {"Net/up/dot": 250.0, "Net/norm/mul": 50.0}
  two.by_operation = {"Net/down/dot": 100.0}
  run = report.RunReport(
    SLICE, 0.0, [mesh((4, 1, 1), program(found=one), program(found=two))]
  )
  lines = report.to_text(run).splitlines()
  rows = [line.split("|")[1:4] for line in lines if "%  " in line]
  assert [[cell.strip() for cell in row] for row in rows] == [
    ["62.5%", "p0", "Net/up/dot"],
    ["25.0%", "p1", "Net/down/dot"],
    ["12.5%", "p0", "Net/norm/mul"],
  ]


def test_the_best_mesh_fits_and_takes_the_least_time():
  fast_but_large = mesh((4, 1, 1), program(120.0, costs(flops=10.0)))
  fast = mesh((2, 2, 1), program(90.0, costs(flops=50.0, sent=4.0)))
  slow = mesh((1, 4, 1), program(50.0, costs(flops=50.0, sent=40.0)))
  refused = mesh((1, 2, 2), refused="20 cannot be split")
  run = report.RunReport(SLICE, 100.0, [slow, fast_but_large, refused, fast])
  assert run.best() is fast
  text = report.to_text(run)
  assert "Best: data=2, fsdp=2, tensor=1" in text
  assert "--config.mesh.data=2 --config.mesh.fsdp=2" in text
  order = [
    text.rindex(report.title(m.sizes)) for m in (slow, fast_but_large, refused)
  ]
  table = text[text.index("| mesh") :]
  places = [
    table.index(report.title(m.sizes))
    for m in (fast, slow, fast_but_large, refused)
  ]
  assert places == sorted(places) and order
  assert "20 cannot be split" in table
  found = json.loads(json.dumps(report.to_json(run)))
  assert found["best"] == [2, 2, 1]
  assert [m["fits"] for m in found["meshes"]] == [True, False, False, True]
  seconds = found["meshes"][3]["programs"]["p0"]["seconds"]
  assert seconds["step"] == pytest.approx(50 / 10 + 4 / 2)


def test_no_mesh_fits():
  run = report.RunReport(
    SLICE, 5.0, [mesh((4, 1, 1), program()), mesh((2, 2, 1), program())]
  )
  assert run.best() is None
  assert "No mesh fits." in report.to_text(run)


def test_advice_names_the_shards_that_would_do():
  large = mesh((4, 1, 1), program(160.0), state_bytes=150)
  run = report.RunReport(
    SLICE, 100.0, [large], model={"remat": "none"}, microbatch=8
  )
  first, *rest = report.advice(run, large)
  # 150 bytes of state leave 90 of 100: two shards of 75.
  assert first.startswith("config.mesh.fsdp=2 for 1")
  text = "\n".join(rest)
  for part in ("lora.rank", "model.remat=full", "microbatch=4 for 8"):
    assert part in text
  adapters = report.RunReport(SLICE, 100.0, [large], lora_rank=4)
  assert "lora" not in "\n".join(report.advice(adapters, large))
  assert "remat" not in "\n".join(report.advice(adapters, large))
  # Where activations are what is large, they come first.
  busy = mesh((4, 1, 1), program(160.0), state_bytes=10)
  assert "remat" in report.advice(run, busy)[0]


def test_numbers_have_three_digits():
  found = [report.number(x) for x in (0, 7, 999.4, 1234, 5.6e9, 1e18, 2.5e21)]
  assert found == ["0", "7", "999", "1.23k", "5.6G", "1E", "2.5e+03E"]
