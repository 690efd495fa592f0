"""CLIP towers against open_clip's own model and file of weights."""

import importlib.util
import json
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.models.vision import clip, clip_layouts
from tests.models import tower_peers as peers

pytestmark = pytest.mark.parity

TEXT = dict(context_length=9, vocab_size=50, width=32, heads=4, layers=3)
VISION = dict(
  image_size=28, patch_size=7, width=48, head_width=16, layers=2, mlp_ratio=2.0
)
# What open_clip imports for its pictures alone.
ABSENT = [
  "torchvision", "torchvision.ops", "torchvision.ops.misc",
  "torchvision.transforms", "torchvision.transforms.functional",
]  # fmt: skip


@pytest.fixture(scope="module")
def open_clip():
  """The package; its towers do without torchvision, which it asks for."""
  if importlib.util.find_spec("open_clip") is None:
    pytest.skip("pip install --no-deps open_clip_torch ftfy wcwidth")
  from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: F401

  if importlib.util.find_spec("torchvision") is not None:
    import open_clip

    return open_clip
  modules = {n: mock.MagicMock(__spec__=None, __path__=[]) for n in ABSENT}
  for name in ABSENT[1:]:
    parent, _, last = name.rpartition(".")
    setattr(modules[parent], last, modules[name])
  with mock.patch.dict(sys.modules, modules):
    import open_clip
  return open_clip


@pytest.fixture(params=[False, True], ids=["gelu", "quick_gelu"])
def peer(request, open_clip, tmp_path):
  """(open_clip's model, the folder as its repositories have it)."""
  config = {
    "embed_dim": 16, "quick_gelu": request.param, "text_cfg": TEXT,
    "vision_cfg": VISION,
  }  # fmt: skip
  made = open_clip.CLIP(
    16, VISION, TEXT, quick_gelu=request.param, output_dict=True
  )
  model = peers.shake(made).eval()
  (tmp_path / "open_clip_config.json").write_text(
    json.dumps({"model_cfg": config})
  )
  safetensors.numpy.save_file(
    {name: peers.numpy(x) for name, x in model.state_dict().items()},
    tmp_path / "open_clip_model.safetensors",
  )
  return model, tmp_path


def inputs():
  rng = np.random.default_rng(0)
  tokens = rng.integers(3, 40, (3, 9))
  tokens[:, 5] = 49  # the end token is the largest
  images = rng.standard_normal((2, 28, 28, 3)).astype(np.float32)
  return tokens.astype(np.int32), images


def test_embeddings_gradients_and_round_trip(peer):
  import torch

  model, folder = peer
  config, params = clip_layouts.load(folder)
  tokens, images = inputs()
  text = model.encode_text(torch.tensor(tokens, dtype=torch.long))
  pixels = torch.tensor(images).permute(0, 3, 1, 2)
  image = model.encode_image(pixels)
  net = clip.ClipModel(config)

  def forward(params):
    return net.apply({"params": params}, tokens, images)

  ours = jax.jit(forward)(params)
  peers.close(ours[0], peers.numpy(text))
  peers.close(ours[1], peers.numpy(image))
  peers.close(ours[2], peers.numpy(model.logit_scale.exp()))
  rules = clip_layouts.rules_of(config, "open_clip")
  peers.same_after_round_trip(params, rules, folder)

  def loss(params):
    text, image, scale = forward(params)
    return jnp.sin(text).sum() + (scale * jnp.square(image)).mean()

  theirs = text.sin().sum() + (model.logit_scale.exp() * image.square()).mean()
  peers.close_trees(
    jax.jit(jax.grad(loss))(params),
    peers.gradients(model, theirs, rules, params),
  )
