"""Adapters that are something else, of something else, or broken."""

import functools
import json

import jax
import numpy as np
import safetensors.numpy

from jaxreward.models import convert, lora_files, lora_read
from jaxreward.models.policies import flux, sd3, wan
from jaxreward.setup import adapters
from tests.bad_inputs.table import Row

FILE = "x.safetensors"
LAYER = "transformer_blocks.0.attn.to_q"
NAME = f"transformer.{LAYER}"
SD3 = "align_public.py:sd35_medium,tiny"
WIDTH = 32


@functools.cache
def policy_of(module):
  """(tiny policy, shapes of its parameters)."""
  sizes = dict(latent_side=8, words=5)
  if module is wan:
    sizes = dict(frames=2, latent_height=4, latent_width=4, boundary=0.9)
  made = module.make_policy(size="tiny", remat="none", **sizes)
  return made, jax.eval_shape(made.init, jax.random.key(0))


def read(path, module):
  policy, like = policy_of(module)
  kind = policy.public_config["_class_name"]
  return lora_read.read(path, policy.layout, like, kind)


def ones(*shape):
  return np.ones(shape, "f4")


def pair(name=NAME, ins=(WIDTH,), out=WIDTH, rank=2, **more):
  """Tensors of one layer, and others."""
  return {
    f"{name}.lora_A.weight": ones(rank, *ins),
    f"{name}.lora_B.weight": ones(out, rank),
  } | more


def holds(tensors, header=None):
  """Writes a safetensors file."""
  return lambda path: safetensors.numpy.save_file(tensors, path, header)


def cut(path):
  path.write_bytes(safetensors.numpy.save(pair())[:-9])


def peft(config, tensors=None, **fields):
  """A folder of PEFT: its config with fields changed, or as text."""
  whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}
  if isinstance(config, dict):
    config = {k: v for k, v in (whole | config).items() if v is not None}
    config = json.dumps(config)
  given = pair(f"base_model.model.{LAYER}") if tensors is None else tensors
  return {
    "x/adapter_config.json": config,
    "x/adapter_model.safetensors": holds(given),
  }


def row(
  name, says, tensors=None, *, files=None, at=FILE, module=sd3, head=None
):
  """A file that a policy refuses when it starts from it."""
  files = {FILE: holds(tensors, head)} if files is None else files
  return Row(name, says, files=files, call=lambda here: read(here / at, module))


def folder(name, says, config, tensors=None):
  return row(name, says, files=peft(config, tensors), at="x")


def save_large(folder):
  policy, _ = policy_of(sd3)
  a, b = ones(2, WIDTH, 1), np.full((2, 1, WIDTH), 1e6, "f4")
  adapter = {"dual": {"image_q": {"lora": {"a": a, "b": b}}}}
  lora_files.save_adapter(
    folder, adapter, policy.layout, alpha=1.0, dtype="float16"
  )


def whole(path):
  """A full model in the public layout."""
  policy, like = policy_of(sd3)
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, "f4"), like)
  tensors = convert.to_public(zeros, policy.layout)
  arrays = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
  safetensors.numpy.save_file(arrays, path)


def as_weights(here):
  policy, like = policy_of(sd3)
  convert.load_params(here / FILE, policy.layout, like)


def fused_and_single():
  return pair("double_blocks.0.img_attn.qkv", out=96) | pair()


