"""LPIPS, DISTS, IResNet and the aesthetic head against PyTorch references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.models import convert
from jaxreward.models.vision import aesthetic, iresnet, perceptual
from tests import tiny
from tests.models import tower_peers as peers
from tests.rewards import folders


def lpips_peer(net):
  """The published module: torchvision's convolutions in five slices."""
  torch = pytest.importorskip("torch")
  nn = torch.nn

  class Peer(nn.Module):
    def __init__(self):
      super().__init__()
      self.net = nn.Module()
      before, stages = 3, perceptual.VGG if net == "vgg" else perceptual.ALEX
      for i, stage in enumerate(stages):
        part = nn.Sequential()
        if i and net == "vgg":
          part.add_module("pool", nn.MaxPool2d(2, 2))
        if net == "alex" and i in (1, 2):
          part.add_module("pool", nn.MaxPool2d(3, 2))
        for number, width, *rest in stage:
          kernel, stride, pad = rest or (3, 1, 1)
          part.add_module(
            str(number), nn.Conv2d(before, width, kernel, stride, pad)
          )
          part.add_module(f"act{number}", nn.ReLU())
          before = width
        setattr(self.net, f"slice{i + 1}", part)
        line = nn.Module()
        line.model = nn.Sequential(
          nn.Dropout(), nn.Conv2d(before, 1, 1, bias=False)
        )
        setattr(self, f"lin{i}", line)

    def forward(self, a, b):
      shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
      scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
      x, y = ((2 * v - 1 - shift) / scale for v in (a, b))
      total = 0
      for i in range(5):
        part = getattr(self.net, f"slice{i + 1}")
        x, y = part(x), part(y)
        unit = lambda v: v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10)
        line = getattr(self, f"lin{i}").model
        total = total + line((unit(x) - unit(y)) ** 2).mean((2, 3))
      return total[:, 0]

  return Peer().eval()


def dists_peer():
  """The published module: VGG with blurred pooling, texture and structure."""
  torch = pytest.importorskip("torch")
  nn, functional = torch.nn, torch.nn.functional

  class Pool(nn.Module):
    def __init__(self, channels):
      super().__init__()
      window = np.hanning(5)[1:-1]
      window = torch.tensor(window[:, None] * window[None, :]).float()
      window = window / window.sum()
      self.register_buffer(
        "filter", window[None, None].repeat(channels, 1, 1, 1)
      )

    def forward(self, x):
      out = functional.conv2d(
        x**2, self.filter, stride=2, padding=1, groups=x.shape[1]
      )
      return (out + 1e-12).sqrt()

  class Peer(nn.Module):
    def __init__(self):
      super().__init__()
      before = 3
      for i, stage in enumerate(perceptual.VGG):
        part = nn.Sequential()
        if i:
          part.add_module(str(stage[0][0] - 1), Pool(before))
        for number, width in stage:
          part.add_module(str(number), nn.Conv2d(before, width, 3, 1, 1))
          part.add_module(str(number + 1), nn.ReLU())
          before = width
        setattr(self, f"stage{i + 1}", part)
      self.register_buffer(
        "mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1)
      )
      self.register_buffer(
        "std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1)
      )
      shape = (1, 1475, 1, 1)
      self.alpha = nn.Parameter(torch.rand(shape))
      self.beta = nn.Parameter(torch.rand(shape))

    def features(self, x):
      found, h = [x], (x - self.mean) / self.std
      for i in range(5):
        h = getattr(self, f"stage{i + 1}")(h)
        found.append(h)
      return found

    def forward(self, x, y):
      total = self.alpha.sum() + self.beta.sum()
      widths = [3, 64, 128, 256, 512, 512]
      alpha = torch.split(self.alpha / total, widths, 1)
      beta = torch.split(self.beta / total, widths, 1)
      score = 0
      pairs = zip(self.features(x), self.features(y), strict=True)
      for k, (a, b) in enumerate(pairs):
        ma, mb = a.mean([2, 3], True), b.mean([2, 3], True)
        va = ((a - ma) ** 2).mean([2, 3], True)
        vb = ((b - mb) ** 2).mean([2, 3], True)
        both = (a * b).mean([2, 3], True) - ma * mb
        one = (2 * ma * mb + 1e-6) / (ma**2 + mb**2 + 1e-6)
        two = (2 * both + 1e-6) / (va + vb + 1e-6)
        score = score + (alpha[k] * one + beta[k] * two).sum(1)
      return 1 - score[:, 0, 0]

  return Peer().eval()


