"""The scene policy and one Flow-GRPO iteration, written again in PyTorch.

It is the yardstick of `grpo_iteration.py`: the same architecture, sizes and
work, as one writes them in PyTorch: fused `scaled_dot_product_attention`,
`layer_norm` and `rms_norm`, words encoded once per prompt and the reference's
once per iteration, no graph in the rollout, a fused AdamW. `load_flax` takes
the parameters of `jaxreward.models.policies.scene_dit`, which is how
`tests/parity/test_torch_peer.py` knows that the two are one model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = float(np.log(2 * np.pi))
T_MIN = 0.05
SIZES = ("width", "depth", "heads", "mlp_ratio", "text_layers")


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
    y = attention(rms_norm(q), rms_norm(k), v, mask)
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
    k = torch.cat([rms_norm(k), k_words], 2)
    v = torch.cat([v, v_words], 2)
    y = attention(rms_norm(q), k, v, mask)
    x = x + gate1 * self.out(y.transpose(1, 2).reshape(b, n, d))
    y = layer_norm(x) * (1 + scale2) + shift2
    return x + gate2 * self.down(F.relu(self.up(y)).square())


class Words(NamedTuple):
  """What the image blocks read of P prompts (or of B samples)."""

  k: Tensor  # [P, depth, H, L, D / H], normalised
  v: Tensor  # the same
  mask: Tensor  # bool [P, L]
  pooled: Tensor  # [P, D]

  def rows(self, index: Tensor) -> Words:
    return Words(*(x[index] for x in self))


class SceneDiT(nn.Module):
  """The counterpart of `jaxreward.models.policies.scene_dit.SceneDiT`."""

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
    b, n, d = x.shape
    kv = self.kv(x).view(b, n, self.depth, 2, self.heads, d // self.heads)
    k, v = kv.permute(3, 0, 2, 4, 1, 5)
    return Words(rms_norm(k), v, mask, (x * weight).sum(1))

  def forward(self, x: Tensor, t: Tensor, words: Words) -> Tensor:
    """Velocity [B, H, W, C] of x_t [B, H, W, C] at t [B]."""
    y = self.patch_in(self._to_patches(x)) + self.place
    angle = t[:, None] * self.frequency
    signal = self.time_in(torch.cat([angle.cos(), angle.sin()], -1))
    signal = self.time_out(F.silu(signal)) + self.pooled_in(words.pooled)
    signal = F.silu(signal)
    mask = F.pad(words.mask, (y.shape[1], 0), value=True)
    for i, block in enumerate(self.blocks):
      y = block(y, signal, words.k[:, i], words.v[:, i], mask)
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


def rms_norm(x: Tensor) -> Tensor:
  return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
  """q [B, H, N, D], k and v [B, H, M, D], mask bool [B, M]."""
  mask = mask[:, None, None, :]
  return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def torch_names(params: Mapping) -> dict[str, np.ndarray]:
  """Arrays of a Flax tree (parameters or gradients) by their PyTorch names."""
  found = {
    "embedding.weight": params["text"]["embedding"],
    "position": params["text"]["position"],
    "place": params["place"],
  }

  def linear(name, layer):
    found[f"{name}.weight"] = np.asarray(layer["kernel"]).T
    found[f"{name}.bias"] = layer["bias"]

  outer = "patch_in time_in time_out pooled_in final_modulation patch_out"
  for name in outer.split():
    linear(name, params[name])
  linear("kv", params["text"]["kv"])
  for block, layers in params["text"].items():
    if block.startswith("block_"):
      for name, layer in layers.items():
        linear(f"text.{block.removeprefix('block_')}.{name}", layer)
  for name, layer in params["blocks"].items():
    for i in range(len(layer["bias"])):
      at = {k: np.asarray(v)[i] for k, v in layer.items()}
      linear(f"blocks.{i}.{name}", at)
  return {k: np.array(v, np.float32) for k, v in found.items()}


def load_flax(model: SceneDiT, params: Mapping) -> SceneDiT:
  """Copies the parameters of the Flax model into the PyTorch one."""
  weights = {k: torch.from_numpy(v) for k, v in torch_names(params).items()}
  model.load_state_dict(weights | {"frequency": model.frequency})
  return model


class Step(NamedTuple):
  """Constants of one denoising step, scalars: mean = c_x x + c_v v."""

  t: Tensor
  c_x: Tensor
  c_v: Tensor
  std: Tensor


def steps_of(table) -> list[Step]:
  """Steps of a `jaxreward.flow.steppers.StepTable`."""
  columns = (table.t, table.c_x, table.c_v, table.std)
  return [Step(*map(torch.tensor, row)) for row in zip(*columns, strict=True)]


def step_mean(model: SceneDiT, x: Tensor, words: Words, step: Step) -> Tensor:
  return step.c_x * x + step.c_v * model(x, step.t.expand(len(x)), words)


def log_prob(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
  """Mean over elements of the log density of a step, [B]."""
  error = (x_next - mean).square().flatten(1).mean(1)
  return -error / (2 * std.square()) - std.log() - 0.5 * LOG_2PI


def noisy_step(model, x: Tensor, words: Words, step: Step):
  """(next latents, their log-probability) of a stochastic step."""
  mean = step_mean(model, x, words, step)
  x_next = mean + step.std * torch.randn_like(mean)
  return x_next, log_prob(x_next, mean, step.std)


class Batch(NamedTuple):
  """One trained transition of every sample."""

  x_t: Tensor
  x_next: Tensor
  old_log_prob: Tensor
  advantage: Tensor
  tokens: Tensor
  index: Tensor


def grpo_loss(
  model: SceneDiT,
  reference: SceneDiT,
  reference_words: Words,
  batch: Batch,
  step: Step,
  clip_range: float,
  kl: float,
) -> Tensor:
  """Clipped ratio loss and KL to the reference, mean over samples."""
  words = model.encode(batch.tokens).rows(batch.index)
  mean = step_mean(model, batch.x_t, words, step)
  ratio = (log_prob(batch.x_next, mean, step.std) - batch.old_log_prob).exp()
  clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
  advantage = batch.advantage
  loss = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
  if kl:
    with torch.no_grad():
      anchor = step_mean(reference, batch.x_t, reference_words, step)
    loss = loss + kl * (mean - anchor).square().mean() / (2 * step.std**2)
  return loss


def group_advantage(reward: Tensor) -> Tensor:
  """[P, G] -> [P, G]."""
  centred = reward - reward.mean(1, keepdim=True)
  std = reward.std(1, keepdim=True, correction=0)
  return (centred / (std + 1e-4)).clamp(-5, 5)


@dataclasses.dataclass
class Recipe:
  """Constants of an iteration."""

  steps: list[Step]
  trained: tuple[int, ...]
  updates: int
  group: int
  clip_range: float
  kl: float
  learning_rate: float
  clip_norm: float
  betas: tuple[float, float]
  ema_decay: float


class Trainer:
  """Rollout and update of Flow-GRPO, eager or through `torch.compile`."""

  def __init__(self, model: SceneDiT, recipe: Recipe, *, compiled: bool):
    self.model, self.recipe = model, recipe
    self.reference = copy.deepcopy(model).requires_grad_(False)
    self.average = [p.detach().clone() for p in model.parameters()]
    self.optimizer = torch.optim.AdamW(
      model.parameters(),
      lr=recipe.learning_rate,
      betas=recipe.betas,
      weight_decay=0.0,
      fused=True,
    )
    # Shapes never change, so neither program is compiled twice.
    wrap = functools.partial(torch.compile, dynamic=False)
    self.mean = wrap(step_mean) if compiled else step_mean
    self.noisy = wrap(noisy_step) if compiled else noisy_step
    self.loss = wrap(grpo_loss) if compiled else grpo_loss

  def rollout(self, tokens: Tensor, shape: tuple[int, ...]):
    """(latents: T + 1 of [B, *shape], log-probabilities: T of [B])."""
    index = torch.arange(len(tokens)).repeat_interleave(self.recipe.group)
    latents, log_probs = [], []
    # Not inference_mode: the update differentiates with respect to weights
    # that multiply these latents, which it refuses.
    with torch.no_grad():
      words = self.model.encode(tokens).rows(index)
      x = torch.randn(len(index), *shape)
      latents.append(x)
      for step in self.recipe.steps:
        log_p = torch.zeros(len(index))
        if step.std > 0:
          x, log_p = self.noisy(self.model, x, words, step)
        else:
          x = self.mean(self.model, x, words, step)
        latents.append(x)
        log_probs.append(log_p)
    return latents, log_probs

  def update(self, latents, log_probs, reward: Tensor, tokens: Tensor):
    """The optimizer steps of one iteration; `reward` is [P, G]."""
    r = self.recipe
    index = torch.arange(len(tokens)).repeat_interleave(r.group)
    advantage = group_advantage(reward).flatten()
    with torch.no_grad():
      anchor = self.reference.encode(tokens).rows(index)
    each = len(r.trained) // r.updates
    for first in range(0, len(r.trained), each):
      self.optimizer.zero_grad(set_to_none=True)
      for i in r.trained[first : first + each]:
        batch = Batch(
          latents[i], latents[i + 1], log_probs[i], advantage, tokens, index
        )
        loss = self.loss(
          self.model, self.reference, anchor, batch, r.steps[i],
          r.clip_range, r.kl,
        )  # fmt: skip
        (loss / each).backward()
      nn.utils.clip_grad_norm_(self.model.parameters(), r.clip_norm)
      self.optimizer.step()
      with torch.no_grad():
        current = list(self.model.parameters())
        torch._foreach_lerp_(self.average, current, 1 - r.ema_decay)
