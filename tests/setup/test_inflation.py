"""A policy of videos that begins with an image policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreward import setup
from jaxreward.tasks.motion import prompts
from jaxreward.training import weights
from tests import tiny

SIZES = {"model.width": 16, "model.depth": 2, "model.heads": 2}


@pytest.mark.job
@pytest.mark.turns(3)
def test_every_frame_starts_as_the_image_of_its_noise(tmp_path, caplog):
  """Equal to the image policy frame by frame; new tensors and words are named."""
  images = setup.make_policy(tiny.load("pretrain_scenes.py:smoke", SIZES))
  base = tiny.shaken(images.init(jax.random.key(0)), 0.1, seed=1)
  weights.save_params(tmp_path / "base.safetensors", base)
  start = {"init.checkpoint": str(tmp_path / "base.safetensors")}
  config = tiny.load("pretrain_motion.py:smoke", SIZES, start)
  videos = setup.make_policy(config)
  with caplog.at_level("WARNING"):
    params = setup.load_params(config, videos)
  for name in (
    "when",
    "blocks/frames_out/kernel",
    "text/embedding from row 24",
  ):
    assert name in caplog.text

  words = np.zeros((3, prompts.MAX_WORDS), int)
  words[1, :3] = prompts.tokenize("red circle and")[:3]
  words[2, :2] = prompts.tokenize("blue cross")[:2]
  x = jax.random.normal(jax.random.key(1), (3, *videos.latent_shape))
  t = jnp.array([0.2, 0.6, 1.0])

  def draw(policy, params, x, words):
    return policy.velocity(params, x, t, policy.encode(params, words))

  found = jax.jit(lambda p, x: draw(videos, p, x, words))(params, x)
  program = jax.jit(lambda p, x: draw(images, p, x, words[:, :8]))
  for i in range(x.shape[1]):
    np.testing.assert_allclose(
      found[:, i], program(base, x[:, i]), rtol=1e-5, atol=1e-5
    )
