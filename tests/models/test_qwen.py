"""The text tower of Qwen2.5-VL and the prompts of Qwen-Image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import qwen
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

TEXT = dict(
  hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
  num_key_value_heads=2, intermediate_size=40, vocab_size=300,
  max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=1,
  pad_token_id=0,
  rope_parameters={
    "rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1e4,
  },
)  # fmt: skip
VISION = dict(
  depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=48,
  patch_size=4, window_size=16, fullatt_block_indexes=[0],
)  # fmt: skip


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(transformers' model of both towers, its folder)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  config = transformers.Qwen2_5_VLConfig(
    text_config=TEXT, vision_config=VISION, image_token_id=290,
    video_token_id=291, vision_start_token_id=292, vision_end_token_id=293,
  )  # fmt: skip
  model = peers.shake(transformers.Qwen2_5_VLForConditionalGeneration(config))
  folder = tmp_path_factory.mktemp("qwen")
  model.save_pretrained(folder)
  return model, folder


def letters(text, **options):
  """A tokenizer of bytes with the interface of transformers'."""
  ids = list(text.encode())[: options.get("max_length")]
  return {"input_ids": ids}


@pytest.mark.parity
def test_states_and_gradients_equal_the_peers(peer):
  import torch

  model, folder = peer
  config, params = qwen.load(folder)
  tokens = np.random.default_rng(0).integers(2, 280, (2, 20)).astype(np.int32)
  ids = torch.tensor(tokens, dtype=torch.long)
  theirs = model(ids, output_hidden_states=True).hidden_states[-1]
  net = qwen.QwenText(config)
  apply = lambda p: net.apply({"params": p}, tokens)
  peers.close(jax.jit(apply)(params), peers.numpy(theirs))
  slope = jax.jit(jax.grad(lambda p: jnp.sin(apply(p)).mean()))(params)
  model.zero_grad()
  theirs.sin().mean().backward()
  named = {
    n.replace("model.language_model.", "model."): peers.numpy(p.grad)
    for n, p in model.named_parameters()
    if p.grad is not None
  }
  expected = peers.from_public(named, qwen.rules_of(config), params)
  peers.close_trees(slope, expected)
  found = qwen.QwenText(config, jnp.bfloat16).apply(
    {"params": peers.half(params)}, tokens
  )
  peers.close(found, peers.numpy(theirs), 2e-2)


@pytest.mark.parity
@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_both_names_of_the_public_layout_round_trip(prefix, peer, tmp_path):
  from jaxreward.models import convert, hub
  from tests.rewards import folders

  _, folder = peer
  config, params = qwen.load(folder)
  named = convert.to_public(params, qwen.rules_of(config, prefix))
  named["lm_head.weight"] = np.zeros((300, 48), np.float32)
  named["visual.merger.ln_q.weight"] = np.zeros(3, np.float32)
  folders.save_tensors(tmp_path / "model.safetensors", named)
  text = (folder / "config.json").read_text()
  (tmp_path / "config.json").write_text(text)
  found, loaded = qwen.load(tmp_path)
  assert found == config
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  stored = hub.open_weights(folder)
  for name, value in convert.to_public(params, qwen.rules_of(config)).items():
    other = name.replace("model.", "model.language_model.", 1)
    there = stored[name if name in stored else other]
    np.testing.assert_array_equal(value, there.read())


@pytest.mark.parity
def test_prompts_of_qwen_image_equal_the_pipelines(peer):
  import torch
  from diffusers import QwenImagePipeline

  model, folder = peer
  config, params = qwen.load(folder)
  texts = ["a red circle", "a much longer prompt with many words", ""]

  def padded(texts, max_length, **options):
    rows = [letters(t, max_length=max_length)["input_ids"] for t in texts]
    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
      ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1

    class Both(dict):
      input_ids, attention_mask = ids, mask
      to = lambda self, device: self

    return Both()

  pipeline = QwenImagePipeline(None, None, model, None, None)
  pipeline.tokenizer, pipeline.tokenizer_max_length = padded, 320
  assert pipeline.prompt_template_encode == qwen.TEMPLATE
  assert pipeline.prompt_template_encode_start_idx == qwen.TEMPLATE_TOKENS
  with torch.no_grad():
    theirs, _ = pipeline.encode_prompt(texts, device="cpu")
  ids, mask = qwen.tokenize(letters, texts, 320)
  found, kept = qwen.encode_qwen_image(config, params, ids, mask)
  longest = theirs.shape[1]
  assert longest == int(kept.sum(1).max())
  peers.close(found[:, :longest], peers.numpy(theirs))
  assert not np.asarray(found[:, longest:]).any()


def test_the_full_size_has_the_published_count():
  config = qwen.SIZES["qwen2.5_vl_7b"]
  head = config.vocabulary * config.width  # of the language model
  assert peers.count(qwen.shapes(config)) + head == 7_615_616_512


def test_every_parameter_has_one_sharding_rule():
  shapes = qwen.shapes(qwen.SIZES["qwen2.5_vl_7b"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, qwen.SHARDING_RULES, mesh)
  assert tuple(specs["layers"]["kv"]["kernel"]) == (None, "fsdp", "tensor")


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match='describes a "qwen2"'):
    qwen.config_of({"model_type": "qwen2"})
