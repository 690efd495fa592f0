"""DINO towers against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vision import dino
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

LAYERS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
V2 = LAYERS | {"image_size": 42, "patch_size": 7, "mlp_ratio": 2}
V3 = LAYERS | {"image_size": 42, "patch_size": 7, "intermediate_size": 48}
KINDS = {
  "v2": ("Dinov2Model", "Dinov2Config", V2),
  "v2_gated": ("Dinov2Model", "Dinov2Config", V2 | {"use_swiglu_ffn": True}),
  "registers": (
    "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig",
    V2 | {"num_register_tokens": 3},
  ),
  "v3": ("DINOv3ViTModel", "DINOv3ViTConfig", V3 | {"num_register_tokens": 2}),
  "v3_gated": (
    "DINOv3ViTModel", "DINOv3ViTConfig",
    V3 | {"use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 2},
  ),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def peer(request, tmp_path):
  """(transformers' model, its folder)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  model, config, options = KINDS[request.param]
  config = getattr(transformers, config)(**options)
  model = peers.shake(getattr(transformers, model)(config))
  model.save_pretrained(tmp_path)
  return model, tmp_path


def pictures(size=(42, 42)):
  rng = np.random.default_rng(0)
  return rng.standard_normal((2, *size, 3)).astype(np.float32)


def forward(model, images):
  import torch

  return model(torch.tensor(images).permute(0, 3, 1, 2))


@pytest.mark.parity
def test_features_and_gradients_equal_the_peers(peer):
  model, folder = peer
  config, params = dino.load(folder)
  net, images = dino.DinoModel(config), pictures()
  theirs = forward(model, images)
  apply = lambda p, x: net.apply({"params": p}, x)
  ours = jax.jit(apply)(params, images)
  peers.close(ours["pooled"], peers.numpy(theirs.pooler_output))
  patches = theirs.last_hidden_state[:, 1 + config.registers :]
  peers.close(ours["patches"], peers.numpy(patches))
  rules = dino.rules_of(config)
  peers.same_after_round_trip(params, rules, folder)
  loss = lambda p: sum(jnp.sin(x).mean() for x in apply(p, images).values())
  slope = jax.jit(jax.grad(loss))(params)
  scalar = theirs.pooler_output.sin().mean() + patches.sin().mean()
  scalar.backward()
  # Parameters in memory are named otherwise than in the file.
  model.save_pretrained(
    folder / "slope", state_dict={
      n: p.grad if p.grad is not None else 0 * p
      for n, p in model.named_parameters()
    },
  )  # fmt: skip
  from jaxreward.models import convert

  expected = convert.load_params(folder / "slope", rules, params)
  peers.close_trees(slope, expected)


@pytest.mark.turns(3)
@pytest.mark.parity
@pytest.mark.parametrize("size", [(28, 28), (56, 35)])
def test_another_size_equals_the_peers(peer, size):
  model, folder = peer
  config, params = dino.load(folder)
  images = pictures(size)
  ours = dino.DinoModel(config).apply({"params": params}, images)
  theirs = forward(model, images)
  peers.close(ours["pooled"], peers.numpy(theirs.pooler_output))


@pytest.mark.parity
def test_bfloat16_stays_near_the_peer(peer):
  model, folder = peer
  config, params = dino.load(folder, dtype="bfloat16")
  ours = dino.DinoModel(config, jnp.bfloat16).apply(
    {"params": params}, pictures()
  )
  theirs = forward(model, pictures())
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  pooled = np.asarray(ours["pooled"], np.float32)
  peers.close(unit(pooled), unit(peers.numpy(theirs.pooler_output)), 2e-2)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("name", "published"),
  [
    ("dinov2_small", 22.06),
    ("dinov2_base", 86.58),
    ("dinov2_large", 304.37),
    ("dinov2_giant", 1136.48),
    ("dinov3_vits16", 21.6),
    ("dinov3_vitb16", 85.66),
    ("dinov3_vitl16", 303.13),
  ],
)
def test_full_sizes_have_the_published_counts(name, published):
  config = dino.SIZES[name]
  mask = config.size.width  # a token of pretraining, which is left out
  count = peers.count(dino.shapes(config)) + mask
  assert round(count / 1e6, 2) == published


@pytest.mark.parametrize("name", ["dinov2_registers_large", "dinov3_vitb16"])
def test_every_parameter_has_one_sharding_rule(name):
  shapes = dino.shapes(dino.SIZES[name])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, dino.SHARDING_RULES, mesh)
  layers = specs["stack"]["layers"]
  assert tuple(layers["qkv"]["kernel"]) == (None, "fsdp", "tensor")


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match='describes a "clip"'):
    dino.config_of({"model_type": "clip"})
