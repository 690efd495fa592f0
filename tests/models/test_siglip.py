"""SigLIP towers against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import siglip
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

LAYERS = dict(
  hidden_size=32, intermediate_size=48, num_hidden_layers=2,
  num_attention_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
  """(transformers' model, its folder, tokens, pictures)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  config = transformers.SiglipConfig(
    text_config=LAYERS
    | {"vocab_size": 40, "max_position_embeddings": 8, "projection_size": 32},
    vision_config=LAYERS | {"image_size": 28, "patch_size": 7},
  )
  model = peers.shake(transformers.SiglipModel(config))
  folder = tmp_path_factory.mktemp("siglip")
  model.save_pretrained(folder)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 40, (3, 8)).astype(np.int32)
  images = rng.standard_normal((2, 28, 28, 3)).astype(np.float32)
  return model, folder, tokens, images


def forward(model, tokens, images):
  import torch

  return model(
    input_ids=torch.tensor(tokens, dtype=torch.long),
    pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
  )


def logits(net, params, tokens, images):
  text, image = net.apply({"params": params}, tokens, images)
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  text, image = unit(text), unit(image)
  scale = jnp.exp(params["logit_scale"])
  return text, image, image @ text.T * scale + params["logit_bias"]


@pytest.mark.parity
def test_features_and_gradients_equal_the_peers(peer):
  model, folder, tokens, images = peer
  config, params = siglip.load(folder)
  net = siglip.SiglipModel(config)
  theirs = forward(model, tokens, images)
  text, image, found = jax.jit(lambda p: logits(net, p, tokens, images))(params)
  peers.close(text, peers.numpy(theirs.text_embeds))
  peers.close(image, peers.numpy(theirs.image_embeds))
  peers.close(found, peers.numpy(theirs.logits_per_image))
  rules = siglip.rules_of(config)
  peers.same_after_round_trip(params, rules, folder)
  loss = lambda p: jnp.sin(logits(net, p, tokens, images)[2]).sum()
  ours = jax.jit(jax.grad(loss))(params)
  scalar = theirs.logits_per_image.sin().sum()
  peers.close_trees(ours, peers.gradients(model, scalar, rules, params))


@pytest.mark.parity
def test_bfloat16_stays_near_the_peer(peer):
  model, folder, tokens, images = peer
  config, params = siglip.load(folder, dtype="bfloat16")
  net = siglip.SiglipModel(config, jnp.bfloat16)
  text, image, _ = logits(net, params, tokens, images)
  theirs = forward(model, tokens, images)
  peers.close(text, peers.numpy(theirs.text_embeds), 2e-2)
  peers.close(image, peers.numpy(theirs.image_embeds), 2e-2)


@pytest.mark.parametrize(
  ("name", "published"),
  [("siglip_base_16_224", 203.16), ("siglip_so400m_14_384", 877.96)],
)
def test_full_sizes_have_the_published_counts(name, published):
  shapes = siglip.shapes(siglip.SIZES[name])
  assert round(peers.count(shapes) / 1e6, 2) == published  # millions


def test_every_parameter_has_one_sharding_rule():
  shapes = siglip.shapes(siglip.SIZES["siglip2_base_16_224"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, siglip.SHARDING_RULES, mesh)
  assert tuple(specs["vision"]["pool_qkv"]["kernel"]) == ("fsdp", "tensor")


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"model_type": "siglip2"}, 'describes a "siglip2"'),
    (
      {"model_type": "siglip", "text_config": {"projection_size": 7}},
      "text features of 7 and image features of 768",
    ),
  ],
)
def test_a_config_that_is_not_read_says_why(record, said):
  with pytest.raises(UserError, match=said):
    siglip.config_of(record)
