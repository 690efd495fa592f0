"""Text encoders of public pipelines, by the names of `config.text_encoder`.

Each constructor takes the policy's shapes and the mesh, reads weights and
tokenizers from a pipeline's folder or hub id, and returns texts -> policy inputs;
those of `READ_PICTURES` also take the source images. The constructor of
`config.image_encoder` returns a function of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.models import fields, hub
from jaxreward.models.text import (
  qwen,
  qwen3_prompts,
  qwen_layouts,
  qwen_prompts,
  t5,
  text_encoder,
)
from jaxreward.models.vision import (
  clip,
  clip_layouts,
  preprocess,
  qwen_images,
  qwen_vision_layouts,
)
from jaxreward.models.vision import encoders as tokenizers
from jaxreward.training import mesh as mesh_lib
from jaxreward.types import Array, ArrayLike, Cond, Params

Texts = Sequence[str]
READ_PICTURES = ("qwen_image_edit", "qwen_image_edit_plus")
_AT_ONCE = 8  # texts; the last batch is padded, so that one program serves all


def sd3(
  shapes: Cond,
  mesh: Mesh | None,
  *,
  weights: str,
  dtype: str = "bfloat16",
  with_t5: bool = True,
) -> Callable[[Texts], Cond]:
  """CLIP-L, CLIP-G and T5 of an SD3 pipeline.

  Args:
    shapes: of one prompt, [1, ...].
    mesh: that holds the parameters; one device if None.
    weights: the pipeline's folder, or "org/name".
    dtype: of parameters and products.
    with_t5: False leaves zeros in T5's place, and its 9 GB unread.
  """
  _, places, width = shapes["words"].shape
  encoder, params = text_encoder.load(weights, dtype=dtype, with_t5=with_t5)
  if len(encoder.clips) != 2:
    raise UserError(
      f"config.text_encoder.weights={weights} holds {len(encoder.clips)} CLIP"
      " towers; Stable Diffusion 3 has two"
    )
  length = encoder.clips[0].length
  clips = [
    tokenizers.tokenizer(f"{weights}:{name}", length)
    for name in ("tokenizer", "tokenizer_2")
  ]
  last = None
  if with_t5:
    last = tokenizers.tokenizer(f"{weights}:tokenizer_3", places - length)

  def encode(params, clip_tokens, t5):
    states, pooled = text_encoder.encode_sd3(
      encoder, params, clip_tokens, t5, places=places - length, width=width
    )
    return {"words": states, "pooled": pooled}

  def tokens(texts: Texts) -> Any:
    clip_tokens = tuple(clip(texts) for clip in clips)
    return clip_tokens, None if last is None else last(texts)

  return _runner(encode, params, tokens, mesh)


def flux(
  shapes: Cond, mesh: Mesh | None, *, weights: str, dtype: str = "bfloat16"
) -> Callable[[Texts], Cond]:
  """CLIP-L and T5 of a FLUX pipeline; arguments as `sd3`."""
  encoder, params = text_encoder.load(weights, dtype=dtype)
  places = shapes["words"].shape[1]
  clip = tokenizers.tokenizer(f"{weights}:tokenizer", encoder.clips[0].length)
  t5 = tokenizers.tokenizer(f"{weights}:tokenizer_2", places)

  def encode(params, first, second):
    states, pooled = text_encoder.encode_flux(encoder, params, first, second)
    return {"words": states, "pooled": pooled}

  return _runner(encode, params, lambda t: (clip(t), t5(t)), mesh)


def qwen_image(
  shapes: Cond, mesh: Mesh | None, *, weights: str, dtype: str = "bfloat16"
) -> Callable[[Texts], Cond]:
  """The language tower of a Qwen-Image pipeline; arguments as `sd3`.

  An empty text is read as the authors' empty prompt, a blank.
  """
  config, params = qwen_layouts.load(f"{weights}:text_encoder", dtype=dtype)
  reader = tokenizers.pretrained(f"{weights}:tokenizer")
  places = shapes["words"].shape[1]

  def encode(params, ids, mask):
    states, states_mask = qwen_prompts.encode(
      config, params, ids, mask, dtype=jnp.dtype(dtype)
    )
    return {"words": states, "mask": states_mask}

  tokens = lambda texts: qwen_prompts.tokenize(reader, _or_empty(texts), places)
  return _runner(encode, params, tokens, mesh, qwen.SHARDING_RULES)


def _or_empty(texts: Texts) -> list[str]:
  """Texts, with empty ones replaced by the authors' empty prompt."""
  return [text or qwen_prompts.EMPTY for text in texts]


