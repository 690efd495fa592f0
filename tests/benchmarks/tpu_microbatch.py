"""Seconds of one micro-batch by the TPU compiler: forward pass and gradient.

A whole step takes the compiler ten minutes; its time is that of these two, as
often as they run: docs/compile_check.md.

  python -m tests.benchmarks.tpu_microbatch v5e-16 configs/pods.py:sd35_medium,lora \
    mesh.fsdp=16 model.attention=flash
"""

import ast
import math
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxreward import config as config_lib
from jaxreward import setup
from jaxreward.compilation import executables, topology
from jaxreward.flow import guidance
from jaxreward.jobs import compile_check
from jaxreward.training import mesh as mesh_lib


def read_config(spec, fields):
  config = config_lib.load_sibling(spec, "./x")
  for field in fields:
    path, text = field.split("=", 1)
    *sections, name = path.split(".")
    section = config
    for key in sections:
      section = section[key]
    is_text = isinstance(section[name], str)
    section[name] = text if is_text else ast.literal_eval(text)
  return config


def programs(config, mesh):
  """{name: (function, shapes)} of a micro-batch with guidance."""
  policy = setup.make_policy(config)
  trainable = setup.make_trainable(config, policy)
  base = jax.eval_shape(policy.init, jax.random.key(0))
  base = setup.shapes(base, trainable.plain.sharding_rules, mesh)
  params = jax.eval_shape(trainable.init, base)
  params = setup.shapes(
    params, trainable.policy.sharding_rules, mesh, params=params
  )
  by_rows = NamedSharding(mesh, PartitionSpec(mesh_lib.BATCH_AXES))
  whole = NamedSharding(mesh, PartitionSpec())
  devices = mesh_lib.round_up_to_devices(1, mesh)
  rows = -(-config.rollout.microbatch // devices) * devices
  scale = config.rollout.guidance_scale

  def shape(leaf, count, place):
    return jax.ShapeDtypeStruct(
      (count, *leaf.shape[1:]), leaf.dtype, sharding=place
    )

  words = compile_check.prompt_shapes(config, policy, mesh).words
  conds = jax.eval_shape(
    lambda params, base, words: guidance.conditioning(
      trainable.policy, trainable.merge(params, base), words, scale
    ),
    params, base, words,
  )  # fmt: skip
  cond = jax.tree.map(lambda x: shape(x, rows, by_rows), conds[0])
  uncond = jax.tree.map(lambda x: shape(x, 1, whole), conds[1])
  latent = jax.ShapeDtypeStruct((1, *policy.latent_shape), jnp.float32)
  x = shape(latent, rows, by_rows)
  t = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=by_rows)

  def forward(params, base, x, t, cond, uncond):
    return guidance.guided_velocity(
      trainable.policy, trainable.merge(params, base), x, t, cond, uncond, scale
    )

  def gradient(params, base, x, t, cond, uncond, cotangent):
    run = lambda params: forward(params, base, x, t, cond, uncond)
    return jax.vjp(run, params)[1](cotangent)[0]

  operands = params, base, x, t, cond, uncond
  return {
    "forward": (forward, operands),
    "gradient": (gradient, (*operands, x)),
  }


def main(name, spec, *fields):
  config = read_config(spec, fields)
  pod = topology.find(name)
  topology.require(pod)
  sizes = mesh_lib.resolve(config.mesh.to_dict(), pod.size)
  mesh = mesh_lib.make_mesh(*sizes, devices=topology.devices(pod))
  for part, (run, operands) in programs(config, mesh).items():
    with jax.set_mesh(mesh):
      traced = jax.jit(run).trace(*operands)
      report = executables.build(traced, dict(mesh.shape))
    seconds = report.seconds(pod)
    if seconds is None:
      raise SystemExit(
        f"{part}: needs {executables.gib(report.memory.total)} GiB"
      )
    values = {
      "compute": seconds.compute, "memory": seconds.memory,
      "network": seconds.network, "compiler": seconds.compiler,
      "step": seconds.step, "step/compute": seconds.step / seconds.compute,
      "temporary GiB": report.memory.temporary / topology.GIB,
    }  # fmt: skip
    text = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
    sys.stdout.write(f"{part}: {text}\n")
    sys.stdout.flush()
    assert math.isfinite(seconds.step)


if __name__ == "__main__":
  main(*sys.argv[1:])
