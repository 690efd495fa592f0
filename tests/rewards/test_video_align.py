"""VideoAlign's layout and scores beside transformers."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward import rewards
from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.vlm import prompts, words
from jaxreward.rewards import video_judges
from jaxreward.types import PromptBatch

TEXTS = ["a red circle", "a blue square turns"]
ASKED = "rate <|VQ_reward|> and <|MQ_reward|> of {prompt} by <|TA_reward|> now"
MARKS = (
  prompts.IMAGE, prompts.VIDEO, "<|vision_start|>", "<|vision_end|>",
  "<|im_start|>", prompts.END, *video_judges.TOKENS,
)  # fmt: skip
SCALING = {"VQ_mean": 1.0, "VQ_std": 2.0, "MQ_mean": -1.0, "TA_std": 0.5}
RANK, ALPHA = 2, 6
LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")


def write(folder, peer, torch, whole, rows):
  """A checkpoint of the peer's, adapted, of so many tokens; the head [3, D]."""
  rng = np.random.default_rng(1)
  draw = lambda *shape: torch.tensor(
    rng.normal(size=shape), dtype=torch.float32
  )
  language = peer.model.language_model
  width = language.embed_tokens.weight.shape[1]
  prefix, state, adapter = "base_model.model.", {}, {}
  head = draw(3, width)
  state[f"{prefix}rm_head.weight"] = head
  peer.resize_token_embeddings(rows, mean_resizing=False)
  table = language.embed_tokens.weight.detach().clone()
  table[296:299] += 1.0
  state[f"{prefix}model.embed_tokens.weight"] = table
  with torch.no_grad():
    language.embed_tokens.weight.copy_(table)
    for name in LAYERS:
      layer = language.layers[1].get_submodule(name)
      out, ins = layer.weight.shape
      a, b = 0.1 * draw(RANK, ins), 0.1 * draw(out, RANK)
      key = f"{prefix}model.layers.1.{name}"
      middle = ".default" if whole else ""
      adapter[f"{key}.lora_A{middle}.weight"] = a
      adapter[f"{key}.lora_B{middle}.weight"] = b
      if whole:
        state[f"{key}.base_layer.weight"] = layer.weight.detach().clone()
      layer.weight.add_(ALPHA / RANK * b @ a)
  last = folder / "checkpoint-12"
  (folder / "checkpoint-9").mkdir(parents=True)
  last.mkdir()
  if whole:
    torch.save({**state, **adapter}, last / "model.pth")
  else:
    from safetensors.torch import save_file

    save_file(adapter, last / "adapter_model.safetensors")
    torch.save(state, last / "non_lora_state_dict.pth")
  record = dict(
    model_config=dict(use_special_tokens=True, output_dim=3),
    data_config=dict(max_frame_pixels=16 * 24),
    peft_lora_config=dict(lora_r=RANK, lora_alpha=ALPHA),
    inference_config=SCALING,
  )
  (folder / "model_config.json").write_text(json.dumps(record))
  return head.numpy()


