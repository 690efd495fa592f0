"""Utilization of devices that are not there, counted on a small program."""

import types

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxreward.training import loop, state, utilization


def devices(kind, count=2):
  return [types.SimpleNamespace(device_kind=kind)] * count


@jax.jit
def gradient(x, w):
  """Of a product, of which only the gradient of x is read."""

  def seal(w, x):
    return jax.vjp(lambda w, x: (x @ w).sum(), w, x)[1](1.0)

  return jax.lax.scan(lambda c, _: (seal(w, c)[1], None), x, length=3)[0]


@pytest.mark.parametrize(
  ("kind", "flops"),
  [
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA L40S", None),
    ("cpu", None),
    ("TPU v9", None),
  ],
)
def test_peaks_by_kind(kind, flops):
  assert utilization.peak(kind) == flops


def test_a_step_is_measured_by_products_that_are_read():
  x, w = jnp.ones((4, 8)), jnp.ones((8, 8))
  meter = utilization.Utilization(devices("TPU v5 lite"))
  run = meter.watch(gradient)
  assert run(x, w).shape == x.shape
  assert meter.row({"update": 1.0}) == {}  # it compiled
  run(x, w), run(x, w)
  row = meter.row({"sample": 0.25, "update": 0.25, "evaluate": 9.0})
  # One product of 4 x 8 x 8 each time: the other gradient is not read.
  want = 2 * 3 * 2 * 4 * 8 * 8 / 0.5 / (2 * 197e12)
  assert row == {"mfu": pytest.approx(want)}
  assert meter.row({"update": 1.0}) == {}  # nothing ran


@pytest.mark.parametrize("kind", ["cpu", "TPU v9"])
def test_unknown_devices_have_no_figure(kind):
  meter = utilization.Utilization(devices(kind))
  assert meter.watch(gradient) is gradient
  assert meter.row({"update": 1.0}) == {}


def test_the_loop_writes_the_figure():
  rows = []
  writer = types.SimpleNamespace(
    write=lambda n, row: rows.append(row), publish=lambda: None,
    write_timings=lambda n, seconds: None,
  )  # fmt: skip
  checkpoints = types.SimpleNamespace(
    best=lambda: None, steps=list, save=lambda *_, **__: None,
    wait=lambda: None,
  )  # fmt: skip
  meter = utilization.Utilization(devices("NVIDIA H200", 1))
  run, timer = meter.watch(gradient), loop.Timer()

  def step(current, n):
    timer("update", run(jnp.ones((4, 8)), jnp.ones((8, 8))))
    return current, {"loss": 0.0}

  job = loop.Loop(
    "align", 3, step, writer, checkpoints, timer=timer, utilization=meter
  )
  loop.run(job, state.create({"w": jnp.ones(())}, optax.sgd(0.1)), 0)
  assert ["mfu" in row for row in rows] == [False, True, True]
  assert 0 < rows[-1]["mfu"] < 1
