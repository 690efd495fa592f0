"""SigLIP towers against transformers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vision import encoders, siglip
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


def assert_equals_the_peer(model, folder, theirs, tokens, images):
  """Features, logits and gradients, and weights back bit for bit."""
  config, params = siglip.load(folder)
  net = siglip.SiglipModel(config)
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
def test_features_and_gradients_equal_the_peers(peer):
  model, folder, tokens, images = peer
  theirs = forward(model, tokens, images)
  assert_equals_the_peer(model, folder, theirs, tokens, images)


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


@pytest.mark.parametrize(
  "name", ["siglip2_base_16_224", "siglip2_base_16_naflex"]
)
def test_every_parameter_has_one_sharding_rule(name):
  shapes = siglip.shapes(siglip.SIZES[name])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, siglip.SHARDING_RULES, mesh)
  assert tuple(specs["vision"]["pool_qkv"]["kernel"]) == ("fsdp", "tensor")


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"model_type": "clip"}, 'describes a "clip"'),
    (
      {"model_type": "siglip2", "vision_config": {"num_patches": 200}},
      "num_patches=200 is no square",
    ),
    (
      {"model_type": "siglip2", "vision_config": {"vision_use_head": False}},
      "the image tower has no probe",
    ),
    (
      {"model_type": "siglip", "text_config": {"projection_size": 7}},
      "text features of 7 and image features of 768",
    ),
  ],
)
def test_a_config_that_is_not_read_says_why(record, said):
  with pytest.raises(UserError, match=said):
    siglip.config_of(record)


SHAPES = [(40, 61), (61, 40), (33, 33), (8, 90), (5, 5)]  # pixels


@pytest.fixture(scope="module")
def flexible(tmp_path_factory):
  """(transformers' NaFlex, its folder, its processor, tokens, pictures)."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from transformers.models.siglip2 import image_processing_pil_siglip2 as pil

  config = transformers.Siglip2Config(
    text_config=LAYERS
    | {"vocab_size": 40, "max_position_embeddings": 8, "projection_size": 32},
    vision_config=LAYERS | {"num_patches": 16, "patch_size": 4},
  )
  model = peers.shake(transformers.Siglip2Model(config))
  with torch.no_grad():  # or padding that is seen would hardly show
    model.vision_model.embeddings.position_embedding.weight.mul_(5)
  folder = tmp_path_factory.mktemp("naflex")
  model.save_pretrained(folder)
  reader = pil.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=20)
  reader.save_pretrained(folder)
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 40, (3, 8)).astype(np.int32)
  images = [rng.integers(0, 256, (*s, 3), np.uint8) for s in SHAPES]
  return model, folder, reader, tokens, images


def batch_of(reader, images, config):
  """(what the peer takes, the same as our patches)."""
  theirs = reader(images=images, return_tensors="pt")
  parts = []
  for pixels, (h, w) in zip(
    theirs["pixel_values"].numpy(),
    theirs["spatial_shapes"].tolist(),
    strict=True,
  ):
    x = pixels[: h * w].reshape(h, w, 4, 4, 3).swapaxes(1, 2)
    parts.append(siglip.cut(x.reshape(1, 4 * h, 4 * w, 3), config, 20))
  ours = siglip.Patches(*(jnp.concatenate(x) for x in zip(*parts, strict=True)))
  np.testing.assert_allclose(
    ours.pixels, theirs["pixel_values"].numpy(), rtol=1e-6, atol=1e-6
  )
  np.testing.assert_array_equal(
    ours.mask, theirs["pixel_attention_mask"].numpy() > 0
  )
  return theirs, ours


def flexible_forward(model, tokens, batch):
  import torch

  return model(input_ids=torch.tensor(tokens, dtype=torch.long), **batch)


@pytest.mark.parity
def test_pictures_of_any_shape_equal_the_peers(flexible):
  model, folder, reader, tokens, images = flexible
  config, params = siglip.load(folder)
  assert config.flexible and config.image == 16
  batch, patches = batch_of(reader, images, config)
  assert (~patches.mask).any() and patches.mask.all(1).any()
  theirs = flexible_forward(model, tokens, batch)
  assert_equals_the_peer(model, folder, theirs, tokens, patches)
  half = siglip.SiglipModel(config, jnp.bfloat16)
  text, image, _ = logits(half, peers.half(params), tokens, patches)
  peers.close(text, peers.numpy(theirs.text_embeds), 2e-2)
  peers.close(image, peers.numpy(theirs.image_embeds), 2e-2)


