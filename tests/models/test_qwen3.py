"""Qwen3 as Z-Image and FLUX.2 klein read it, against transformers and diffusers."""

import jax
import numpy as np
import pytest

from jaxreward.models.text import qwen3_prompts, qwen_layouts
from tests.models import tower_peers as peers

TEXTS = ["a red circle", "two squares and a blue cross", ""]
LENGTH = 18


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(transformers' model, its tokenizer, our config and parameters)."""
  pytest.importorskip("transformers")
  pytest.importorskip("diffusers")
  pytest.importorskip("tokenizers")
  folder = tmp_path_factory.mktemp("qwen3")
  tokenizer = peers.chat_tokens(folder / "tokenizer")
  model = peers.qwen3(len(tokenizer))
  model.save_pretrained(folder)
  config, params = qwen_layouts.load(folder, models=("qwen3",))
  rules = qwen_layouts.rules_of(config, "")
  peers.same_after_round_trip(params, rules, folder)
  return model, tokenizer, config, params


@pytest.mark.parity
def test_states_are_those_that_z_image_reads(peer):
  import torch
  from diffusers import ZImagePipeline

  model, tokenizer, config, params = peer
  pipe = ZImagePipeline(None, None, model, tokenizer, None)
  with torch.no_grad():
    theirs = pipe._encode_prompt(
      list(TEXTS), device="cpu", max_sequence_length=LENGTH
    )
  ids, mask = qwen3_prompts.tokenize(tokenizer, TEXTS, LENGTH)
  last = config.depth - 1
  few, fewer = qwen3_prompts.first_layers(config, params, last)
  run = jax.jit(
    lambda p, ids, mask: qwen3_prompts.encode(few, p, ids, mask, (last,))
  )
  found = run(fewer, ids, mask)
  assert len({len(row) for row in theirs}) == 3
  for got, kept, want in zip(found, mask, theirs, strict=True):
    peers.close(got[kept], peers.numpy(want))


@pytest.mark.parity
def test_states_are_those_that_klein_reads(peer):
  """Of three layers, and behind the words too, where no key is attended to."""
  import torch
  from diffusers import Flux2KleinPipeline

  model, tokenizer, config, params = peer
  with torch.no_grad():
    theirs = Flux2KleinPipeline._get_qwen3_prompt_embeds(
      model, tokenizer, list(TEXTS), max_sequence_length=LENGTH,
      hidden_states_layers=(1, 2),
    )  # fmt: skip
  ids, mask = qwen3_prompts.tokenize(
    tokenizer, TEXTS, LENGTH, template=qwen3_prompts.KLEIN_TEMPLATE,
    pad=tokenizer.pad_token_id,
  )  # fmt: skip
  assert not mask.all() and mask[1].sum() > mask[0].sum()
  few, fewer = qwen3_prompts.first_layers(config, params, 2)
  run = jax.jit(
    lambda p, ids, mask: qwen3_prompts.encode(few, p, ids, mask, (1, 2))
  )
  peers.close(run(fewer, ids, mask), peers.numpy(theirs))


@pytest.mark.parity
def test_full_sizes_have_the_published_parameters():
  """The README's 4.0 and 8.2 billion, token tables included."""
  record = dict(
    model_type="qwen3", hidden_size=2560, num_hidden_layers=36,
    num_attention_heads=32, num_key_value_heads=8, head_dim=128,
    intermediate_size=9728, vocab_size=151936, rope_theta=1000000,
    rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=False,
    hidden_act="silu", use_sliding_window=False, rope_scaling=None,
    max_window_layers=36, sliding_window=None,
  )  # fmt: skip
  found = qwen_layouts.config_of(record, ("qwen3",))
  assert peers.count(qwen_layouts.shapes(found)) == 4_022_468_096
  assert np.isclose(found.theta, 1e6) and found.head == 128
