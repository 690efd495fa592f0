"""Reports of compiled programs as Markdown tables and as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreward.compilation.executables import Report, gib
from jaxreward.compilation.roofline import Seconds
from jaxreward.compilation.topology import Topology

Sizes = tuple[int, int, int]

LEGEND = """\
- memory: GiB per device by the compiler's own account. "beside" is what the
  run keeps on the device while a program runs that does not take it. The
  verdict is the compiler's: it refuses a program that does not fit.
- counted: flops of matrix products and convolutions in the program as
  written, scans multiplied, whole program / devices. compiled: the same in the
  compiled text of one device, loops multiplied, and those of Pallas kernels
  as written; more than counted is work that several devices do alike, or
  again, less is work that the compiler found to be unused. once: the
  compiler's cost analysis, which counts the body of a loop once; do not read
  it as a total.
- bytes: between HBM and chip, from the compiled text, loops multiplied; once:
  the cost analysis again.
- seconds: compute is compiled flops / bf16 peak; memory is bytes / HBM
  bandwidth; network is bytes sent / bandwidth of all links of a chip, rings
  assumed. Each is a lower bound, and the largest is the wall. compiler is the
  TPU compiler's estimated cycles / clock, collectives left out, loops
  multiplied, and kernels at the larger of their products at the peak and their
  bytes at the bandwidth, below what they take; far above the roofline, it says that vector units
  or latency hold the program back and none of the three walls. step is the
  larger of compiler and compute, then network, with no overlap: the number by
  which meshes are compared.
