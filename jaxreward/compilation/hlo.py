"""Parses a compiled program's text: loops multiplied, collectives by mesh axes.

The compiler's own cost analysis counts the body of a loop once. Here every
computation counts as often as it runs, if the text says so.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_BYTES = {"pred": 1, "token": 0, "opaque": 0}
# Operations that move no data: views of other buffers.
_NAMES = {
  "after-all", "bitcast", "conditional", "constant", "copy-done",
  "get-tuple-element", "optimization-barrier", "parameter", "slice-done",
  "tuple", "while",
}  # fmt: skip
_OP = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
# Devices as "[2,4]T(1,0)": 0 to 7 as two rows of four, then transposed.
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array: type, dimensions, and whether it lies in the main memory."""

  dtype: str
  dims: tuple[int, ...]
  is_main: bool

  @property
  def size(self) -> int:
    """Bytes."""
    digits = re.search(r"\d+", self.dtype)
    bits = int(digits[0]) if digits else 8 * _BYTES.get(self.dtype, 4)
    return math.ceil(math.prod(self.dims) * bits / 8)


@dataclasses.dataclass(frozen=True)
class Op:
  """One line of a computation."""

  name: str
  kind: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  rest: str
  is_root: bool

  @property
  def size(self) -> int:
    """Bytes of the result."""
    return sum(shape.size for shape in self.shapes)

  @property
  def main_size(self) -> int:
    """Bytes of the result in the main memory."""
    return sum(shape.size for shape in self.shapes if shape.is_main)

  def called(self, attribute: str) -> list[str]:
    """Computations that an attribute names."""
    match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", self.rest)
    return re.findall(r"%([\w.\-]+)", match[1]) if match else []


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Traffic of collectives of one kind over the same devices, per device.

  Attributes:
    times: how often they run.
    size: bytes that go in.
    sent: bytes that a device sends, with ring algorithms.
  """

  times: float = 0.0
  size: float = 0.0
  sent: float = 0.0

  def plus(self, other: Traffic, times: float) -> Traffic:
    """The sum with `times` times the other."""
    return Traffic(
      self.times + times * other.times,
      self.size + times * other.size,
      self.sent + times * other.sent,
    )


# Parts of names that describe transformations, not computations.
_PLUMBING = {
  "", "body", "branch_0_fun", "branch_1_fun", "checkpoint", "closed_call",
  "cond", "rematted_computation", "shard_map", "while",
}  # fmt: skip


@dataclasses.dataclass
class Costs:
  """Costs on one device.

  Attributes:
    flops: of matrix products and convolutions.
    bytes: between the main memory and the chip.
    cycles: the TPU compiler's own estimate of everything but collectives.
    kernels: runs of Pallas kernels (Mosaic), whose costs the text lacks.
    kernel_flops: within them, if counted; not part of `flops`.
    kernel_bytes: that they read and write; part of `bytes`.
    unknown_loops: loops that counted once because their length is unknown.
    collectives: {(kind, mesh axes): Traffic}.
    by_operation: {source operation in the program: cycles}.
  """

  flops: float = 0.0
  bytes: float = 0.0
  cycles: float = 0.0
  kernels: float = 0.0
  kernel_flops: float = 0.0
  kernel_bytes: float = 0.0
  unknown_loops: int = 0
  collectives: dict[tuple[str, str], Traffic] = dataclasses.field(
    default_factory=dict
  )
  by_operation: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def sent(self) -> float:
    """Bytes that a device sends in all collectives."""
    return sum(traffic.sent for traffic in self.collectives.values())

  def add(self, other: Costs, times: float = 1.0) -> None:
    """Adds `times` times the other."""
    self.flops += times * other.flops
    self.bytes += times * other.bytes
    self.cycles += times * other.cycles
    self.kernels += times * other.kernels
    self.kernel_flops += times * other.kernel_flops
    self.kernel_bytes += times * other.kernel_bytes
    self.unknown_loops += other.unknown_loops
    for key, traffic in other.collectives.items():
      before = self.collectives.get(key, Traffic())
      self.collectives[key] = before.plus(traffic, times)
    for name, cycles in other.by_operation.items():
      before = self.by_operation.get(name, 0.0)
      self.by_operation[name] = before + times * cycles


def read(text: str, axes: dict[str, int] | None = None) -> Costs:
  """Costs of the program on one device.

  Args:
    text: `compiled.as_text()`.
    axes: names and sizes of the mesh whose devices, in order, the program is
      compiled for; collectives are then named by the axes that they cross.
  """
  program = Program(text, axes or {})
  return program.costs(program.entry)


def parse(text: str) -> tuple[dict[str, list[Op]], str]:
  """({computation: its operations}, name of the entry computation)."""
  computations: dict[str, list[Op]] = {}
  entry, ops = "", []
  for line in text.splitlines():
    header = re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
    if header:
      ops = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif match := _OP.match(line):
      ops.append(_parse_op(match, line))
  return computations, entry


def _parse_op(match: re.Match, line: str) -> Op:
  start = match.end()
  if line[start] == "(":
    end = _closing(line, start) + 1
  else:
    end = line.index(" ", start)
  opening = line.index("(", end)
  closing = _closing(line, opening)
  return Op(
    name=match[2],
    kind=line[end:opening].strip(),
    shapes=tuple(_shapes(line[start:end])),
    operands=tuple(re.findall(r"%([\w.\-]+)", line[opening:closing])),
    rest=line[opening:],
    is_root=bool(match[1]),
  )


def _asked_by(op: Op) -> str:
  """The scopes and the primitive that an operation comes from."""
  match = re.search(r'op_name="([^"]*)"', op.rest)
  if not match:
    return op.kind
  inner = match[1]
  while inner != (bare := re.sub(r"[\w\-]+\(([^()]*)\)", r"\1", inner)):
    inner = bare  # jvp(SD3) -> SD3
  scopes = [part for part in inner.split("/") if part not in _PLUMBING]
  return "/".join(scopes[-3:])


def _closing(line: str, start: int) -> int:
  """Index of the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.finditer(r"[()]", line[start:]):
    depth += 1 if match[0] == "(" else -1
    if not depth:
      return start + match.start()
  raise ValueError(f"no closing parenthesis: {line[:200]}")


