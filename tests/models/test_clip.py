"""CLIP towers against transformers, and open_clip's layout against its own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.vision import clip, clip_layouts
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers
from tests.rewards import folders

TEXT = dict(
  vocab_size=50, hidden_size=32, intermediate_size=128, num_hidden_layers=3,
  num_attention_heads=4, max_position_embeddings=9, projection_dim=16,
)  # fmt: skip
VISION = dict(
  hidden_size=32, intermediate_size=64, num_hidden_layers=2, image_size=28,
  num_attention_heads=2, patch_size=7, projection_dim=16,
)  # fmt: skip


def inputs(seed=0):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(3, 40, (3, 9))
  tokens[:, 5] = 49  # the end token, which is also the largest id
  tokens[0, 3] = 49
  images = rng.standard_normal((2, 28, 28, 3)).astype(np.float32)
  return tokens.astype(np.int32), images


@pytest.fixture(params=[("quick_gelu", 2), ("gelu", 49)])
def peer(request, tmp_path):
  """(transformers' model, the folder it was saved in)."""
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  active, eos = request.param
  config = transformers.CLIPConfig(
    text_config=TEXT | {"hidden_act": active, "eos_token_id": eos},
    vision_config=VISION | {"hidden_act": active},
    projection_dim=16,
  )
  model = peers.shake(transformers.CLIPModel(config))
  model.save_pretrained(tmp_path)
  return model, tmp_path


def forward_of_peer(model, tokens, images):
  import torch

  return model(
    input_ids=torch.tensor(tokens, dtype=torch.long),
    pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
  )


@pytest.mark.parity
def test_embeddings_equal_the_peers(peer):
  model, folder = peer
  config, params = clip_layouts.load(folder)
  tokens, images = inputs()
  theirs = forward_of_peer(model, tokens, images)
  apply = jax.jit(clip.ClipModel(config).apply)
  text, image, scale = apply({"params": params}, tokens, images)
  unit = lambda x: np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))
  peers.close(unit(text), peers.numpy(theirs.text_embeds))
  peers.close(unit(image), peers.numpy(theirs.image_embeds))
  peers.close(
    scale * unit(image) @ unit(text).T,
    peers.numpy(theirs.logits_per_image),
  )
  peers.same_after_round_trip(
    params, clip_layouts.rules_of(config, "hf"), folder
  )


@pytest.mark.parity
def test_hidden_states_equal_the_peers(peer):
  model, folder = peer
  config, params = clip_layouts.load(folder)
  tokens, _ = inputs()
  import torch

  theirs = model.text_model(
    torch.tensor(tokens, dtype=torch.long), output_hidden_states=True
  )
  net = clip.TextTower(config.text, keep=True)
  ours = net.apply({"params": params["text"]}, jnp.asarray(tokens))
  peers.close(ours["last"], peers.numpy(theirs.last_hidden_state))
  peers.close(ours["pooled"], peers.numpy(theirs.pooler_output))
  peers.close(ours["penultimate"], peers.numpy(theirs.hidden_states[-2]))


@pytest.mark.parity
def test_states_of_a_picture_equal_the_peers(peer, tmp_path):
  """Read from both towers, and from an image tower that stands alone."""
  import torch

  model, folder = peer
  _, images = inputs()
  pixels = torch.tensor(images).permute(0, 3, 1, 2)
  theirs = model.vision_model(pixels, output_hidden_states=True)
  alone = tmp_path / "alone"
  model.config.vision_config.save_pretrained(alone)
  tensors = {
    name: peers.numpy(x)
    for name, x in model.state_dict().items()
    if name.startswith("vision_model.")
  }
  safetensors.numpy.save_file(tensors, alone / "model.safetensors")
  for place in (folder, alone):
    size, params = clip_layouts.load_vision(place)
    net = clip.VisionTower(size, keep=True)
    ours = net.apply({"params": params["vision"]}, jnp.asarray(images))
    assert set(ours) == {"states", "pooled", "penultimate"}
    peers.close(ours["pooled"][:, None], ours["states"][:, :1])
    peers.close(ours["penultimate"], peers.numpy(theirs.hidden_states[-2]))