"""


@dataclasses.dataclass(frozen=True)
class MeshReport:
  """The programs of a run on one mesh.

  Attributes:
    sizes: of data, fsdp and tensor.
    programs: by name, in the order in which a step runs them.
    placement: table of the largest arrays.
    state_bytes: of training state and reference, per device.
    refused: why the mesh is impossible; empty if it is not.
    left_out: rewards not counted because their weights could not be read.
  """

  sizes: Sizes
  programs: dict[str, Report] = dataclasses.field(default_factory=dict)
  placement: str = ""
  state_bytes: int = 0
  refused: str = ""
  left_out: tuple[str, ...] = ()

  def fits(self, limit: float) -> bool:
    """Whether every program fits."""
    return not self.refused and all(
      program.fits(limit) for program in self.programs.values()
    )

  def seconds(self, topology: Topology) -> dict[str, Seconds]:
    """Bounds for the programs compiled for a chip with known peaks."""
    seconds = {k: p.seconds(topology) for k, p in self.programs.items()}
    return {k: s for k, s in seconds.items() if s is not None}

  def cost(self, topology: Topology) -> float:
    """Seconds of a step; without known peaks, bytes moved per device."""
    if topology.chip is not None:
      return sum(s.step for s in self.seconds(topology).values())
    costs = [p.costs for p in self.programs.values() if p.costs]
    return sum(c.bytes + c.sent for c in costs)


@dataclasses.dataclass(frozen=True)
class RunReport:
  """Results of `compile_check`.

  Attributes:
    topology: compiled for.
    limit: bytes per device; 0 if unknown.
    meshes: the config's, then the alternatives.
    model: of the config, as are the others; for advice and for the record.
    objective: its name.
    pictures: images per iteration.
    lora_rank: 0 where all parameters are trained.
    microbatch: rows.
    effort: of the compiler, from -1 to 1; runs use 0.
    adapters: what trains adapters in place of all parameters.
  """

  topology: Topology
  limit: float
  meshes: Sequence[MeshReport]
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  objective: str = ""
  pictures: int = 0
  lora_rank: int = 0
  microbatch: int = 1
  effort: float = 0.0
  adapters: str = "config.lora.rank=32"

  def best(self) -> MeshReport | None:
    """The cheapest mesh that fits."""
    fitting = [m for m in self.meshes if m.fits(self.limit)]
    return min(
      fitting, key=lambda m: m.cost(self.topology), default=None
    )  # fmt: skip


def title(sizes: Sizes) -> str:
  """Reads "data=4, fsdp=2, tensor=1"."""
  return "data={}, fsdp={}, tensor={}".format(*sizes)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """An aligned Markdown table, numbers to the right."""
  grid = [list(heads), *map(list, rows)]
  widths = [max(len(row[i]) for row in grid) for i in range(len(heads))]
  lines = [
    "| "
    + " | ".join(
      cell.ljust(w) if i == 0 else cell.rjust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    )
    + " |"
    for row in grid
  ]
  rule = [
    f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:"
    for i, w in enumerate(widths)
  ]
  lines.insert(1, "| " + " | ".join(rule) + " |")
  return "\n".join(lines)


def number(value: float) -> str:
  """Three digits, and k, M, G, T, P or E for thousands."""
  for unit in ("", "k", "M", "G", "T", "P"):
    if abs(value) < 999.5:
      return f"{value:.3g}{unit}"
    value /= 1000
  return f"{value:.3g}E"


def to_text(run: RunReport) -> str:
  """Everything as Markdown."""
  mesh = run.meshes[0]
  parts = [_heading(run, mesh)]
  if mesh.left_out:
    names = ", ".join(mesh.left_out)
    parts.append(f"Not counted, for want of weights: {names}.")
  if mesh.placement:
    parts.append(f"```\n{mesh.placement}\n```")
  if mesh.programs:
    parts += [_memory(run, mesh), _work(run, mesh), _traffic(mesh)]
    if mesh.seconds(run.topology):
      parts += filter(None, [_seconds(run, mesh), _costliest(mesh)])
  if not mesh.fits(run.limit):
    parts.append(
      "What to change:\n" + "\n".join(f"- {x}" for x in advice(run, mesh))
    )
  if len(run.meshes) > 1:
    parts.append(_comparison(run))
  return "\n\n".join([*parts, LEGEND])


def _heading(run: RunReport, mesh: MeshReport) -> str:
  no_limit = "compiles (how much memory there is, is not known)"
  success = "fits" if run.limit else no_limit
  verdict = success if mesh.fits(run.limit) else "does not fit"
  if mesh.refused:
    verdict = f"impossible: {mesh.refused}"
  room = f", {gib(run.limit)} GiB each" if run.limit else ""
  effort = f", compiled at effort {run.effort:g}" if run.effort else ""
  return (
    f"## {run.topology.name} ({run.topology.size} devices{room}),"
    f" {title(mesh.sizes)}{effort}: {verdict}"
  )


def _memory(run: RunReport, mesh: MeshReport) -> str:
  rows = []
  for name, program in mesh.programs.items():
    m = program.memory
    parts = [m.argument, m.output, m.temporary, m.code, m.beside]
    is_compiled = program.costs is not None
    rows.append(
      [
        name,
        *(gib(x) if is_compiled else "?" for x in parts),
        gib(m.total) if m.total else "?",
        "yes" if program.fits(run.limit) else "no",
      ]
    )
  heads = ("memory, GiB", "argument", "output", "temporary", "code", "beside")
  return table((*heads, "total", "fits"), rows)


def _work(run: RunReport, mesh: MeshReport) -> str:
  rows = []
  for name, program in mesh.programs.items():
    costs = program.costs
    share = program.counted_flops / run.topology.size
    cells = ["?"] * 6
    if costs:
      once = map(number, (program.once_flops, program.once_bytes))
      products = number(costs.flops + costs.kernel_flops)
      cells = [products, next(once), number(costs.bytes), next(once)]
      cells += [f"{costs.kernels:.0f}", str(costs.unknown_loops)]
    rows.append(
      [name, number(share), *cells, f"{program.compile_seconds:.0f} s"]
    )
  heads = ("per device", "counted flops", "compiled flops", "once", "bytes")
  return table(
    (*heads, "once", "Mosaic runs", "unknown loops", "compiled in"), rows
  )


def _traffic(mesh: MeshReport) -> str:
  rows = [
    [
      f"{name}: {kind}",
      axes,
      f"{t.times:.0f}",
      number(t.size / t.times),
      number(t.size),
      number(t.sent),
    ]
    for name, program in mesh.programs.items()
    if program.costs
    for (kind, axes), t in sorted(
      program.costs.collectives.items(), key=lambda item: -item[1].sent
    )
  ]
  if not rows:
    return "No collectives."
  heads = ("collectives, per device", "over", "times", "bytes each", "bytes")
  return table((*heads, "sent"), rows)


def _seconds(run: RunReport, mesh: MeshReport) -> str:
  rows = []
  seconds = mesh.seconds(run.topology)
  for name, s in seconds.items():
    parts = [s.compute, s.memory, s.network, s.roofline]
    rows.append(
      [name, *map(_time, parts), s.wall, _time(s.compiler), _time(s.step)]
    )
  rows.append(
    ["all", *[""] * 3, _time(sum(s.roofline for s in seconds.values())), ""]
  )
  rows[-1] += [
    _time(sum(s.compiler for s in seconds.values())),
    _time(mesh.cost(run.topology)),
  ]
  heads = ("seconds", "compute", "memory", "network", "roofline", "wall")
  return table((*heads, "compiler", "step"), rows)


def _costliest(mesh: MeshReport, limit: int = 10) -> str:
  """The operations with the most estimated cycles."""
  costs = {k: p.costs for k, p in mesh.programs.items() if p.costs}
  total = sum(c.cycles for c in costs.values())
  operations = [
    (cycles, name, operation)
    for name, c in costs.items()
    for operation, cycles in c.by_operation.items()
  ]
  if not total:
    return ""
  rows = [
    [f"{cycles / total:.1%}", name, operation]
    for cycles, name, operation in sorted(operations, reverse=True)[:limit]
  ]
  return table(("share of cycles", "program", "asked for by"), rows)


def _time(value: float) -> str:
  return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _comparison(run: RunReport) -> str:
  """All meshes, the best first, impossible ones last."""
  has_peaks = run.topology.chip is not None
  order = sorted(
    run.meshes,
    key=lambda m: (bool(m.refused), not m.fits(run.limit), m.cost(run.topology)),
  )  # fmt: skip
  rows = []
  for mesh in order:
    if mesh.refused:
      rows.append([title(mesh.sizes), "no", *["-"] * 2, mesh.refused])
      continue
    most = max(p.memory.total for p in mesh.programs.values())
    is_whole = all(p.costs for p in mesh.programs.values())
    cost = mesh.cost(run.topology)
    cell = _time(cost) if has_peaks else number(cost)
    rows.append(
      [
        title(mesh.sizes),
        "yes" if mesh.fits(run.limit) else "no",
        gib(most) if most else "?",
        cell if is_whole else "?",
        "" if mesh.fits(run.limit) else "does not fit",
      ]
    )
  unit = "step, s" if has_peaks else "bytes moved"
  text = table(("mesh", "fits", "largest, GiB", unit, "note"), rows)
  best = run.best()
  if best is None:
    return f"{text}\n\nNo mesh fits."
  names = ("data", "fsdp", "tensor")
  flags = " ".join(
    f"--config.mesh.{k}={v}" for k, v in zip(names, best.sizes, strict=True)
  )
  return f"{text}\n\nBest: {title(best.sizes)} ({flags})"


def advice(run: RunReport, mesh: MeshReport) -> list[str]:
  """What to change if a mesh does not fit, most promising first."""
  if mesh.refused:
    return ["other sizes of config.mesh: the line above says which divide"]
  data, fsdp, _ = mesh.sizes
  most = max((p.memory.total for p in mesh.programs.values()), default=0.0)
  lines = []
  is_state = mesh.state_bytes > 0.5 * (run.limit or most)
  if data > 1:
    fewer = max(run.limit - (most - mesh.state_bytes), 0.25 * run.limit)
    factor = 2 ** math.ceil(math.log2(max(mesh.state_bytes / max(fewer, 1), 2)))
    new_fsdp = min(fsdp * factor, fsdp * data)
    lines.append(
      f"config.mesh.fsdp={new_fsdp} for {fsdp}: state and reference take"
      f" {gib(mesh.state_bytes)} GiB per device now,"
      f" {gib(mesh.state_bytes * fsdp / new_fsdp)} then"
    )  # fmt: skip
  if not run.lora_rank:
    lines.append(
      f"{run.adapters}: no optimizer state, gradient or average of the"
      " base; the reference alone stays whole"
    )
  remat = run.model.get("remat", "full")
  if remat != "full":
    lines.append(
      f'config.model.remat=full for "{remat}": activations are computed'
      " again in the backward pass"
    )
  if run.microbatch > 1:
    lines.append(
      f"config.rollout.microbatch={max(run.microbatch // 2, 1)} for"
      f" {run.microbatch}: fewer rows at a time, the same gradient (it is"
      " rounded up to a multiple of data x fsdp)"
    )
  lines.append("a larger slice, or config.mesh.tensor beyond what is set")
  return lines if is_state else [*lines[2:], *lines[:2]]


def to_json(run: RunReport) -> dict[str, Any]:
  """The report as JSON values, bytes and seconds unrounded."""
  best = run.best()
  return {
    "topology": run.topology.name,
    "devices": run.topology.size,
    "model": dict(run.model),
    "objective": run.objective,
    "lora_rank": run.lora_rank,
    "pictures": run.pictures,
    "memory_per_device": run.limit,
    "compiler_effort": run.effort,
    "meshes": [_mesh_json(run, mesh) for mesh in run.meshes],
    "best": list(best.sizes) if best else None,
  }


def _mesh_json(run: RunReport, mesh: MeshReport) -> dict[str, Any]:
  return {
    "mesh": dict(zip(("data", "fsdp", "tensor"), mesh.sizes, strict=True)),
    "fits": mesh.fits(run.limit),
    "refused": mesh.refused,
    "left_out": list(mesh.left_out),
    "state_bytes": mesh.state_bytes,
    "cost": mesh.cost(run.topology),
    "advice": [] if mesh.fits(run.limit) else advice(run, mesh),
    "programs": {
      name: _program_json(run, program)
      for name, program in mesh.programs.items()
    },
  }


def _program_json(run: RunReport, program: Report) -> dict[str, Any]:
  record: dict[str, Any] = {
    "fits": program.fits(run.limit),
    "memory": dataclasses.asdict(program.memory)
    | {"total": program.memory.total},
    "counted_flops_all_devices": program.counted_flops,
    "compile_seconds": program.compile_seconds,
  }
  if program.costs:
    costs = program.costs
    record |= {
      "compiled_flops": costs.flops,
      "compiled_bytes": costs.bytes,
      "compiler_cycles": costs.cycles,
      "cycles_by_operation": costs.by_operation,
      "mosaic_runs": costs.kernels,
      "mosaic_flops": costs.kernel_flops,
      "unknown_loops": costs.unknown_loops,
      "cost_analysis_once": {
        "flops": program.once_flops, "bytes": program.once_bytes
      },
      "collectives": [
        {"kind": kind, "axes": axes} | dataclasses.asdict(traffic)
        for (kind, axes), traffic in costs.collectives.items()
      ],
    }  # fmt: skip
  if seconds := program.seconds(run.topology):
    record["seconds"] = dataclasses.asdict(seconds) | {
      "roofline": seconds.roofline, "wall": seconds.wall, "step": seconds.step,
    }  # fmt: skip
  return record
