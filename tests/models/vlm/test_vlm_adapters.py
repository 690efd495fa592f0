"""An adapter of a vision-language model, in the names of both transformers."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxreward.errors import UserError
from jaxreward.models.vlm import qwen_vl, tiny

LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
RANK, ALPHA = 2, 6


def public(params):
  """Name -> weight, as the oldest files have them."""
  rules = qwen_vl.rules_of(tiny.MODEL, nested=False)
  rows = {}
  for rule in rules:
    if rule.ours:
      value = params
      for part in rule.ours.split("/"):
        value = value[part]
      rows.update(rule.to_public(np.asarray(value)))
  return rows


@pytest.mark.turns(2)
@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_an_adapter_is_added_to_fused_layers(prefix, tmp_path):
  params, rng = tiny.params(), np.random.default_rng(0)
  before, tensors, changes = public(params), {}, {}
  for name in LAYERS:
    layer = f"layers.1.{name}"
    out, ins = before[f"model.{layer}.weight"].shape
    a, b = rng.normal(size=(RANK, ins)), rng.normal(size=(out, RANK))
    key = f"base_model.model.{prefix}{layer}"
    tensors[f"{key}.lora_A.weight"] = a.astype(np.float32)
    tensors[f"{key}.lora_B.weight"] = b.astype(np.float32)
    changes[f"model.{layer}.weight"] = ALPHA / RANK * b @ a
  save_file(tensors, tmp_path / "adapter_model.safetensors")
  record = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
  (tmp_path / "adapter_config.json").write_text(json.dumps(record))
  after = public(qwen_vl.with_adapter(tiny.MODEL, params, str(tmp_path)))
  for name, value in after.items():
    want = before[name] + changes.get(name, 0)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5, err_msg=name)
  jax.tree.map(np.testing.assert_array_equal, params, tiny.params())


def test_an_adapter_of_another_network_is_refused(tmp_path):
  tensors = {
    f"base_model.model.model.layers.9.mlp.up_proj.lora_{x}.weight": np.zeros(
      (2, 2), np.float32
    )
    for x in "AB"
  }
  save_file(tensors, tmp_path / "adapter_model.safetensors")
  (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
  with pytest.raises(UserError, match="not of Qwen-VL"):
    qwen_vl.with_adapter(tiny.MODEL, tiny.params(), str(tmp_path))