def _shapes(text: str) -> Iterator[Shape]:
  for dtype, dims, layout in _SHAPE.findall(text):
    sizes = tuple(int(size) for size in dims.split(",") if size)
    # S(1) and above are the chip's own memories.
    yield Shape(dtype, sizes, "S(" not in layout)


class Program:
  """A parsed program, its costs kept per computation."""

  def __init__(self, text: str, axes: dict[str, int]):
    self.computations, self.entry = parse(text)
    self.axes = axes
    count = re.search(r"num_partitions=(\d+)", text)
    self.devices = int(count[1]) if count else 1
    self._known: dict[tuple[str, bool], Costs] = {}

  def costs(self, name: str, is_fused: bool = False) -> Costs:
    """Costs of one run of a computation; a fused one does not access memory."""
    if (name, is_fused) not in self._known:
      self._known[name, is_fused] = self._sum(name, is_fused)
    return self._known[name, is_fused]

  def _sum(self, name: str, is_fused: bool) -> Costs:
    ops = {op.name: op for op in self.computations[name]}
    total, channels = Costs(), set()
    for op in ops.values():
      total.add(self._own(op, ops, name, is_fused))
      if op.kind == "while":
        times = self._trips(op, ops)
        total.unknown_loops += times is None
        for body in op.called("body") + op.called("condition"):
          total.add(self.costs(body), 1 if times is None else times)
      elif op.kind == "conditional":
        total.add(self._dearest(op))
      elif op.kind in ("fusion", "call", "async-start"):
        self._add_called(op, total, channels, is_fused or op.kind == "fusion")
    return total

  def _add_called(
    self, caller: Op, total: Costs, channels: set, is_fused: bool
  ):
    """Adds called computations; an asynchronous collective in several fusions
    counts once."""
    for name in caller.called("calls") + caller.called("to_apply"):
      inner = self.costs(name, is_fused)
      op_channels = {
        match[1]
        for op in self.computations[name]
        if _collective(op)
        and (match := re.search(r"channel_id=(\d+)", op.rest))
      }
      if op_channels & channels:
        inner = dataclasses.replace(inner, collectives={})
      total.add(inner)
      channels |= op_channels

  def _dearest(self, op: Op) -> Costs:
    names = [
      name
      for attribute in (
        "branch_computations", "true_computation", "false_computation"
      )
      for name in op.called(attribute)
    ]  # fmt: skip
    branches = [self.costs(name) for name in names]
    return max(branches, key=lambda c: (c.cycles, c.flops, c.bytes, c.sent))

  def _own(self, op: Op, ops: dict[str, Op], name: str, is_fused: bool):
    """Costs of an operation without what it calls."""
    cost = Costs()
    if op.kind in ("dot", "convolution"):
      count = _dot_flops if op.kind == "dot" else _convolution_flops
      cost.flops = count(op, ops)
    if kind := _collective(op):
      if "all-reduce-scatter" in name:
        kind = "reduce-scatter"
      cost.collectives = self._traffic(kind, op, ops)
    if is_fused:
      return cost
    cost.bytes = self._bytes(op, ops)
    cost.kernels = float('custom_call_target="tpu_custom_call"' in op.rest)
    cost.kernel_bytes = cost.bytes * cost.kernels
    estimate = re.search(r'"estimated_cycles":"(\d+)"', op.rest)
    # Some operations without an estimate carry the largest integer.
    if estimate and int(estimate[1]) < 2**53:
      cost.cycles = float(estimate[1])
      cost.by_operation = {_asked_by(op): cost.cycles}
    return cost

  def _traffic(self, kind: str, op: Op, ops: dict[str, Op]):
    size = float(sum(ops[name].size for name in op.operands if name in ops))
    group = _group(op.rest, self.devices)
    n = max(len(group), 1)
    traffic = {
      "all-gather": size * (n - 1),
      "all-reduce": 2 * size * (n - 1) / n,
      "collective-permute": size,
    }.get(kind, size * (n - 1) / n)
    return {(kind, self._crossed(group)): Traffic(1.0, size, traffic)}

  def _crossed(self, group: Sequence[int]) -> str:
    """Mesh axes along which the members of a group differ."""
    if math.prod(self.axes.values()) != self.devices or len(group) < 2:
      return f"{len(group)} devices"
    places = np.array(np.unravel_index(group, tuple(self.axes.values())))
    differ = (places != places[:, :1]).any(1)
    names = [
      name for name, is_in in zip(self.axes, differ, strict=True) if is_in
    ]
    return " x ".join(names)

  def _trips(self, loop: Op, ops: dict[str, Op]) -> int | None:
    """The trip count of a loop; None if the text does not give it."""
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if match:
      return int(match[1])
    (condition,), (body,) = loop.called("condition"), loop.called("body")
    tests = {op.name: op for op in self.computations[condition]}
    compare = next((t for t in tests.values() if t.is_root), None)
    if compare is None or compare.kind != "compare":
      return None
    if "direction=LT" not in compare.rest:
      return None
    counter, limit = (tests.get(name) for name in compare.operands)
    bound = _constant(limit, tests)
    index = re.search(r"index=(\d+)", counter.rest) if counter else None
    if bound is None or index is None:
      return None
    place = int(index[1])
    begin = self._first(loop, ops, place)
    return max(0, math.ceil((bound - begin) / self._stride(body, place)))

  def _first(self, op: Op, ops: dict[str, Op], place: int) -> int:
    """The start of a loop's counter; 0, as in scans, by default."""
    entered = ops.get(op.operands[0])
    if entered is None or entered.kind != "tuple":
      return 0
    return _constant(ops.get(entered.operands[place]), ops) or 0

  def _stride(self, body: str, place: int) -> int:
    """The increment of a loop's counter; 1, as in scans, by default."""
    ops = {op.name: op for op in self.computations[body]}
    root = next(op for op in ops.values() if op.is_root)
    if root.kind != "tuple":
      return 1
    step = ops.get(root.operands[place])
    while step is not None and step.kind == "copy":
      step = ops.get(step.operands[0])
    if step is None or step.kind != "add":
      return 1
    values = [_constant(ops.get(name), ops) for name in step.operands]
    return next((value for value in values if value), 1)

  def _bytes(self, op: Op, ops: dict[str, Op]) -> float:
    """Bytes that an operation reads and writes in the main memory."""
    if op.kind in _NAMES or op.kind == "call" or op.kind.endswith("-done"):
      return 0.0
    read_sizes = [ops[name].main_size for name in op.operands if name in ops]
    if op.kind.endswith("-start"):
      return float(sum(read_sizes) or op.main_size)
    if op.kind == "dynamic-slice":
      return 2.0 * op.main_size
    if op.kind == "dynamic-update-slice":
      return 2.0 * ops[op.operands[1]].size
    write_size = op.main_size
    if op.kind == "fusion":
      read_sizes, write_size = self._fusion_bytes(op, read_sizes, write_size)
    return float(sum(read_sizes) + write_size)

  def _fusion_bytes(self, fusion: Op, read_sizes: list[int], write_size: int):
    """Sizes of a fusion's operands and result; sliced buffers count by their
    slices.

    Buffers that an asynchronous collective passes from start to end are neither
    read nor written by the operations in between.
    """
    (name,) = fusion.called("calls")
    inner = self.computations[name]
    if any("AsyncCollectiveDone" in op.rest for op in inner):
      return [], 0
    if "async_collective" in name or any(
      "AsyncCollectiveStart" in op.rest for op in inner
    ):
      for out, operand in re.findall(r"\{(\d+)\}: \((\d+), ", fusion.rest):
        write_size -= (
          fusion.shapes[int(out)].size * fusion.shapes[int(out)].is_main
        )
        read_sizes[int(operand)] = 0
      return read_sizes, write_size
    table = {op.name: op for op in inner}
    users = collections.defaultdict(list)
    for op in inner:
      for place, operand in enumerate(op.operands):
        users[operand].append((op, place))
    for op in inner:
      if op.kind != "parameter":
        continue
      number = int(re.match(r"\((\d+)\)", op.rest)[1])  # pyrefly: ignore
      sizes = [_sliced(user, place, table) for user, place in users[op.name]]
      if number < len(read_sizes) and read_sizes[number] and None not in sizes:
        read_sizes[number] = min(read_sizes[number], sum(sizes))  # pyrefly: ignore
    for op in inner:
      if op.kind == "dynamic-update-slice" and op.size <= write_size:
        write_size -= op.size - table[op.operands[1]].size
    return read_sizes, write_size


