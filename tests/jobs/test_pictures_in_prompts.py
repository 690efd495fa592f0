"""Prompts that a text encoder reads together with the picture to edit."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxreward import setup
from jaxreward.data import texts
from jaxreward.errors import UserError
from jaxreward.flow import rollout, schedule, steppers
from jaxreward.flow.sampler import Sampler
from jaxreward.jobs import align
from jaxreward.models import convert
from jaxreward.models.text import qwen_layouts, qwen_prompts
from jaxreward.models.vision import (
  encoders,
  qwen_images,
  qwen_vision,
  qwen_vision_layouts,
)
from jaxreward.setup import checks, prompt_encoding
from jaxreward.tasks.scenes import grammar
from jaxreward.types import PromptEmbeddings
from tests import tiny
from tests.models import test_qwen
from tests.rewards import folders

pytestmark = pytest.mark.job

SPEC = "align_public.py:qwen_image_edit,objective={},tiny"
VISION = qwen_vision.Vision(16, 2, 2, 8, 24, 4, 2, 2, 16, (1,))
RECORD = {
  "model_type": "qwen2_5_vl",
  "text_config": dict(
    hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, intermediate_size=16,
    rope_parameters={"mrope_section": [2, 2, 2], "rope_theta": 1e4},
  ),
  "vision_config": dict(
    hidden_size=16, depth=2, num_heads=2, intermediate_size=8,
    out_hidden_size=24, patch_size=4, window_size=16, fullatt_block_indexes=[1],
  ),
}  # fmt: skip


def save_tokenizer(folder):
  """A tokenizer of the scenes' words and the template's marks; its marks' ids."""
  import tokenizers
  import transformers

  vocab = {w: i for i, w in enumerate(["<pad>", *grammar.VOCAB[1:]])}
  model = tokenizers.models.WordLevel(vocab, unk_token="<pad>")
  tokens = tokenizers.Tokenizer(model)
  tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokens, pad_token="<pad>"
  )
  fast.add_special_tokens({"additional_special_tokens": [*test_qwen.SPECIAL]})
  fast.save_pretrained(folder)
  return len(fast), fast.convert_tokens_to_ids("<|image_pad|>")


def save_pipeline(folder):
  """A pipeline's folder with both towers, tiny and random."""
  size, pad = save_tokenizer(folder / "tokenizer")
  record = RECORD | {"image_token_id": pad}
  record["text_config"] = RECORD["text_config"] | {"vocab_size": size}
  config = qwen_layouts.config_of(record)
  assert qwen_vision_layouts.config_of(record) == VISION
  tensors = {}
  for module, found in (qwen_layouts, config), (qwen_vision_layouts, VISION):
    params = folders.drawn(module.shapes(found), scale=0.5)
    tensors |= convert.to_public(params, module.rules_of(found))
  (folder / "text_encoder").mkdir()
  folders.save_tensors(folder / "text_encoder" / "model.safetensors", tensors)
  (folder / "text_encoder" / "config.json").write_text(json.dumps(record))
  (folder / "processor").mkdir()
  facts = {"min_pixels": 64, "max_pixels": 10**6}
  (folder / "processor" / "preprocessor_config.json").write_text(
    json.dumps(facts)
  )
  return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  pytest.importorskip("transformers")
  return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def load(weights, objective="flow_grpo", **more):
  """The tiny recipe with that encoder; pictures of 32 pixels have 16 tokens."""
  return tiny.load(
    SPEC.format(objective),
    {
      "text_encoder.name": "qwen_image_edit", "text_encoder.weights": weights,
      "text_encoder.area": 32 * 32, "text_encoder.dtype": "float32",
      "model.words": 64,
    },
    more,
  )  # fmt: skip


@pytest.fixture(scope="module")
def made(weights):
  """(config, policy, encode, one batch)."""
  config = load(weights)
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  encode = prompt_encoding.make_encode(config, policy, decoder=decoder)
  return config, policy, encode, setup.prompt_batches(config)(0)


def test_words_and_their_absence_depend_on_the_picture(made):
  config, policy, encode, batch = made
  found = encode(batch).embedded
  other = encode(batch.replace(source=1 - batch.source)).embedded
  for a, b in (found.prompts, other.prompts), (found.empty, other.empty):
    assert a["words"].shape == (3, 64, 24)
    gap = np.abs(a["words"] - b["words"]).max((1, 2))
    assert gap.min() > 1e-2
    np.testing.assert_array_equal(a["mask"], b["mask"])
  assert (found.prompts["mask"].sum(1) > found.empty["mask"].sum(1)).all()
  abstract = prompt_encoding.abstract(
    batch, policy, with_pictures=prompt_encoding.reads_pictures(config)
  )
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shape(abstract.embedded) == shape(found)


def test_what_the_towers_make_is_what_the_policy_gets(made, weights):
  """The states of one prompt, step by step without the job."""
  _, _, encode, batch = made
  found = encode(batch).embedded
  place = weights / "text_encoder"
  (config, text), (vision, tower) = (
    qwen_layouts.load(place),
    qwen_vision_layouts.load(place),
  )
  reader = encoders.pretrained(weights / "tokenizer")
  said = texts.decode(np.asarray(batch.text))
  ids, mask, starts = qwen_prompts.tokenize_edit(
    reader, said, 64, [16], config.pad
  )
  prepared = qwen_images.ImageProcessor(32 * 32, 8, 64, 10**6)
  states, kept = qwen_prompts.encode_edit(
    config, vision, {"text": text, "vision": tower}, ids, mask,
    [prepared(batch.source)], starts=starts,
  )  # fmt: skip
  np.testing.assert_allclose(found.prompts["words"], states, atol=1e-4)
  np.testing.assert_array_equal(found.prompts["mask"], kept)