@pytest.mark.parity
def test_bfloat16_stays_near_the_peer(peer):
  model, folder = peer
  config, params = clip_layouts.load(folder, dtype="bfloat16")
  tokens, images = inputs()
  theirs = forward_of_peer(model, tokens, images)
  net = clip.ClipModel(config, jnp.bfloat16)
  text, image, _ = net.apply({"params": params}, tokens, images)
  assert text.dtype == jnp.bfloat16
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  wide = lambda x: unit(x.astype(jnp.float32))
  peers.close(wide(text), peers.numpy(theirs.text_embeds), 2e-2)
  peers.close(wide(image), peers.numpy(theirs.image_embeds), 2e-2)


@pytest.mark.parity
def test_gradients_equal_the_peers(peer):
  model, folder = peer
  config, params = clip_layouts.load(folder)
  tokens, images = inputs()
  net = clip.ClipModel(config)

  def loss(params):
    text, image, scale = net.apply({"params": params}, tokens, images)
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.sum(jnp.sin(scale * unit(image) @ unit(text).T))

  ours = jax.jit(jax.grad(loss))(params)
  scalar = forward_of_peer(model, tokens, images).logits_per_image.sin().sum()
  rules = clip_layouts.rules_of(config, "hf")
  peers.close_trees(ours, peers.gradients(model, scalar, rules, params))


def small():
  """The towers of the peer, without it."""
  record = {
    "model_type": "clip", "projection_dim": 16,
    "text_config": TEXT | {"eos_token_id": 2}, "vision_config": VISION,
  }  # fmt: skip
  return clip_layouts._of_hf(record)


def drawn(config, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)
  return jax.tree.map(draw, clip_layouts.shapes(config))


OPEN_CLIP = {
  "embed_dim": 16, "quick_gelu": True,
  "text_cfg": dict(context_length=9, vocab_size=50, width=32, heads=4, layers=3),
  "vision_cfg": dict(
    image_size=28, patch_size=7, width=32, head_width=16, layers=2, mlp_ratio=2,
  ),
}  # fmt: skip


def open_clip_folder(tmp_path, tensors, **changes):
  (tmp_path / "open_clip_config.json").write_text(
    json.dumps({"model_cfg": OPEN_CLIP | changes})
  )
  safetensors.numpy.save_file(
    {n: np.asarray(x, order="C") for n, x in tensors.items()},
    tmp_path / "open_clip_model.safetensors",
  )


def test_both_layouts_hold_the_same_model(tmp_path):
  """The fused product of open_clip is query, key and value, in that order."""
  config = small()
  params = drawn(config)
  named = convert.to_public(params, clip_layouts.rules_of(config, "open_clip"))
  hf = convert.to_public(params, clip_layouts.rules_of(config, "hf"))
  layer = "text_model.encoder.layers.1.self_attn"
  fused = np.concatenate([hf[f"{layer}.{x}_proj.weight"] for x in "qkv"])
  np.testing.assert_array_equal(
    named["transformer.resblocks.1.attn.in_proj_weight"], fused
  )
  np.testing.assert_array_equal(
    named["visual.proj"], hf["visual_projection.weight"].T
  )
  open_clip_folder(tmp_path, named)
  found, loaded = clip_layouts.load(tmp_path)
  assert found == config
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("name", "published"),
  [
    ("vit_b_32", 151.28),
    ("vit_b_16", 149.62),
    ("vit_l_14", 427.62),
    ("vit_h_14", 986.11),
    ("vit_bigg_14", 2539.57),
  ],
)
def test_full_sizes_have_the_published_counts(name, published):
  found = peers.count(clip_layouts.shapes(clip.SIZES[name]))
  assert round(found / 1e6, 2) == published  # millions


def test_every_parameter_has_one_sharding_rule():
  shapes = clip_layouts.shapes(clip.SIZES["vit_h_14"])
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, clip.SHARDING_RULES, mesh)
  layers = specs["vision"]["stack"]["layers"]
  assert tuple(layers["qkv"]["kernel"]) == (None, "fsdp", "tensor")
  assert tuple(layers["down"]["kernel"]) == (None, "tensor", "fsdp")


def write_hf(tmp_path, tensors, **changes):
  record = {
    "model_type": "clip", "projection_dim": 16,
    "text_config": TEXT | {"eos_token_id": 2}, "vision_config": VISION,
  }  # fmt: skip
  (tmp_path / "config.json").write_text(json.dumps(record | changes))
  safetensors.numpy.save_file(
    {n: np.asarray(x, order="C") for n, x in tensors.items()},
    tmp_path / "model.safetensors",
  )


def hf_tensors():
  config = small()
  return convert.to_public(drawn(config), clip_layouts.rules_of(config, "hf"))


