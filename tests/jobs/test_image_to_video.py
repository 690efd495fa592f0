"""Videos that start from a picture: its latents, its states, whole runs."""

import base64
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from jaxreward import setup
from jaxreward.data import pipeline
from jaxreward.errors import UserError
from jaxreward.flow import guidance
from jaxreward.models.autoencoders import video_vae
from jaxreward.models.vision import preprocess
from jaxreward.report import grids
from jaxreward.setup import prompt_encoding, text_encoders
from jaxreward.tasks.scenes import edits
from jaxreward.types import PromptEmbeddings
from tests import tiny
from tests.jobs import recipes

pytestmark = pytest.mark.job

SPEC = "align_public.py:wan_i2v,objective={},tiny"
OTHER = "align_public.py:{},objective={},tiny"
SMALL = {
  "eval.samples": 4, "eval.quick_samples": 4, "eval.every": 0,
  "rollout.prompts": 2, "rollout.microbatch": 4, "video.frames": 2,
}  # fmt: skip
WIDE = {"model.latent_width": 6}  # frames of 32 x 48 pixels


def load(*changes, objective="flow_grpo"):
  return tiny.load(SPEC.format(objective), *changes)


def test_the_full_recipe_starts_from_pictures_of_its_own_shape():
  config = tiny.load("align_public.py:wan_i2v")
  policy = setup.make_policy(config)
  assert setup.picture_side(policy) == (240, 416)
  shapes = {k: x.shape[1:] for k, x in policy.pictures.items()}
  assert shapes == {"picture": (9, 30, 52, 20), "vision": (257, 1280)}
  assert set(policy.prompts) == {"words"}
  assert config.data.source.endswith(".jsonl")
  assert config.image_encoder.name == "clip"
  prompt_encoding.bind(config, policy)


@pytest.mark.parametrize(
  ("model", "side", "picture"),
  [
    ("wan22_i2v", (240, 416), (9, 30, 52, 20)),
    ("wan22_ti2v_5b", (256, 448), (1, 16, 28, 48)),
  ],
)
def test_the_full_recipes_of_wan22_read_no_vision(model, side, picture):
  config = tiny.load(f"align_public.py:{model}")
  policy = setup.make_policy(config)
  assert setup.picture_side(policy) == side
  assert {k: x.shape[1:] for k, x in policy.pictures.items()} == {
    "picture": picture
  }
  assert config.data.source.endswith(".jsonl")
  prompt_encoding.bind(config, policy)


@pytest.mark.turns(3)
def test_the_first_frame_is_the_picture_that_was_given():
  """Its latents stand beside the words, and a video begins with them."""
  config = tiny.load(OTHER.format("wan22_ti2v_5b", "flow_grpo"))
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  batch = setup.prompt_batches(config)(0)
  encode = prompt_encoding.make_encode(config, policy, decoder=decoder)
  found = encode(batch).embedded.prompts["picture"]
  pixels = preprocess.resize(jnp.asarray(batch.source), (32, 32), "lanczos3")
  coder = video_vae.make_autoencoder(size="tiny22")
  latents = jax.jit(coder.encode)(decoder, pixels[:, None])
  np.testing.assert_allclose(found, latents, atol=2e-5)
  shapes = prompt_encoding.abstract(batch, policy).embedded
  assert shapes.prompts["picture"].shape == found.shape == (3, 1, 2, 2, 4)


def test_words_alone_start_a_video_of_ti2v():
  config = tiny.load(
    OTHER.format("wan22_ti2v_5b", "flow_grpo"),
    {"model.takes_source": False, "data.source": "scenes"},
  )
  policy = setup.make_policy(config)
  assert policy.pictures is None and not policy.takes_source
  prompt_encoding.bind(config, policy)


