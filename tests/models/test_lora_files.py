"""Adapters that we train are adapters for PEFT and for diffusers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import (
  convert,
  flux,
  lora,
  lora_files,
  qwen_image,
  sd3,
  wan,
)

RANK, ALPHA = 3, 5.0
TARGETS = {
  "sd3": r"(_q|_k|_v|_out|_down|text_modulation)$",
  "flux": r"(_q|_k|_v|_out|patch_out)$",
  "qwen_image": r"(_q|_k|_v|_out|_down|text_modulation)$",
  "wan": r"(_q|_k|_v|_out|mlp_up|mlp_down)$",
}
MODULES = {"sd3": sd3, "flux": flux, "qwen_image": qwen_image, "wan": wan}
FRAMES = 3
B, SIDE, WORDS = 2, 8, 5


def busy(adapter):
  """Adapters with B away from zero."""
  leaves, tree = jax.tree.flatten(adapter)
  rng = np.random.default_rng(0)
  drawn = [0.3 * rng.standard_normal(x.shape).astype("f4") for x in leaves]
  return jax.tree.unflatten(tree, drawn)


def adapted(module, targets):
  sides: dict = {"latent_side": SIDE, "words": WORDS}
  if module is wan:
    sides = dict(frames=FRAMES, latent_height=SIDE, latent_width=SIDE)
  plain = module.make_policy(
    size="tiny", dtype="float32", remat="none", **sides
  )
  policy = lora.adapt_policy(plain, rank=RANK, alpha=ALPHA, targets=targets)
  params = jax.jit(policy.init)(jax.random.key(0))
  base, adapter = lora.split(params)
  return policy, base, busy(adapter)


@pytest.mark.parity
@pytest.mark.parametrize("name", list(MODULES))
def test_peft_and_diffusers_draw_what_we_draw(tmp_path, name):
  diffusers = pytest.importorskip("diffusers")
  peft = pytest.importorskip("peft")
  import peers
  import test_flux
  import test_qwen_image
  import test_sd3
  import test_wan

  module = MODULES[name]
  policy, base, adapter = adapted(module, TARGETS[name])
  config = module.public_config(module.make_net("tiny"))
  kind = getattr(diffusers, config["_class_name"])
  convert.save_params(tmp_path / "base", base, policy.layout, config=config)
  lora_files.save_adapter(
    tmp_path / "lora", adapter, policy.layout, alpha=ALPHA
  )

  net = module.make_net("tiny")
  frames = (FRAMES,) if name == "wan" else ()
  x = peers.draw(1, B, *frames, SIDE, SIDE, net.channels)
  words = test_wan.WORDS if name == "wan" else WORDS
  prompts = {"words": peers.draw(2, B, words, net.text_width)}
  if name == "qwen_image":
    prompts["mask"] = np.arange(WORDS) < np.array([[WORDS], [3]])
  elif name != "wan":
    prompts["pooled"] = peers.draw(3, B, net.pooled_width)
  t = np.array([0.5, 0.25], np.float32)

  @jax.jit
  def ours(params, x, t, prompts):
    return policy.velocity(params, x, t, policy.encode(params, prompts))

  got = ours(lora.merge(base, adapter), x, t, prompts)
  still = ours(
    lora.merge(base, jax.tree.map(np.zeros_like, adapter)), x, t, prompts
  )
  assert np.abs(got - still).max() > 0.1
  theirs = {
    "sd3": test_sd3.run_theirs,
    "flux": at_these_sizes(test_flux),
    "qwen_image": at_these_sizes(test_qwen_image),
    "wan": test_wan.run_theirs,
  }[name]

  model = kind.from_pretrained(tmp_path / "base")
  peers.assert_near(still, peers.array(theirs(model, x, t, prompts)), 1e-4)
  model.load_lora_adapter(
    tmp_path / "lora",
    prefix="base_model.model",
    weight_name="adapter_model.safetensors",
  )
  peers.assert_near(got, peers.array(theirs(model, x, t, prompts)), 1e-4)

  wrapped = peft.PeftModel.from_pretrained(
    kind.from_pretrained(tmp_path / "base"), tmp_path / "lora"
  )
  count = sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n)
  assert count == peers.count(adapter)
  want = peers.array(theirs(wrapped.base_model.model, x, t, prompts))
  peers.assert_near(got, want, 1e-4)


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