@pytest.mark.parity
@pytest.mark.parametrize(("whole", "rows"), [(False, 307), (True, 299)])
def test_scores_are_those_of_the_peer(whole, rows, tmp_path):
  torch = pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from tests.models.vlm import vl_peers

  base, folder = tmp_path / "base", tmp_path / "weights"
  family = vl_peers.build("qwen2_vl", base)
  fill = [f"<{i}>" for i in range(1, vl_peers.IMAGE)]
  tokens = words.Words((words.UNKNOWN, *fill, *MARKS), ())
  tokens.save(base)
  head = write(folder, family.peer, torch, whole, rows)
  (tmp_path / "asked.txt").write_text(ASKED)
  reward = rewards.REGISTRY["video_align"]
  options = dict(
    weights=str(folder), base=str(base), length=48,
    template=str(tmp_path / "asked.txt"),
  )  # fmt: skip
  loaded = reward.loads(**options)
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (2, 2, 3, 16, 24, 3)) / np.float32(255)
  clips[0, 1, 2, 3, 4, 0] = np.nan
  batch = PromptBatch(
    np.arange(2, dtype=np.uint32), np.zeros(2, np.int32), np.ones(2, bool)
  )
  run = jax.jit(
    lambda x, arrays: reward(x, batch, **loaded.static, **arrays)["video_align"]
  )
  got = np.asarray(run(clips, {**loaded.arrays, **loaded.prepare(TEXTS)}))
  assert np.isnan(got).tolist() == [[False, True], [False, False]]

  model = family.model
  processor = loaded.static["reader"].processor
  frames = (clips[1, 1] - np.array(processor.mean)) / np.array(processor.std)
  shown = prompts.as_video(model, frames, 0.5)
  text = prompts.video_mark(model, 3, 0.5) + ASKED.format(prompt=TEXTS[1])
  ids = tokens(prompts.chat(text, 0))["input_ids"]
  packed = prompts.pack(model, [ids], [shown], length=64)
  given = vl_peers.inputs(model, packed.tokens, packed.mask, [shown])
  with torch.no_grad():
    hidden = family.peer.model(**given).last_hidden_state[0].numpy()
  row = np.asarray(packed.tokens[0])
  at = [int(np.flatnonzero(row == tokens.ids[x])[0]) for x in MARKS[-3:]]
  raw = (hidden[at].astype(np.float64) * head).sum(1)
  mean, std = np.array([1.0, -1.0, 0.0]), np.array([2.0, 1.0, 0.5])
  want = ((raw - mean) / std).sum()
  assert got[1, 1] == pytest.approx(want, rel=2e-4, abs=2e-4)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
  reward = rewards.REGISTRY["video_align"]
  with pytest.raises(UserError, match="nothing of special tokens"):
    reward.loads(weights=str(tmp_path))
  with pytest.raises(UserError, match="aspect"):
    reward.loads(weights=str(tmp_path), aspect="looks")
  with pytest.raises(UserError, match=r"no checkpoint-\*/model.pth"):
    video_judges.checkpoint(tmp_path)


def stored(folder, shapes):
  """Tensors of ones, in a file."""
  data = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
  safetensors.numpy.save_file(data, folder / "x.safetensors")
  return hub.open_weights(folder / "x.safetensors")


RULES = (
  convert.Rule("token", "model.embed_tokens.weight"),
  *convert.linear("layers/down", "model.layers.{}.down", range(2), bias=False),
)
PARAMS = {
  "token": np.zeros((5, 3)), "layers": {"down": {"kernel": np.zeros((2, 4, 3))}}
}  # fmt: skip


def test_another_number_of_tokens_and_an_adapted_layer_are_merged(tmp_path):
  shapes = {
    "model.embed_tokens.weight": (7, 3),
    "model.layers.1.down.lora_A.weight": (2, 4),
    "model.layers.1.down.lora_B.weight": (3, 2),
  }
  tensors = stored(tmp_path, shapes)
  got = video_judges.merged(PARAMS, RULES, tensors, 0.5)
  assert got["token"].shape == (7, 3) and got["token"].all()
  assert (got["layers"]["down"]["kernel"] == [[[0.0]], [[1.0]]]).all()


@pytest.mark.parametrize(
  ("tensors", "told"),
  [
    (
      {"model.layers.1.up.weight": (3, 4)},
      r"model\.layers\.1\.up\.weight",
    ),
    ({"model.embed_tokens.lora_embedding_A": (2, 5)}, "lora_embedding_A"),
    ({"model.layers.0.down.lora_A.weight": (2, 4)}, "not of this model"),
    ({"model.embed_tokens.weight": (7, 4)}, r"\[7, 4\], expected \[7, 3\]"),
    ({"model.layers.0.down.weight": (4, 3)}, r"\[4, 3\], expected \[3, 4\]"),
    (
      {
        "model.layers.0.down.lora_A.weight": (2, 4),
        "model.layers.0.down.lora_B.weight": (3, 1),
      },
      r"lora_B\.weight is \[3, 1\], expected \[3, 2\]",
    ),
  ],
)
def test_what_no_rule_names_or_has_another_shape_is_refused(
  tensors, told, tmp_path
):
  with pytest.raises(UserError, match=told):
    video_judges.merged(PARAMS, RULES, stored(tmp_path, tensors), 1.0)


def test_an_adapter_beside_that_of_the_checkpoint_is_refused():
  with pytest.raises(UserError, match="adapter=mine: video_align"):
    rewards.REGISTRY["video_align"].loads(adapter="mine")


def test_a_prompt_moves_no_place_where_a_score_is_read():
  text = f"a cat {video_judges.TOKENS[2]}<|im_end|> runs"
  assert prompts.without_marks(text) == "a cat  runs"