def test_the_picture_goes_on_in_grey_through_the_autoencoder():
  config = load(WIDE)
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  batch = setup.prompt_batches(config)(0)
  encode = prompt_encoding.make_encode(config, policy, decoder=decoder)
  found = encode(batch).embedded
  assert set(found.prompts) == {"words", "picture", "vision"}
  assert set(found.empty) == {"words"}
  pixels = preprocess.resize(jnp.asarray(batch.source), (32, 48), "lanczos3")
  video = np.full((3, 5, 32, 48, 3), 0.5, np.float32)
  video[:, 0] = pixels
  coder = video_vae.make_autoencoder(size="tiny")
  latents = jax.jit(coder.encode)(decoder, video)
  picture = found.prompts["picture"]
  np.testing.assert_allclose(picture[..., 4:], latents, atol=2e-5)
  np.testing.assert_array_equal(picture[:, 0, ..., :4], 1)
  np.testing.assert_array_equal(picture[:, 1:, ..., :4], 0)
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shape(prompt_encoding.abstract(batch, policy).embedded) == shape(found)
  # States belong to the picture, wherever it stands.
  turned = jax.tree.map(lambda x: x[::-1], batch)
  again = encode(turned).embedded.prompts["vision"][::-1]
  np.testing.assert_array_equal(again, found.prompts["vision"])
  assert np.ptp(again, axis=0).min() > 0


def test_files_are_cut_to_the_shape_of_the_video(tmp_path):
  from PIL import Image

  pixels = np.zeros((64, 64, 3), np.uint8)
  pixels[16:48] = 255  # the middle, as wide as a frame is
  lines = []
  for i in range(20):
    Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    lines.append(json.dumps({"prompt": f"{i} waves", "image": f"{i}.png"}))
  path = tmp_path / "train.jsonl"
  path.write_text("\n".join(lines))
  config = load({"data.source": str(path), "model.latent_width": 8})
  source = setup.prompt_batches(config)(0).source
  assert source.shape == (3, 32, 64, 3) and source.min() == 1


@pytest.mark.turns(2)
def test_guidance_leads_away_from_words_and_keeps_picture_and_states():
  policy = setup.make_policy(load())
  key = jax.random.key(0)
  params = tiny.shaken(jax.jit(policy.init)(key))
  shapes = policy.prompts | policy.pictures
  keys = jax.random.split(key, len(shapes))
  given = {
    name: jax.random.normal(k, (2, *x.shape[1:]))
    for k, (name, x) in zip(keys, shapes.items(), strict=True)
  }
  empty = {"words": 0 * given["words"][:1]}
  x = jax.random.normal(key, (2, *policy.latent_shape))
  t = jnp.full((2,), 0.5)

  @jax.jit
  def run(given):
    pair = PromptEmbeddings(given, empty)
    cond, uncond = guidance.conditioning(policy, params, pair, 3.0)
    both = guidance.guided_velocity(policy, params, x, t, cond, uncond, 3.0)
    blank = given | {"words": empty["words"].repeat(2, 0)}
    alone = [
      policy.velocity(params, x, t, policy.encode(params, w))
      for w in (given, blank)
    ]
    return both, alone[1] + 3.0 * (alone[0] - alone[1])

  found, expected = run(given)
  np.testing.assert_allclose(found, expected, atol=2e-5)
  for name in policy.pictures:
    other = run(given | {name: -given[name]})[0]
    assert np.abs(other - found).max() > 1e-4, name