def counting(calls):
  def make(shapes, mesh, *, weights, area, dtype):
    def encode(said, pictures):
      calls.append([*zip(said, pictures[:, 0, 0, 0].tolist(), strict=True)])
      return jax.tree.map(
        lambda s: np.zeros((len(said), *s.shape[1:]), s.dtype), shapes
      )

    return encode

  return make


def test_a_text_and_the_content_of_its_picture_are_encoded_once(monkeypatch):
  calls = []
  monkeypatch.setitem(
    prompt_encoding.REGISTRY, "qwen_image_edit", counting(calls)
  )
  config = load("nowhere")
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  encode = prompt_encoding.make_encode(config, policy, decoder=decoder)
  batch = grammar.batch(grammar.prompts("train")[:2])
  a, b = texts.decode(batch.text)
  picture = lambda *values: np.stack(
    [np.full((32, 32, 3), x, np.float32) for x in values]
  )
  assert calls == [[("", 0.0)]]  # whether shapes fit
  encode(batch.replace(source=picture(0.25, 0.5)))
  assert calls[1:] == [[(a, 0.25), (b, 0.5)], [("", 0.25), ("", 0.5)]]
  encode(batch.replace(source=picture(0.25, 0.5)))
  assert len(calls) == 3
  encode(batch.replace(source=picture(0.5, 0.5)))  # a with b's picture
  assert calls[3:] == [[(a, 0.5)]]


def test_each_sample_is_led_away_from_its_own_empty_prompt():
  """Prompts drawn together are as each drawn alone."""
  config = load("nowhere")
  policy = setup.make_policy(config)
  params = tiny.shaken(jax.jit(policy.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  draw = lambda s: (
    np.ones((2, *s.shape[1:]), bool)
    if s.dtype == bool
    else rng.standard_normal((2, *s.shape[1:]), np.float32)
  )
  prompts = jax.tree.map(draw, policy.prompts | policy.pictures)
  empty = jax.tree.map(draw, policy.prompts)
  table = steppers.ode(schedule.timesteps(2, 1.0))

  @jax.jit
  def samples(prompts, empty, ids):
    layout = rollout.make_layout(len(ids), 2, 4, 1)
    drawer = Sampler(policy, table, layout, 3.0)
    words = PromptEmbeddings(prompts, empty)
    drawn = drawer.sample(params, jax.random.key(1), words, ids)
    return drawn.latents[-1][: 2 * len(ids)]

  both = samples(prompts, empty, np.arange(2, dtype=np.uint32))
  for i in range(2):
    row = lambda tree, i=i: jax.tree.map(lambda x: x[i : i + 1], tree)
    alone = samples(row(prompts), row(empty), np.array([i], np.uint32))
    np.testing.assert_allclose(both[2 * i : 2 * i + 2], alone, atol=1e-4)
  swapped = samples(
    prompts,
    jax.tree.map(lambda x: x[::-1], empty),
    np.arange(2, dtype=np.uint32),
  )
  assert np.abs(swapped - both).max() > 1e-3


def test_prompts_without_the_picture_are_refused(made):
  _, _, encode, batch = made
  first, second, _ = texts.decode(np.asarray(batch.text))
  with pytest.raises(UserError, match=f'the prompt "{first}" of config.data'):
    encode(batch.replace(source=None))
  source = batch.source.copy()
  source[1] = np.nan
  with pytest.raises(UserError, match=f'"{second}" of .*="edits" has none'):
    encode(batch.replace(source=source))


def test_a_policy_that_takes_no_picture_is_refused():
  config = tiny.load(
    "align_public.py:qwen_image,tiny",
    {"text_encoder.name": "qwen_image_edit", "text_encoder.weights": "x"},
  )
  with pytest.raises(UserError, match="takes none; set config"):
    align.check(config)


def test_an_area_of_no_pixels_is_refused():
  config = load("nowhere", **{"text_encoder.area": 0})
  with pytest.raises(UserError, match=r"text_encoder\.area=0"):
    checks.check(config)


def test_a_prompt_too_short_for_the_picture_is_refused(weights):
  config = load(weights, **{"model.words": 20})
  with pytest.raises(
    UserError, match=r"words=20: the picture to edit takes 16"
  ):
    prompt_encoding.make_encode(config, setup.make_policy(config))


def test_weights_of_the_text_tower_alone_are_refused(weights, tmp_path):
  alone = tmp_path / "alone"
  shutil.copytree(weights, alone)
  path = alone / "text_encoder" / "model.safetensors"
  kept = {
    n: x
    for n, x in safetensors.numpy.load_file(path).items()
    if not n.startswith("visual.")
  }
  folders.save_tensors(path, kept)
  config = load(alone)
  with pytest.raises(UserError, match=r"holds no vision tower \(visual"):
    prompt_encoding.make_encode(config, setup.make_policy(config))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["flow_grpo", "diffusion_nft"])
def test_the_recipe_runs_with_both_towers(objective, weights, tmp_path):
  config = load(
    weights, objective,
    **{"eval.samples": 6, "eval.quick_samples": 6, "eval.every": 0,
       "rollout.prompts": 2, "rollout.microbatch": 4},
  )  # fmt: skip
  rows = tiny.rows(tiny.run(config, tmp_path / "run"))
  rows = [row for row in rows if row["step"] and "grad_norm" in row]
  assert len(rows) == 2
  assert all(row["grad_norm"] > 0 and np.isfinite(row["loss"]) for row in rows)
  if objective == "flow_grpo":
    assert [row["log_prob_gap"] for row in rows] == [0.0, 0.0]
