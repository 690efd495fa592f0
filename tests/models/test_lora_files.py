"""Adapters that we train are adapters for PEFT and for diffusers' pipelines."""

import dataclasses
import functools
import inspect
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import convert, lora, lora_files
from jaxreward.models.policies import (
  flux,
  flux2,
  qwen_image,
  sd3,
  wan,
  z_image,
)
from jaxreward.types import Params, Policy

RANK, ALPHA = 3, 5.0
PIPELINES = {
  "sd3": ["StableDiffusion3Pipeline"],
  "flux": ["FluxPipeline", "FluxKontextPipeline"],
  "qwen_image": ["QwenImagePipeline", "QwenImageEditPipeline"],
  "wan": ["WanPipeline", "WanImageToVideoPipeline"],
  "z_image": ["ZImagePipeline"],
  "flux2": ["Flux2KleinPipeline"],
}
MODULES = {
  "sd3": sd3, "flux": flux, "qwen_image": qwen_image, "wan": wan,
  "z_image": z_image, "flux2": flux2,
}  # fmt: skip
FRAMES = 3
B, SIDE, WORDS = 2, 8, 5


def busy(adapter):
  """Adapters with B away from zero."""
  leaves, tree = jax.tree.flatten(adapter)
  rng = np.random.default_rng(0)
  drawn = [0.3 * rng.standard_normal(x.shape).astype("f4") for x in leaves]
  return jax.tree.unflatten(tree, drawn)


def adapted(module, targets=".*"):
  sides: dict = {"latent_side": SIDE, "words": WORDS}
  if module is wan:
    sides = dict(frames=FRAMES, latent_height=SIDE, latent_width=SIDE)
  plain = module.make_policy(
    size="tiny", dtype="float32", remat="none", **sides
  )
  policy = lora.adapt_policy(plain, rank=RANK, alpha=ALPHA, targets=targets)
  params = jax.jit(policy.init)(jax.random.key(0))
  base, adapter = lora.split(params)
  return policy, plain, base, busy(adapter)


