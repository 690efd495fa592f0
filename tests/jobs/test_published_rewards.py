"""Published rewards by `weights=<folder>` in a job, beside direct calls.

The towers are those of each reward's own layout, small where it allows it, with
random weights.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreward.data.texts import decode
from jaxreward.models import convert
from jaxreward.models.vision import blip, iresnet, owlvit, perceptual, siglip
from jaxreward.models.vision.tower import Size
from jaxreward.rewards import (
  REGISTRY,
  alignment,
  fidelity,
  identity,
  image_reward,
  objects,
  references,
)
from jaxreward.tasks.scenes import facts, grammar
from tests import tiny
from tests.rewards import folders

pytest.importorskip("transformers")
pytestmark = pytest.mark.job

RECORDER = """
import numpy as np
from jaxreward.rewards import declare

@declare(is_host=True)
def keep(images, prompts, *, folder):
  np.savez(folder + "/kept.npz", images=images, text=np.asarray(prompts.text))
  return images.mean((2, 3, 4))
"""
LAYERS = dict(
  hidden_size=32, intermediate_size=48, num_hidden_layers=2,
  num_attention_heads=2,
)  # fmt: skip


def words_of(data):
  """One prompt to train on, and three to evaluate on, of three kinds."""
  chosen = {}
  for split, count in (("train", 1), ("validation", 1), ("heldout", 3)):
    every = grammar.prompts(split)
    kinds = [next(p for p in every if p.category == k) for k in range(count)]
    chosen[split] = [p.text for p in kinds]
    name = "test" if split == "heldout" else split
    (data / f"{name}.txt").write_text("\n".join(chosen[split]))
  return [text for texts in chosen.values() for text in texts]


def pictures_of(folder, texts):
  """A picture and a face for every prompt."""
  rng = np.random.default_rng(0)
  lines = []
  for i, text in enumerate(texts):
    names = {"image": f"{i}.png", "faces": f"face_{i}.png"}
    for name, side in zip(names.values(), (36, iresnet.SIDE), strict=True):
      coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
      Image.fromarray(coarse).resize((side, side)).save(folder / name)
    lines.append(json.dumps({"prompt": text} | names))
  (folder / references.FILE).write_text("\n".join(lines))


def save(folder, params, rules, config=None):
  """A folder as a hub would give it, with a tokenizer of the scenes."""
  folder.mkdir()
  convert.save_params(folder, params, rules, config=config, stem="model")
  folders.save_tokenizer(folder)
  return folder


def near_one(tree):
  """Drawn parameters of norms, whose scales and variances are positive."""
  whole = {"scale": 1.0, "var": 1.0}
  return jax.tree_util.tree_map_with_path(
    lambda path, x: np.abs(x) + 0.5 if path[-1].key in whole else x, tree
  )


def of_fan(shapes, seed=0):
  """Random parameters under which no layer grows or fades away."""
  rng = np.random.default_rng(seed)

  def draw(x):
    fan = np.prod(x.shape[:-1]) if len(x.shape) > 1 else 100
    return (rng.standard_normal(x.shape) * fan**-0.5).astype(np.float32)

  return near_one(jax.tree.map(draw, shapes))


def perceptual_folder(folder, model, rules):
  picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  made = jax.eval_shape(model.init, jax.random.key(0), picture, picture)
  params = jax.tree.map(np.abs, of_fan(made["params"]))
  return save(folder, params, rules)


@pytest.fixture
def weights(tmp_path):
  """Folder of each reward."""
  small = blip.Blip(
    Size(64, 2, 1, 48, eps=1e-6), Size(64, 1, 1, 40, eps=1e-12), 7, 28,
    len(folders.words()), 40,
  )  # fmt: skip
  pair = {
    "model_type": "siglip",
    "text_config": LAYERS
    | {"vocab_size": len(folders.words()), "max_position_embeddings": 12},
    "vision_config": LAYERS | {"image_size": 28, "patch_size": 7},
  }
  flexible = pair | {
    "model_type": "siglip2",
    "vision_config": LAYERS | {"num_patches": 9, "patch_size": 7},
  }
  net = iresnet.IResNet((1, 1, 1, 1), (4, 8, 8, 8), 16)
  return {
    "identity": save(
      tmp_path / "faces", of_fan(iresnet.shapes(net)), iresnet.rules_of(net)
    ),
    "lpips": perceptual_folder(
      tmp_path / "lpips",
      perceptual.Lpips("alex"),
      perceptual.lpips_rules("alex"),
    ),
    "dists": perceptual_folder(
      tmp_path / "dists", perceptual.Dists(), perceptual.dists_rules()
    ),
    "siglip_score": siglip_folder(tmp_path / "siglip", pair),
    "naflex": siglip_folder(tmp_path / "naflex", flexible),
    "image_reward": save(
      tmp_path / "blip",
      folders.drawn(blip.shapes(small)),
      blip.rules_of(small),
    ),
    "objects": owlvit_folder(tmp_path / "owlvit"),
  }


def siglip_folder(folder, record):
  config = siglip.config_of(record)
  params = folders.drawn(siglip.shapes(config))
  save(folder, params, siglip.rules_of(config), record)
  if config.flexible:
    reader = {"patch_size": config.patch, "max_num_patches": 12}
    (folder / "preprocessor_config.json").write_text(json.dumps(reader))
  return folder


def owlvit_folder(folder):
  record = {
    "model_type": "owlvit",
    "projection_dim": 32,
    "text_config": LAYERS | {"vocab_size": len(folders.words())},
    "vision_config": LAYERS | {"image_size": 28, "patch_size": 7},
  }
  config = owlvit.config_of(record)
  params = folders.drawn(owlvit.shapes(config))
  return save(folder, params, owlvit.rules_of(config), record)


OPTIONS = {
  "identity": {"subjects": 1},
  "lpips": {"image_size": 36, "net": "alex"},
  "dists": {"image_size": 36},
  "siglip_score": {},
  "naflex": {},
  "image_reward": {},
  "objects": {},
}
FUNCTIONS = {"naflex": "siglip_score"}  # of entries with another name
ARGUMENTS = {"identity": {"windows": 1}, "objects": {"strict": False}}
LOADERS = {
  "identity": identity.load_faces,
  "lpips": fidelity.load_lpips,
  "dists": fidelity.load_dists,
  "siglip_score": alignment.load_pair,
  "naflex": alignment.load_pair,
  "image_reward": image_reward.load_image_reward,
  "objects": objects.load_objects,
}


def direct(name, images, prompts, options):
  """Scores of the reward function itself, [P, G]."""
  if name == "objects":  # the task tells what its prompts ask for
    options = options | {"fact_of": facts.fact_of}
  loaded = LOADERS[name](**options)
  arrays = loaded.arrays | loaded.prepare([p.text for p in prompts])
  fn = lambda x, arrays: REGISTRY[FUNCTIONS.get(name, name)](
    x, grammar.batch(prompts), **loaded.static, **arrays,
    **ARGUMENTS.get(name, {}),
  )  # fmt: skip
  (found,) = jax.jit(fn)(images, arrays).values()
  return np.asarray(found)


@pytest.mark.turns(3)
def test_a_job_scores_as_the_functions_do(tmp_path, small_model, weights):
  """One run with all of them; every mean is that of the direct calls."""
  for name in ("data", "given", "kept"):
    (tmp_path / name).mkdir()
  texts = words_of(tmp_path / "data")
  pictures_of(tmp_path / "given", texts)
  (tmp_path / "recorder.py").write_text(RECORDER)
  overrides = {
    "init.checkpoint": "", "data.source": tmp_path / "data",
    "rewards.detector": "none",
    "rewards.keep.fn": f"{tmp_path / 'recorder.py'}:keep",
    "rewards.keep.folder": tmp_path / "kept",
    "eval.samples": 6, "eval.group": 2, "eval.guidance_scales": "1.0",
  }  # fmt: skip
  options = {}
  for name, folder in weights.items():
    options[name] = {"weights": str(folder)} | OPTIONS[name]
    if name in ("identity", "lpips", "dists"):
      options[name]["references"] = str(tmp_path / "given")
    if name == "naflex":  # its model type asks for the tokenizer of Gemma
      options[name]["tokenizer"] = str(weights["siglip_score"])
    given = (
      {"fn": FUNCTIONS.get(name, name)}
      | options[name]
      | ARGUMENTS.get(name, {})
    )
    overrides |= {f"rewards.{name}.{k}": v for k, v in given.items()}
  config = tiny.load("evaluate_scenes.py:smoke", overrides)
  workdir = tiny.run(config, tmp_path / "run")
  record = json.loads((workdir / "evaluation.json").read_text())
  reported = record["policy"]["guidance_scale=1.0"]["rewards"]
  (kept,) = (tmp_path / "kept").iterdir()
  with np.load(kept) as data:
    images, words = data["images"], decode(data["text"])
  prompts = [grammar.parse(text) for text in words]
  for name in weights:
    scores = direct(name, images, prompts, options[name])
    assert scores.shape == (3, 2) and np.isfinite(scores).all(), name
    assert name == "objects" or np.ptp(scores) > 0, name
    np.testing.assert_allclose(
      reported[name], scores.mean(), rtol=1e-4, atol=1e-6, err_msg=name
    )
