"""Folders of public policies, their autoencoders and text encoders."""

import functools
import json

import numpy as np
import safetensors.numpy

from jaxreward import setup
from jaxreward.models.policies import flux
from jaxreward.models.text import t5, text_encoder
from jaxreward.setup import text_encoders
from tests import tiny
from tests.bad_inputs.table import Row

PUBLIC = "align_public.py:{},objective=flow_grpo,tiny"
ZEROS = safetensors.numpy.save({"a": np.zeros((2, 2), np.float32)})
NET = "QwenImageTransformer2DModel"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
TEXT = {
  "model_type": "qwen2_5_vl", "hidden_size": 24, "num_hidden_layers": 1,
  "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
  "vocab_size": 40,
}  # fmt: skip
T5 = {
  "model_type": "t5", "feed_forward_proj": "gated-gelu", "d_model": 8,
  "num_layers": 1, "num_heads": 1, "d_kv": 8, "d_ff": 8, "vocab_size": 9,
}  # fmt: skip


def tokenizer(folder) -> None:
  """One word and no more."""
  import tokenizers
  import transformers

  made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
  transformers.PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(
    folder
  )


@functools.cache
def policy_of(model: str, size: str):
  config = tiny.load(PUBLIC.format(model), {"model.size": size})
  return config, setup.make_policy(config)


def load(name="transformer", model="qwen_image", size="tiny"):
  """Reads a policy's weights as a job does."""

  def call(here):
    config, policy = policy_of(model, size)
    setup.load_params(config, policy, spec=f"{here}/{name}")

  return call


def decode(model):
  """Reads an autoencoder's weights as a job does."""

  def call(here):
    config = tiny.load(
      PUBLIC.format(model), {"autoencoder.weights": f"{here}/vae"}
    )
    setup.load_decoder(config, policy_of(model, config.model.size)[1])

  return call


def read(kind):
  """Reads a pipeline's text encoder as a job does."""

  def call(here):
    policy = policy_of("qwen_image", "tiny")[1]
    getattr(text_encoders, kind)(policy.prompts, None, weights=str(here))

  return call


def network(
  says, name="transformer", model="qwen_image", size="tiny", **record
):
  """A policy's folder with zeros and a config."""
  config = {"_class_name": NET} | record
  files = {
    "transformer/config.json": json.dumps(config),
    "transformer/diffusion_pytorch_model.safetensors": ZEROS,
  }
  title = f"{model} {size} {' '.join(map(str, record.items()))}"
  return Row(title, (says,), files=files, call=load(name, model, size))


def stored(title, says, files, name="transformer", **options):
  return Row(title, says, files=files, call=load(name, **options))


def coder(title, says, model, **record):
  files = {"vae/config.json": json.dumps(record), "vae/a.safetensors": ZEROS}
  return Row(title, (says,), files=files, call=decode(model))


def words(title, says, record, kind="qwen_image", **files):
  """A pipeline's folder whose text encoder has that config."""
  files = {name.replace("__", "/"): x for name, x in files.items()}
  return Row(
    title, (says,), call=read(kind), needs="transformers",
    files={
      "text_encoder/config.json": json.dumps(record),
      "text_encoder/model.safetensors": ZEROS,
      "tokenizer/x": lambda path: tokenizer(path.parent),
    } | files,
  )  # fmt: skip