def pipeline_of(name, model, second=None):
  """A pipeline of diffusers that holds networks and nothing else."""
  import diffusers

  kind = getattr(diffusers, name)
  parts = dict.fromkeys(list(inspect.signature(kind).parameters))
  given = {"transformer": model, "boundary_ratio": 0.5}
  given |= {"transformer_2": second, "expand_timesteps": False}
  return kind(**parts | {k: v for k, v in given.items() if k in parts})


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A policy with adapters of every layer, and a drawing.

  Attributes:
    policy: with adapters.
    plain: without.
    base: its parameters.
    adapter: its adapters.
    ours: adapters -> velocity.
    theirs: network of diffusers -> its velocity, of the same inputs.
    kind: class of that network.
    folder: that it loads the base from.
  """

  policy: Policy
  plain: Policy
  base: Params
  adapter: Params
  ours: Callable[..., Any]
  theirs: Callable[..., Any]
  kind: Any
  folder: pathlib.Path

  def model(self):
    return self.kind.from_pretrained(self.folder)

  def loaded(self, pipeline, path, model=None):
    """What a pipeline draws with the adapters of a path."""
    model = self.model() if model is None else model
    pipe = pipeline_of(pipeline, model)
    pipe.load_lora_weights(path)
    out = self.theirs(model)
    pipe.unload_lora_weights()
    return out


@functools.cache
def drawn(name) -> Drawn:
  """Compiled once for all tests of a model."""
  import diffusers
  import peers

  module = MODULES[name]
  policy, plain, base, adapter = adapted(module)
  config = module.public_config(module.make_net("tiny"))
  folder = pathlib.Path(tempfile.mkdtemp())
  convert.save_params(folder, base, policy.layout, config=config)
  args = inputs(module)

  @jax.jit
  def ours(adapter):
    x, t, prompts = jax.tree.map(jnp.asarray, args)
    params = lora.merge(base, adapter)
    return policy.velocity(params, x, t, policy.encode(params, prompts))

  theirs = lambda model: peers.array(run_theirs(name)(model, *args))
  kind = getattr(diffusers, config["_class_name"])
  return Drawn(policy, plain, base, adapter, ours, theirs, kind, folder)


@pytest.mark.turns(3)
@pytest.mark.parity
@pytest.mark.parametrize("name", list(MODULES))
def test_peft_and_pipelines_draw_what_we_draw(peers, tmp_path, name):
  """Adapters of every layer; those of pictures as convolutions."""
  peft = pytest.importorskip("peft")
  of = drawn(name)
  lora_files.save_adapter(tmp_path, of.adapter, of.policy.layout, alpha=ALPHA)
  want = of.ours(of.adapter)
  still = of.ours(jax.tree.map(np.zeros_like, of.adapter))
  assert np.abs(want - still).max() > 0.1

  wrapped = peft.PeftModel.from_pretrained(of.model(), tmp_path)
  count = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
  assert count == peers.count(of.adapter)
  # Products of adapters grow from block to block: velocities are about 100 here.
  most = 5e-4 if name == "z_image" else 1e-4
  peers.assert_near(of.theirs(wrapped.base_model.model), want, most)

  model = of.model()
  for pipeline in PIPELINES[name]:
    peers.assert_near(of.theirs(model), still, most)
    peers.assert_near(of.loaded(pipeline, tmp_path, model), want, most)


def inputs(module):
  """Latents, times and prompts, with a picture to edit where one can be."""
  import peers
  import test_wan

  net = module.make_net("tiny")
  frames = (FRAMES,) if module is wan else ()
  x = peers.draw(1, B, *frames, SIDE, SIDE, net.channels)
  words = test_wan.WORDS if module is wan else WORDS
  prompts = {"words": peers.draw(2, B, words, net.text_width)}
  if module in (qwen_image, z_image):
    prompts["mask"] = np.arange(WORDS) < np.array([[WORDS], [3]])
  elif module in (sd3, flux):
    prompts["pooled"] = peers.draw(3, B, net.pooled_width)
  if module in (flux, qwen_image):
    prompts["picture"] = peers.draw(4, *x.shape)
  return x, np.array([0.5, 0.25], np.float32), prompts


def run_theirs(name):
  import test_flux
  import test_flux2
  import test_qwen_image
  import test_sd3
  import test_wan
  import test_z_image

  return {
    "sd3": test_sd3.run_theirs,
    "flux": at_these_sizes(test_flux),
    "qwen_image": at_these_sizes(test_qwen_image),
    "wan": test_wan.run_theirs,
    "z_image": test_z_image.run_theirs,
    "flux2": test_flux2.run_theirs,
  }[name]


def at_these_sizes(module):
  """Runs the peer of a test's module at this file's sizes."""

  def run(model, x, t, prompts):
    before = module.B, module.HEIGHT, module.WIDTH
    module.B, module.HEIGHT, module.WIDTH = B, SIDE, SIDE
    out = module.run_theirs(model, x, t, prompts)
    module.B, module.HEIGHT, module.WIDTH = before
    return out

  return run


def test_layers_fused_on_our_side_share_their_first_matrix(tmp_path):
  rules = convert.linear(
    "blocks/qkv", tuple(f"layer.{{}}.{n}" for n in "qkv"), range(2)
  )
  rng = np.random.default_rng(0)
  a = rng.standard_normal((2, 4, RANK)).astype("f4")
  b = rng.standard_normal((2, RANK, 9)).astype("f4")
  adapter = {"blocks": {"qkv": {"lora": {"a": a, "b": b}}}}
  lora_files.save_adapter(tmp_path, adapter, rules, alpha=2, dtype="float16")
  found = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
  assert len(found) == 12
  key = "base_model.model.layer.1.v.lora_{}.weight"
  half = lambda x: x.astype("f2")
  np.testing.assert_array_equal(found[key.format("A")], half(a[1].T))
  np.testing.assert_array_equal(found[key.format("B")], half(b[1, :, 6:].T))
  config = json.loads((tmp_path / "adapter_config.json").read_text())
  assert (config["r"], config["lora_alpha"]) == (RANK, 2)


def test_what_has_no_counterpart_is_refused(tmp_path):
  pair = {"lora": {"a": np.ones((4, 2)), "b": np.ones((2, 4))}}
  rule = convert.Rule("patch_in/kernel", "proj.weight", convert.CONV)
  save = lambda adapter, rules: lora_files.save_adapter(
    tmp_path, adapter, rules, alpha=1
  )
  with pytest.raises(UserError, match="patch_in has no counterpart"):
    save({"patch_in": pair}, [rule])
  with pytest.raises(UserError, match="no layer other"):
    save({"other": pair}, [rule])
  with pytest.raises(UserError, match="no adapter"):
    save({}, [rule])
  assert not list(tmp_path.iterdir())
