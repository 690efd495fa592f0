"""Folders of small random weights with a tokenizer, as a hub would give them."""

import json
import pathlib

import numpy as np
import safetensors.numpy
from etils import epath

from jaxreward.models import convert
from jaxreward.models.vision import clip_layouts
from jaxreward.setup import rewards as reward_setup
from jaxreward.tasks.scenes import grammar
from tests import tiny

LENGTH, SIDE = 12, 28
BOS, EOS = "<start>", "<end>"


def words() -> list[str]:
  """The end token has the largest id, as in CLIP's vocabulary."""
  return ["<pad>", *grammar.VOCAB[1:], "picture", BOS, EOS]


def save_tokenizer(folder) -> None:
  """A tokenizer of the scenes' words that marks both ends of a text."""
  import tokenizers
  import transformers

  vocab = {w: i for i, w in enumerate(words())}
  tokens = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token="<pad>")
  )
  tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokens.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{BOS} $A {EOS}",
    special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])],
  )
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokens, pad_token="<pad>", eos_token=EOS, bos_token=BOS
  )
  fast.save_pretrained(folder)


def clip_record() -> dict:
  return {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": dict(
      vocab_size=len(words()), hidden_size=32, intermediate_size=128,
      num_hidden_layers=2, num_attention_heads=2, eos_token_id=2,
      max_position_embeddings=LENGTH, hidden_act="gelu",
    ),
    "vision_config": dict(
      hidden_size=32, intermediate_size=64, num_hidden_layers=2,
      num_attention_heads=2, image_size=SIDE, patch_size=7, hidden_act="gelu",
    ),
  }  # fmt: skip


def save_tensors(path, tensors) -> None:
  safetensors.numpy.save_file(
    {n: np.asarray(x, np.float32, order="C") for n, x in tensors.items()}, path
  )


def drawn(shapes, seed=0, scale=0.2):
  """Random parameters of these shapes."""
  import jax

  rng = np.random.default_rng(seed)
  draw = lambda x: (scale * rng.standard_normal(x.shape)).astype(np.float32)
  return jax.tree.map(draw, shapes)


def clip_folder(folder, *, logit_scale=3.0, seed=0, extra=None):
  """A CLIP of both towers in transformers' layout; gives the folder."""
  folder.mkdir(parents=True, exist_ok=True)
  record = clip_record()
  (folder / "config.json").write_text(json.dumps(record))
  config = clip_layouts._of_hf(record)
  params = drawn(clip_layouts.shapes(config), seed)
  params["logit_scale"] = np.float32(logit_scale)
  named = convert.to_public(params, clip_layouts.rules_of(config, "hf"))
  save_tensors(folder / "model.safetensors", {**named, **(extra or {})})
  save_tokenizer(folder)
  return folder


def pictures(p=2, g=3, size=(40, 40), seed=0) -> np.ndarray:
  """Pictures of eight bits as floats in [0, 1], [P, G, H, W, 3]."""
  rng = np.random.default_rng(seed)
  coarse = rng.random((p, g, 5, 5, 3))
  big = np.kron(coarse, np.ones((1, 1, size[0] // 5, size[1] // 5, 1)))
  return (np.round(big * 255) / 255).astype(np.float32)


def prompts(count=2, seed=0):
  """(PromptBatch, its texts)."""
  chosen = grammar.prompts("train")[seed :: len(grammar.prompts("train")) // 7]
  chosen = chosen[:count]
  return grammar.batch(chosen), [p.text for p in chosen]


def load(fn, **options):
  """The reward "mine" that a config of these words names."""
  given = {"rewards.detector": "none", "rewards.mine.fn": fn}
  for name, value in options.items():
    path = isinstance(value, pathlib.Path)
    given[f"rewards.mine.{name}"] = str(value) if path else value
  config = tiny.load("align_scenes.py:smoke", given)
  return reward_setup.load(config, epath.Path("."), ("rewards",))
