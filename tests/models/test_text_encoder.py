"""T5 and umT5, and prompts as the pipelines of diffusers encode them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.models import convert
from jaxreward.models.text import t5, text_encoder
from jaxreward.models.vision import clip, clip_layouts
from jaxreward.training import mesh as meshes
from jaxreward.training import sharding
from tests.models import tower_peers as peers
from tests.rewards import folders

LENGTH, T5_LENGTH = folders.LENGTH, 15
TEXTS = ["a red circle", "two squares and a blue cross", ""]
T5 = dict(
  d_model=96, d_kv=12, d_ff=40, num_layers=2, num_heads=4, vocab_size=45,
  feed_forward_proj="gated-gelu", relative_attention_max_distance=10,
  relative_attention_num_buckets=8, dropout_rate=0.0,
)  # fmt: skip


def t5_peer(kind="T5"):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  config = getattr(transformers, f"{kind}Config")(**T5)
  model = peers.shake(getattr(transformers, f"{kind}EncoderModel")(config))
  for block in model.encoder.block:  # the scale that logits lack is in here
    block.layer[0].SelfAttention.q.weight.data.mul_(T5["d_kv"] ** -0.5)
  return model


def clip_peer(width, projected, seed):
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("torch")
  config = transformers.CLIPTextConfig(
    vocab_size=len(folders.words()), hidden_size=width, num_hidden_layers=3,
    intermediate_size=2 * width, num_attention_heads=2, projection_dim=width // 2,
    max_position_embeddings=LENGTH, eos_token_id=2, bos_token_id=0,
    hidden_act="gelu" if seed else "quick_gelu",
  )  # fmt: skip
  name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
  return peers.shake(getattr(transformers, name)(config), seed)


def tokenizer(folder, length):
  import transformers

  folders.save_tokenizer(folder)
  return transformers.AutoTokenizer.from_pretrained(
    folder, model_max_length=length
  )


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["T5", "UMT5"])
def test_t5_equals_its_peer(kind, tmp_path):
  """umT5 has a bias per layer, so that none can stand for another."""
  torch = pytest.importorskip("torch")

  model = t5_peer(kind)
  model.save_pretrained(tmp_path)
  config, params = t5.load(tmp_path)
  rules = t5.rules_of(config)
  peers.same_after_round_trip(params, rules, tmp_path)
  tokens = np.random.default_rng(0).integers(0, 45, (2, 30)).astype(np.int32)
  mask = np.arange(30) < np.array([[30], [17]])
  ids = torch.tensor(tokens, dtype=torch.long)
  net = t5.T5Encoder(config)
  apply = lambda p, m=None: net.apply({"params": p}, tokens, m)
  theirs = model(ids).last_hidden_state
  peers.close(jax.jit(apply)(params), peers.numpy(theirs))
  masked = model(ids, attention_mask=torch.tensor(mask)).last_hidden_state
  ours = np.asarray(apply(params, mask))
  peers.close(ours[mask], peers.numpy(masked)[mask])
  loss = lambda p: jnp.sin(apply(p)).mean()
  slope = jax.jit(jax.grad(loss))(params)
  expected = peers.gradients(model, theirs.sin().mean(), rules, params)
  peers.close_trees(slope, expected)
  half = t5.T5Encoder(config, jnp.bfloat16)
  found = half.apply({"params": peers.half(params)}, tokens)
  rough = model.bfloat16()(ids).last_hidden_state
  found, rough = np.asarray(found, np.float32), peers.numpy(rough.float())
  exact = peers.numpy(theirs)
  error = lambda x: np.abs(x - exact)
  assert error(found).mean() < 1.5 * error(rough).mean()
  assert np.abs(found - rough).mean() <= 2e-2 * np.abs(rough).mean()


@pytest.mark.parity
@pytest.mark.parametrize(("count", "far"), [(32, 128), (8, 10), (16, 300)])
def test_buckets_equal_the_peers(count, far):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  at = torch.arange(200)
  attention = transformers.models.t5.modeling_t5.T5Attention
  theirs = attention._relative_position_bucket(
    at[None, :] - at[:, None], num_buckets=count, max_distance=far
  )
  found = t5.buckets(200, count, far)
  # A logarithm that falls on the edge of a bucket may round to either side.
  exact = count // 4
  share = np.log(np.arange(1, 200) / exact) / np.log(far / exact) * exact
  edges = 1 + np.flatnonzero(np.abs(share - np.round(share)) < 1e-5)
  at_edge = np.isin(np.abs(np.subtract.outer(range(200), range(200))), edges)
  gap = np.abs(found - theirs.numpy())
  assert gap[~at_edge].max() == 0 and gap.max() <= 1


def ids(tokens, length):
  found = tokens(
    TEXTS, padding="max_length", truncation=True, max_length=length
  )
  return np.asarray(found["input_ids"], np.int32)


@pytest.mark.parity
@pytest.mark.parametrize("with_t5", [True, False])
def test_prompts_of_sd3_equal_the_pipelines(with_t5, tmp_path):
  import types

  import diffusers
  import torch

  parts = {
    "text_encoder": clip_peer(24, True, 0),
    "text_encoder_2": clip_peer(40, True, 1),
    "text_encoder_3": t5_peer(),
  }
  for name, part in parts.items():
    part.save_pretrained(tmp_path / name)
  first, last = tokenizer(tmp_path / "a", LENGTH), tokenizer(tmp_path / "b", 99)
  second = tokenizer(tmp_path / "c", LENGTH)
  second.pad_token = "a"  # the second pads with another token
  pipeline = diffusers.StableDiffusion3Pipeline(
    None, None, None, parts["text_encoder"], first, parts["text_encoder_2"],
    second, parts["text_encoder_3"] if with_t5 else None, last,
  )  # fmt: skip
  if not with_t5:
    facts = types.SimpleNamespace(joint_attention_dim=96)
    pipeline.register_modules(transformer=None)
    object.__setattr__(
      pipeline, "transformer", types.SimpleNamespace(config=facts)
    )
  with torch.no_grad():
    theirs, _, pooled, _ = pipeline.encode_prompt(
      TEXTS, None, None, device="cpu", do_classifier_free_guidance=False,
      max_sequence_length=T5_LENGTH,
    )  # fmt: skip
  encoders, params = text_encoder.load(tmp_path, with_t5=with_t5)
  found, summary = text_encoder.encode_sd3(
    encoders, params, (ids(first, LENGTH), ids(second, LENGTH)),
    ids(last, T5_LENGTH) if with_t5 else None, places=T5_LENGTH, width=96,
  )  # fmt: skip
  assert (ids(first, LENGTH) != ids(second, LENGTH)).any()
  peers.close(found, peers.numpy(theirs))
  peers.close(summary, peers.numpy(pooled))


@pytest.mark.parity
def test_prompts_of_flux_equal_the_pipelines(tmp_path):
  import diffusers
  import torch

  parts = {"text_encoder": clip_peer(24, False, 0), "text_encoder_2": t5_peer()}
  for name, part in parts.items():
    part.save_pretrained(tmp_path / name)
  first, last = tokenizer(tmp_path / "a", LENGTH), tokenizer(tmp_path / "b", 99)
  pipeline = diffusers.FluxPipeline(
    None,
    None,
    parts["text_encoder"],
    first,
    parts["text_encoder_2"],
    last,
    None,
  )
  with torch.no_grad():
    theirs, pooled, _ = pipeline.encode_prompt(
      TEXTS, None, device="cpu", max_sequence_length=T5_LENGTH
    )
  encoders, params = text_encoder.load(tmp_path)
  found, summary = text_encoder.encode_flux(
    encoders, params, ids(first, LENGTH), ids(last, T5_LENGTH)
  )
  peers.close(found, peers.numpy(theirs))
  peers.close(summary, peers.numpy(pooled))


@pytest.mark.parity
def test_prompts_of_wan_equal_the_pipelines(tmp_path):
  diffusers = pytest.importorskip("diffusers")
  torch = pytest.importorskip("torch")
  part = t5_peer("UMT5")
  part.save_pretrained(tmp_path)
  tokens = tokenizer(tmp_path / "a", 99)
  pipeline = diffusers.WanPipeline(tokens, part, None, None)
  odd = "a ｒｅｄ circle"  # of full width, which ftfy mends
  texts = [*TEXTS, odd, "  a   red\n circle &amp;amp; a   cross ", "blue " * 40]
  with torch.no_grad():
    theirs, _ = pipeline.encode_prompt(
      texts, None, False, device="cpu", max_sequence_length=T5_LENGTH
    )
  config, params = t5.load(tmp_path)
  found = text_encoder.encode_wan(
    config, params, *text_encoder.tokenize_wan(tokens, texts, T5_LENGTH)
  )
  peers.close(found, peers.numpy(theirs))
  np.testing.assert_array_equal(np.asarray(found) == 0, theirs.numpy() == 0)


def shapes_of_clip(text):
  tokens = jax.ShapeDtypeStruct((1, text.length), jnp.int32)
  made = jax.eval_shape(clip.TextTower(text).init, jax.random.key(0), tokens)
  return made["params"]


def test_full_sizes_have_the_published_counts():
  assert peers.count(t5.shapes(t5.SIZES["t5_xxl"])) == 4_762_310_656
  assert peers.count(t5.shapes(t5.SIZES["umt5_xxl"])) == 5_680_910_336
  large = clip.SIZES["vit_l_14"].text
  assert peers.count(shapes_of_clip(large)) == 123_060_480 + 768 * 768
  giant = clip.SIZES["vit_bigg_14"].text
  assert peers.count(shapes_of_clip(giant)) == 694_659_840


@pytest.mark.turns(2)
@pytest.mark.parametrize("size", ["t5_xxl", "umt5_xxl"])
def test_every_parameter_has_one_sharding_rule(size):
  shapes = {
    "t5": t5.shapes(t5.SIZES[size]),
    "clip_0": shapes_of_clip(clip.SIZES["vit_l_14"].text),
    "clip_1": shapes_of_clip(clip.SIZES["vit_bigg_14"].text),
  }
  mesh = meshes.make_mesh(2, 2, 2)
  specs = sharding.param_specs(shapes, text_encoder.SHARDING_RULES, mesh)
  assert tuple(specs["t5"]["layers"]["up"]["kernel"]) == (
    None,
    "fsdp",
    "tensor",
  )
  layers = specs["clip_1"]["stack"]["layers"]
  assert tuple(layers["out"]["kernel"]) == (None, "tensor", "fsdp")


@pytest.mark.parametrize(
  ("record", "said"),
  [
    ({"model_type": "mt5"}, 'describes a "mt5"'),
    ({"model_type": "t5", "feed_forward_proj": "relu"}, "only gated-gelu"),
    (
      {"model_type": "t5", "feed_forward_proj": "gated-gelu", "d_model": "9"},
      'config.json: d_model="9"; expected a whole number above 0',
    ),
  ],
)
def test_a_config_that_is_not_read_says_why(record, said):
  with pytest.raises(UserError, match=said):
    t5.config_of(record)


@pytest.mark.extras
def test_a_pipeline_with_another_tower_is_refused(tmp_path):
  pytest.importorskip("transformers")
  folder = folders.clip_folder(tmp_path / "text_encoder")
  assert folder.exists()
  with pytest.raises(UserError, match='holds a "clip"'):
    text_encoder.load(tmp_path)


def test_a_text_tower_without_projection_is_read(tmp_path):
  text = clip_layouts.text_of(folders.clip_record()["text_config"], 0)
  params = folders.drawn(shapes_of_clip(text))
  assert "projection" not in params
  named = convert.to_public(params, clip_layouts.hf_text(text, ""))
  folders.save_tensors(tmp_path / "model.safetensors", named)
  import json

  record = folders.clip_record()["text_config"] | {
    "model_type": "clip_text_model"
  }
  (tmp_path / "config.json").write_text(json.dumps(record))
  found, loaded = text_encoder.load_clip_text(tmp_path)
  assert found == text
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
