"""Tokens per second of a vision-language model beside transformers.

A Qwen2.5-VL with random weights, float32, greedy, on two cores: the same
weights, pictures and words, and the answers are asserted to be equal. Runs take
turns; the time is of reading the prompts and writing the answers.

  JAX_PLATFORMS=cpu taskset -c 0,1 python tests/benchmarks/vlm_decode.py
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
import transformers

from jaxreward.models.vlm import decode, prompts, qwen_vl

IMAGE, START, END = 8000, 8001, 8002
SIDE, PATCH, VOCABULARY = 16, 14, 8192


def peer_of(width: int, depth: int):
  """The model of transformers."""
  torch.manual_seed(0)
  config = transformers.Qwen2_5_VLConfig(
    text_config=dict(
      hidden_size=width, num_hidden_layers=depth,
      num_attention_heads=width // 64, num_key_value_heads=2,
      intermediate_size=3 * width, vocab_size=VOCABULARY,
      bos_token_id=0, eos_token_id=None, pad_token_id=0,
      rope_parameters=dict(
        rope_type="default", mrope_section=[8, 12, 12], rope_theta=1e6
      ),
    ),
    vision_config=dict(
      depth=4, hidden_size=256, intermediate_size=512, num_heads=4,
      out_hidden_size=width, patch_size=PATCH, window_size=112,
      fullatt_block_indexes=[3],
    ),
    image_token_id=IMAGE, vision_start_token_id=START,
    vision_end_token_id=END,
  )  # fmt: skip
  peer = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
  with torch.no_grad():  # larger than at the start of training: no near ties
    for p in peer.parameters():
      if p.ndim > 1:
        p.mul_(2)
  peer.generation_config.eos_token_id = None
  return peer


def batch(rows: int, words: int):
  """(token ids, a picture each, arguments of the peer)."""
  rng = np.random.default_rng(0)
  ids = [
    [*rng.integers(2, 7000, 8), START, IMAGE, END, *rng.integers(2, 7000, words)]
    for _ in range(rows)
  ]  # fmt: skip
  size = SIDE * PATCH
  frames = rng.standard_normal((rows, 1, size, size, 3)).astype(np.float32)
  x = np.repeat(frames, 2, 1).transpose(0, 1, 4, 2, 3)
  half = SIDE // 2
  x = x.reshape(rows, 2, 3, half, 2, PATCH, half, 2, PATCH)
  x = x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * SIDE**2, -1)
  tokens = [
    [t for token in row for t in [token] * (half**2 if token == IMAGE else 1)]
    for row in ids
  ]
  given = torch.tensor(np.array(tokens), dtype=torch.long)
  return ids, frames, dict(
    input_ids=given, attention_mask=torch.ones_like(given),
    mm_token_type_ids=(given == IMAGE).int(), pixel_values=torch.tensor(x),
    image_grid_thw=torch.tensor([[1, SIDE, SIDE]] * rows),
  )  # fmt: skip


def runs(model, params, peer, rows: int, args) -> dict[str, Callable]:
  """Two ways to answer the same prompts."""
  ids, frames, given = batch(rows, args.words)
  length = given["input_ids"].shape[1]
  shown = [[prompts.Shown(x)] for x in frames]
  packed = prompts.pack(model, ids, shown, length=length)
  options = dict(length=args.new, stops=(VOCABULARY,))
  run = jax.jit(functools.partial(decode.answer, model, **options))

  def ours():
    answers = run(params, packed, jax.random.key(0), np.arange(rows))
    return np.asarray(answers.tokens)[:, 0]

  def theirs():
    with torch.inference_mode():
      out = peer.generate(**given, do_sample=False, max_new_tokens=args.new)
    return out[:, length:].numpy()

  return {"ours": ours, "theirs": theirs}


def seconds(run: Callable) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--depth", type=int, default=12)
  parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
  parser.add_argument("--words", type=int, default=64)
  parser.add_argument("--new", type=int, default=64)
  parser.add_argument("--pairs", type=int, default=5)
  args = parser.parse_args()
  torch.set_num_threads(2)
  peer = peer_of(args.width, args.depth)
  with tempfile.TemporaryDirectory() as folder:
    peer.save_pretrained(folder)
    model, params = qwen_vl.load(folder)
  count = sum(x.size for x in jax.tree.leaves(params)) / 1e6
  print(f"{count:.0f} M parameters, load {os.getloadavg()[0]:.1f}")
  print("| rows | ours, tokens/s | transformers, tokens/s | ours to theirs |")
  print("| --- | --- | --- | --- |")
  for rows in args.rows:
    both = runs(model, params, peer, rows, args)
    np.testing.assert_array_equal(both["ours"](), both["theirs"]())
    times = [[seconds(run) for run in both.values()] for _ in range(args.pairs)]
    cells = []
    for taken in zip(*times, strict=True):
      speed = sorted(rows * args.new / t for t in taken)
      middle = statistics.median(speed)
      cells.append(f"{middle:.0f} ({speed[0]:.0f} to {speed[-1]:.0f})")
    ratio = statistics.median(b / a for a, b in times)
    print(f"| {rows} | {' | '.join(cells)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
  main()