def test_a_config_of_other_weights_names_tensors_and_shapes(tmp_path):
  write_hf(tmp_path, hf_tensors(), vision_config=VISION | {"patch_size": 14})
  with pytest.raises(UserError) as error:
    clip_layouts.load(tmp_path)
  assert "patch_embedding.weight is F32[32, 3, 7, 7]" in str(error.value)
  assert "float[32, 3, 14, 14]" in str(error.value)


@pytest.mark.turns(3)
@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"model_type": "siglip"}, 'describes a "siglip"'),
    ({"text_config": TEXT | {"hidden_act": "gelo"}}, 'did you mean "gelu"'),
    (
      {"text_config": TEXT | {"hidden_act": ["gelu"]}},
      "hidden_act=.* not known",
    ),
    ({"text_config": [1]}, r"text_config=\[1\]; expected an object"),
    ({"projection_dim": "16"}, 'projection_dim="16"; expected a whole'),
    (
      {"vision_config": VISION | {"hidden_size": None}},
      "hidden_size=null; exp",
    ),
    ({"vision_config": VISION | {"patch_size": 7.5}}, "patch_size=7.5; exp"),
  ],
)
def test_a_config_that_is_not_read_says_why(changes, said, tmp_path):
  write_hf(tmp_path, hf_tensors(), **changes)
  with pytest.raises(UserError, match=f"^{tmp_path}: config.json.*{said}"):
    clip_layouts.load(tmp_path)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"vision_cfg": OPEN_CLIP["vision_cfg"] | {"layers": [3, 4, 6, 3]}},
     "vision_cfg: layers=[3, 4, 6, 3]; expected a whole number above 0"),
    ({"text_cfg": {"layers": 3}}, "text_cfg: width=null; expected a whole"),
    ({"vision_cfg": None}, "vision_cfg=null; expected an object"),
    ({"embed_dim": 0}, "embed_dim=0; expected a whole number above 0"),
  ],
)  # fmt: skip
def test_an_open_clip_config_names_the_field(changes, said, tmp_path):
  tensors = {"visual.conv1.weight": np.zeros((1, 3, 7, 7))}
  open_clip_folder(tmp_path, tensors, **changes)
  with pytest.raises(UserError) as error:
    clip_layouts.load(tmp_path)
  start = f"{tmp_path}: open_clip_config.json: "
  assert str(error.value).startswith(start + said)


def test_weights_without_a_config_ask_for_a_size(tmp_path):
  write_hf(tmp_path, hf_tensors())
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match="size=vit_b_32"):
    clip_layouts.load(tmp_path)
  with pytest.raises(UserError, match="does not fit"):
    clip_layouts.load(tmp_path, size="vit_b_32")
  with pytest.raises(UserError, match='did you mean "vit_b_32"'):
    clip_layouts.load(tmp_path, size="vit_b_3")


def vision_folder(folder, at, **changes):
  """An image tower alone, its tensors called as transformers calls them."""
  record = {
    "model_type": "clip_vision_model", "hidden_size": 32, "image_size": 28,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "patch_size": 14, "hidden_act": "gelu",
  }  # fmt: skip
  tower = dataclasses.replace(clip_layouts.vision_of(record), projection=0)
  params = folders.drawn(clip_layouts.shapes(clip.Clip(None, tower)))
  named = convert.to_public(params, clip_layouts.hf_vision(tower, at))
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(record))
  folders.save_tensors(folder / "model.safetensors", named | changes)
  return folder, params


@pytest.mark.parametrize("at", ["vision_model.", ""])
def test_a_tower_alone_loads_with_its_prefix_and_without(at, tmp_path):
  folder, params = vision_folder(tmp_path / "tower", at)
  _, found = clip_layouts.load_vision(folder)
  jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("at", ["vision_model.", "", "tower."])
def test_a_tower_that_does_not_fit_is_named_as_it_is_stored(at, tmp_path):
  folder, _ = vision_folder(tmp_path / "tower", at, other=np.zeros(3))
  with pytest.raises(UserError, match="holds besides") as error:
    clip_layouts.load_vision(folder)
  if at == "tower.":
    assert "it lacks vision_model.embeddings.class_embedding" in str(
      error.value
    )
    assert "tower.embeddings" in str(error.value)
  else:
    assert "it holds besides other" in str(error.value)
    assert "lacks" not in str(error.value)
