"""Layer names in the layouts of public adapters.

Training programs name layers as diffusers does, or as the network's authors do,
who fuse query, key and value; with dots or with underscores. All are mapped to
the names of diffusers here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping

_PREFIXES = (
  "base_model.model.",
  "model.diffusion_model.",
  "diffusion_model.",
  "transformer.",
  "lora_unet_",
  "lora_transformer_",
)


@dataclasses.dataclass(frozen=True)
class Alias:
  """The counterpart in diffusers of one layer of a foreign layout.

  Attributes:
    layers: the diffusers layers that its rows split into.
    swapped: whether its halves, shift and scale, are in the opposite order.
  """

  layers: tuple[str, ...]
  swapped: bool = False


_Names = dict[str, str | tuple[str, ...] | Alias]


def _embedders(names: Mapping[str, str], first: str, second: str) -> _Names:
  """Pairs of layers that embed a time or a prompt as a vector."""
  return {
    f"{ours}.{theirs}": f"time_text_embed.{public}_embedder.linear_{i}"
    for ours, public in names.items()
    for i, theirs in ((1, first), (2, second))
  }


def _attention(public: str, names: Iterable[str]) -> tuple[str, ...]:
  return tuple(f"{public}.{name}" for name in names)


_QKV = ("to_q", "to_k", "to_v")
_WORDS_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")


def _flux() -> _Names:
  """github.com/black-forest-labs/flux: src/flux/model.py; and x-flux's."""
  double, single = "transformer_blocks.{}", "single_transformer_blocks.{}"
  names: _Names = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": Alias(("norm_out.linear",), swapped=True),
    "single_blocks.{}.linear1": (
      *_attention(f"{single}.attn", _QKV),
      f"{single}.proj_mlp",
    ),
    "single_blocks.{}.linear2": f"{single}.proj_out",
    "single_blocks.{}.modulation.lin": f"{single}.norm.linear",
    "single_blocks.{}.processor.qkv_lora": _attention(f"{single}.attn", _QKV),
    "single_blocks.{}.processor.proj_lora": f"{single}.proj_out",
  }
  for stream, ff, norm, qkv, out, number in (
    ("img", "ff", "norm1", _QKV, "to_out.0", 1),
    ("txt", "ff_context", "norm1_context", _WORDS_QKV, "to_add_out", 2),
  ):
    ours = f"double_blocks.{{}}.{stream}"
    names |= {
      f"{ours}_attn.qkv": _attention(f"{double}.attn", qkv),
      f"{ours}_attn.proj": f"{double}.attn.{out}",
      f"{ours}_mlp.0": f"{double}.{ff}.net.0.proj",
      f"{ours}_mlp.2": f"{double}.{ff}.net.2",
      f"{ours}_mod.lin": f"{double}.{norm}.linear",
      f"double_blocks.{{}}.processor.qkv_lora{number}": _attention(
        f"{double}.attn", qkv
      ),
      f"double_blocks.{{}}.processor.proj_lora{number}": (
        f"{double}.attn.{out}"
      ),
    }
  vectors = {
    "time_in": "timestep", "vector_in": "text", "guidance_in": "guidance",
  }  # fmt: skip
  return names | _embedders(vectors, "in_layer", "out_layer")


def _sd3(depth: int) -> _Names:
  """github.com/Stability-AI/sd3.5: mmditx.py."""
  block = "transformer_blocks.{}"
  names: _Names = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": Alias(("norm_out.linear",), swapped=True),
    "joint_blocks.{}.x_block.attn2.qkv": _attention(f"{block}.attn2", _QKV),
    "joint_blocks.{}.x_block.attn2.proj": f"{block}.attn2.to_out.0",
  }
  for stream, ff, norm, qkv, out in (
    ("x", "ff", "norm1", _QKV, "to_out.0"),
    ("context", "ff_context", "norm1_context", _WORDS_QKV, "to_add_out"),
  ):
    ours = f"joint_blocks.{{}}.{stream}_block"
    names |= {
      f"{ours}.attn.qkv": _attention(f"{block}.attn", qkv),
      f"{ours}.attn.proj": f"{block}.attn.{out}",
      f"{ours}.mlp.fc1": f"{block}.{ff}.net.0.proj",
      f"{ours}.mlp.fc2": f"{block}.{ff}.net.2",
      f"{ours}.adaLN_modulation.1": f"{block}.{norm}.linear",
    }
  # The last block uses only shift and scale of the text.
  last = f"transformer_blocks.{depth - 1}.norm1_context.linear"
  names[f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1"] = Alias(
    (last,), swapped=True
  )
  vectors = {"t_embedder": "timestep", "y_embedder": "text"}
  return names | _embedders(vectors, "mlp.0", "mlp.2")