def qwen_image_edit(
  shapes: Cond,
  mesh: Mesh | None,
  *,
  weights: str,
  dtype: str = "bfloat16",
  area: int = qwen_images.AREA,
) -> Callable[[Texts, ArrayLike], Cond]:
  """Both towers of a Qwen-Image-Edit pipeline's Qwen2.5-VL.

  Args:
    shapes: of one prompt, [1, ...].
    mesh: that holds the parameters; one device if None.
    weights: the pipeline's folder, or "org/name".
    dtype: of parameters and products.
    area: approximate number of pixels that an image is resized to; the
      published pipeline's gives 1369 tokens.

  Returns:
    (texts, images [P, H, W, 3] in [0, 1]) -> policy inputs.
  """
  return _edit(shapes, mesh, weights, dtype, area, numbered=False)


def qwen_image_edit_plus(
  shapes: Cond,
  mesh: Mesh | None,
  *,
  weights: str,
  dtype: str = "bfloat16",
  area: int = qwen_images.PLUS_AREA,
) -> Callable[[Texts, ArrayLike], Cond]:
  """Both towers of the Plus version, 2509 and later; see `qwen_image_edit`.

  The published pipeline gives an image 196 tokens.
  """
  return _edit(shapes, mesh, weights, dtype, area, numbered=True)


def _edit(
  shapes: Cond,
  mesh: Mesh | None,
  weights: str,
  dtype: str,
  area: int,
  *,
  numbered: bool,
) -> Callable[[Texts, ArrayLike], Cond]:
  place, places = f"{weights}:text_encoder", shapes["words"].shape[1]
  reader = tokenizers.pretrained(f"{weights}:tokenizer")
  record = fields.read(place)
  vision, language = (
    qwen_vision_layouts.config_of(record),
    qwen_layouts.config_of(record),
  )
  processor = qwen_images.processor_of(
    hub.read_config(f"{weights}:processor", "preprocessor_config.json"),
    vision, area,
  )  # fmt: skip

  def tokenize(texts: Texts, height: int, width: int) -> Any:
    _, size = processor.sizes(height, width)
    counts = [math.prod(vision.grid(*size))]
    return qwen_prompts.tokenize_edit(
      reader, _or_empty(texts), places, counts, language.pad, numbered=numbered
    )

  _, _, starts = tokenize([""], 1, 1)
  params = {
    "text": qwen_layouts.load(place, dtype=dtype)[1],
    "vision": qwen_vision_layouts.load(place, dtype=dtype)[1],
  }

  def encode(params, ids, mask, images):
    states, states_mask = qwen_prompts.encode_edit(
      language, vision, params, ids, mask, [images],
      starts=starts, dtype=jnp.dtype(dtype),
    )  # fmt: skip
    return {"words": states, "mask": states_mask}

  def tokens(texts: Texts, images: ArrayLike) -> Any:
    ids, mask, _ = tokenize(texts, *images.shape[1:3])
    return ids, mask, processor(images)

  return _runner(encode, params, tokens, mesh, qwen.BOTH_SHARDING_RULES)


def z_image(
  shapes: Cond, mesh: Mesh | None, *, weights: str, dtype: str = "bfloat16"
) -> Callable[[Texts], Cond]:
  """The Qwen3 of a Z-Image pipeline; arguments as `sd3`."""
  config, params = qwen_layouts.load(
    f"{weights}:text_encoder", dtype=dtype, models=("qwen3",)
  )
  last = config.depth - 1
  config, params = qwen3_prompts.first_layers(config, params, last)
  reader = tokenizers.pretrained(f"{weights}:tokenizer")
  places = shapes["words"].shape[1]

  def encode(params, ids, mask):
    states = qwen3_prompts.encode(
      config, params, ids, mask, (last,), dtype=jnp.dtype(dtype)
    )
    return {"words": jnp.where(mask[..., None], states, 0.0), "mask": mask}

  tokens = lambda texts: qwen3_prompts.tokenize(reader, texts, places)
  return _runner(encode, params, tokens, mesh, qwen.SHARDING_RULES)


