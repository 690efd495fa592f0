"""OWL-ViT against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models.vision import owlvit
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers

LAYERS = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2)


@pytest.mark.parity
def test_boxes_logits_and_gradients_equal_the_peers(tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.OwlViTConfig(
    text_config=LAYERS | dict(
      vocab_size=40, num_attention_heads=4, max_position_embeddings=6,
      bos_token_id=1, eos_token_id=39,
    ),
    vision_config=LAYERS | dict(
      num_attention_heads=2, image_size=28, patch_size=7
    ),
    projection_dim=32,
  )  # fmt: skip
  model = peers.shake(transformers.OwlViTForObjectDetection(config))
  model.save_pretrained(tmp_path)
  found, params = owlvit.load(tmp_path)
  rules = owlvit.rules_of(found)
  peers.same_after_round_trip(params, rules, tmp_path)
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, 38, (2, 3, 6)).astype(np.int32)
  tokens[..., 4] = 39
  images = rng.standard_normal((2, 28, 28, 3)).astype(np.float32)
  out = model(
    input_ids=torch.tensor(tokens.reshape(6, 6), dtype=torch.long),
    pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
    attention_mask=torch.ones(6, 6, dtype=torch.long),
  )  # fmt: skip
  net = owlvit.OwlVit(found)
  apply = lambda p: net.apply({"params": p}, tokens, images)
  boxes, logits = jax.jit(apply)(params)
  peers.close(boxes, peers.numpy(out.pred_boxes))
  peers.close(logits, peers.numpy(out.logits))
  loss = lambda p: jnp.sin(apply(p)[0]).sum() + jnp.sin(apply(p)[1]).sum()
  slope = jax.jit(jax.grad(loss))(params)
  scalar = out.pred_boxes.sin().sum() + out.logits.sin().sum()
  model.zero_grad()
  scalar.backward()
  named = {
    n: np.zeros(p.shape, np.float32) if p.grad is None else peers.numpy(p.grad)
    for n, p in model.named_parameters()
  }
  peers.close_trees(slope, peers.from_public(named, rules, params))
  half = owlvit.OwlVit(found, jnp.bfloat16)
  boxes, logits = half.apply({"params": peers.half(params)}, tokens, images)
  # On the mean: single boxes of these random weights stand on a knife's edge,
  # and move by more than that in the peer's bfloat16 too.
  for ours, theirs in ((boxes, out.pred_boxes), (logits, out.logits)):
    theirs = peers.numpy(theirs)
    gap = np.abs(np.asarray(ours, np.float32) - theirs).mean()
    assert gap < 2e-2 * np.abs(theirs).max()


@pytest.mark.parity
def test_the_full_size_has_the_peers_count():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  with torch.device("meta"):
    model = transformers.OwlViTForObjectDetection(transformers.OwlViTConfig())
  published = sum(p.numel() for p in model.parameters())
  shapes = owlvit.shapes(owlvit.SIZES["owlvit_base_32"])
  assert peers.count(shapes) == published


def test_every_parameter_has_one_sharding_rule():
  shapes = owlvit.shapes(owlvit.SIZES["owlvit_base_32"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, owlvit.SHARDING_RULES, mesh)
  layers = specs["clip"]["vision"]["stack"]["layers"]
  assert tuple(layers["up"]["kernel"]) == (None, "fsdp", "tensor")


def test_another_architecture_is_refused():
  with pytest.raises(UserError, match='describes a "owlv2"'):
    owlvit.config_of({"model_type": "owlv2"})