def _sliced(user: Op, place: int, table: dict[str, Op]) -> int | None:
  """Bytes that an operation reads from its operand, if it takes a slice."""
  if place == 0 and user.kind == "dynamic-slice":
    return user.size
  if place == 0 and user.kind == "dynamic-update-slice":
    return 0
  return None


def _collective(op: Op) -> str:
  """The kind of a collective; empty for other operations and collective
  ends."""
  kind = op.kind.removesuffix("-start")
  return kind if kind in COLLECTIVES else ""


def _constant(op: Op | None, ops: dict[str, Op]) -> int | None:
  """Value of an integer constant, through copies."""
  while op is not None and op.kind in ("copy", "bitcast"):
    op = ops.get(op.operands[0])
  if op is None or op.kind != "constant":
    return None
  match = re.match(r"\((-?\d+)\)", op.rest)
  return int(match[1]) if match else None


def _group(text: str, devices: int) -> list[int]:
  """Devices of a collective's first group."""
  if match := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
    return [int(match[1]), int(match[2])]
  if match := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
    return _numbers(match[1])
  if match := re.search(rf"replica_groups=\[([\d,]+)\]<={_ORDER}", text):
    return _ordered(*match.groups()[1:]).reshape(_numbers(match[1]))[0].tolist()
  if match := re.search(
    r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}", text
  ):
    sizes = {k: int(v) for k, v in re.findall(r"'(\w+)'=(\d+)", match[1])}
    order = re.search(_ORDER, match[2])
    ids = _ordered(*order.groups()) if order else np.arange(devices)
    axes = re.findall(r"'(\w+)'", match[3])
    slices = tuple(slice(None) if name in axes else 0 for name in sizes)
    return ids.reshape(tuple(sizes.values()))[slices].reshape(-1).tolist()
  return list(range(devices))