def _wan() -> _Names:
  """github.com/Wan-Video/Wan2.1: wan/modules/model.py."""
  embed = "condition_embedder"
  names: _Names = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": f"{embed}.text_embedder.linear_1",
    "text_embedding.2": f"{embed}.text_embedder.linear_2",
    "time_embedding.0": f"{embed}.time_embedder.linear_1",
    "time_embedding.2": f"{embed}.time_embedder.linear_2",
    "time_projection.1": f"{embed}.time_proj",
    "img_emb.proj.1": f"{embed}.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": f"{embed}.image_embedder.ff.net.2",
    "head.head": "proj_out",
    "blocks.{}.ffn.0": "blocks.{}.ffn.net.0.proj",
    "blocks.{}.ffn.2": "blocks.{}.ffn.net.2",
    "blocks.{}.cross_attn.k_img": "blocks.{}.attn2.add_k_proj",
    "blocks.{}.cross_attn.v_img": "blocks.{}.attn2.add_v_proj",
  }
  for ours, public in (("self_attn", "attn1"), ("cross_attn", "attn2")):
    for part in "qkvo":
      name = "to_out.0" if part == "o" else f"to_{part}"
      names[f"blocks.{{}}.{ours}.{part}"] = f"blocks.{{}}.{public}.{name}"
  return names


# Name prefixes of other networks, for the error that refuses them.
_MARKS = {
  "FLUX.2": r"(double|single)_stream_modulation|^single_transformer_blocks"
  r"\.\d+\.attn\.to_qkv_mlp",
  "FLUX.1": r"^(double_blocks|single_blocks|single_transformer_blocks)\b",
  "Stable Diffusion 3": r"^joint_blocks\b|^transformer_blocks\.\d+\.attn2\.",
  "Qwen-Image": r"^transformer_blocks\.\d+\.(img|txt)_(mlp|mod)",
  "Wan": r"^blocks\.\d+\.(self_attn|cross_attn|attn1|attn2|ffn)\.",
  "Z-Image": r"^(noise_refiner|context_refiner|layers)\.\d+\."
  r"(attention|feed_forward|adaLN_modulation)\.",
  "Stable Diffusion 1, 2 or XL": r"^(unet\.)?(down_blocks|up_blocks|mid_block"
  r"|input_blocks|output_blocks|middle_block)\b",
  "a language model": r"^(model\.)?(language_model\.)?layers\.\d+\."
  r"(self_attn|mlp)\.",
}
_KINDS = {
  "FLUX.1": "FluxT", "FLUX.2": "Flux2", "Stable Diffusion 3": "SD3", "Qwen-Image": "QwenImage",
  "Wan": "Wan", "Z-Image": "ZImage",
}  # fmt: skip


def stripped(name: str) -> str:
  """A name without the prefix of the network."""
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  return name


def flat(name: str) -> str:
  """A name with underscores instead of dots, as kohya's programs write."""
  return name.replace(".", "_")


def originals(kind: str, layers: Collection[str]) -> dict[str, Alias]:
  """Maps the original authors' layer names to diffusers.

  Args:
    kind: the class of the network in diffusers.
    layers: the names of its layers there.

  Returns:
    By the authors' name, with dots; empty where it is the same.
  """
  numbers = re.findall(r"blocks\.(\d+)\.", "\n".join(layers))
  depth = max(map(int, numbers), default=-1) + 1
  tables: dict[str, _Names] = {
    "FluxTransformer2DModel": _flux(),
    "SD3Transformer2DModel": _sd3(depth),
    "WanTransformer3DModel": _wan(),
  }
  names: dict[str, Alias] = {}
  for name, target in tables.get(kind, {}).items():
    alias = _alias(target)
    for i in range(depth if "{}" in name else 1):
      public = tuple(layer.format(i) for layer in alias.layers)
      if all(layer in layers for layer in public):
        names[name.format(i)] = Alias(public, alias.swapped)
  return names


def aliases(kind: str, layers: Collection[str]) -> dict[str, Alias]:
  """Maps flat layer names of any layout to diffusers.

  Args:
    kind: the class of the network in diffusers.
    layers: the names of its layers there.
  """
  names = {flat(name): Alias((name,)) for name in layers}
  for name, alias in originals(kind, layers).items():
    names.setdefault(flat(name), alias)
  return names


def _alias(target: str | tuple[str, ...] | Alias) -> Alias:
  if isinstance(target, Alias):
    return target
  return Alias((target,) if isinstance(target, str) else target)


def other_network(name: str, kind: str) -> str:
  """The other network that has a layer of that name; empty if unknown.

  Args:
    name: without the prefix of the network.
    kind: the class of this network in diffusers.
  """
  for network, mark in _MARKS.items():
    loose = mark.replace(r"\.", "[._]").replace(r"\b", "[._]")
    is_own = kind.startswith(_KINDS.get(network, "no class"))
    if re.search(loose, name) and not is_own:
      return network
  return ""