WEIGHTS = "transformer/diffusion_pytorch_model"
ROWS = [
  network("causal_condition=true is not known", causal_condition=True),
  network('"nvfp4"', quantization_config={"quant_method": "nvfp4"}),
  network("zero_cond_t=true; expected false", zero_cond_t=True),
  network("zero_cond_t=false; expected true", size="tiny_2511"),
  network("use_layer3d_rope=true; expected false", use_layer3d_rope=True),
  network("use_additional_t_cond=true", use_additional_t_cond=True),
  network("guidance_embeds=true; expected false", guidance_embeds=True),
  network(f'expected "{NET}"', _class_name="FluxTransformer2DModel"),
  network("num_layers=60; expected 3", num_layers=60),
  network("axes_dims_rope=[16, 56, 56]", axes_dims_rope=[16, 56, 56]),
  network('has no x', name="transformer:x"),
  stored(
    "config is text", ("cannot read", "config.json"),
    {"transformer/config.json": "hello", f"{WEIGHTS}.safetensors": ZEROS},
  ),
  stored(
    "config is a list", ("config.json", "object"),
    {"transformer/config.json": "[1]", f"{WEIGHTS}.safetensors": ZEROS},
  ),
  stored(
    "no tensors that fit", ("does not fit this model: it lacks",),
    {f"{WEIGHTS}.safetensors": ZEROS},
  ),
  stored("empty folder", ("holds no *.safetensors",), {"transformer/x": ""}),
  stored("no folder", ("no such file",), {}),
  stored(
    "the pipeline in place of its part", ("its sub-folders transformer do",),
    {"p/transformer/a.safetensors": ZEROS}, name="p",
  ),
  stored("pickle", ("cannot read",), {"transformer/a.bin": b"x"}),
  stored("no weights but text", ("cannot read",), {f"{WEIGHTS}.safetensors": "x"}),
  stored(
    "several", ("several checkpoints",),
    {"transformer/a.safetensors": ZEROS, "transformer/b.safetensors": ZEROS},
  ),
  stored("index of nothing", ("weight_map=null",), {f"transformer/{INDEX}": "{}"}),
  stored(
    "index of numbers", ("weight_map.a=3; expected a file name",),
    {f"transformer/{INDEX}": '{"weight_map": {"a": 3}}'},
  ),
  stored(
    "missing shard", ("lacks 1 of 2 shards: z.safetensors",),
    {
      f"transformer/{INDEX}": json.dumps(
        {"weight_map": {"a": "y.safetensors", "b": "z.safetensors"}}
      ),
      "transformer/y.safetensors": ZEROS,
    },
  ),
  stored(
    "index names another tensor", ("does not hold b",),
    {
      f"transformer/{INDEX}": '{"weight_map": {"b": "y.safetensors"}}',
      "transformer/y.safetensors": ZEROS,
    },
  ),
  stored(
    "one network of two", ("transformer",), {"p/transformer_2/x": ""},
    name="p", model="wan22_t2v",
  ),
  coder("another scale", "scaling_factor=0.18215", "flux_dev", shift_factor=0.1),
  coder(
    "another class of autoencoder", "_class_name=", "flux_dev",
    _class_name="AutoencoderDC",
  ),
  coder(
    "other statistics", "latents_mean=[0, 0, 0, 0]", "qwen_image",
    latents_mean=[0, 0, 0, 0],
  ),
  coder("layers of pictures", "input_channels=4", "qwen_image", input_channels=4),
  words("no config of words", "has no config.json", {}),
  words("another model", 'describes a "qwen3"', {"model_type": "qwen3"}),
  words(
    "a window", "use_sliding_window=true; expected false",
    TEXT | {"use_sliding_window": True},
  ),
  words(
    "other layers", "expected full_attention in every layer",
    TEXT | {"layer_types": ["sliding_attention"]},
  ),
  words(
    "stretched places", 'rope_type="yarn"',
    TEXT | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
  ),
  words("a flag of words", "is_sparse=true is not known", TEXT | {"is_sparse": True}),
  words("no vision", "describes no vision tower", TEXT, kind="qwen_image_edit"),
  words(
    "pictures as they are", "do_resize=false; expected true",
    TEXT | {
      "vision_config": dict(
        hidden_size=16, depth=1, num_heads=2, intermediate_size=8,
        out_hidden_size=24,
      )
    },
    kind="qwen_image_edit_plus",
    **{"processor__preprocessor_config.json": '{"do_resize": false}'},
  ),
  Row(
    "no text encoder", ("has no text_encoder",), call=read("qwen_image"),
    files={"tokenizer/x": ""},
  ),
  Row(
    "no tokenizer", ("has no tokenizer",), call=read("qwen_image_edit"),
    needs="transformers",
    files={"text_encoder/config.json": json.dumps(TEXT)},
  ),
  Row(
    "T5 before 1.1", ("feed_forward_proj=relu",),
    files={"config.json": json.dumps(T5 | {"feed_forward_proj": "relu"})},
    call=t5.load,
  ),
  Row(
    "T5 with another gate", ('dense_act_fn="silu"',),
    files={"config.json": json.dumps(T5 | {"dense_act_fn": "silu"})},
    call=t5.load,
  ),
  Row(
    "CLIP that decodes", ("is_decoder=true is not known",),
    files={
      "text_encoder/config.json": json.dumps(
        {"model_type": "clip_text_model", "is_decoder": True}
      ),
      "text_encoder/model.safetensors": ZEROS,
    },
    call=lambda here: text_encoder.load(str(here)),
  ),
  Row(
    "guidance that nothing reads", ("takes no distilled guidance",),
    call=lambda here: flux.make_policy(size="flux_schnell", guidance=2.0),
  ),
  Row(
    "another size", ('did you mean "qwen_image_edit_2511"',),
    config=PUBLIC.format("qwen_image_edit_2511"),
    overrides={"model.size": "qwen_image_edit_251"},
  ),
  Row(
    "pictures for a policy without", ("takes none",),
    config=PUBLIC.format("qwen_image"),
    overrides={"text_encoder.name": "qwen_image_edit_plus"},
  ),
]  # fmt: skip