def pair(side=48):
  rng = np.random.default_rng(0)
  a = rng.random((2, side, side, 3))
  b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
  return a.astype(np.float32), b.astype(np.float32)


def torch_pair(a, b):
  import torch

  move = lambda x: torch.tensor(x).permute(0, 3, 1, 2)
  return move(a).requires_grad_(), move(b)


@pytest.mark.turns(3)
@pytest.mark.parity
@pytest.mark.parametrize("kind", ["vgg", "alex", "dists"])
def test_distances_and_slopes_equal_the_peers(kind, tmp_path):
  a, b = pair(32)
  if kind == "dists":
    peer, net = dists_peer(), perceptual.Dists()
    rules = perceptual.dists_rules()
  else:
    peer, net = lpips_peer(kind), perceptual.Lpips(kind)
    rules = perceptual.lpips_rules(kind)
    for name, weight in peer.net.named_parameters():
      # As in trained towers, pictures and not biases decide the features.
      weight.data.mul_(6**0.5 if name.endswith("weight") else 0.1)
    for i in range(5):  # published ones are not negative
      getattr(peer, f"lin{i}").model[1].weight.data.abs_()
  file = tmp_path / "weights.safetensors"
  folders.save_tensors(
    file, {k: v.numpy() for k, v in peer.state_dict().items()}
  )
  like = jax.eval_shape(net.init, jax.random.key(0), a, b)["params"]
  params = convert.load_params(file, rules, like)
  back = convert.to_public(params, rules)
  for name, value in back.items():
    np.testing.assert_array_equal(value, peer.state_dict()[name].numpy())
  distance = lambda x, params: net.apply({"params": params}, x, b)
  ta, tb = torch_pair(a, b)
  theirs = peer(ta, tb)
  ours = jax.jit(distance)(a, params)
  peers.close(ours, peers.numpy(theirs), 1e-5)
  assert np.abs(np.asarray(ours)).min() > 1e-3
  theirs.sum().backward()
  slope = jax.jit(jax.grad(lambda *x: distance(*x).sum()))(a, params)
  expected = peers.numpy(ta.grad).transpose(0, 2, 3, 1)
  gap = np.abs(slope - expected).max()
  assert gap < 1e-3 * np.abs(expected).max()


@pytest.mark.turns(2)
@pytest.mark.parametrize("net", [perceptual.Lpips(), perceptual.Dists()])
def test_equal_pictures_are_at_distance_0_with_a_finite_slope(net):
  a = jnp.full((1, 32, 32, 3), 0.5)
  params = tiny.drawn(net.init, jax.random.key(0), a, a)["params"]
  distance = lambda x, params: net.apply({"params": params}, x, a).sum()
  value, slope = jax.jit(jax.value_and_grad(distance))(a, params)
  assert abs(float(value)) < 1e-5
  assert np.isfinite(slope).all()