def _numbers(text: str) -> list[int]:
  return [int(part) for part in text.split(",")]


def _ordered(dims: str, swap: str | None) -> np.ndarray:
  """Devices in the order given by "[2,4]T(1,0)"."""
  ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
  return ids.transpose(_numbers(swap)) if swap else ids


def _dot_flops(op: Op, ops: dict[str, Op]) -> float:
  match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
  axes = [int(x) for x in match[1].split(",") if x] if match else []
  lhs = ops[op.operands[0]].shapes[0].dims
  out = math.prod(op.shapes[0].dims)
  return 2.0 * out * math.prod(lhs[axis] for axis in axes)


def _convolution_flops(op: Op, ops: dict[str, Op]) -> float:
  """FLOPs of a convolution, without taps on padding or dilation holes."""
  match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
  assert match is not None, op.rest
  lhs, rhs, out = match.groups()
  sizes = [ops[name].shapes[0].dims for name in op.operands[:2]]
  pairs = 1.0
  for axis in sorted(set(lhs) - set("bf")):
    pairs *= _valid_pairs(
      size=sizes[0][lhs.index(axis)],
      taps=sizes[1][rhs.index(axis)],
      out=op.shapes[0].dims[out.index(axis)],
      window=_window(op.rest, int(axis)),
    )
  dims = op.shapes[0].dims
  batch_features = dims[out.index("b")] * dims[out.index("f")]
  return 2.0 * pairs * batch_features * sizes[1][rhs.index("i")]


def _window(attributes: str, axis: int) -> dict[str, int]:
  """Stride, dilations and padding of one dimension of a convolution."""
  match = re.search(r"window=\{([^}]*)\}", attributes)
  values = {"stride": 1, "lhs_dilate": 1, "rhs_dilate": 1, "low": 0}
  for name, text in re.findall(r"(\w+)=(\S+)", match[1] if match else ""):
    part = text.split("x")[axis]
    if name == "pad":
      values["low"] = int(part.split("_")[0])
    elif name in values:
      values[name] = int(part)
  return values


@functools.cache
def _count_pairs(size, taps, out, stride, lhs_dilate, rhs_dilate, low) -> float:
  place = np.arange(out)[:, None] * stride - low
  place = place + np.arange(taps)[None] * rhs_dilate
  inside = (place >= 0) & (place <= (size - 1) * lhs_dilate)
  return float((inside & (place % lhs_dilate == 0)).sum())


def _valid_pairs(*, size: int, taps: int, out: int, window: dict) -> float:
  return _count_pairs(size, taps, out, **window)
