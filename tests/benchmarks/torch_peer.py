"""The scene policy and one Flow-GRPO iteration, written again in PyTorch.

It is the yardstick of `grpo_iteration.py`: the same architecture, sizes and
work, as one writes them in PyTorch: fused `scaled_dot_product_attention`,
`layer_norm` and `rms_norm`, words encoded once per prompt, `inference_mode`
in the rollout, a fused AdamW. `flax_weights` loads the parameters of
`jaxreward.models.scene_dit`, which is how `tests/parity/test_torch_peer.py`
knows that the two are one model.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = float(np.log(2 * np.pi))
T_MIN = 0.05


class TextBlock(nn.Module):
  """Pre-norm transformer block over the words of a prompt."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.out = nn.Linear(width, width)
    self.up = nn.Linear(width, 3 * width)
    self.down = nn.Linear(3 * width, width)

  def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    b, n, d = x.shape
    qkv = self.qkv(layer_norm(x)).view(b, n, 3, self.heads, d // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    y = attention(q, k, v, mask)
    x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
    return x + self.down(F.relu(self.up(layer_norm(x))).square())


class ImageBlock(nn.Module):
  """adaLN block: patches attend to patches and words, then an MLP."""

  def __init__(self, width: int, heads: int, mlp_ratio: int):
    super().__init__()
    self.heads = heads
    self.modulation = nn.Linear(width, 6 * width)
    self.qkv = nn.Linear(width, 3 * width)
    self.out = nn.Linear(width, width)
    self.up = nn.Linear(width, mlp_ratio * width)
    self.down = nn.Linear(mlp_ratio * width, width)

  def forward(
    self, x: Tensor, signal: Tensor, k_words: Tensor, v_words: Tensor, mask
  ) -> Tensor:
    """x [B, N, D], words [B, H, L, D / H], mask [B, N + L]."""
    b, n, d = x.shape
    modulation = self.modulation(signal)[:, None].chunk(6, -1)
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation
    y = layer_norm(x) * (1 + scale1) + shift1
    qkv = self.qkv(y).view(b, n, 3, self.heads, d // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    k, v = torch.cat([k, k_words], 2), torch.cat([v, v_words], 2)
    y = attention(q, k, v, mask)
    x = x + gate1 * self.out(y.transpose(1, 2).reshape(b, n, d))
    y = layer_norm(x) * (1 + scale2) + shift2
    return x + gate2 * self.down(F.relu(self.up(y)).square())


@dataclasses.dataclass
class Words:
  """What the image blocks read of P (or B) prompts."""

  kv: Tensor  # [P, L, depth, 2 D]
  mask: Tensor  # bool [P, L]
  pooled: Tensor  # [P, D]

  def rows(self, index: Tensor) -> Words:
    return Words(self.kv[index], self.mask[index], self.pooled[index])


class SceneDiT(nn.Module):
  """The counterpart of `jaxreward.models.scene_dit.SceneDiT`."""

  def __init__(
    self,
    vocabulary: int,
    words: int,
    *,
    image_size: int = 36,
    patch: int = 12,
    width: int = 128,
    depth: int = 4,
    heads: int = 2,
    mlp_ratio: int = 3,
    text_layers: int = 2,
  ):
    super().__init__()
    self.patch, self.heads, self.depth, self.width = patch, heads, depth, width
    tokens = (image_size // patch) ** 2
    self.embedding = nn.Embedding(vocabulary, width)
    self.position = nn.Parameter(torch.randn(words, width))
    self.text = nn.ModuleList(
      TextBlock(width, heads) for _ in range(text_layers)
    )
    self.kv = nn.Linear(width, depth * 2 * width)
    self.patch_in = nn.Linear(patch**2 * 3, width)
    self.place = nn.Parameter(torch.randn(tokens, width))
    self.time_in = nn.Linear(width, width)
    self.time_out = nn.Linear(width, width)
    self.pooled_in = nn.Linear(width, width)
    self.blocks = nn.ModuleList(
      ImageBlock(width, heads, mlp_ratio) for _ in range(depth)
    )
    self.final_modulation = nn.Linear(width, 2 * width)
    self.patch_out = nn.Linear(width, patch**2 * 3)
    frequency = torch.linspace(0.0, float(np.log(1000.0)), width // 2).exp()
    self.register_buffer("frequency", frequency)

  def encode(self, tokens: Tensor) -> Words:
    mask = tokens > 0
    mask[:, 0] = True
    x = self.embedding(tokens) + self.position
    for block in self.text:
      x = block(x, mask)
    x = layer_norm(x)
    weight = mask[..., None] / mask.sum(-1)[:, None, None]
    kv = self.kv(x).unflatten(-1, (self.depth, 2 * self.width))
    return Words(kv, mask, (x * weight).sum(1))

  def forward(self, x: Tensor, t: Tensor, words: Words) -> Tensor:
    """Velocity [B, H, W, C] of x_t [B, H, W, C] at t [B]."""
    y = self.patch_in(self._to_patches(x)) + self.place
    angle = t[:, None] * self.frequency
    signal = self.time_in(torch.cat([angle.cos(), angle.sin()], -1))
    signal = self.time_out(F.silu(signal)) + self.pooled_in(words.pooled)
    signal = F.silu(signal)
    mask = F.pad(words.mask, (y.shape[1], 0), value=True)
    shape = (*words.kv.shape[:3], 2, self.heads, self.width // self.heads)
    keys, values = words.kv.view(shape).permute(3, 2, 0, 4, 1, 5)
    for i, block in enumerate(self.blocks):
      y = block(y, signal, keys[i], values[i], mask)
    shift, scale = self.final_modulation(signal)[:, None].chunk(2, -1)
    y = self.patch_out(layer_norm(y) * (1 + scale) + shift)
    x0 = self._to_image(y, x.shape)
    return (x - x0) / t.clamp(min=T_MIN)[:, None, None, None]

  def _to_patches(self, x: Tensor) -> Tensor:
    b, size, _, c = x.shape
    p, side = self.patch, size // self.patch
    y = x.view(b, side, p, side, p, c).transpose(2, 3)
    return y.reshape(b, side * side, p * p * c)

  def _to_image(self, y: Tensor, shape) -> Tensor:
    b, size, _, c = shape
    p, side = self.patch, size // self.patch
    return y.view(b, side, side, p, p, c).transpose(2, 3).reshape(shape)


def layer_norm(x: Tensor) -> Tensor:
  return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
  """q [B, H, N, D], k and v [B, H, M, D], mask bool [B, M]."""
  q = F.rms_norm(q, q.shape[-1:], eps=1e-6)
  k = F.rms_norm(k, k.shape[-1:], eps=1e-6)
  return F.scaled_dot_product_attention(
    q, k, v, attn_mask=mask[:, None, None, :]
  )