def flux2_klein(
  shapes: Cond,
  mesh: Mesh | None,
  *,
  weights: str,
  dtype: str = "bfloat16",
  layers: Sequence[int] = qwen3_prompts.KLEIN_LAYERS,
) -> Callable[[Texts], Cond]:
  """The Qwen3 of a FLUX.2 klein pipeline.

  Args:
    shapes: of one prompt, [1, ...].
    mesh: that holds the parameters; one device if None.
    weights: the pipeline's folder, or "org/name".
    dtype: of parameters and products.
    layers: after which states are taken, counted from 1.

  Raises:
    UserError: the model has fewer layers.
  """
  config, params = qwen_layouts.load(
    f"{weights}:text_encoder", dtype=dtype, models=("qwen3",)
  )
  if not 0 < min(layers) <= max(layers) < config.depth:
    raise UserError(
      f"config.text_encoder.layers={tuple(layers)}: the model of"
      f" config.text_encoder.weights has {config.depth}, and states come from 1 to"
      f" {config.depth - 1}, before the last one"
    )
  config, params = qwen3_prompts.first_layers(config, params, max(layers))
  reader = tokenizers.pretrained(f"{weights}:tokenizer")
  places = shapes["words"].shape[1]

  def encode(params, ids, mask):
    states = qwen3_prompts.encode(
      config, params, ids, mask, layers, dtype=jnp.dtype(dtype)
    )
    return {"words": states}

  tokens = lambda texts: qwen3_prompts.tokenize(
    reader, texts, places, template=qwen3_prompts.KLEIN_TEMPLATE,
    pad=reader.pad_token_id,
  )  # fmt: skip
  return _runner(encode, params, tokens, mesh, qwen.SHARDING_RULES)


def wan(
  shapes: Cond, mesh: Mesh | None, *, weights: str, dtype: str = "bfloat16"
) -> Callable[[Texts], Cond]:
  """The umT5 of a Wan pipeline; arguments as `sd3`."""
  config, params = t5.load(f"{weights}:text_encoder", dtype=dtype)
  reader = tokenizers.pretrained(f"{weights}:tokenizer")
  places = shapes["words"].shape[1]

  def encode(params, ids, mask):
    states = text_encoder.encode_wan(
      config, params, ids, mask, jnp.dtype(dtype)
    )
    return {"words": states}

  tokens = lambda texts: text_encoder.tokenize_wan(reader, texts, places)
  return _runner(encode, params, tokens, mesh, t5.SHARDING_RULES)


def clip_vision(
  shape: jax.ShapeDtypeStruct,
  mesh: Mesh | None,
  *,
  weights: str,
  dtype: str = "bfloat16",
) -> Callable[[ArrayLike], np.ndarray]:
  """The image tower of a pipeline: the input of the last CLIP layer.

  Args:
    shape: of one image's states, [1, N, D].
    mesh: that holds the parameters; one device if None.
    weights: the pipeline's folder, or "org/name".
    dtype: of parameters and products.

  Returns:
    images [P, H, W, 3] in [0, 1] -> states, float32 [P, N, D].
  """
  spec, params = clip_layouts.load_vision(
    f"{weights}:image_encoder", dtype=dtype
  )
  states = (spec.image // spec.patch) ** 2 + 1, spec.size.width
  if states != shape.shape[1:]:
    raise UserError(
      f"config.image_encoder.weights={weights} gives states {states} of a"
      f" picture, and the policy takes {shape.shape[1:]}"
    )
  size = spec.image, spec.image
  prepared = preprocess.read(
    f"{weights}:image_processor", preprocess.Preprocess(size, spec.image)
  )
  net = clip.VisionTower(spec, jnp.dtype(dtype), keep=True)
  replicated = None
  if mesh is not None:
    params = setup.put(params, setup.shapes(params, clip.SHARDING_RULES, mesh))
    replicated = mesh_lib.replicated(mesh)

  def encode(params: Params, images: ArrayLike) -> Array:
    outputs: Any = net.apply({"params": params["vision"]}, prepared(images))
    return outputs["penultimate"].astype(jnp.float32)

  run = jax.jit(encode, out_shardings=replicated)
  return lambda images: jax.device_get(run(params, images))


def _runner(
  encode: Callable[..., Cond],
  params: Params,
  tokens: Callable[..., Any],
  mesh: Mesh | None,
  rules: Any = text_encoder.SHARDING_RULES,
) -> Callable[..., Cond]:
  """Texts -> outputs [P, ...] on the host, a few texts at a time.

  Further inputs of `tokens`, such as images [P, ...], are padded with zeros.
  """
  replicated = None
  if mesh is not None:
    params = setup.put(params, setup.shapes(params, rules, mesh))
    replicated = mesh_lib.replicated(mesh)
  run = jax.jit(encode, out_shardings=replicated)

  def run_batch(texts: Texts, *arrays: np.ndarray) -> Cond:
    extra = _AT_ONCE - len(texts)
    padded = [
      np.concatenate([x, np.zeros((extra, *x.shape[1:]), x.dtype)])
      for x in arrays
    ]
    inputs = tokens([*texts, *[""] * extra], *padded)
    outputs = jax.device_get(run(params, *inputs))
    cast = lambda x: x if x.dtype == bool else x.astype(np.float32)
    return jax.tree.map(lambda x: cast(x[: len(texts)]), outputs)

  def run_all(*inputs: Any) -> Cond:
    parts = [
      run_batch(*(x[i : i + _AT_ONCE] for x in inputs))
      for i in range(0, len(inputs[0]), _AT_ONCE)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)

  return run_all
