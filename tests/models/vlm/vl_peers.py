"""Small random models of transformers and prompts for them."""

import dataclasses

import numpy as np
import torch
import transformers

from jaxreward.models.vlm import prompts, qwen_vl
from tests.models import tower_peers

IMAGE, VIDEO, START, END, STOP = 290, 291, 292, 293, 299
IDS = dict(
  image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START,
  vision_end_token_id=END,
)  # fmt: skip


def _text(**more):
  return dict(
    hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=40, vocab_size=300,
    max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=0,
    eos_token_id=STOP, pad_token_id=0, **more,
  )  # fmt: skip


def _rope(sections, **more):
  return dict(
    rope_type="default", mrope_section=list(sections), rope_theta=1e4, **more
  )


def _second():
  return transformers.Qwen2VLForConditionalGeneration(
    transformers.Qwen2VLConfig(
      text_config=_text(rope_parameters=_rope((2, 2, 2))),
      vision_config=dict(
        depth=2, embed_dim=32, hidden_size=48, num_heads=2, mlp_ratio=2,
        patch_size=4,
      ),
      tie_word_embeddings=True, **IDS,
    )
  )  # fmt: skip


def _second_and_half():
  return transformers.Qwen2_5_VLForConditionalGeneration(
    transformers.Qwen2_5_VLConfig(
      text_config=_text(rope_parameters=_rope((2, 2, 2))),
      vision_config=dict(
        depth=2, hidden_size=32, intermediate_size=20, num_heads=2,
        out_hidden_size=48, patch_size=4, window_size=16,
        fullatt_block_indexes=[1], tokens_per_second=2,
      ),
      **IDS,
    )
  )  # fmt: skip


def _third():
  return transformers.Qwen3VLForConditionalGeneration(
    transformers.Qwen3VLConfig(
      text_config=_text(
        head_dim=16, rope_parameters=_rope((4, 2, 2), mrope_interleaved=True)
      ),
      vision_config=dict(
        depth=3, hidden_size=32, intermediate_size=20, num_heads=2,
        out_hidden_size=48, patch_size=4, num_position_embeddings=16,
        deepstack_visual_indexes=[0, 2],
      ),
      tie_word_embeddings=True, **IDS,
    )
  )  # fmt: skip


FAMILIES = {
  "qwen2_vl": _second, "qwen2.5_vl": _second_and_half, "qwen3_vl": _third,
}  # fmt: skip


@dataclasses.dataclass
class Family:
  """A peer, its folder, what we read there and a batch for both."""

  peer: object
  folder: object
  model: qwen_vl.Model
  params: object
  rows: list
  shown: list


def build(name, folder):
  torch.manual_seed(0)
  peer = tower_peers.shake(FAMILIES[name]())
  peer.save_pretrained(folder)
  model, params = qwen_vl.load(folder)
  return Family(peer, folder, model, params, *batch(model))


def batch(model):
  """A row with two images of different sizes, and one with a video."""
  rng = np.random.default_rng(0)
  image = lambda *size: prompts.Shown(rng.standard_normal((1, *size, 3)))
  video = prompts.as_video(model, rng.standard_normal((3, 16, 24, 3)), 0.25)
  words = lambda n: rng.integers(2, 280, n).tolist()
  mark = lambda token: [START, token, END]
  first = words(3) + mark(IMAGE) + words(2) + mark(IMAGE) + words(4)
  second = words(2) + mark(VIDEO) * len(video) + words(3)
  return [first, second], [[image(24, 40), image(16, 8)], video]


def patches(frames):
  """Patches [N, 3 * 2 * 4 * 4] as the processor hands them to the peer."""
  frames = np.repeat(frames, 2, 0) if len(frames) == 1 else frames
  t, h, w, _ = frames.shape
  x = frames.transpose(0, 3, 1, 2)
  x = x.reshape(t // 2, 2, 3, h // 8, 2, 4, w // 8, 2, 4)
  x = x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * 2 * 4 * 4)
  return torch.tensor(x, dtype=torch.float32), [t // 2, h // 4, w // 4]


def inputs(model, tokens, mask, shown):
  """Arguments of the peer for rows of a packed batch."""
  ids = torch.tensor(tokens, dtype=torch.long)
  mask = torch.tensor(mask, dtype=torch.long)
  kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
  given = dict(input_ids=ids, attention_mask=mask, mm_token_type_ids=kinds)
  every = [x for one in shown for x in one]
  for suffix, key, are in (
    ("", "image", [x for x in every if len(x.frames) == 1]),
    ("_videos", "video", [x for x in every if len(x.frames) > 1]),
  ):
    if are:
      parts, grids = zip(*(patches(x.frames) for x in are), strict=True)
      grids = torch.tensor(grids)
      if key == "video" and model.vision.model == "qwen3_vl":
        grids = torch.tensor([[len(are), *grids[0, 1:].tolist()]])
      given[f"pixel_values{suffix}"] = torch.cat(parts)
      given[f"{key}_grid_thw"] = grids
  if model.pace and "video_grid_thw" in given:
    given["second_per_grid_ts"] = [
      x.seconds for x in every if len(x.frames) > 1
    ]
  return given