DOUBLE = "transformer.transformer_blocks.0"
KOHYA = "lora_unet_joint_blocks_0_x_block_attn_proj"
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
UNET = "lora_unet_down_blocks_1_attentions_0_proj_in"
ROWS = [
  row("no file", ("no such file",), files={}, at="absent.safetensors"),
  row("truncated", ("cannot read", "complete?"), files={FILE: cut}),
  row("text", ("cannot read",), files={FILE: "lora"}),
  row("pickle", ("cannot read",), files={"x.bin": b"\x80"}, at="x.bin"),
  row("empty file", ("it is empty",), {}),
  row("empty folder", ("holds no *.safetensors",), files={"x/a": ""}, at="x"),
  row(
    "DoRA of kohya",
    ("is DoRA", "dora_scale"),
    pair() | {f"{NAME}.dora_scale": ones(WIDTH, 1)},
  ),
  row(
    "DoRA of PEFT",
    ("is DoRA", "ora_magnitude_vector"),
    pair() | {f"{NAME}.lora_magnitude_vector": ones(WIDTH)},
  ),
  row(
    "LoHa",
    ("is LoHa (LyCORIS)", "4 of 4"),
    {f"{KOHYA}.hada_w{i}_{x}": ones(2, 2) for i in (1, 2) for x in "ab"},
  ),
  row("LoKr", ("is LoKr (LyCORIS)",), {f"{KOHYA}.lokr_w1": ones(2, 2)}),
  row("OFT", ("is OFT",), {f"{KOHYA}.oft_blocks": ones(2, 2, 2)}),
  row(
    "LoCon", ("is LoCon",), pair() | {f"{KOHYA}.lora_mid.weight": ones(2, 2)}
  ),
  row(
    "text encoder only",
    ("text encoders", "2 of 2", "lora_te1_"),
    {f"{TEXT}.lora_{x}.weight": ones(2, 2) for x in ("up", "down")},
  ),
  row(
    "text encoder too",
    ("text encoders", "2 of 4"),
    pair() | pair("text_encoder.text_model.encoder.layers.0.mlp.fc1"),
  ),
  row(
    "language model",
    ("is a layer of a language model", "SD3Transformer"),
    pair("base_model.model.model.layers.0.self_attn.q_proj"),
  ),
  row("diff_b", ("differences",), pair() | {f"{NAME}.diff_b": ones(WIDTH)}),
  row("biases", ("biases",), pair() | {f"{NAME}.lora_B.bias": ones(WIDTH)}),
  row(
    "alpha NaN",
    ("alpha holds a value that is not finite",),
    pair() | {f"{NAME}.alpha": np.array(np.nan, "f4")},
  ),
  row(
    "alpha 0",
    ("alpha is [0.0]",),
    pair() | {f"{NAME}.alpha": np.array(0, "f4")},
  ),
  row(
    "two alphas", ("expected one number",), pair() | {f"{NAME}.alpha": ones(2)}
  ),
  row("rank 0", ("rank 1 or more?",), pair(rank=0)),
  row(
    "scalar", ("rank 1 or more?",), pair() | {f"{NAME}.lora_A.weight": ones(2)}
  ),
  row(
    "ranks differ",
    ("ranks are not the same",),
    pair() | {f"{NAME}.lora_B.weight": ones(WIDTH, 3)},
  ),
  row(
    "other size", ("of another size", "[64]", "[32]"), pair(ins=(64,), out=64)
  ),
  row(
    "only A", ("lacks its lora_B",), {f"{NAME}.lora_A.weight": ones(2, WIDTH)}
  ),
  row(
    "only B", ("lacks its lora_A",), {f"{NAME}.lora_B.weight": ones(WIDTH, 2)}
  ),
  row(
    "NaN weights",
    ("is not finite",),
    pair() | {f"{NAME}.lora_A.weight": np.full((2, WIDTH), np.nan, "f4")},
  ),
  row(
    "infinite weights",
    ("is not finite",),
    pair() | {f"{NAME}.lora_B.weight": np.full((WIDTH, 2), np.inf, "f2")},
  ),
  row(
    "FLUX for SD3",
    ("FLUX.1, not of SD3Transformer2DModel",),
    pair("transformer.single_transformer_blocks.0.attn.to_q"),
  ),
  row(
    "SDXL for SD3",
    ("Stable Diffusion 1, 2 or XL",),
    {f"{UNET}.lora_{x}.weight": ones(2, 2) for x in ("up", "down")},
  ),
  row(
    "Wan for FLUX",
    ("is a layer of Wan",),
    pair("diffusion_model.blocks.0.self_attn.q"),
    module=flux,
  ),
  row(
    "SD3 for FLUX",
    ("Stable Diffusion 3",),
    pair(f"{DOUBLE}.attn2.to_q"),
    module=flux,
  ),
  row(
    "typing error",
    ("no layer of this", "did you mean"),
    pair(f"{DOUBLE}.attn.to_qq"),
  ),
  row(
    "deeper network",
    ("no layer of this",),
    pair("transformer.transformer_blocks.30.attn.to_q"),
  ),
  row("a norm", ("is no layer of this",), pair(f"{DOUBLE}.attn.norm_q")),
  row(
    "fused and single", ("are the same layer",), fused_and_single(), module=flux
  ),
  row(
    "two names",
    ("two adapters of",),
    pair() | {f"{NAME}.lora_down.weight": ones(2, WIDTH)},
  ),
  row(
    "FLUX Control",
    ("FLUX Control (Black Forest Labs)",),
    pair("img_in", ins=(32,))
    | {"double_blocks.0.img_attn.norm.query_norm.scale": ones(16)},
    module=flux,
  ),
  row(
    "Control's first layer",
    ("reads another picture",),
    pair("transformer.x_embedder", ins=(32,)),
    module=flux,
  ),
  row(
    "whole weights",
    ("holds whole weights", "config.init.checkpoint"),
    files={FILE: whole},
  ),
  row("something else", ("is no matrix of LoRA",), {"weight": ones(2)}),
  row("header", ("is not JSON",), pair(), head={lora_files.METADATA: "{"}),
  row(
    "a header without end",
    ("nested too deeply",),
    pair(),
    head={lora_files.METADATA: "[" * 200_000},
  ),
  row(
    "a header that is a list",
    ("no JSON object",),
    pair(),
    head={lora_files.METADATA: "[1]"},
  ),
  *(
    folder(
      f"{field} {value}",
      (field, "expected"),
      json.dumps(
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, field: 0}
      ).replace(f'"{field}": 0', f'"{field}": {value}'),
    )
    for field in ("lora_alpha", "r")
    for value in ("1e999", "NaN", "-Infinity", "1" + "0" * 400)
  ),
  folder(
    "a pattern's alpha without end",
    ("alpha_pattern", "expected a number above 0"),
    '{"r": 2, "lora_alpha": 4, "alpha_pattern": {"to_q": 1e999}}',
  ),
  row(
    "scale twice",
    ("its scale twice",),
    pair() | {f"{NAME}.alpha": np.array(1, "f4")},
    head={
      lora_files.METADATA: '{"transformer.r": 2, "transformer.lora_alpha": 2}'
    },
  ),
  row(
    "no adapter_config.json",
    ("lacks adapter_config.json",),
    {},
    files={"adapter_model.safetensors": holds(pair())},
    at="adapter_model.safetensors",
  ),
  row(
    "no adapter_model.safetensors",
    ("no such file",),
    files={"x/adapter_config.json": "{}"},
    at="x",
  ),
  row(
    "adapter_model.bin",
    ("cannot read", "adapter_model.bin"),
    files={"x/adapter_config.json": "{}", "x/adapter_model.bin": b"\x80"},
    at="x",
  ),
  folder("config is no JSON", ("cannot read",), "{"),
  row("empty config", ("r=null",), files=peft("{}"), at="x"),
  folder("config without r", ("r=null",), {"r": None}),
  folder(
    "config without lora_alpha", ("lora_alpha=null",), {"lora_alpha": None}
  ),
  folder("r is text", ('r="8"',), {"r": "8"}),
  folder("another rank", ("the rank of", "is 8 there, and 2"), {"r": 8}),
  folder("LoHa of PEFT", ("peft_type=LOHA",), {"peft_type": "LOHA"}),
  folder("config of DoRA", ("use_dora is on",), {"use_dora": True}),
  folder(
    "whole layers too", ("modules_to_save",), {"modules_to_save": ["proj_out"]}
  ),
  folder(
    "PiSSA",
    ("init_lora_weights=pissa",),
    {"init_lora_weights": "pissa_niter_4"},
  ),
  folder("trained biases", ('bias="all"',), {"bias": "all"}),
  folder(
    "pattern", ("alpha_pattern", "to_q("), {"alpha_pattern": {"to_q(": 2}}
  ),
  folder(
    "pattern of text", ("alpha_pattern",), {"alpha_pattern": {"to_q": "2"}}
  ),
  Row(
    "one file, two networks",
    ("of which of the networks high, low",),
    files={FILE: holds(pair())},
    call=lambda here: adapters.read(str(here / FILE), policy_of(wan)[0]),
  ),
  Row(
    "network of another name",
    ("no network hi", "did you mean"),
    call=lambda here: adapters.read("hi=a.safetensors", policy_of(wan)[0]),
  ),
  Row(
    "an adapter as weights",
    ("holds adapters", "config.init.adapter"),
    files={FILE: holds(pair())},
    call=as_weights,
  ),
  Row(
    "a folder of adapters as weights",
    ("holds adapters", "config.init.adapter"),
    files=peft({}),
    config=SD3,
    overrides={"init.checkpoint": "{here}/x", "job": "sample"},
  ),
  Row(
    "an adapter in a command",
    ("config.init.adapter", "is LoKr"),
    files={FILE: holds({f"{KOHYA}.lokr_w1": ones(2, 2)})},
    config=SD3,
    overrides={"init.adapter": "{here}/x.safetensors"},
  ),
  Row(
    "an adapter of scenes",
    ("config.init.adapter", "no public layout"),
    files={FILE: holds(pair())},
    overrides={"init.adapter": "{here}/x.safetensors"},
  ),
  Row(
    "trained ones of none",
    ("config.lora.init", "config.lora.rank=0"),
    files={FILE: holds(pair())},
    config=SD3,
    overrides={"lora.init": "{here}/x.safetensors", "lora.rank": 0},
  ),
  Row(
    "more ranks than trained",
    ("config.lora.init", "set that to 9 or more"),
    files={FILE: holds(pair(rank=9))},
    config=SD3,
    overrides={"lora.init": "{here}/x.safetensors"},
  ),
  Row(
    "layers that are not trained",
    ("config.lora.init", "leaves out"),
    files={FILE: holds(pair(f"{DOUBLE}.ff.net.2", ins=(128,)))},
    config=SD3,
    overrides={"lora.init": "{here}/x.safetensors"},
  ),
  Row(
    "no alpha",
    ("config.lora.alpha=0", "greater than 0"),
    overrides={"lora.alpha": 0},
  ),
  Row(
    "too large for its type",
    ("to_q.lora_B.weight", "too large for float16"),
    call=lambda here: save_large(here / "x"),
  ),
]
