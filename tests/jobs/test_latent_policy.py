"""A policy over the latents of an autoencoder that is trained here."""

import json

import jax
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.errors import UserError
from jaxreward.jobs import pretrain
from jaxreward.training import weights
from tests import tiny

pytestmark = pytest.mark.job

# On the pictures of the scenes, which are quicker to judge than portraits.
LATENTS = {"image_size": 3, "channels": 4, "patch": 1}
CODER = {
  "name": "patches", "image_size": 36, "patch": 12, "channels": 4, "width": 16,
  "heads": 2, "depth": 1,
}  # fmt: skip
FIRST = {
  "pretrain.part": "autoencoder", "pretrain.steps": 8, "eval.every": 8,
  "pretrain.export_dtype": "float32", "optimizer.name": "adamw",
  "optimizer.learning_rate": 3e-3,
}  # fmt: skip


def load(spec, *overrides, weights="", model=LATENTS):
  config = tiny.load(spec, tiny.MODEL, *overrides)
  with config.unlocked():
    config.model.update(model)
    config.autoencoder = dict(CODER, weights=str(weights))
  return config


@pytest.mark.turns(3)
def test_an_autoencoder_then_a_policy_then_its_alignment(tmp_path):
  first = tmp_path / "autoencoder"
  tiny.run(load("pretrain_scenes.py:smoke", FIRST), first)
  rows = tiny.rows(first, "pretrain")
  assert rows[-1]["loss"] < rows[1]["loss"]
  found = json.loads((first / "evaluation.json").read_text())["autoencoder"]
  assert found["psnr"] > rows[0]["eval/psnr"] and "strict" in found
  path = first / "autoencoder.safetensors"

  run = {"job": "pipeline", "jobs": "pretrain,align", "pretrain.steps": 2}
  config = load(
    "align_scenes.py:smoke", tiny.REWARD, tiny.FAST, run,
    {"align.iterations": 2, "eval.every": 0}, weights=path,
  )  # fmt: skip
  # What was written is what jobs read, to the bit.
  policy = setup.make_policy(config)
  assert policy.decoder and policy.to_latents
  loaded = setup.load_decoder(config, policy)
  like = jax.eval_shape(policy.decoder, jax.random.key(0))
  assert tiny.same_bits(loaded, weights.load_params(path, like))

  then = tiny.run(config, tmp_path / "policy")
  losses = [row["loss"] for row in tiny.rows(then) if "loss" in row]
  assert len(losses) == 4 and np.isfinite(losses).all()
  params = setup.load_params(config, policy, spec=str(then / setup.POLICY_FILE))
  assert params["patch_out"]["kernel"].shape[-1] == 4
  assert np.abs(tiny.flat(params["patch_out"])).max() > 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"image_size": 6}, "latents of 3 x 3 pixels, and the policy"),
    ({"channels": 5}, "latents of 4 channels, and the policy"),
    ({"takes_source": True}, "over latents takes no image to start"),
  ],
)
def test_a_policy_of_other_latents_is_refused(changes, message):
  config = load("pretrain_scenes.py:smoke", model=LATENTS | changes)
  with pytest.raises(UserError, match=message):
    pretrain.check(config)


def test_what_is_no_autoencoder_to_train_is_refused():
  spec = "pretrain_scenes.py:smoke"
  with pytest.raises(UserError, match='name one, as "patches"'):
    pretrain.check(tiny.load(spec, FIRST))
  other = {"pretrain.part": "decoder"}
  with pytest.raises(UserError, match="known: policy, autoencoder"):
    pretrain.check(tiny.load(spec, other))
  config = load(spec, FIRST, model={"image_size": 4, "channels": 4, "patch": 1})
  config.autoencoder.image_size = 48
  with pytest.raises(UserError, match=r"images of 48 x 48 pixels.* 36 x 36"):
    pretrain.check(config)
