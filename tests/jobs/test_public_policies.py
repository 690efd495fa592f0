"""Recipes of public policies, end to end with small random weights."""

import json

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxreward import config as config_lib
from jaxreward import models, setup
from jaxreward.flow import guidance, rollout
from jaxreward.jobs import align, evaluate, export, sample
from jaxreward.models import convert
from jaxreward.report import grids
from jaxreward.setup import prompt_encoding
from jaxreward.tasks.scenes import edits
from jaxreward.types import PromptEmbeddings
from tests import tiny, turns
from tests.jobs import recipes

pytestmark = pytest.mark.job

SPEC = "align_public.py:{},objective={},tiny"
SMALL = {
  "eval.samples": 6, "eval.quick_samples": 6, "eval.every": 0,
  "rollout.prompts": 2, "rollout.microbatch": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_one_device(monkeypatch)


def rows_of(workdir, job):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [row for row in rows if row["job"] == job and row["step"]]


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("model", "objective"),
  recipes.cases(
    "flow_grpo",
    "sd35_medium",
    "flux_dev",
    "wan_t2v",
    "qwen_image",
    "wan22_t2v",
    "z_image",
    "klein_4b",
  ),
)
def test_a_recipe_runs_from_prompts_to_weights(model, objective, tmp_path):
  config = tiny.load(SPEC.format(model, objective), SMALL)
  workdir = epath.Path(tmp_path)
  align.run(config, workdir)
  rows = rows_of(workdir, "align")
  assert len(rows) == 2
  assert all(row["grad_norm"] > 0 and np.isfinite(row["loss"]) for row in rows)
  if objective == "flow_grpo":
    assert [row["log_prob_gap"] for row in rows] == [0.0, 0.0]
  assert_moved(config, workdir)


def assert_moved(config, workdir):
  """Every network of the policy that a run has written differs from its start."""
  policy = setup.make_policy(config)
  tuned = setup.load_params(
    config, policy, spec=str(workdir / setup.POLICY_FILE)
  )
  base = setup.load_params(config, policy)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), tuned, base)
  networks = [moved[name] for name in policy.parts] if policy.parts else [moved]
  assert all(any(jax.tree.leaves(network)) for network in networks)


def public(config: str) -> list:
  """(config, model) of every public model that a config takes."""
  module = config_lib.load_module(str(tiny.CONFIGS / config))
  return [(config, model) for model in module.PUBLIC]


@pytest.mark.parametrize(
  ("config", "model"),
  turns.one_due(public("finetune.py") + public("offline.py")),
)
def test_files_of_images_reach_the_weights_of_every_policy(
  config, model, tmp_path
):
  """Fine-tuning and preferences: the smoke of the command line, to its adapter."""
  job = {"finetune.py": "finetune", "offline.py": "align"}[config]
  few = {"eval.samples": 2, "eval.quick_samples": 2, "eval.every": 0}
  run = tiny.load(f"{config}:{model},smoke", few)
  workdir = tiny.run(run, tmp_path / "run")
  rows = rows_of(workdir, job)
  assert len(rows) > 1
  assert all(row["grad_norm"] > 0 and np.isfinite(row["loss"]) for row in rows)
  assert_moved(run, workdir)