@pytest.mark.parity
@pytest.mark.parametrize("i", range(len(SHAPES)))
def test_pictures_are_prepared_as_the_peer_prepares_them(i, flexible):
  """Resized to what fits, cut and normalised; a few pixels round otherwise."""
  _, folder, reader, _, images = flexible
  config, _ = siglip.load(folder)
  _, expected = batch_of(reader, images[i : i + 1], config)
  ready = encoders.load(str(folder)).encoder.prepared
  found = ready(jnp.asarray(images[i][None] / np.float32(255)))
  np.testing.assert_array_equal(found.mask, expected.mask)
  np.testing.assert_array_equal(found.places, expected.places)
  gap = np.abs(np.asarray(found.pixels) - expected.pixels) * 255 / 2
  assert gap.max() < 1.01 and (gap > 0.5).mean() < 0.02


@pytest.mark.parity
def test_padding_is_not_seen_and_positions_are_the_pictures(flexible):
  _, folder, reader, _, images = flexible
  config, params = siglip.load(folder)
  _, patches = batch_of(reader, images, config)
  net = siglip.SiglipModel(config)
  look = jax.jit(
    lambda x: net.apply({"params": params}, x, method="encode_image")
  )
  found = look(patches)
  noise = jnp.where(patches.mask[..., None], patches.pixels, 7.0)
  np.testing.assert_allclose(
    look(patches._replace(pixels=noise)), found, atol=1e-6
  )
  flat = patches._replace(places=patches.places.mean(1, keepdims=True)[:1])
  flat = flat._replace(
    places=jnp.broadcast_to(flat.places, patches.places.shape)
  )
  assert np.abs(look(flat) - found).max() > 1e-2


@pytest.mark.parity
@pytest.mark.parametrize("size", [*SHAPES, (512, 512), (37, 1200), (3, 7)])
@pytest.mark.parametrize(("patch", "most"), [(16, 256), (4, 20), (14, 100)])
def test_sizes_are_the_published_ones(size, patch, most):
  pytest.importorskip("torch")
  pil = pytest.importorskip(
    "transformers.models.siglip2.image_processing_pil_siglip2"
  )
  theirs = pil.get_image_size_for_max_num_patches(*size, patch, most)
  assert siglip.size_within(*size, patch, most) == theirs
  assert theirs[0] * theirs[1] <= most * patch**2


@pytest.mark.parametrize(("many", "few"), [(5, 5), (9, 4), (3, 16), (1, 7)])
def test_resizing_is_linear_between_places_and_a_mean_below(many, few):
  weight = siglip.resizing(many, few)
  np.testing.assert_allclose(weight.sum(1), 1, rtol=1e-6)
  x = np.arange(few) * 2.0 + 1
  where = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
  if many >= few:  # a line stays a line, but for the flat ends
    want = np.interp(where, range(few), x)
    np.testing.assert_allclose(weight @ x, want, rtol=1e-6)
  else:
    np.testing.assert_allclose((weight @ x).mean(), x.mean(), rtol=1e-6)


@pytest.mark.parity
def test_a_preprocessor_of_other_patches_is_refused(flexible, tmp_path):
  _, folder, *_ = flexible
  shutil.copytree(folder, tmp_path / "other")
  file = tmp_path / "other" / "preprocessor_config.json"
  file.write_text(json.dumps({"patch_size": 8, "max_num_patches": 20}))
  with pytest.raises(UserError, match="makes patches of 8 pixels"):
    encoders.load(str(tmp_path / "other"))


@pytest.mark.parity
def test_the_full_size_of_any_shape_has_the_peers_count():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  layers = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
  config = transformers.Siglip2Config(
    text_config=layers | {"vocab_size": 256000}, vision_config=layers
  )
  with torch.device("meta"):
    model = transformers.Siglip2Model(config)
  shapes = siglip.shapes(siglip.SIZES["siglip2_base_16_naflex"])
  assert peers.count(shapes) == sum(p.numel() for p in model.parameters())