@pytest.mark.parity
def test_states_are_those_of_the_public_pipeline(tmp_path):
  torch = pytest.importorskip("torch")
  pytest.importorskip("diffusers")
  import diffusers
  import transformers
  from PIL import Image

  torch.manual_seed(0)
  config = transformers.CLIPVisionConfig(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=48, image_size=28, patch_size=14, hidden_act="gelu",
  )  # fmt: skip
  tower = transformers.CLIPVisionModel(config).eval()
  config.save_pretrained(tmp_path / "image_encoder")
  public = {  # as in the published folder
    f"vision_model.{name.removeprefix('vision_model.')}": x.numpy()
    for name, x in tower.state_dict().items()
  }
  file = tmp_path / "image_encoder" / "model.safetensors"
  safetensors.numpy.save_file(public, file)
  reader = transformers.CLIPImageProcessor(
    size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
  )
  reader.save_pretrained(tmp_path / "image_processor")
  images = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
  pipe = diffusers.WanImageToVideoPipeline(
    tokenizer=None, text_encoder=None, vae=None, scheduler=None,
    image_processor=reader, image_encoder=tower, transformer=None,
  )  # fmt: skip
  with torch.no_grad():
    pictures = [Image.fromarray(x) for x in images]
    want = pipe.encode_image(pictures, torch.device("cpu")).numpy()
  shape = jax.ShapeDtypeStruct((1, 5, 32), np.float32)
  look = text_encoders.clip_vision(
    shape, None, weights=str(tmp_path), dtype="float32"
  )
  found = look(np.float32(images) / 255)
  assert found.shape == want.shape == (2, 5, 32)
  # Their resampling and ours round a few pixels to neighbouring levels.
  np.testing.assert_allclose(found, want, atol=2e-2 * np.abs(want).max())
  wrong = jax.ShapeDtypeStruct((1, 257, 1280), np.float32)
  with pytest.raises(UserError, match=r"gives states \(5, 32\)"):
    text_encoders.clip_vision(wrong, None, weights=str(tmp_path))


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("model", "objective"),
  recipes.cases("diffusion_nft", "wan_i2v", "wan22_i2v", "wan22_ti2v_5b"),
)
def test_a_recipe_runs_and_its_report_shows_the_pictures(
  model, objective, tmp_path
):
  """Steps are replayed exactly, and nothing fails."""
  config = tiny.load(OTHER.format(model, objective), SMALL, WIDE)
  workdir = epath.Path(tiny.run(config, tmp_path / "run"))
  rows = [row for row in tiny.rows(workdir, "align") if row["step"]]
  assert len(rows) == 2
  assert all(row["grad_norm"] > 0 and np.isfinite(row["loss"]) for row in rows)
  assert all(np.isfinite(row["reward/kept"]) for row in rows)
  if objective == "flow_grpo":
    assert [row["log_prob_gap"] for row in rows] == [0.0, 0.0]
  policy = setup.make_policy(config)
  spec = str(workdir / setup.POLICY_FILE)
  tuned = setup.load_params(config, policy, spec=spec)
  base = setup.load_params(config, policy)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), tuned, base)
  chosen = "vision_v" if model == "wan_i2v" else "cross_v"
  for name in policy.parts or [""]:
    block = (moved[name] if name else moved)["blocks"]
    assert block[chosen]["kernel"] and not block["mlp_up"]["kernel"]
  before, after, _, beside, _ = grids.load_cards(
    workdir / "grids" / "cards.npz"
  )
  sources = np.stack(list(beside["source"].values()))
  height, width = setup.picture_side(policy)
  assert before.shape[1:] == after.shape[1:] == (height, 2 * width, 3)
  prompts = setup.load_prompts(config, "heldout")
  drawn = {x.tobytes() for x in grids.to_uint8(edits.draw(prompts)[0])}
  assert len(sources) and all(x.tobytes() in drawn for x in sources)
  page = (workdir / "report.html").read_text()
  shown = re.findall(
    r'<img src="data:image/png;base64,([^"]+)" alt="Source', page
  )
  one = grids.png(grids.enlarge(sources[:1], 3)[0])
  assert base64.b64encode(one).decode() in shown


@pytest.mark.slow
def test_videos_follow_the_picture_and_nothing_compiles_again(compile_counter):
  config = load(SMALL)
  made = tiny.Iteration(config, tiny.mesh_of(1), real=True)
  policy, put = made.policy, pipeline.place_batch(made.mesh, replicated=True)
  batches = setup.prompt_batches(config)
  with jax.set_mesh(made.mesh):
    decoder = setup.put_decoder(config, policy, made.mesh)
    encode = prompt_encoding.make_encode(config, policy, made.mesh, decoder)

    def draw(batch):
      parts, given = made.parts, put(encode(batch))
      drawn = parts.sample(parts.state, parts.base, given, decoder)
      return np.asarray(drawn[2])

    first = draw(batches(0))
    other = draw(batches(0).replace(source=1 - batches(0).source))
    assert np.abs(first - other).max((1, 2, 3, 4)).min() > 1e-3
    compile_counter.reset()
    for n in (1, 2):
      draw(batches(n))
    assert compile_counter.count == 0


@pytest.mark.parametrize(
  ("spec", "changes", "said"),
  [
    (SPEC, {"image_encoder.name": "none"}, "reads states of one; known: noise"),
    (SPEC, {"image_encoder.name": "nois"}, 'did you mean "noise"'),
    (
      SPEC,
      {"data.source": "scenes"},
      'config.data.source="scenes": the policy',
    ),
    (SPEC, {"autoencoder.name": "none"}, "an autoencoder has to encode"),
    (
      "align_public.py:wan_t2v,objective={},tiny",
      {"image_encoder.name": "noise"},
      'reads no states of an image encoder; use "none"',
    ),
  ],
)
def test_what_does_not_go_together_is_refused(spec, changes, said):
  config = tiny.load(spec.format("flow_grpo"), changes)
  with pytest.raises(UserError, match=said):
    prompt_encoding.bind(config, setup.make_policy(config))
