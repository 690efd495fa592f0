"""A trained reward model as a folder or file that other libraries read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxreward.errors import UserError
from jaxreward.files import write_atomic
from jaxreward.models import convert, hub
from jaxreward.reward_models import RewardModel
from jaxreward.types import Params

HEAD_STEM = "head"
# Beside public weights; a tower's texts and images are read the same way after.
_BESIDE = (
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
  "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model",
  "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


def require(model: RewardModel) -> None:
  """Refuses a model without a published layout.

  Raises:
    UserError: its backbone or head has none.
  """
  head_shapes = model.param_shapes["head"]
  if model.backbone.public is None or (head_shapes and not model.head.public):
    raise UserError(
      "this reward model has no published layout: that of a CLIP or SigLIP pair"
      ' is with reward_model.head.name="similarity", those of ImageReward and'
      ' the aesthetic predictor are with "layered"'
    )


def write(
  folder: epath.Path,
  model: RewardModel,
  params: Params,
  *,
  weights: str = "",
  dtype: Any = None,
) -> None:
  """Writes the towers and the head under their published names.

  A pair whose logit is the score is transformers' or open_clip's folder; BLIP
  with its layers is ImageReward's file; other layers are a file of their own,
  head.safetensors, beside the towers.

  Args:
    folder: made if absent.
    model: the reward model.
    params: all its parameters.
    weights: where the towers came from; their tokenizer is copied.
    dtype: of the stored arrays; as they are if None.

  Raises:
    UserError: see `require`.
  """
  require(model)
  public, head = model.backbone.public, model.head.public
  assert public
  towers, rules = params["backbone"], public.rules
  if head and public.head_at is not None:
    towers = {**towers, "head": params["head"]}
    rules = (*rules, *convert.below(head.rules, "head/", public.head_at))
  elif head:
    convert.save_params(
      folder, params["head"], head.rules, stem=HEAD_STEM, dtype=dtype
    )
  convert.save_params(folder, towers, rules, stem=public.stem, dtype=dtype)
  if public.config is not None:
    text = json.dumps(dict(public.config), indent=2)
    write_atomic(folder / public.config_name, text)
  if weights:
    _copy_beside(folder, weights)


def _copy_beside(folder: epath.Path, weights: str) -> None:
  source = hub.resolve(weights)
  source = source if source.is_dir() else source.parent
  for name in _BESIDE:
    if (source / name).exists():
      write_atomic(folder / name, (source / name).read_bytes())


def weights_of(record: Mapping[str, Any]) -> str:
  """Where the towers of a saved model came from; "" if drawn."""
  return record.get("model", {}).get("backbone", {}).get("weights", "")