def iresnet_peer(blocks, widths, features, grid):
  """insightface's module."""
  torch = pytest.importorskip("torch")
  nn = torch.nn
  norm = lambda n: nn.BatchNorm2d(n, eps=1e-5)

  class Block(nn.Module):
    def __init__(self, before, width, stride, short):
      super().__init__()
      self.bn1, self.bn2, self.bn3 = norm(before), norm(width), norm(width)
      self.conv1 = nn.Conv2d(before, width, 3, 1, 1, bias=False)
      self.prelu = nn.PReLU(width)
      self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
      self.downsample = None
      if short:
        self.downsample = nn.Sequential(
          nn.Conv2d(before, width, 1, stride, bias=False), norm(width)
        )

    def forward(self, x):
      h = self.prelu(self.bn2(self.conv1(self.bn1(x))))
      h = self.bn3(self.conv2(h))
      return h + (x if self.downsample is None else self.downsample(x))

  class Peer(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
      self.bn1, self.prelu = norm(widths[0]), nn.PReLU(widths[0])
      before = widths[0]
      for i, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        layers = []
        for j in range(count):
          layers.append(Block(before, width, 1 if j else 2, j == 0))
          before = width
        setattr(self, f"layer{i + 1}", nn.Sequential(*layers))
      self.bn2 = norm(before)
      self.fc = nn.Linear(before * grid**2, features)
      self.features = nn.BatchNorm1d(features, eps=1e-5)

    def forward(self, x):
      x = self.prelu(self.bn1(self.conv1(x)))
      for i in range(4):
        x = getattr(self, f"layer{i + 1}")(x)
      return self.features(self.fc(torch.flatten(self.bn2(x), 1)))

  peer = peers.shake(Peer())
  for name, buffer in peer.named_buffers():
    if "running" in name:
      buffer.copy_(0.5 + torch.rand(buffer.shape))
  return peer


@pytest.mark.parity
def test_the_face_tower_equals_insightfaces(tmp_path):
  blocks, widths, side = (2, 1, 1, 2), (8, 12, 16, 24), 48
  peer = iresnet_peer(blocks, widths, 20, side // 16)
  file = tmp_path / "weights.safetensors"
  folders.save_tensors(
    file, {k: v.numpy() for k, v in peer.state_dict().items()}
  )
  net = iresnet.net_of(str(file))
  assert net == iresnet.IResNet(blocks, widths, 20)
  params = iresnet.load(str(file), net, side)
  for name, value in convert.to_public(
    params, iresnet.rules_of(net, side)
  ).items():
    np.testing.assert_array_equal(value, peer.state_dict()[name].numpy())
  a, _ = pair(side)
  import torch

  x = torch.tensor(a).permute(0, 3, 1, 2).requires_grad_()
  theirs = peer(x)
  apply = lambda y: net.apply({"params": params}, y)
  peers.close(jax.jit(apply)(a), peers.numpy(theirs))
  # Without oneDNN, whose backward pass breaks the heap on some processors.
  with torch.backends.mkldnn.flags(enabled=False):
    peer(x).sin().sum().backward()
  slope = jax.jit(jax.grad(lambda y: jnp.sin(apply(y)).sum()))(a)
  expected = peers.numpy(x.grad).transpose(0, 2, 3, 1)
  assert np.abs(slope - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("name", "published"),
  [("iresnet18", 24.03), ("iresnet50", 43.59), ("iresnet100", 65.16)],
)
def test_face_towers_have_the_published_counts(name, published):
  shapes = iresnet.shapes(iresnet.IResNet(iresnet.BLOCKS[name]))
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  trained = [
    leaf for path, leaf in leaves if path[-1].key not in ("mean", "var")
  ]
  assert round(peers.count(trained) / 1e6, 2) == published


@pytest.mark.parity
def test_the_aesthetic_head_equals_its_peer(tmp_path):
  torch = pytest.importorskip("torch")
  nn = torch.nn
  line, drop = nn.Linear, nn.Dropout
  layers = nn.Sequential(
    line(24, 1024), drop(0.2), line(1024, 128), drop(0.2), line(128, 64),
    drop(0.1), line(64, 16), line(16, 1),
  ).eval()  # fmt: skip
  state = {f"layers.{k}": v.numpy() for k, v in layers.state_dict().items()}
  folders.save_tensors(tmp_path / "head.safetensors", state)
  params = convert.load_params(
    tmp_path / "head.safetensors", aesthetic.RULES, aesthetic.shapes(24)
  )
  x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
  theirs = layers(torch.tensor(x))[:, 0]
  peers.close(aesthetic.apply(params, x), peers.numpy(theirs), 1e-5)
