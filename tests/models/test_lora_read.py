"""Adapters in the layouts that people have, against what diffusers makes."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.jobs import adapters
from jaxreward.models import (
  convert,
  flux,
  lora,
  lora_files,
  lora_names,
  lora_read,
  sd3,
  wan,
)

RNG = np.random.default_rng(3)


def shapes_of(policy):
  """{layer of diffusers: shape of its weight}."""
  like = jax.eval_shape(policy.init, jax.random.key(0))
  public = convert.public_shapes(like, policy.layout)
  found = {n.removesuffix(".weight"): s for n, s in public.items()}
  return {n: s for n, s in found.items() if len(s) > 1 and n + ".weight" in public}


def kind_of(policy):
  return policy.public_config["_class_name"]


def foreign(policy):
  """{layer as the authors name it: (in, out)} and its layers in diffusers."""
  shapes = shapes_of(policy)
  return {
    name: (shapes[alias.layers[0]][1:], sum(shapes[n][0] for n in alias.layers))
    for name, alias in lora_names.originals(kind_of(policy), shapes).items()
  }


def pair(ins, out, rank):
  a = RNG.standard_normal((rank, *ins)).astype("f4")
  b = RNG.standard_normal((out, rank) + (1,) * (len(ins) - 1)).astype("f4")
  return a, b


def matrices(layers, *, ends, alphas=True, ranks=(1, 2, 3)):
  """Tensors of a file: ranks and alphas differ from layer to layer.

  Args:
    layers: {name: (in, out)}.
    ends: of the names of both matrices.
    alphas: whether there are any.
    ranks: taken in turn.
  """
  found = {}
  for i, (name, (ins, out)) in enumerate(layers.items()):
    rank = ranks[i % len(ranks)]
    a, b = pair(ins, out, rank)
    found |= {f"{name}.{ends[0]}.weight": a, f"{name}.{ends[1]}.weight": b}
    if alphas:
      found[f"{name}.alpha"] = np.float32(0.5 + i % 4)
  return found


KOHYA, PEFT = ("lora_down", "lora_up"), ("lora_A", "lora_B")


def write(path, tensors, metadata=None):
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(x) for k, x in tensors.items()}, path, metadata
  )
  return path


def of_ours(path, policy):
  """{layer of diffusers: (A, B)} of what is read, scaled."""
  tree = adapters.read(str(path), policy)
  return {n: (a, b) for n, a, b in lora_files._public_pairs(tree, policy.layout)}


def of_theirs(state):
  """The same of a state of diffusers."""
  found = {}
  for name, a in state.items():
    if name.endswith(".lora_A.weight"):
      layer = name.removesuffix(".lora_A.weight")
      b = state[f"{layer}.lora_B.weight"]
      found[layer.removeprefix("transformer.")] = (a, b)
  return found


def assert_same(ours, theirs):
  """Both do the same to a vector, layer by layer, and to no other layer."""
  assert set(ours) == set(theirs)
  for name, (a, b) in ours.items():
    a, b, their_a, their_b = (
      np.asarray(x, np.float64).reshape(len(x), -1)
      for x in (a, b, *theirs[name])
    )
    x = np.random.default_rng(0).standard_normal((a.shape[1], 2))
    got, want = b @ (a @ x), their_b @ (their_a @ x)
    size = np.abs(want).max()
    np.testing.assert_allclose(got, want, atol=1e-5 * size, err_msg=name)


def torch_state(path):
  import safetensors.torch

  return safetensors.torch.load_file(path)


@functools.cache
def wide_flux(double=19, single=38):
  """Of the published width, which converters of diffusers take as given."""
  net = flux.make_net("flux_dev", double=double, single=single)
  policy = flux.make_policy(size="tiny", latent_side=8)
  like = jax.eval_shape(
    lambda: net.init(
      jax.random.key(0), *jax.tree.map(np.zeros, _inputs(net)),
      method="everything",
    )["params"]
  )  # fmt: skip
  import dataclasses

  return dataclasses.replace(
    policy, init=lambda key: like, layout=flux.layout(net),
    public_config=flux.public_config(net),
  )  # fmt: skip


def _inputs(net):
  prompts = {"words": (1, 2, net.text_width), "pooled": (1, net.pooled_width)}
  return (1, 4, 4, net.channels), (1,), prompts