@pytest.mark.slow
def test_free_prompts_run_without_a_detector(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("".join(f"{n} cats on a sofa\n" for n in range(20)))
  config = tiny.load(
    SPEC.format("sd35_medium", "flow_grpo"),
    SMALL | {"data.source": str(path), "data.grammar": "free"},
  )
  workdir = epath.Path(tmp_path / "run")
  align.run(config, workdir)
  found = json.loads((workdir / "evaluation.json").read_text())
  (after,) = found["after"].values()
  assert "strict" not in after and "difference" not in found
  assert after["rewards"]["jpeg"] < 0 and after["diversity"] > 0
  row = rows_of(workdir, "align")[-1]
  assert "panel/accuracy" not in row and row["panel/trained_reward"] < 0
  evaluate.run(config, workdir)
  sample.run(config, workdir)
  shown = json.loads((workdir / "samples.json").read_text())
  assert shown[0].keys() == {"file", "prompt"}


def test_weights_of_a_public_folder_start_a_run(tmp_path):
  """The transformer and the autoencoder, read back bit by bit."""
  config = tiny.load(SPEC.format("sd35_medium", "flow_grpo"))
  policy = setup.make_policy(config)
  params = jax.jit(policy.init)(jax.random.key(3))
  decoder = jax.jit(policy.decoder)(jax.random.key(4))
  for name, tree, rules in (
    ("transformer", params, policy.layout),
    ("vae", decoder, policy.decoder_layout),
  ):
    convert.save_params(tmp_path / name, tree, rules)
  with config.unlocked():
    config.init.checkpoint = str(tmp_path / "transformer")
    config.autoencoder.weights = str(tmp_path / "vae")
  read = (
    setup.load_params(config, policy),
    setup.load_decoder(config, policy),
  )
  for a, b in zip(
    jax.tree.leaves((params, decoder)), jax.tree.leaves(read), strict=True
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.turns(3)
def test_two_networks_are_written_and_read_by_folder(tmp_path):
  """Whole, as the public pipeline has them, and as adapters of either."""
  config = tiny.load(SPEC.format("wan22_t2v", "flow_grpo"))
  policy = setup.make_policy(config)
  params = jax.jit(policy.init)(jax.random.key(3))
  whole = config.copy_and_resolve_references()
  whole.lora.rank = 0
  export._write(whole, policy, epath.Path(tmp_path), params)
  found = {path.parent.name for path in tmp_path.glob("*/config.json")}
  assert found == {"transformer", "transformer_2"}
  whole.init.checkpoint = str(tmp_path)
  read = setup.load_params(whole, policy)
  jax.tree.map(np.testing.assert_array_equal, params, read)
  trainable = setup.make_trainable(config, policy)
  adapters = jax.jit(trainable.init)(params)
  export._write(config, policy, epath.Path(tmp_path / "both"), adapters)
  del adapters["high"]
  export._write(config, policy, epath.Path(tmp_path / "low"), adapters)
  for folder, names in (("both", 2), ("low", 1)):
    written = list((tmp_path / folder).glob("*/adapter_model.safetensors"))
    assert len(written) == names
  assert written[0].parent.name == "transformer_2"


def test_pictures_are_decoded_a_micro_batch_at_a_time():
  config = tiny.load(SPEC.format("sd35_medium", "flow_grpo"))
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  latents = jax.random.normal(jax.random.key(0), (6, *policy.latent_shape))
  plan = align.make_plan(config, devices=1)
  layout = rollout.make_layout(3, 2, 2)
  drawer = plan.sampler(policy, layout)
  whole = jax.jit(policy.to_pixels)(latents, decoder)
  assert whole.shape == (6, 36, 36, 3)
  cut = jax.jit(drawer.pixels)(latents, decoder)
  np.testing.assert_allclose(cut.reshape(whole.shape), whole, atol=1e-5)


@pytest.mark.turns(2)
@pytest.mark.parametrize(
  ("model", "objective"),
  recipes.cases("flow_grpo", "kontext", "qwen_image_edit", "klein_4b_edit"),
)
def test_an_editing_recipe_starts_from_pictures(model, objective, tmp_path):
  """Ratios are 1, and another source gives another picture."""
  config = tiny.load(SPEC.format(model, objective), SMALL)
  workdir = epath.Path(tmp_path)
  align.run(config, workdir)
  rows = rows_of(workdir, "align")
  assert len(rows) == 2
  assert all(row["grad_norm"] > 0 and np.isfinite(row["loss"]) for row in rows)
  assert all(np.isfinite(row["reward/kept"]) for row in rows)
  if objective == "flow_grpo":
    assert [row["log_prob_gap"] for row in rows] == [0.0, 0.0]
    judged = config.data.grammar != "free"
    assert ("panel/accuracy" in rows[0]) == judged
  cards = grids.load_cards(workdir / "grids" / "cards.npz")
  sources = cards.beside["source"].values()
  prompts = setup.load_prompts(config, "heldout")
  drawn = {x.tobytes() for x in grids.to_uint8(edits.draw(prompts)[0])}
  assert len(sources) and all(x.tobytes() in drawn for x in sources)


@pytest.mark.turns(2)
@pytest.mark.parametrize("model", ["kontext", "qwen_image_edit"])
def test_the_autoencoders_mean_stands_beside_the_words(model):
  config = tiny.load(SPEC.format(model, "flow_grpo"))
  policy = setup.make_policy(config)
  decoder = setup.load_decoder(config, policy)
  encode = prompt_encoding.make_encode(config, policy, decoder=decoder)
  batch = setup.prompt_batches(config)(0)
  found = encode(batch).embedded
  assert "picture" not in found.empty
  size = setup.picture_side(policy)
  pixels, tolerance = batch.source, 2e-5
  if size != pixels.shape[1:3]:  # as the public pipelines resize
    tolerance = 1e-2  # a level of 256 more or less
    levels = np.rint(pixels * 255).astype(np.uint8)
    shape, method = size[::-1], Image.Resampling.LANCZOS
    few = [np.asarray(Image.fromarray(x).resize(shape, method)) for x in levels]
    pixels = np.float32(few) / 255
  made = config_lib.bind(
    config.autoencoder, models.AUTOENCODERS, field="autoencoder"
  )()
  latents = jax.jit(made.encode)(decoder, pixels)
  np.testing.assert_allclose(found.prompts["picture"], latents, atol=tolerance)
  assert latents.shape == (3, *policy.latent_shape)
  shapes = prompt_encoding.abstract(batch, policy).embedded
  assert shapes.prompts["picture"].shape == latents.shape


def test_guidance_leads_away_from_words_and_keeps_the_picture():
  config = tiny.load(SPEC.format("kontext", "flow_grpo"))
  policy = setup.make_policy(config)
  key = jax.random.key(0)
  params = tiny.shaken(jax.jit(policy.init)(key))
  draw = lambda i, x: jax.random.normal(
    jax.random.fold_in(key, i), (2, *x.shape[1:])
  )
  given = {k: draw(i, x) for i, (k, x) in enumerate(policy.prompts.items())}
  picture = jax.random.normal(key, (2, *policy.latent_shape))
  empty = {k: 0 * x[:1] for k, x in given.items()}

  @jax.jit
  def run(picture):
    x, t = jax.random.normal(key, picture.shape), jax.numpy.full((2,), 0.5)
    prompts = PromptEmbeddings(given | {"picture": picture}, empty)
    cond, uncond = guidance.conditioning(policy, params, prompts, 3.0)
    both = guidance.guided_velocity(policy, params, x, t, cond, uncond, 3.0)
    blank = jax.tree.map(lambda e: e.repeat(2, 0), empty)
    alone = [
      policy.velocity(params, x, t, policy.encode(params, w))
      for w in (prompts.prompts, blank | {"picture": picture})
    ]
    return both, alone[1] + 3.0 * (alone[0] - alone[1])

  found, expected = run(picture)
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert np.abs(run(-picture)[0] - found).max() > 1e-4
