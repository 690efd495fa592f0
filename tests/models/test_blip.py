"""BLIP against transformers, and ImageReward from its own layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.models import convert
from jaxreward.models.vision import aesthetic, blip
from jaxreward.models.vision.tower import Size
from jaxreward.rewards import build, image_reward, score
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers
from tests.rewards import folders

TINY = blip.Blip(
  Size(32, 2, 2, 48, eps=1e-5), Size(24, 2, 3, 40, eps=1e-12), 7, 28, 60, 40
)


def peer():
  """transformers' two towers under the names of its retrieval model."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  modelling = transformers.models.blip

  class Peer(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.vision_model = transformers.BlipVisionModel(
        transformers.BlipVisionConfig(
          hidden_size=32, intermediate_size=48, num_hidden_layers=2,
          num_attention_heads=2, image_size=28, patch_size=7,
        )
      )  # fmt: skip
      self.text_encoder = modelling.modeling_blip_text.BlipTextModel(
        transformers.BlipTextConfig(
          vocab_size=60, hidden_size=24, encoder_hidden_size=32,
          intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
          max_position_embeddings=40, is_decoder=True, bos_token_id=0,
          sep_token_id=1, pad_token_id=0,
        ),
        add_pooling_layer=False,
      )  # fmt: skip

    def forward(self, tokens, mask, images):
      seen = self.vision_model(images).last_hidden_state
      out = self.text_encoder(
        input_ids=tokens, attention_mask=mask, encoder_hidden_states=seen,
        is_decoder=False,
      )  # fmt: skip
      return out.last_hidden_state

  return peers.shake(Peer())


def inputs():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 60, (2, 9)).astype(np.int32)
  mask = np.arange(9) < np.array([[9], [5]])
  images = rng.standard_normal((2, 28, 28, 3)).astype(np.float32)
  return tokens, mask, images


@pytest.mark.turns(2)
@pytest.mark.parity
def test_states_and_gradients_equal_the_peers(tmp_path):
  import torch

  model, rules = peer(), blip.hf_rules(TINY)
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}
  file = tmp_path / "model.safetensors"
  folders.save_tensors(file, state)
  params = convert.load_params(file, rules, blip.shapes(TINY, head=False))
  peers.same_after_round_trip(params, rules, file)
  tokens, mask, images = inputs()
  theirs = model(
    torch.tensor(tokens, dtype=torch.long), torch.tensor(mask, dtype=torch.long),
    torch.tensor(images).permute(0, 3, 1, 2),
  )  # fmt: skip
  net = blip.BlipModel(TINY)
  apply = lambda p: net.apply({"params": p}, tokens, mask, images)
  ours = np.asarray(jax.jit(apply)(params))
  peers.close(ours[mask], peers.numpy(theirs)[mask])
  slope = jax.jit(jax.grad(lambda p: jnp.sin(apply(p)[:, 0]).sum()))(params)
  expected = peers.gradients(model, theirs[:, 0].sin().sum(), rules, params)
  peers.close_trees(slope, expected)
  half = blip.BlipModel(TINY, jnp.bfloat16).apply(
    {"params": peers.half(params)}, tokens, mask, images
  )
  peers.close(
    np.asarray(half, np.float32)[mask], peers.numpy(theirs)[mask], 2e-2
  )


def public(name):
  """ImageReward's name of one of transformers' names."""
  name = name.replace("vision_model.embeddings.class_embedding", "cls_token")
  name = name.replace("vision_model.embeddings.position_embedding", "pos_embed")
  pairs = {
    "vision_model.embeddings.patch_embedding": "patch_embed.proj",
    "vision_model.post_layernorm": "norm",
    "vision_model.encoder.layers": "blocks",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "layer_norm": "norm",
  }
  for old, new in pairs.items():
    name = name.replace(old, new)
  tower = "" if name.startswith("text_encoder") else "visual_encoder."
  return f"blip.{tower}{name}"


def test_image_rewards_own_layout_holds_the_same_towers():
  params = folders.drawn(blip.shapes(TINY))
  head = params.pop("head")
  hf = convert.to_public(params, blip.hf_rules(TINY))
  named = convert.to_public({**params, "head": head}, blip.rules_of(TINY))
  for name, value in hf.items():
    np.testing.assert_array_equal(named.pop(public(name)), value)
  assert {n.rsplit(".", 1)[0] for n in named} == {
    f"mlp.layers.{i}" for i in (0, 2, 4, 6, 7)
  }


@pytest.mark.turns(2)
def test_the_score_is_the_heads_normalised():
  """And a text is read beside each picture of its group."""
  params = folders.drawn(blip.shapes(TINY), scale=0.3)
  tokens = np.random.default_rng(1).integers(1, 60, (2, image_reward.LENGTH))
  mask = np.arange(image_reward.LENGTH) < np.array([[9], [20]])
  prepare = lambda texts: {"text": tokens.astype(np.int32), "mask": mask}
  batch, _ = folders.prompts()
  images = folders.pictures(2, 3, (28 // 4 * 5, 28 // 4 * 5))
  images[1, 0, 0, 0] = np.nan
  found = {}
  for chunk in (0, 4):
    loaded = image_reward.loaded(TINY, params, prepare, "float32", chunk)
    fn = lambda i, p, loaded=loaded, **k: image_reward.image_reward(
      i, p, **loaded.static, **k
    )
    rewards = build(
      {"mine": fn}, contexts={"mine": loaded.arrays},
      prepares={"mine": loaded.prepare},
    )  # fmt: skip
    found[chunk] = np.asarray(score(rewards, images, batch)[0]["mine"])
  np.testing.assert_allclose(found[4], found[0], rtol=1e-5)
  assert np.isnan(found[0][1, 0]) and np.isfinite(found[0]).sum() == 5
  net = blip.BlipModel(TINY)
  from jaxreward.models.vision import preprocess

  x = preprocess.Preprocess((28, 28), 28)(images[1, 2:])
  towers = {k: params[k] for k in ("vision", "text")}
  states = net.apply({"params": towers}, tokens[1:], mask[1:], x)
  raw = float(aesthetic.apply(params["head"], states[:, 0])[0])
  expected = (raw - 0.16717362830052426) / 1.0333394966054072
  np.testing.assert_allclose(found[0][1, 2], expected, rtol=1e-4)


def test_the_full_size_has_the_published_counts():
  shapes = blip.shapes(blip.IMAGE_REWARD)
  # ViT-L/16 at 224 pixels, without its classifier
  assert peers.count(shapes["vision"]) == 303_301_632
  head = 768 * 1024 + 1024 * 128 + 128 * 64 + 64 * 16 + 16
  assert peers.count(shapes["head"]) == head + 1024 + 128 + 64 + 16 + 1


def test_every_parameter_has_one_sharding_rule():
  shapes = blip.shapes(blip.IMAGE_REWARD)
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, blip.SHARDING_RULES, mesh)
  assert tuple(specs["text"]["layers"]["kv"]["kernel"]) == (
    None,
    "fsdp",
    "tensor",
  )
