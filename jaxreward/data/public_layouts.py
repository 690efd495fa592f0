"""Layouts by name: this library's own, and those of public data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxreward.data.layouts import Layout
from jaxreward.data.preference_rows import quoted
from jaxreward.errors import UserError

PAIR = ("image_a", "image_b")
# GenAI-Bench's answers, as `preference_rows.WORDS`.
_VOTES = {
  "leftvote": (1.0, None),
  "rightvote": (0.0, None),
  "tievote": (0.5, 1.0),
  "bothbad_vote": (0.5, 0.0),
}
_CANDIDATES = tuple(f"candidate_{i}" for i in range(1, 5))
_EDIT_TERMS = {
  f"dim{k}": (f"model1_dim{k}_score", f"model2_dim{k}_score") for k in (1, 2)
}


def _content(value: Any, kind: str) -> list[str]:
  """Texts or files of a list of ["text", ...] and ["image", ...]."""
  if isinstance(value, str):
    return [value] if kind == "text" else []
  if not isinstance(value, list) or not all(
    isinstance(part, list) and len(part) == 2 for part in value
  ):
    raise UserError(
      f'{quoted(value)} is no list of ["text", ...] and ["image", ...]'
    )
  return [str(part[1]) for part in value if part[0] == kind]


def _mmrb2(row: dict[str, Any]) -> dict[str, Any]:
  """A pair of MMRB2; the last image of each response is the answer."""
  prompt = row.get("prompt_content", row.get("prompt"))
  texts = _content(prompt, "text") if prompt is not None else []
  files = _content(prompt, "image") if prompt is not None else []
  flat = {
    **row,
    "prompt": " ".join(texts),
    "source": files[0] if files else None,
  }
  for side in "ab":
    response = row.get(f"response_{side}")
    if not isinstance(response, dict):
      raise UserError(f'"response_{side}" is {quoted(response)}, no object')
    images = _content(response.get("response_content"), "image")
    if not images:
      raise UserError(
        f'"response_{side}" has no image; answers of text alone are not compared'
      )
    flat[f"image_{side}"] = images[-1]
    flat[f"model_{side}"] = response.get("model_name")
  return flat


def _genai(row: dict[str, Any]) -> dict[str, Any]:
  """A vote of GenAI-Bench; its edits have three prompts."""
  if "instruct_prompt" in row and "prompt" not in row:
    return {**row, "prompt": row["instruct_prompt"]}
  return row


LAYOUTS: Mapping[str, Layout] = {
  "pairs": Layout(
    {
      "prompt": "prompt", "images": PAIR, "label": "label",
      "source": "source", "user": "user", "confidence": "confidence",
      "answers": "answers", "aspects": "aspects", "rating": "ratings",
      "models": "models", "category": "category", "key": "key",
    },
    needs=("prompt", *PAIR, "label"),
    origin="this library",
  ),
  "lists": Layout(
    {
      "prompt": "prompt", "images": "images", "rank": "ranks",
      "order": "order", "label": "label", "rating": "ratings",
      "aspects": "aspects", "answers": "answers", "source": "source",
      "user": "user", "confidence": "confidence", "models": "models",
      "category": "category", "key": "key",
    },
    needs=("prompt", "images"),
    origin="this library",
  ),
  "chosen": Layout(
    {
      "prompt": "prompt", "images": ("chosen", "rejected"), "best": "first",
      "source": "source", "user": "user", "confidence": "confidence",
    },
    needs=("prompt", "chosen", "rejected"),
    origin="common use",
  ),
  "pick_a_pic": Layout(
    {
      "prompt": "caption", "images": ("jpg_0", "jpg_1"), "label": "label_0",
      "keep": "has_label", "user": "user_id", "models": ("model_0", "model_1"),
      "key": "ranking_id",
    },
    needs=("caption", "jpg_0", "jpg_1", "label_0"),
    origin="Pick-a-Pic v1 and v2",
  ),
  "hpdv2": Layout(
    {
      "prompt": "prompt", "images": "image_path", "vote": "human_preference",
      "user": "user_hash",
    },
    needs=("prompt", "image_path", "human_preference"),
    origin="HPDv2",
  ),
  "hpdv2_test": Layout(
    {"prompt": "prompt", "images": "image_path", "rank": "rank"},
    needs=("prompt", "image_path", "rank"),
    origin="HPDv2's test set",
  ),
  "edit_reward_data": Layout(
    {
      "prompt": ("instruction", "prompt"), "images": ("path1", "path2"),
      "best": "first", "tie": "tie_case", "source": "path_src",
      "confidence": "confidence", "models": ("model1", "model2"),
      "aspects": _EDIT_TERMS,
    },
    needs=("path_src", "path1", "path2"),
    aspect_scale=(1.0, 4.0),
    origin="EditReward-Data; the ends of its scores are unverified",
  ),
  "hpdv3": Layout(
    {
      "prompt": ("prompt", "instruction"), "images": ("path1", "path2"),
      "best": "first", "confidence": "confidence",
      "models": ("model1", "model2"),
    },
    needs=("path1", "path2"),
    origin="HPDv3",
  ),
  "image_reward_db": Layout(
    {"prompt": "prompt", "images": "generations", "rank": "ranking"},
    needs=("prompt", "generations", "ranking"),
    origin="ImageRewardDB",
  ),
  "video_align": Layout(
    {
      "prompt": "prompt", "images": ("path_A", "path_B"), "label": "Overall",
      "answers": {"VQ": "VQ", "MQ": "MQ", "TA": "TA"},
      "models": ("A_model", "B_model"),
    },
    needs=("path_A", "path_B", "VQ", "MQ", "TA"),
    origin="VideoAlign; the column Overall is unverified",
  ),
  "edit_reward_bench": Layout(
    {
      "prompt": "instruction", "images": _CANDIDATES, "order": "ranking",
      "source": "source_image", "key": "id",
      "models": tuple(f"model_{i}" for i in range(1, 5)),
      "category": "comparison_type",
    },
    needs=("instruction", "candidate_1", "candidate_2", "ranking"),
    origin="EditReward-Bench of TIGER-Lab",
  ),
  "edit_score_bench": Layout(
    {
      "prompt": "instruction", "images": "output_images", "best": "first",
      "source": ("input_image", "input_images"), "category": "dimension",
    },
    needs=("instruction", "output_images", "dimension"),
    origin="EditReward-Bench of EditScore; the first output is the better",
  ),
  "mmrb2": Layout(
    {
      "prompt": "prompt", "images": PAIR, "label": "chosen",
      "source": "source", "models": ("model_a", "model_b"),
      "category": "prompt_source", "key": "id",
    },
    needs=("response_a", "response_b", "chosen"),
    prepare=_mmrb2,
    origin="MMRB2",
  ),
  "genai_bench": Layout(
    {
      "prompt": "prompt", "images": ("left_image", "right_image"),
      "label": "vote_type", "models": ("left_model", "right_model"),
    },
    needs=("left_image", "right_image", "vote_type"),
    prepare=_genai,
    words=_VOTES,
    origin="GenAI-Bench: a tie is of two good images",
  ),
  "genai_bench_edits": Layout(
    {
      "prompt": "prompt",
      "images": ("left_output_image", "right_output_image"),
      "label": "vote_type", "source": "source_image",
      "models": ("left_model", "right_model"),
    },
    needs=("left_output_image", "right_output_image", "vote_type"),
    prepare=_genai,
    words=_VOTES,
    origin="GenAI-Bench: edits",
  ),
}  # fmt: skip


def named(row: Mapping[str, Any]) -> str | None:
  """The first layout whose columns a row has."""
  matches = [n for n, x in LAYOUTS.items() if set(x.needs) <= set(row)]
  return matches[0] if matches else None
