"""Adapters that we train are adapters for PEFT and for diffusers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import convert, flux, lora, lora_files, sd3

RANK, ALPHA = 3, 5.0
TARGETS = {
  "sd3": r"(_q|_k|_v|_out|_down|text_modulation)$",
  "flux": r"(_q|_k|_v|_out|patch_out)$",
}
B, SIDE, WORDS = 2, 8, 5


def busy(adapter):
  """Adapters with B away from zero."""
  leaves, tree = jax.tree.flatten(adapter)
  rng = np.random.default_rng(0)
  drawn = [0.3 * rng.standard_normal(x.shape).astype("f4") for x in leaves]
  return jax.tree.unflatten(tree, drawn)


def adapted(module, targets):
  plain = module.make_policy(
    size="tiny", latent_side=SIDE, words=WORDS, dtype="float32", remat="none"
  )
  policy = lora.adapt_policy(plain, rank=RANK, alpha=ALPHA, targets=targets)
  params = jax.jit(policy.init)(jax.random.key(0))
  base, adapter = lora.split(params)
  return policy, base, busy(adapter)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_peft_and_diffusers_draw_what_we_draw(tmp_path, name):
  diffusers = pytest.importorskip("diffusers")
  peft = pytest.importorskip("peft")
  import peers
  import test_flux
  import test_sd3

  module = {"sd3": sd3, "flux": flux}[name]
  policy, base, adapter = adapted(module, TARGETS[name])
  config = module.public_config(module.make_net("tiny"))
  kind = getattr(diffusers, config["_class_name"])
  convert.save_params(tmp_path / "base", base, policy.layout, config=config)
  lora_files.save_adapter(
    tmp_path / "lora", adapter, policy.layout, alpha=ALPHA
  )

  net = module.make_net("tiny")
  x = peers.draw(1, B, SIDE, SIDE, net.channels)
  prompts = {
    "words": peers.draw(2, B, WORDS, net.text_width),
    "pooled": peers.draw(3, B, net.pooled_width),
  }
  t = np.array([0.5, 0.25], np.float32)

  @jax.jit
  def ours(params, x, t, prompts):
    return policy.velocity(params, x, t, policy.encode(params, prompts))

  got = ours(lora.merge(base, adapter), x, t, prompts)
  still = ours(
    lora.merge(base, jax.tree.map(np.zeros_like, adapter)), x, t, prompts
  )
  assert np.abs(got - still).max() > 0.1
  theirs = {"sd3": test_sd3.run_theirs, "flux": packed(test_flux)}[name]

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


def packed(test_flux):
  """Runs FLUX at this file's sizes."""

  def run(model, x, t, prompts):
    before = test_flux.B, test_flux.HEIGHT, test_flux.WIDTH
    test_flux.B, test_flux.HEIGHT, test_flux.WIDTH = B, SIDE, SIDE
    out = test_flux.run_theirs(model, x, t, prompts)
    test_flux.B, test_flux.HEIGHT, test_flux.WIDTH = before
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
